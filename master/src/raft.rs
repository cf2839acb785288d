//! The replicated log: the one way in which the state changes.
//!
//! [`start`] opens the database, replays what it holds and runs the log on a thread of its own: a
//! loop over [`Event`]s, each followed by raft's `Ready`s (see [`ready`]). Everyone else proposes,
//! reads the view, or follows feed and mailbox. The group has one member; what more members need
//! is raft's own and kept: terms, persisted votes, conditional leadership, a common first snapshot.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use raft::{Config, RawNode, StateRole};
use tepui_cluster::{Envelope, State};
use tepui_types::NodeId;
use tepui_types::api::event::Sequence;
use tokio::sync::{oneshot, watch};

use crate::clock::Clock;
use crate::error::{RaftError, StorageError};
use crate::feed::Feed;
use crate::folder::{Folder, FolderError, Identity};
use crate::history::{self, Archive, History};
use crate::mailbox::Mailbox;
use crate::proposals::{Proposal, Proposals, ProposeError};
use crate::storage::log::LogStore;
use crate::storage::snapshot::{self, NewSnapshot, SnapshotRecord};
use crate::storage::{FIRST_INDEX, Storage};
use crate::view::View;

mod apply;
pub(crate) mod inbox;
mod logger;
mod ready;
mod waiters;

use apply::Applier;
use inbox::{Event, Inbox, Reader};
use waiters::Waiters;

/// Between ticks in a group: elections within a fifth of a second or so.
const TICK: Duration = Duration::from_millis(20);
/// Between ticks of a single voter: nobody waits for its heartbeats and it needs no election, so it
/// only keeps raft's counters going, and an idle master sleeps.
const TICK_ALONE: Duration = Duration::from_millis(100);
/// Ticks without a leader until a follower stands for election; raft draws up to twice as many.
const ELECTION_TICKS: usize = 10;
/// Ticks between a leader's heartbeats.
const HEARTBEAT_TICKS: usize = 2;
/// Bytes of entries in one message to a follower.
const MESSAGE_BYTES: u64 = 1024 * 1024;
/// Messages on their way to one follower.
const MESSAGES_IN_FLIGHT: usize = 256;
/// Bytes of committed entries that are read and applied at once: bounds memory while replaying.
const APPLY_BYTES: u64 = 8 * 1024 * 1024;

/// When the log is replaced by an image of the state.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Entries after which a snapshot is taken: replaying so many takes about a second.
    pub snapshot_entries: u64,
    /// Bytes of entries after which a snapshot is taken.
    pub snapshot_bytes: u64,
    /// Entries that are kept before a snapshot, for peers that are only a little behind.
    pub snapshot_slack: u64,
    /// What is kept of ended tasks.
    pub history: history::Limits,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            snapshot_entries: 50_000,
            snapshot_bytes: 64 * 1024 * 1024,
            snapshot_slack: 1_000,
            history: history::Limits::DEFAULT,
        }
    }
}

/// Whether this master leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leadership {
    /// It does; all that was committed before this term is applied.
    Leader {
        /// The term.
        term: u64,
    },
    /// It does not.
    Follower {
        /// Who does, if that is known.
        leader: Option<NodeId>,
    },
}

/// The running log, as the rest of the master sees it.
pub struct Log {
    /// Who this is.
    pub identity: Identity,
    /// The way in.
    pub proposals: Proposals,
    /// What gives commands their time; not behind the state's while this master leads.
    pub clock: Clock,
    /// The applied state.
    pub view: View,
    /// Events for watchers.
    pub feed: Feed,
    /// Effects and changes for the leader's loop.
    pub mailbox: Mailbox,
    /// Ended tasks that the state has forgotten.
    pub history: History,
    /// Whether this master leads.
    pub leadership: watch::Receiver<Leadership>,
    /// The thread.
    pub thread: LogThread,
}

/// The log's thread, to be watched and stopped.
pub struct LogThread {
    inbox: Arc<Inbox>,
    thread: Option<JoinHandle<()>>,
    ended: oneshot::Receiver<Result<(), RaftError>>,
}

impl LogThread {
    /// Waits until the thread ends: by [`LogThread::stop`], or with the error that ended it, upon
    /// which the process should end too.
    pub async fn ended(&mut self) -> Result<(), RaftError> {
        if self.ended.is_terminated() {
            return Ok(());
        }
        match (&mut self.ended).await {
            Ok(result) => result,
            Err(_) => Ok(()),
        }
    }

