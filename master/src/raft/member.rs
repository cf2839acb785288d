//! One member of the group: raft, its store, the state, and all who wait for them.
//!
//! A member is given one [`Event`] after another and does what follows before it takes the next:
//! it hands messages to its [`World`], syncs, applies, answers. It reads no clock but the one it is
//! given, draws no numbers, starts no threads and waits for nothing but its disk; so a thread drives
//! it in a master, and a seed in the simulation.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use raft::eraftpb::{Message, MessageType};
use raft::{RawNode, SnapshotStatus, StateRole};
use tepui_cluster::{Envelope, State};
use tepui_types::NodeId;
use tokio::sync::watch;

use super::agreement::Agreement;
use super::apply::Applier;
use super::inbox::{Event, Reader};
use super::lending::Lending;
use super::read_index::Asked;
use super::snapshots::Since;
use super::waiters::Waiters;
use super::world::World;
use super::{ELECTION_TICKS, IMAGE_TICKS, LENT_TICKS, Leadership, Options};
use crate::clock::Clock;
use crate::error::RaftError;
use crate::proposals::{Proposal, ProposeError, Request};
use crate::storage::Storage;
use crate::storage::log::LogStore;
use crate::storage::snapshot::SnapshotRecord;

/// The silence of a member that has heard no leader yet.
const NEVER: u64 = u64::MAX;

/// The member that this master is.
pub struct Member<W: World> {
    pub(super) raw: RawNode<LogStore>,
    pub(super) storage: Storage,
    pub(super) clock: Clock,
    pub(super) world: W,
    pub(super) applier: Applier,
    pub(super) waiters: Waiters,
    /// Readers whose point raft has been asked for, in the order of their numbers.
    pub(super) readers: VecDeque<Asked>,
    pub(super) next_read: u64,
    /// Readers who came before the term's first entry was applied: raft would drop them.
    pub(super) awaiting_leader: Vec<Reader>,
    pub(super) leadership: watch::Sender<Leadership>,
    /// Raft's configuration, for others to see.
    pub(super) members: Arc<ArcSwap<BTreeSet<NodeId>>>,
    /// The tick at which this member last heard from a leader, or led; the first one before that.
    leader_heard_at: u64,
    /// Ticks since then, for others to see; [`NEVER`] before that.
    silence: Arc<AtomicU64>,
    /// Whether clocks and states agree.
    pub(super) agreement: Agreement,
    /// Where this master was first seen to be one of them: who was and is not has been removed.
    pub(super) member_since: Option<u64>,
    /// Whether a peer has said that it has been.
    pub(super) is_disowned: bool,
    /// Where the last command stands that takes a master out of the table.
    pub(super) forgetting: u64,
    /// Ticks since this member was opened.
    pub(super) ticks: u64,
    pub(super) options: Options,
    pub(super) since_snapshot: Since,
    /// Whether an image is being written.
    pub(super) is_writing_image: bool,
    /// Images on their way to others, and the tick until which the newest is kept for them.
    pub(super) lending: Lending,
    pub(super) lent_until: u64,
    /// Whether an image is on its way here.
    pub(super) is_fetching: bool,
    /// The image that raft is being told of.
    pub(super) image: Option<(SnapshotRecord, State)>,
}

impl<W: World> Member<W> {
    pub(super) fn new(
        raw: RawNode<LogStore>,
        applier: Applier,
        leadership: watch::Sender<Leadership>,
        storage: &Storage,
        clock: Clock,
        options: Options,
        mut world: W,
    ) -> Self {
        // Raft takes equal questions for one, also across a restart of this process.
        let next_read = world.draw().unwrap_or_default() as u64 / 2;
        let mut member = Self {
            raw,
            storage: storage.clone(),
            clock,
            world,
            applier,
            waiters: Waiters::default(),
            readers: VecDeque::new(),
            next_read,
            awaiting_leader: Vec::new(),
            leadership,
            members: Arc::default(),
            leader_heard_at: 0,
            silence: Arc::new(AtomicU64::new(NEVER)),
            agreement: Agreement::default(),
            member_since: None,
            is_disowned: false,
            forgetting: 0,
            ticks: 0,
            options,
            since_snapshot: Since::default(),
            is_writing_image: false,
            lending: Lending::default(),
            lent_until: 0,
            is_fetching: false,
            image: None,
        };
        member.follow_masters();
        member.note_members();
        member
    }

    /// Does what is left from before; to be called once, before the first event.
    pub fn begin(&mut self) -> Result<(), RaftError> {
        self.on_ready()?;
        if self.is_alone() {
            // There is nobody to wait for.
            self.raw.campaign().map_err(|source| RaftError::Raft {
                step: "stand for election",
                source,
            })?;
            self.on_ready()?;
        }
        Ok(())
    }

