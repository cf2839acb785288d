//! What wakes the log's thread: one queue, one condition variable, one event at a time.
//!
//! Everyone may put something in without waiting; only the log's thread takes out. Proposals that
//! gather while it is busy come out as one batch, and so do readers: that is the group commit.

use std::mem;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::error::StorageError;
use crate::proposals::queue::Queue;
use crate::proposals::{Proposal, ProposeError};
use crate::storage::snapshot::SnapshotRecord;

/// Readers that wait for a point to read at: as many requests as a master serves at once.
const READERS: usize = 16_384;

/// Who waits for a point to read at.
pub(crate) type Reader = oneshot::Sender<Result<u64, ProposeError>>;

/// Something for the log's thread.
#[derive(Debug)]
pub(crate) enum Event {
    /// Commit these, in this order.
    Propose(Vec<Proposal>),
    /// Find these a point to read at.
    ReadIndex(Vec<Reader>),
    /// Time passes.
    Tick,
    /// A snapshot was written, or could not be.
    SnapshotReady(Result<SnapshotRecord, StorageError>),
    /// End.
    Stop,
}

/// The queue.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    waiting: Mutex<Waiting>,
    filled: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    proposals: Queue,
    readers: Vec<Reader>,
    snapshot: Option<Result<SnapshotRecord, StorageError>>,
    /// Proposals had the last turn: readers go before the next.
    proposed: bool,
    stop: bool,
    closed: bool,
}

impl Inbox {
    pub fn propose(&self, proposal: Proposal) -> Result<(), ProposeError> {
        let bytes = match postcard::experimental::serialized_size(&proposal.request.body) {
            Ok(bytes) => bytes,
            // Every command has a size; one that had none could not be logged either.
            Err(_) => return Err(ProposeError::QueueFull),
        };
        let mut waiting = self.open()?;
        waiting.proposals.push(proposal, bytes)?;
        self.filled.notify_one();
        Ok(())
    }

    pub fn read_index(&self, reader: Reader) -> Result<(), ProposeError> {
        let mut waiting = self.open()?;
        if waiting.readers.len() >= READERS {
            return Err(ProposeError::QueueFull);
        }
        waiting.readers.push(reader);
        self.filled.notify_one();
        Ok(())
    }

    pub fn snapshot_ready(&self, result: Result<SnapshotRecord, StorageError>) {
        self.waiting().snapshot = Some(result);
        self.filled.notify_one();
    }

    pub fn stop(&self) {
        self.waiting().stop = true;
        self.filled.notify_one();
    }

    /// The next event, which is [`Event::Tick`] when nothing comes before `deadline`, or when that
    /// has passed.
    #[expect(
        clippy::disallowed_methods,
        reason = "this thread has no runtime and its own ticks"
    )]
    pub fn next(&self, deadline: Instant) -> Event {
        let mut waiting = self.waiting();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if let Some(event) = waiting.take(left) {
                return event;
            }
            waiting = self
                .filled
                .wait_timeout(waiting, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Refuses what waits, and all that is to come.
    pub fn close(&self) {
        let mut waiting = self.waiting();
        waiting.closed = true;
        for proposal in waiting.proposals.take_all() {
            proposal.reply.send(Err(ProposeError::Stopped)).ok();
        }
        for reader in mem::take(&mut waiting.readers) {
            reader.send(Err(ProposeError::Stopped)).ok();
        }
    }

    fn open(&self) -> Result<MutexGuard<'_, Waiting>, ProposeError> {
        let waiting = self.waiting();
        if waiting.closed {
            Err(ProposeError::Stopped)
        } else {
            Ok(waiting)
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// The most urgent event. Time comes before work, so that a busy leader still ticks.
    fn take(&mut self, left: Duration) -> Option<Event> {
        if self.stop {
            return Some(Event::Stop);
        }
        if left.is_zero() {
            return Some(Event::Tick);
        }
        if let Some(result) = self.snapshot.take() {
            return Some(Event::SnapshotReady(result));
        }
        let readers_turn = self.proposed || self.proposals.is_empty();
        if readers_turn && !self.readers.is_empty() {
            self.proposed = false;
            return Some(Event::ReadIndex(mem::take(&mut self.readers)));
        }
        if self.proposals.is_empty() {
            return None;
        }
        self.proposed = true;
        Some(Event::Propose(self.proposals.take_batch()))
    }
}
