//! The replicated log: the one way in which the state changes.
//!
//! [`start`] replays what the database holds and runs the log on a thread of its own: a loop over
//! [`Event`]s, each followed by raft's `Ready`s (see [`ready`]). Everyone else proposes, reads the
//! view, or follows feed and mailbox. Other members are reached through the [`transport`], which
//! never waits; whoever is too far behind is given an image ([`install`]); and who is a member is
//! what the state says ([`membership`]).

use std::any::Any;
use std::collections::{BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use raft::eraftpb::{Message, MessageType};
use raft::{Config, RawNode, SnapshotStatus, StateRole};
use tepui_cluster::{Envelope, State};
use tepui_types::NodeId;
use tepui_types::api::event::Sequence;
use tokio::sync::{oneshot, watch};

use crate::clock::Clock;
use crate::error::{RaftError, StorageError};
use crate::feed::Feed;
use crate::folder::Identity;
use crate::history::{self, Archive, History};
use crate::mailbox::Mailbox;
use crate::masters::peers::Peers;
use crate::proposals::{Proposal, Proposals, ProposeError, Request};
use crate::storage::log::LogStore;
use crate::storage::snapshot::{self, SnapshotRecord};
use crate::storage::{FIRST_INDEX, Storage};
use crate::view::View;

mod apply;
pub(crate) mod inbox;
mod install;
mod logger;
pub mod membership;
mod read_index;
mod ready;
mod snapshots;
mod transport;
mod waiters;

use apply::Applier;
use inbox::{Event, Inbox, Order, Reader};
use membership::Members;
use read_index::Asked;
use snapshots::Since;
use transport::Transport;
use waiters::Waiters;

/// Between ticks in a group.
const TICK: Duration = Duration::from_millis(20);
/// Between ticks of a single voter: nobody waits for its heartbeats and it needs no election, so it
/// only keeps raft's counters going, and an idle master sleeps.
const TICK_ALONE: Duration = Duration::from_millis(100);
/// Ticks without a leader until a follower stands for election; raft draws up to twice as many, so
/// an election begins 0.3 to 0.6 s after the leader was last heard. Shorter, and a machine that is
/// busy for a moment loses its lead for nothing.
const ELECTION_TICKS: usize = 15;
/// Ticks between a leader's heartbeats.
const HEARTBEAT_TICKS: usize = 2;
/// Ticks after which an image is offered again: five seconds.
const IMAGE_TICKS: u64 = 250;
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
    /// Entries that are kept before a snapshot, for peers that are only a little behind; at most as
    /// many as lie between two snapshots.
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
    /// What other masters and operators say to it.
    pub handle: LogHandle,
    /// The thread.
    pub thread: LogThread,
}

/// The way of other masters and of operators to the log; clones share it.
#[derive(Clone)]
pub struct LogHandle {
    inbox: Arc<Inbox>,
    members: Arc<ArcSwap<BTreeSet<NodeId>>>,
}

impl LogHandle {
    /// Takes in what a peer says.
    pub fn step(&self, messages: Vec<Message>) {
        self.inbox.step(messages);
    }

    /// A member that this master has not heard of, and that is further than it, is to be found there.
    pub fn introduce(&self, peer: NodeId, url: String) {
        self.inbox.introduce(peer, url);
    }

    /// A peer did not get what was sent to it last.
    pub fn unreachable(&self, peer: NodeId) {
        self.inbox.unreachable(peer);
    }

    /// Whether a node is in raft's configuration, as this master knows it.
    pub fn is_member(&self, node: NodeId) -> bool {
        self.members.load().contains(&node)
    }

    /// Tries to hand the lead to another voter.
    pub async fn transfer(&self, to: NodeId) -> Result<(), ProposeError> {
        let (reply, answer) = oneshot::channel();
        self.inbox.order(Order::Transfer { to, reply })?;
        answer.await.unwrap_or(Err(ProposeError::Stopped))
    }

    /// How the group is doing.
    pub async fn members(&self) -> Result<Members, ProposeError> {
        let (reply, answer) = oneshot::channel();
        self.inbox.order(Order::Members(reply))?;
        answer.await.map_err(|_| ProposeError::Stopped)
    }
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

/// Replays the log in an initialized database and starts its thread. Blocks. When this returns,
/// [`Log::view`] is as the snapshot says; the leadership tells when all that was committed is in
/// it. Other members reach this one at `url` and are reached through `peers`; without
/// that this log must be alone.
pub fn start(
    storage: Storage,
    identity: Identity,
    url: &str,
    options: Options,
    peers: Option<Peers>,
) -> Result<Log, RaftError> {
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
    let members = Arc::<ArcSwap<BTreeSet<NodeId>>>::default();
    let mut node = Node {
        raw,
        storage: storage.clone(),
        inbox: inbox.clone(),
        clock: clock.clone(),
        transport: Transport::new(identity, url, inbox.clone(), view.clone(), peers),
        applier,
        waiters: Waiters::default(),
        readers: VecDeque::new(),
        // Raft takes equal questions for one, also across a restart of this process.
        next_read: random_u128().unwrap_or_default() as u64 / 2,
        awaiting_leader: Vec::new(),
        leadership,
        members: members.clone(),
        was_member: false,
        is_disowned: false,
        forgetting: 0,
        ticks: 0,
        options,
        since_snapshot: Since::default(),
        snapshot_thread: None,
        is_fetching: false,
        image: None,
    };
    node.follow_masters();
    node.note_members();
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
        handle: LogHandle {
            inbox: inbox.clone(),
            members,
        },
        thread: LogThread {
            inbox,
            thread: Some(thread),
            ended: end,
        },
    })
}