    /// Takes in one event and does all that follows. An error is the member's end.
    pub fn on_event(&mut self, event: Event) -> Result<(), RaftError> {
        match event {
            Event::Propose(proposals) => self.on_propose(proposals),
            Event::ReadIndex(readers) => self.on_read_index(readers),
            Event::Step(messages) => self.on_step(messages),
            Event::Unreachable(peers) => self.on_unreachable(peers),
            Event::Disowned(index) => self.on_disowned(index),
            Event::Copied(why) => return Err(RaftError::Copied(why)),
            Event::Introduced(peer, url) => self.world.introduce(peer, url),
            Event::Standing(peer, standing) => self.on_standing(peer, standing)?,
            Event::StateHashed(hash) => self.on_state_hashed(hash)?,
            Event::Order(order) => self.on_order(order),
            Event::Tick => self.on_tick(),
            Event::SnapshotReady(result) => self.on_snapshot_ready(result)?,
            Event::ImageFetched(fetched) => self.on_image_fetched(fetched)?,
        }
        self.on_ready()?;
        if self.has_left() {
            return Err(RaftError::Removed);
        }
        Ok(())
    }

    /// Leads no more, and leaves nobody waiting.
    pub fn end(&mut self) {
        self.stop_leading(None);
    }

    /// The term that it is in.
    pub fn term(&self) -> u64 {
        self.raw.raft.term
    }

    /// The last entry that it has applied.
    pub fn applied(&self) -> u64 {
        self.applier.applied
    }

    /// Gives it its election timeout, as so many ticks above the shortest. Raft draws it whenever
    /// the role or the term changes, from a generator of its own that takes no seed; for whoever
    /// has to know it, there is this.
    pub fn set_election_delay(&mut self, ticks: usize) {
        let ticks = ELECTION_TICKS + ticks % ELECTION_TICKS;
        self.raw.raft.set_randomized_election_timeout(ticks);
    }

    /// Raft's configuration, as it is shown to others.
    pub(super) fn shown_members(&self) -> Arc<ArcSwap<BTreeSet<NodeId>>> {
        self.members.clone()
    }

    /// See [`LogHandle::silence`](super::LogHandle::silence).
    pub(super) fn shown_silence(&self) -> Arc<AtomicU64> {
        self.silence.clone()
    }

    /// Images on their way to others.
    pub(super) fn lending(&self) -> Lending {
        self.lending.clone()
    }

    /// Whether it is the only voter, so that nobody waits for its ticks.
    pub fn is_alone(&self) -> bool {
        let members = self.raw.store().members();
        members.voters == [self.raw.raft.id] && members.voters_outgoing.is_empty()
    }

    /// Gives proposals to raft. It would forward those of a follower in silence, so they do not
    /// get that far.
    fn on_propose(&mut self, proposals: Vec<Proposal>) {
        if self.raw.raft.state != StateRole::Leader || self.agreement.is_off {
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
    pub(super) fn propose(&mut self, request: Request) -> Result<u64, ProposeError> {
        let envelope = Envelope {
            request_id: self.world.draw().ok_or(ProposeError::QueueFull)?,
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

    pub(super) fn step(&mut self, message: Message) {
        let (from, kind) = (message.from, message.get_msg_type());
        if let Err(error) = self.raw.step(message) {
            tracing::debug!(%error, "raft did not take a message");
        }
        let is_leaders = matches!(
            kind,
            MessageType::MsgAppend | MessageType::MsgHeartbeat | MessageType::MsgSnapshot
        );
        if is_leaders && from == self.raw.raft.leader_id {
            self.hear_leader();
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
        self.note_silence();
        self.keep_agreement();
        if self.lending.is_lending() {
            self.lent_until = self.ticks + LENT_TICKS;
        }
        if self.ticks.is_multiple_of(IMAGE_TICKS) {
            self.offer_images_again();
        }
        self.change_membership();
        self.expire_readers();
    }

    /// Shows how long no leader was heard, once there was one.
    fn note_silence(&mut self) {
        if self.raw.raft.state == StateRole::Leader {
            self.hear_leader();
        } else if self.silence.load(Ordering::Relaxed) != NEVER {
            let silence = self.silent_ticks();
            self.silence.store(silence, Ordering::Relaxed);
        }
    }

    fn hear_leader(&mut self) {
        self.leader_heard_at = self.ticks;
        self.silence.store(0, Ordering::Relaxed);
    }

    /// Ticks since a leader was heard, or since the beginning.
    pub(super) fn silent_ticks(&self) -> u64 {
        self.ticks - self.leader_heard_at
    }

    /// Leads from now on: the term's first entry, and so everything before it, is applied.
    pub(super) fn lead(&mut self, term: u64) {
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
    pub(super) fn stop_leading(&mut self, leader: Option<NodeId>) {
        self.leadership
            .send_replace(Leadership::Follower { leader });
        self.applier.mailbox.stop_leading();
        self.waiters.give_up();
        self.refuse_readers();
    }

    /// Shows raft's configuration to others.
    pub(super) fn note_members(&mut self) {
        let members = self.raw.store().members();
        let all = members.voters.iter().chain(&members.voters_outgoing);
        let all = all.chain(&members.learners).copied().map(NodeId);
        let all: BTreeSet<NodeId> = all.collect();
        if self.member_since.is_none() && all.contains(&NodeId(self.raw.raft.id)) {
            self.member_since = Some(self.applier.applied);
        }
        self.members.store(Arc::new(all));
    }

    pub(super) fn leader(&self) -> Option<NodeId> {
        Some(self.raw.raft.leader_id)
            .filter(|id| *id != raft::INVALID_ID)
            .map(NodeId)
    }
}