    /// Ends the thread and waits for it; who still waits for an outcome gets
    /// [`ProposeError::Unknown`]. Blocks for as long as a sync takes.
    pub fn stop(&mut self) {
        self.inbox.stop();
        if let Some(thread) = self.thread.take() {
            // Its own panic was caught; there is nothing more to learn.
            thread.join().ok();
        }
    }
}

impl Drop for LogThread {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Opens the database in `folder`, making it if there is none, replays the log and starts its
/// thread. Blocks. When this returns, [`Log::view`] is as the snapshot says; the leadership tells
/// when all that was committed is in it.
pub fn start(folder: &mut Folder, options: Options) -> Result<Log, RaftError> {
    let storage = Storage::open(&folder.database())?;
    let identity = identify(folder, &storage)?;
    let record = snapshot::latest(&storage)?
        .ok_or_else(|| StorageError::corrupt("the database", "it has no snapshot"))?;
    snapshot::remove_others(&storage, record.index)?;
    let state = load(&storage, &record, identity)?;
    let mut store = LogStore::open(storage.clone(), record.clone())?;
    // In case the last process ended between the snapshot and this.
    store.compact(record.clone(), options.snapshot_slack)?;
    let archive = Archive::open(storage.clone(), options.history)?;

    let view = View::new(state.clone(), record.index);
    // The first image is of a cluster in which nothing has happened: every event is known.
    let floor = match record.index {
        FIRST_INDEX => Sequence::default(),
        index => Sequence {
            index,
            ordinal: u32::MAX,
        },
    };
    let (feed, mailbox) = (Feed::new(floor), Mailbox::default());
    let (inbox, clock) = (Arc::new(Inbox::default()), Clock::start());
    let (leadership, led) = watch::channel(Leadership::Follower { leader: None });
    let applier = Applier {
        state,
        applied: record.index,
        archive,
        view: view.clone(),
        feed: feed.clone(),
        mailbox: mailbox.clone(),
    };
    let raw = RawNode::new(
        &raft_config(identity.node, record.index),
        store,
        &logger::logger(),
    )
    .map_err(|source| RaftError::Raft {
        step: "start",
        source,
    })?;
    let node = Node {
        raw,
        storage: storage.clone(),
        inbox: inbox.clone(),
        clock: clock.clone(),
        applier,
        waiters: Waiters::default(),
        readers: VecDeque::new(),
        awaiting_leader: Vec::new(),
        leadership,
        options,
        since_snapshot: Since::default(),
        snapshot_thread: None,
    };
    let (ended, end) = oneshot::channel();
    let thread = Builder::new()
        .name("log".into())
        .spawn(move || {
            let result = node.run_to_end();
            if let Err(error) = &result {
                tracing::error!(
                    error = error as &dyn std::error::Error,
                    "the log has stopped"
                );
            }
            ended.send(result).ok();
        })
        .map_err(RaftError::Thread)?;
    Ok(Log {
        identity,
        proposals: Proposals::new(inbox.clone(), view.clone()),
        clock,
        view,
        feed,
        mailbox,
        history: History::new(storage),
        leadership: led,
        thread: LogThread {
            inbox,
            thread: Some(thread),
            ended: end,
        },
    })
}

/// The ids in folder and database, minted where there are none. They are written to the database
/// first: a folder that has them has served.
fn identify(folder: &mut Folder, storage: &Storage) -> Result<Identity, RaftError> {
    let identity = match storage.identity()? {
        Some(identity) => identity,
        None => {
            let identity = Identity::mint().map_err(|source| FolderError::Io {
                step: "draw ids for",
                path: folder.path().to_owned(),
                source,
            })?;
            storage.initialize(identity)?;
            tracing::info!(cluster = %identity.cluster, node = %identity.node, "a new cluster");
            identity
        }
    };
    match folder.identity() {
        None => folder.set_identity(identity)?,
        Some(known) if known != identity => {
            let (found, expected) = (identity.cluster, known.cluster);
            return Err(StorageError::ForeignDatabase { found, expected }.into());
        }
        Some(_) => {}
    }
    Ok(identity)
}

/// The state in an image, which must be what was written.
fn load(
    storage: &Storage,
    record: &SnapshotRecord,
    identity: Identity,
) -> Result<State, StorageError> {
    let what = format!("snapshot {}", record.index);
    let bytes = snapshot::read(storage, record)?;
    let state = State::decode(&bytes).map_err(StorageError::decode(what.as_str()))?;
    if state.hash() != record.state_hash {
        return Err(StorageError::corrupt(
            what,
            "the state in it has another hash",
        ));
    }
    if state.cluster != identity.cluster {
        let (found, expected) = (state.cluster, identity.cluster);
        return Err(StorageError::ForeignDatabase { found, expected });
    }
    Ok(state)
}

fn raft_config(node: NodeId, applied: u64) -> Config {
    Config {
        id: node.0,
        election_tick: ELECTION_TICKS,
        heartbeat_tick: HEARTBEAT_TICKS,
        applied,
        max_size_per_msg: MESSAGE_BYTES,
        max_inflight_msgs: MESSAGES_IN_FLIGHT,
        check_quorum: true,
        pre_vote: true,
        max_committed_size_per_ready: APPLY_BYTES,
        ..Config::default()
    }
}

/// How much log there is after the last snapshot.
#[derive(Debug, Default)]
struct Since {
    entries: u64,
    bytes: u64,
}

/// The log's thread.
struct Node {
    raw: RawNode<LogStore>,
    storage: Storage,
    inbox: Arc<Inbox>,
    clock: Clock,
    applier: Applier,
    waiters: Waiters,
    /// Readers whose point raft has been asked for, by the context that it was given.
    readers: VecDeque<(u64, Vec<Reader>)>,
    /// Readers who came before the term's first entry was applied: raft would drop them.
    awaiting_leader: Vec<Reader>,
    leadership: watch::Sender<Leadership>,
    options: Options,
    since_snapshot: Since,
    snapshot_thread: Option<JoinHandle<()>>,
}

impl Node {
    /// Runs until it is stopped or fails; in the end nobody is left waiting.
    fn run_to_end(mut self) -> Result<(), RaftError> {
        let result = catch_unwind(AssertUnwindSafe(|| self.run()))
            .unwrap_or_else(|panic| Err(RaftError::Panicked(panic_message(panic.as_ref()))));
        self.inbox.close();
        self.stop_leading(None);
        if let Some(thread) = self.snapshot_thread.take() {
            thread.join().ok();
        }
        result
    }

