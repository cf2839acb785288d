//! What a member has to take in: one queue, one condition variable, one event at a time.
//!
//! Everyone may put something in without waiting; only the log's thread takes out. Proposals that
//! gather while it is busy come out as one batch, and so do readers and peers' messages: that is
//! the group commit. Whoever has put something in wakes it after the lock is free: it would wait for
//! that, else.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use raft::eraftpb::Message;
use tepui_types::wire::peer::{Standing, StateHash};
use tepui_types::{NodeId, Reason};
use tokio::sync::oneshot;

use super::install::Fetched;
use crate::error::StorageError;
use crate::proposals::queue::Queue;
use crate::proposals::{Proposal, ProposeError};
use crate::storage::snapshot::SnapshotRecord;

/// Readers that wait for a point to read at: as many requests as a master serves at once.
const READERS: usize = 16_384;
/// Messages of peers; past it the newest are lost, which Raft is made for.
const MESSAGES: usize = 4_096;
/// Bytes of entries in them: more than one peer has on its way here.
const MESSAGE_BYTES: usize = 256 * 1024 * 1024;
/// Orders of operators that wait; each is a person's.
const ORDERS: usize = 64;

/// Who waits for a point to read at.
pub type Reader = oneshot::Sender<Result<u64, ProposeError>>;

/// Something for a member.
#[derive(Debug)]
pub enum Event {
    /// Commit these, in this order.
    Propose(Vec<Proposal>),
    /// Find these a point to read at.
    ReadIndex(Vec<Reader>),
    /// Peers say these.
    Step(Vec<Message>),
    /// These peers did not get what was sent last.
    Unreachable(BTreeSet<NodeId>),
    /// A peer that is as far as this, or further, says that this master is no member.
    Disowned(u64),
    /// A peer says that another process is this master, and stays so.
    Copied(Reason),
    /// A member that the table does not have yet, and where it is.
    Introduced(NodeId, String),
    /// A peer tells how it stands.
    Standing(NodeId, Standing),
    /// The state's hash at an entry.
    StateHashed(StateHash),
    /// Something that an operator wants of raft itself.
    Order(Order),
    /// Time passes.
    Tick,
    /// A snapshot was written, or could not be.
    SnapshotReady(Result<SnapshotRecord, StorageError>),
    /// The leader's image was fetched, or could not be.
    ImageFetched(Fetched),
}

/// Something that an operator wants of raft itself.
#[derive(Debug)]
pub enum Order {
    /// Let this master lead.
    Transfer {
        /// Which.
        to: NodeId,
        /// Told whether it was tried.
        reply: oneshot::Sender<Result<(), ProposeError>>,
    },
    /// How the members are doing.
    Members(oneshot::Sender<super::membership::Members>),
}

/// The queue.
#[derive(Debug, Default)]
pub struct Inbox {
    waiting: Mutex<Waiting>,
    filled: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    proposals: Queue,
    readers: Vec<Reader>,
    messages: Vec<Message>,
    message_bytes: usize,
    unreachable: BTreeSet<NodeId>,
    disowned: Option<u64>,
    copied: Option<Reason>,
    introduced: BTreeMap<NodeId, String>,
    standings: BTreeMap<NodeId, Standing>,
    hashed: Option<StateHash>,
    orders: VecDeque<Order>,
    snapshot: Option<Result<SnapshotRecord, StorageError>>,
    image: Option<Fetched>,
    /// Whose turn it is among those that may always have something.
    turn: Turn,
    stop: bool,
    closed: bool,
}

/// Messages, readers and proposals take turns, so that none keeps another waiting.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Turn {
    #[default]
    Messages,
    Readers,
    Proposals,
}

impl Turn {
    fn next(self) -> Self {
        match self {
            Self::Messages => Self::Readers,
            Self::Readers => Self::Proposals,
            Self::Proposals => Self::Messages,
        }
    }
}

impl Inbox {
    /// Takes in something to be committed.
    pub fn propose(&self, proposal: Proposal) -> Result<(), ProposeError> {
        let bytes = match postcard::experimental::serialized_size(&proposal.request.body) {
            Ok(bytes) => bytes,
            // Every command has a size; one that had none could not be logged either.
            Err(_) => return Err(ProposeError::QueueFull),
        };
        let mut waiting = self.open()?;
        waiting.proposals.push(proposal, bytes)?;
        drop(waiting);
        self.filled.notify_one();
        Ok(())
    }

    /// Takes in a reader.
    pub fn read_index(&self, reader: Reader) -> Result<(), ProposeError> {
        let mut waiting = self.open()?;
        if waiting.readers.len() >= READERS {
            return Err(ProposeError::QueueFull);
        }
        waiting.readers.push(reader);
        drop(waiting);
        self.filled.notify_one();
        Ok(())
    }

    /// Takes in an order.
    pub fn order(&self, order: Order) -> Result<(), ProposeError> {
        let mut waiting = self.open()?;
        if waiting.orders.len() >= ORDERS {
            return Err(ProposeError::QueueFull);
        }
        waiting.orders.push_back(order);
        drop(waiting);
        self.filled.notify_one();
        Ok(())
    }

