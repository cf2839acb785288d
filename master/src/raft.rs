//! The replicated log: the one way in which the state changes.
//!
//! [`open`] replays what the database holds and makes the [`Member`] that this master is; [`start`]
//! runs it on a thread of its own ([`thread`]): a loop over [`Event`](inbox::Event)s, each followed
//! by raft's `Ready`s (see [`ready`]). Everyone else proposes, reads the view, or follows feed and
//! mailbox. A member reaches everything outside through its [`World`]: other members by the
//! [`transport`], which never waits. Whoever is too far behind is given an image ([`install`]); and
//! who is a member is what the state says ([`membership`]).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use raft::eraftpb::Message;
use raft::{Config, RawNode};
use tepui_cluster::State;
use tepui_types::NodeId;
use tepui_types::api::event::Sequence;
use tepui_types::wire::peer::Standing;
use tokio::sync::{oneshot, watch};

use crate::clock::Clock;
use crate::error::{RaftError, StorageError};
use crate::feed::Feed;
use crate::folder::Identity;
use crate::history::{self, Archive, History};
use crate::mailbox::Mailbox;
use crate::masters::peers::Peers;
use crate::proposals::{Proposals, ProposeError};
use crate::storage::log::LogStore;
use crate::storage::snapshot::{self, SnapshotRecord};
use crate::storage::{FIRST_INDEX, Storage};
use crate::view::View;

mod agreement;
mod apply;
pub mod inbox;
mod install;
mod lending;
mod logger;
mod machine;
pub mod member;
pub mod membership;
mod pulse;
mod read_index;
mod ready;
mod snapshots;
mod thread;
mod transport;
mod waiters;
pub mod world;

use apply::Applier;
use inbox::{Inbox, Order};
pub use install::Fetched;
use lending::Lending;
pub use lending::Lent;
use machine::Machine;
use member::Member;
use membership::Members;
use pulse::Pulse;
pub use thread::LogThread;
use transport::Transport;
use world::World;

/// Between ticks in a group.
pub const TICK: Duration = Duration::from_millis(20);
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
/// Ticks for which an image is kept that another master has been sent: it has to be read and begun with.
const LENT_TICKS: u64 = 500;
/// How many times as much log as lies between two images is kept for that at most.
const LENT_FACTOR: u64 = 16;
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
}

/// The way of other masters and of operators to the log; clones share it.
#[derive(Clone)]
pub struct LogHandle {
    inbox: Arc<Inbox>,
    members: Arc<ArcSwap<BTreeSet<NodeId>>>,
    silence: Arc<AtomicU64>,
    pulse: Arc<Pulse>,
    lending: Lending,
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

    /// A peer tells how it stands.
    pub fn standing(&self, peer: NodeId, standing: Standing) {
        self.inbox.standing(peer, standing);
    }

    /// A peer did not get what was sent to it last.
    pub fn unreachable(&self, peer: NodeId) {
        self.inbox.unreachable(peer);
    }

    /// Whether a node is in raft's configuration, as this master knows it.
    pub fn is_member(&self, node: NodeId) -> bool {
        self.members.load().contains(&node)
    }

    /// How long ago this master last heard from a leader, or led, to a tenth of a second; none if it has
    /// not since its process began.
    pub fn silence(&self) -> Option<Duration> {
        let ticks = self.silence.load(Ordering::Relaxed);
        let ticks = u32::try_from(ticks).ok()?;
        // Ticks that the thread had no time for are missing.
        Some(TICK * ticks + self.pulse.since().saturating_sub(TICK_ALONE))
    }

    /// Another master is sent the newest image: it is kept, with the log after it, as long as this is.
    pub fn lend_image(&self) -> Lent {
        self.lending.lend()
    }

    /// Whether another master may lead by now, however this one stood: its log's thread has not looked
    /// around for an election's time, as where its disk hangs.
    pub fn is_stuck(&self) -> bool {
        self.pulse.since() > TICK * ELECTION_TICKS as u32 && self.members.load().len() > 1
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
) -> Result<(Log, LogThread), RaftError> {
    let inbox = Arc::new(Inbox::default());
    let around = |view: &View| {
        let transport = Transport::new(identity, url, inbox.clone(), view.clone(), peers);
        Machine::new(transport, storage.clone(), inbox.clone())
    };
    let parts = Parts {
        storage: storage.clone(),
        identity,
        options,
        clock: Clock::start(),
        inbox: inbox.clone(),
    };
    let (member, log) = open(parts, around)?;
    let thread = LogThread::start(member, inbox, log.handle.pulse.clone())?;
    Ok((log, thread))
}

/// What a log is made of.
pub struct Parts {
    /// An initialized database.
    pub storage: Storage,
    /// Whose it is.
    pub identity: Identity,
    /// When images are taken.
    pub options: Options,
    /// What gives commands their time.
    pub clock: Clock,
    /// Where events wait.
    pub inbox: Arc<Inbox>,
}

/// Replays the log in a database. What comes out does nothing until someone gives the member what
/// comes into the inbox; the member lives in the world that is put around its view. Blocks.
pub fn open<W: World>(
    parts: Parts,
    around: impl FnOnce(&View) -> W,
) -> Result<(Member<W>, Log), RaftError> {
    let Parts {
        storage,
        identity,
        options,
        clock,
        inbox,
    } = parts;
    let record = snapshot::latest(&storage)?
        .ok_or_else(|| StorageError::corrupt("the database", "it has no snapshot"))?;
    snapshot::remove_others(&storage, record.index)?;
    let state = load(&storage, &record, identity)?;
    let mut store = LogStore::open(storage.clone(), record.clone())?;
    // In case the last process ended between the snapshot and this.
    store.compact(record.clone(), options.snapshot_slack)?;

    let view = View::new(state.clone(), record.index);
    let (feed, mailbox) = (Feed::new(floor(record.index)), Mailbox::default());
    let (leadership, led) = watch::channel(Leadership::Follower { leader: None });
    let applier = Applier {
        state,
        applied: record.index,
        archive: Archive::open(storage.clone(), options.history)?,
        view: view.clone(),
        feed: feed.clone(),
        mailbox: mailbox.clone(),
    };
    let config = raft_config(identity.node, record.index);
    let raw = RawNode::new(&config, store, &logger::logger());
    let raw = raw.map_err(|source| RaftError::Raft {
        step: "start",
        source,
    })?;
    let world = around(&view);
    let member = Member::new(
        raw,
        applier,
        leadership,
        &storage,
        clock.clone(),
        options,
        world,
    );
    let log = Log {
        identity,
        proposals: Proposals::new(inbox.clone(), view.clone()),
        clock,
        view,
        feed,
        mailbox,
        history: History::new(storage),
        leadership: led,
        handle: LogHandle {
            inbox,
            members: member.shown_members(),
            silence: member.shown_silence(),
            pulse: Arc::new(Pulse::start()),
            lending: member.lending(),
        },
    };
    Ok((member, log))
}

/// The sequence after which all events are known. The first image is of a cluster in which nothing
/// has happened: every event is known.
fn floor(index: u64) -> Sequence {
    match index {
        FIRST_INDEX => Sequence::default(),
        index => Sequence {
            index,
            ordinal: u32::MAX,
        },
    }
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