/// The state in an image, which must be of this cluster.
fn load(
    storage: &Storage,
    record: &SnapshotRecord,
    identity: Identity,
) -> Result<State, StorageError> {
    let state = snapshot::load(storage, record)?;
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

/// The log's thread.
struct Node {
    raw: RawNode<LogStore>,
    storage: Storage,
    inbox: Arc<Inbox>,
    clock: Clock,
    transport: Transport,
    applier: Applier,
    waiters: Waiters,
    /// Readers whose point raft has been asked for, in the order of their numbers.
    readers: VecDeque<Asked>,
    next_read: u64,
    /// Readers who came before the term's first entry was applied: raft would drop them.
    awaiting_leader: Vec<Reader>,
    leadership: watch::Sender<Leadership>,
    /// Raft's configuration, for others to see.
    members: Arc<ArcSwap<BTreeSet<NodeId>>>,
    /// Whether this master ever was one of them: who was and is not has been removed.
    was_member: bool,
    /// Whether a peer has said that it is none.
    is_disowned: bool,
    /// Where the last command stands that takes a master out of the table.
    forgetting: u64,
    /// Ticks since images were offered again.
    ticks: u64,
    options: Options,
    since_snapshot: Since,
    snapshot_thread: Option<JoinHandle<()>>,
    /// Whether an image is on its way here.
    is_fetching: bool,
    /// The image that raft is being told of.
    image: Option<(SnapshotRecord, State)>,
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
                Event::Step(messages) => self.on_step(messages),
                Event::Unreachable(peers) => self.on_unreachable(peers),
                Event::Disowned => self.on_disowned(),
                Event::Introduced(peer, url) => self.transport.introduce(peer, url),
                Event::Order(order) => self.on_order(order),
                Event::Tick => {
                    next_tick = now() + self.tick_interval();
                    self.on_tick();
                }
                Event::SnapshotReady(result) => self.on_snapshot_ready(result)?,
                Event::ImageFetched(fetched) => self.on_image_fetched(fetched)?,
                Event::Stop => return Ok(()),
            }
            self.on_ready()?;
            if self.has_left() {
                return Err(RaftError::Removed);
            }
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
            match self.propose(request) {
                Ok(index) => self.waiters.push(index, term, reply),
                Err(error) => drop(reply.send(Err(error))),
            }
        }
    }

    /// Gives one command to raft; it will stand at this index, if nothing happens to this term.
    fn propose(&mut self, request: Request) -> Result<u64, ProposeError> {
        let envelope = Envelope {
            request_id: random_u128().map_err(|_| ProposeError::QueueFull)?,
            principal: request.principal,
            idempotency_key: request.idempotency_key,
            expected_revision: request.expected_revision,
            term: self.raw.raft.term,
            time: self.clock.now(),
            body: request.body,
        };
        match self.raw.propose(Vec::new(), envelope.encode()) {
            Ok(()) => Ok(self.raw.raft.raft_log.last_index()),
            Err(error) => {
                tracing::warn!(%error, "raft dropped a proposal");
                Err(ProposeError::QueueFull)
            }
        }
    }

    fn on_step(&mut self, messages: Vec<Message>) {
        for message in messages {
            let index = message.get_snapshot().get_metadata().index;
            match message.get_msg_type() {
                MessageType::MsgSnapshot if index > self.raw.raft.raft_log.committed => {
                    self.on_image_offered(message);
                }
                // Nobody forwards proposals: whoever has one asks the leader.
                MessageType::MsgPropose => {}
                _ => self.step(message),
            }
        }
    }

    fn step(&mut self, message: Message) {
        if let Err(error) = self.raw.step(message) {
            tracing::debug!(%error, "raft did not take a message");
        }
    }

    fn on_unreachable(&mut self, peers: BTreeSet<NodeId>) {
        for peer in peers {
            self.raw.report_unreachable(peer.0);
            self.raw.report_snapshot(peer.0, SnapshotStatus::Failure);
        }
    }

    fn on_tick(&mut self) {
        self.raw.tick();
        self.ticks += 1;
        if self.ticks.is_multiple_of(IMAGE_TICKS) {
            self.offer_images_again();
        }
        self.change_membership();
        self.expire_readers();
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
        self.refuse_readers();
    }

    /// Shows raft's configuration to others.
    fn note_members(&mut self) {
        let members = self.raw.store().members();
        let all = members.voters.iter().chain(&members.voters_outgoing);
        let all = all.chain(&members.learners).copied().map(NodeId);
        let all: BTreeSet<NodeId> = all.collect();
        self.was_member |= all.contains(&NodeId(self.raw.raft.id));
        self.members.store(Arc::new(all));
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