    /// Takes in what a peer says.
    pub fn step(&self, messages: impl IntoIterator<Item = Message>) {
        let mut waiting = self.waiting();
        for message in messages {
            let bytes: usize = message.entries.iter().map(|entry| entry.data.len()).sum();
            if waiting.messages.len() < MESSAGES && waiting.message_bytes + bytes <= MESSAGE_BYTES {
                waiting.message_bytes += bytes;
                waiting.messages.push(message);
            }
        }
        drop(waiting);
        self.filled.notify_one();
    }

    /// A peer did not get what was sent last.
    pub fn unreachable(&self, peer: NodeId) {
        self.waiting().unreachable.insert(peer);
        self.filled.notify_one();
    }

    /// A peer says that this master is no member, and is at least as far as this master was then.
    pub fn disowned(&self, index: u64) {
        let mut waiting = self.waiting();
        waiting.disowned = waiting.disowned.max(Some(index));
        drop(waiting);
        self.filled.notify_one();
    }

    /// A peer says that another process is this master, and stays so.
    pub fn copied(&self, why: Reason) {
        self.waiting().copied = Some(why);
        self.filled.notify_one();
    }

    /// A member that the table does not have yet is to be found there.
    pub fn introduce(&self, peer: NodeId, url: String) {
        self.waiting().introduced.insert(peer, url);
        self.filled.notify_one();
    }

    /// A peer tells how it stands; what it said before counts no more.
    pub fn standing(&self, peer: NodeId, standing: Standing) {
        self.waiting().standings.insert(peer, standing);
        self.filled.notify_one();
    }

    /// The state's hash at an entry was computed.
    pub fn state_hashed(&self, hash: StateHash) {
        self.waiting().hashed = Some(hash);
        self.filled.notify_one();
    }

    /// An image was written, or could not be.
    pub fn snapshot_ready(&self, result: Result<SnapshotRecord, StorageError>) {
        self.waiting().snapshot = Some(result);
        self.filled.notify_one();
    }

    /// An image was fetched, or could not be.
    pub fn image_fetched(&self, fetched: Fetched) {
        self.waiting().image = Some(fetched);
        self.filled.notify_one();
    }

    /// There is nothing more to come.
    pub fn stop(&self) {
        self.waiting().stop = true;
        self.filled.notify_one();
    }

    /// The next event, which is [`Event::Tick`] when nothing comes before `deadline`, or when that
    /// has passed; none when there is nothing more to come. Waits.
    #[expect(
        clippy::disallowed_methods,
        reason = "this thread has no runtime and its own ticks"
    )]
    pub(super) fn next(&self, deadline: Instant) -> Option<Event> {
        let mut waiting = self.waiting();
        while !waiting.stop {
            let left = deadline.saturating_duration_since(Instant::now());
            if let Some(event) = waiting.take(left.is_zero()) {
                return Some(event);
            }
            waiting = self
                .filled
                .wait_timeout(waiting, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        None
    }

    /// The next event, for whoever keeps the time: [`Event::Tick`] if a tick is due, none if nothing
    /// waits.
    pub fn poll(&self, is_due: bool) -> Option<Event> {
        self.waiting().take(is_due)
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
        // Who gave them sees the other end go.
        waiting.orders.clear();
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
    fn take(&mut self, is_due: bool) -> Option<Event> {
        if is_due {
            return Some(Event::Tick);
        }
        if let Some(result) = self.snapshot.take() {
            return Some(Event::SnapshotReady(result));
        }
        if let Some(fetched) = self.image.take() {
            return Some(Event::ImageFetched(fetched));
        }
        if !self.unreachable.is_empty() {
            return Some(Event::Unreachable(mem::take(&mut self.unreachable)));
        }
        if let Some(index) = self.disowned.take() {
            return Some(Event::Disowned(index));
        }
        if let Some(why) = self.copied.take() {
            return Some(Event::Copied(why));
        }
        if let Some((peer, url)) = self.introduced.pop_first() {
            return Some(Event::Introduced(peer, url));
        }
        if let Some((peer, standing)) = self.standings.pop_first() {
            return Some(Event::Standing(peer, standing));
        }
        if let Some(hash) = self.hashed.take() {
            return Some(Event::StateHashed(hash));
        }
        if let Some(order) = self.orders.pop_front() {
            return Some(Event::Order(order));
        }
        for _ in 0..3 {
            self.turn = self.turn.next();
            match self.turn {
                Turn::Messages if !self.messages.is_empty() => {
                    self.message_bytes = 0;
                    return Some(Event::Step(mem::take(&mut self.messages)));
                }
                Turn::Readers if !self.readers.is_empty() => {
                    return Some(Event::ReadIndex(mem::take(&mut self.readers)));
                }
                Turn::Proposals if !self.proposals.is_empty() => {
                    return Some(Event::Propose(self.proposals.take_batch()));
                }
                Turn::Messages | Turn::Readers | Turn::Proposals => {}
            }
        }
        None
    }
}
