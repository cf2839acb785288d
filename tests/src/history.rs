//! A recorded history: what several clients asked of a cluster, when, and what they were told.
//!
//! A [`Recorder`] notes each operation with the moments at which it began and ended, by one monotonic
//! clock for all clients, and how it came out. An answer that was lost, or that says that nobody
//! knows, leaves the outcome unknown: the operation may have happened, may happen later, or never.
//! [`check`] then says what no right cluster could have answered.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

pub mod check;
pub mod clients;

/// What came of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome<T> {
    /// It was done, with this answer.
    Done(T),
    /// It was not done and will not be.
    Refused,
    /// Nobody knows.
    Unknown,
}

/// What a client asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// To take a job, under an idempotency key; the answer is the job's name.
    Submit {
        /// The key, of this job alone.
        key: String,
        /// What came of it.
        outcome: Outcome<String>,
    },
    /// To end a job.
    Kill {
        /// Its name.
        job: String,
        /// What came of it.
        outcome: Outcome<()>,
    },
    /// How a job is; only answers are noted, for a read without one says nothing.
    Read {
        /// Its name.
        job: String,
        /// What was seen.
        seen: Seen,
    },
}

/// How far a job was seen to be. Jobs of these histories go this way and never back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// There is none of this name.
    Absent,
    /// It waits or runs.
    Living,
    /// Its end was asked for.
    Killing,
    /// It is over.
    Ended,
}

/// A job as a read shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// How far it is.
    pub stage: Stage,
    /// Whether somebody has asked for its end.
    pub is_killed: bool,
}

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Whose it was.
    pub client: usize,
    /// Microseconds from the history's start at which it began.
    pub began: u64,
    /// And at which its answer was there, or was given up.
    pub ended: u64,
    /// What it was and what came of it.
    pub asked: Asked,
}

/// Where clients note what they did; clones share it.
#[derive(Debug, Clone)]
pub struct Recorder {
    start: Instant,
    operations: Arc<Mutex<Vec<Operation>>>,
}

impl Recorder {
    /// An empty history that begins now.
    pub fn start() -> Self {
        Self {
            start: Instant::now(),
            operations: Arc::default(),
        }
    }

    /// The moment, in microseconds; to be read before an operation is sent.
    pub fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Notes an operation that has ended just now.
    pub fn note(&self, client: usize, began: u64, asked: Asked) {
        let operation = Operation {
            client,
            began,
            ended: self.now(),
            asked,
        };
        self.lock().push(operation);
    }

    /// All that was noted, in the order in which it ended.
    pub fn history(&self) -> Vec<Operation> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Operation>> {
        // It is whole after every push.
        self.operations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
