//! What a turn may still do by its own choice.
//!
//! Taking in updates must fit into the turn that was shown them, so launches,
//! kills and filing keep well below the turn's limits. What they leave undone
//! is done in the next turn.

/// Launches and kills of one turn; the host takes 2,000.
const OPERATIONS: usize = 1_500;
/// Bytes that a turn writes by its own choice; the host takes 1 MiB in all.
const BYTES: usize = 640 * 1024;
/// About what an update makes a turn write: its job's counters or its chunk of
/// cells, with their keys, and its acknowledgement.
const UPDATE_BYTES: usize = 256;

/// What is left of a turn.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    operations: usize,
    bytes: usize,
    refused: bool,
}

impl Budget {
    /// The budget of a turn that was shown this many updates.
    pub fn new(updates: usize) -> Self {
        let bytes = BYTES.saturating_sub(updates.saturating_mul(UPDATE_BYTES));
        Self {
            operations: OPERATIONS,
            bytes,
            refused: false,
        }
    }

    /// Takes from it, or refuses and remembers that it did.
    pub fn take(&mut self, operations: usize, bytes: usize) -> bool {
        if operations > self.operations || bytes > self.bytes {
            self.refused = true;
            return false;
        }
        self.operations -= operations;
        self.bytes -= bytes;
        true
    }

    /// Nothing more fits: the host has said so.
    pub fn exhaust(&mut self) {
        *self = Self {
            operations: 0,
            bytes: 0,
            refused: true,
        };
    }

    /// Whether something was left undone for want of budget.
    pub fn refused(&self) -> bool {
        self.refused
    }
}