    fn run(&mut self) -> Result<(), RaftError> {
        self.on_ready()?;
        if self.is_alone() {
            // There is nobody to wait for.
            self.raw.campaign().map_err(|source| RaftError::Raft {
                step: "stand for election",
                source,
            })?;
            self.on_ready()?;
        }
        let mut next_tick = now() + self.tick_interval();
        loop {
            match self.inbox.next(next_tick) {
                Event::Propose(proposals) => self.on_propose(proposals),
                Event::ReadIndex(readers) => self.on_read_index(readers),
                Event::Tick => {
                    next_tick = now() + self.tick_interval();
                    self.raw.tick();
                }
                Event::SnapshotReady(result) => self.on_snapshot_ready(result)?,
                Event::Stop => return Ok(()),
            }
            self.on_ready()?;
        }
    }

    /// Gives proposals to raft. It would forward those of a follower in silence, so they do not
    /// get that far.
    fn on_propose(&mut self, proposals: Vec<Proposal>) {
        if self.raw.raft.state != StateRole::Leader {
            let error = ProposeError::NotLeader {
                leader: self.leader(),
            };
            for proposal in proposals {
                proposal.reply.send(Err(error)).ok();
            }
            return;
        }
        let term = self.raw.raft.term;
        for Proposal { request, reply } in proposals {
            if reply.is_closed() {
                // Nobody waits any more, and nothing has been promised.
                continue;
            }
            let Ok(request_id) = random_u128() else {
                reply.send(Err(ProposeError::QueueFull)).ok();
                continue;
            };
            let envelope = Envelope {
                request_id,
                principal: request.principal,
                idempotency_key: request.idempotency_key,
                expected_revision: request.expected_revision,
                term,
                time: self.clock.now(),
                body: request.body,
            };
            match self.raw.propose(Vec::new(), envelope.encode()) {
                Ok(()) => self
                    .waiters
                    .push(self.raw.raft.raft_log.last_index(), term, reply),
                Err(error) => {
                    tracing::warn!(%error, "raft dropped a proposal");
                    reply.send(Err(ProposeError::QueueFull)).ok();
                }
            }
        }
    }

    /// One question to raft for all readers. It drops, saying nothing, what comes before the term's
    /// first entry is committed: until then they wait here.
    fn on_read_index(&mut self, readers: Vec<Reader>) {
        match *self.leadership.borrow() {
            Leadership::Leader { .. } => {}
            Leadership::Follower { .. } if self.raw.raft.state == StateRole::Leader => {
                self.awaiting_leader.extend(readers);
                return;
            }
            Leadership::Follower { leader } => {
                for reader in readers {
                    reader.send(Err(ProposeError::NotLeader { leader })).ok();
                }
                return;
            }
        }
        let context = self.readers.back().map_or(0, |(last, _)| last + 1);
        self.readers.push_back((context, readers));
        self.raw.read_index(context.to_be_bytes().to_vec());
    }

    fn on_snapshot_ready(
        &mut self,
        result: Result<SnapshotRecord, StorageError>,
    ) -> Result<(), RaftError> {
        if let Some(thread) = self.snapshot_thread.take() {
            thread.join().ok();
        }
        match result {
            Ok(record) => {
                let index = record.index;
                self.raw
                    .mut_store()
                    .compact(record, self.options.snapshot_slack)?;
                snapshot::remove_others(&self.storage, index)?;
            }
            // The log still has everything; the next threshold tries again.
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "failed to write a snapshot");
            }
        }
        Ok(())
    }

    /// Starts a snapshot of the applied state on a thread of its own, if it is time for one. The
    /// state's clone costs nothing, and applying goes on.
    fn snapshot_if_due(&mut self) -> Result<(), RaftError> {
        let Since { entries, bytes } = self.since_snapshot;
        let due = entries >= self.options.snapshot_entries || bytes >= self.options.snapshot_bytes;
        if !due || self.snapshot_thread.is_some() {
            return Ok(());
        }
        self.since_snapshot = Since::default();
        let index = self.applier.applied;
        let term = self.raw.raft.raft_log.term(index);
        let term = term.map_err(|source| RaftError::Raft {
            step: "take a snapshot",
            source,
        })?;
        let members = self.raw.store().members().clone();
        let (state, storage) = (self.applier.state.clone(), self.storage.clone());
        let inbox = self.inbox.clone();
        let thread = Builder::new()
            .name("snapshot".into())
            .spawn(move || {
                let state_hash = state.hash();
                let image = NewSnapshot {
                    index,
                    term,
                    members,
                    state_hash,
                };
                let result = snapshot::write(&storage, image, &state.encode());
                if let Ok(record) = &result {
                    let hash: String = state_hash
                        .iter()
                        .map(|byte| format!("{byte:02x}"))
                        .collect();
                    tracing::info!(index, bytes = record.bytes, hash, "took a snapshot");
                }
                inbox.snapshot_ready(result);
            })
            .map_err(RaftError::Thread)?;
        self.snapshot_thread = Some(thread);
        Ok(())
    }

    /// Leads from now on: the term's first entry, and so everything before it, is applied.
    fn lead(&mut self, term: u64) {
        tracing::info!(term, index = self.applier.applied, "leading");
        self.clock.not_before(self.applier.state.now);
        self.applier.mailbox.lead();
        self.leadership.send_replace(Leadership::Leader { term });
        let readers = std::mem::take(&mut self.awaiting_leader);
        if !readers.is_empty() {
            self.on_read_index(readers);
        }
    }

    /// Leads no more. What was proposed may still commit under the next leader.
    fn stop_leading(&mut self, leader: Option<NodeId>) {
        self.leadership
            .send_replace(Leadership::Follower { leader });
        self.applier.mailbox.stop_leading();
        self.waiters.give_up();
        let asked = self.readers.drain(..).flat_map(|(_, readers)| readers);
        for reader in asked.chain(self.awaiting_leader.drain(..)) {
            reader.send(Err(ProposeError::NotLeader { leader })).ok();
        }
    }

    fn leader(&self) -> Option<NodeId> {
        Some(self.raw.raft.leader_id)
            .filter(|id| *id != raft::INVALID_ID)
            .map(NodeId)
    }

    fn is_alone(&self) -> bool {
        let members = self.raw.store().members();
        members.voters == [self.raw.raft.id] && members.voters_outgoing.is_empty()
    }

    fn tick_interval(&self) -> Duration {
        if self.is_alone() { TICK_ALONE } else { TICK }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this thread has no runtime and its own ticks"
)]
fn now() -> Instant {
    Instant::now()
}

fn random_u128() -> Result<u128, getrandom::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(u128::from_le_bytes(bytes))
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".into())
}
