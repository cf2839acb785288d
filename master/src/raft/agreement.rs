//! What members check of each other: that their clocks and their states agree.
//!
//! Each tells the others once a second what its machine's clock shows, and the hash of its state at
//! the last entry at which everyone takes one. A leader gives commands their time, so a master whose
//! clock is far from most others' does not lead; and one whose state differs from what a majority
//! has, at the same entry, stops itself before anyone takes its word.

use std::collections::{BTreeMap, VecDeque};

use raft::StateRole;
use tepui_cluster::State;
use tepui_types::api::master::MasterView;
use tepui_types::wire::peer::{Standing, StateHash};
use tepui_types::{NodeId, Timestamp};

use super::member::Member;
use super::world::{Saying, World};
use super::{ELECTION_TICKS, TICK};
use crate::error::RaftError;

/// Milliseconds by which a clock may be off from most others.
const MAX_OFFSET_MS: i64 = MasterView::MAX_CLOCK_OFFSET_MS;
/// Ticks between two tellings: a second.
const TELL_TICKS: u64 = (1_000 / TICK.as_millis()) as u64;
/// Ticks after which what a peer said of its clock is old.
const FRESH_TICKS: u64 = 3 * TELL_TICKS;
/// Ticks without any leader after which a master with a bad clock stands all the same: it may have
/// entries that those with good clocks lack, and hands the lead over once they have them.
const PATIENCE_TICKS: u64 = 3 * TELL_TICKS;
/// Milliseconds of the cluster's time between two hashes: each costs an encoding of the state.
const HASH_EVERY_MS: u64 = 60_000;
/// Hashes that are kept of each member: some may be a minute behind.
const HASHES: usize = 4;

/// What is known of the others' clocks and states, and of this member's own state.
#[derive(Debug, Default)]
pub(super) struct Agreement {
    own: VecDeque<StateHash>,
    peers: BTreeMap<NodeId, Peer>,
    /// Whether this machine's clock is off, as of the last look.
    pub is_off: bool,
}

#[derive(Debug, Default)]
struct Peer {
    /// How far its clock is ahead of ours, in milliseconds.
    ahead_ms: i64,
    heard_at: u64,
    hashes: VecDeque<StateHash>,
}

impl Agreement {
    /// Takes in what a peer says, at this tick and this time of this machine.
    fn hear(&mut self, from: NodeId, standing: Standing, ours: Timestamp, tick: u64) {
        let peer = self.peers.entry(from).or_default();
        peer.ahead_ms = standing.time.0.cast_signed() - ours.0.cast_signed();
        peer.heard_at = tick;
        if let Some(hash) = standing.hash {
            remember(&mut peer.hashes, hash);
        }
    }

    /// How far the clocks of most voters are ahead of ours: the middle one of those that are known,
    /// ours among them; of two, the nearer.
    fn offset_ms(&self, voters: &[u64], tick: u64) -> i64 {
        let peers = voters.iter().filter_map(|id| self.peers.get(&NodeId(*id)));
        let fresh = peers.filter(|peer| peer.is_fresh(tick));
        let mut ahead: Vec<i64> = fresh.map(|peer| peer.ahead_ms).collect();
        ahead.push(0);
        ahead.sort_unstable();
        let (low, high) = (ahead[(ahead.len() - 1) / 2], ahead[ahead.len() / 2]);
        match low.abs() <= high.abs() {
            true => low,
            false => high,
        }
    }

    /// How far each clock that was heard of lately is ahead of most voters', ours among them; nothing
    /// while nobody was heard.
    pub(super) fn clocks(&self, own: NodeId, voters: &[u64], tick: u64) -> BTreeMap<NodeId, i64> {
        let fresh = self.peers.iter().filter(|(_, peer)| peer.is_fresh(tick));
        let mut clocks: BTreeMap<_, _> = fresh.map(|(id, peer)| (*id, peer.ahead_ms)).collect();
        if !clocks.is_empty() {
            let middle_ms = self.offset_ms(voters, tick);
            clocks.insert(own, 0);
            clocks.values_mut().for_each(|ahead| *ahead -= middle_ms);
        }
        clocks
    }

    /// Whether a peer's state was ours at the last entry at which both are known.
    fn agrees_with(&self, id: NodeId) -> Option<bool> {
        let theirs = &self.peers.get(&id)?.hashes;
        let same_entry = |ours: &StateHash| theirs.iter().find(|it| it.index == ours.index);
        let mut both = self.own.iter().rev();
        both.find_map(|ours| same_entry(ours).map(|theirs| theirs.hash == ours.hash))
    }

    /// The index at which most voters agree on a state that is not ours.
    fn diverged_at(&self, own: u64, voters: &[u64]) -> Option<u64> {
        let majority = voters.len() / 2 + 1;
        let others = voters.iter().filter(|id| **id != own);
        let others: Vec<_> = others
            .filter_map(|id| self.peers.get(&NodeId(*id)))
            .collect();
        let of_majority = |ours: &&StateHash| {
            let mut counts = BTreeMap::new();
            let theirs = others.iter().flat_map(|peer| &peer.hashes);
            let theirs = theirs.filter(|hash| hash.index == ours.index && hash.hash != ours.hash);
            theirs.for_each(|hash| *counts.entry(hash.hash).or_insert(0) += 1);
            counts.into_values().any(|count| count >= majority)
        };
        self.own.iter().find(of_majority).map(|hash| hash.index)
    }
}

impl Peer {
    fn is_fresh(&self, tick: u64) -> bool {
        self.heard_at + FRESH_TICKS >= tick
    }
}

fn remember(hashes: &mut VecDeque<StateHash>, hash: StateHash) {
    if hashes.back().is_some_and(|last| last.index >= hash.index) {
        return;
    }
    if hashes.len() == HASHES {
        hashes.pop_front();
    }
    hashes.push_back(hash);
}

/// Whether a state is one to be hashed, having been at `before`: the same entry on every master.
pub(super) fn is_hashed(before: Timestamp, state: &State) -> bool {
    before.0 / HASH_EVERY_MS != state.now.0 / HASH_EVERY_MS
}

impl<W: World> Member<W> {
    /// A peer tells how it stands.
    pub(super) fn on_standing(
        &mut self,
        from: NodeId,
        standing: Standing,
    ) -> Result<(), RaftError> {
        let ours = self.clock.time_of_day();
        self.agreement.hear(from, standing, ours, self.ticks);
        self.compare_states()
    }

    /// The state's hash at an entry has been computed.
    pub(super) fn on_state_hashed(&mut self, hash: StateHash) -> Result<(), RaftError> {
        remember(&mut self.agreement.own, hash);
        self.compare_states()
    }

    fn compare_states(&self) -> Result<(), RaftError> {
        let voters = &self.raw.store().members().voters;
        match self.agreement.diverged_at(self.raw.raft.id, voters) {
            Some(index) => Err(RaftError::Diverged { index }),
            None => Ok(()),
        }
    }

    /// Whether a member's state was this one's at the last entry at which both are known.
    pub(super) fn state_agrees(&self, id: u64) -> Option<bool> {
        match id == self.raw.raft.id {
            true => self.agreement.own.back().map(|_| true),
            false => self.agreement.agrees_with(NodeId(id)),
        }
    }

    /// Tells the others how this member stands, if it is time, and does not lead with a bad clock.
    pub(super) fn keep_agreement(&mut self) {
        if self.ticks.is_multiple_of(TELL_TICKS) {
            self.tell_standing();
            self.look_at_clocks();
        }
        if self.agreement.is_off && self.silent_ticks() < PATIENCE_TICKS {
            self.put_off_election();
        }
    }

    /// Lets raft's count stop before it stands for election, and not so early that it would still
    /// hold to its last leader and give others no vote.
    fn put_off_election(&mut self) {
        let raft = &mut self.raw.raft;
        if raft.state != StateRole::Leader && raft.election_elapsed > ELECTION_TICKS {
            raft.election_elapsed = ELECTION_TICKS;
            raft.set_randomized_election_timeout(2 * ELECTION_TICKS - 1);
        }
    }

    fn tell_standing(&mut self) {
        let standing = Standing {
            time: self.clock.time_of_day(),
            hash: self.agreement.own.back().copied(),
        };
        let members = self.members.load_full();
        for member in members.iter().filter(|id| id.0 != self.raw.raft.id) {
            self.world.send(*member, Saying::Standing(standing));
        }
    }

    fn look_at_clocks(&mut self) {
        let voters = self.raw.store().members().voters.clone();
        let offset_ms = self.agreement.offset_ms(&voters, self.ticks);
        let is_off = offset_ms.abs() > MAX_OFFSET_MS;
        if is_off != self.agreement.is_off {
            match is_off {
                true => tracing::warn!(
                    behind_ms = offset_ms,
                    "this machine's clock is off from most other masters': this one does not lead \
                     until the clock is set (is its time service up?)"
                ),
                false => tracing::info!("this machine's clock agrees with the others' again"),
            }
        }
        self.agreement.is_off = is_off;
        if is_off && self.raw.raft.state == StateRole::Leader {
            let agreeing = |id: &u64| self.agrees(*id, offset_ms);
            let heir = voters.iter().copied().filter(agreeing);
            let heir = heir.max_by_key(|id| self.raw.raft.prs().get(*id).map(|it| it.matched));
            if let Some(heir) = heir {
                self.raw.transfer_leader(heir);
            }
        }
    }

    /// Whether a voter is up, and its clock is near the middle.
    fn agrees(&self, id: u64, middle_ms: i64) -> bool {
        let peer = self.agreement.peers.get(&NodeId(id));
        let is_near = |peer: &Peer| (peer.ahead_ms - middle_ms).abs() <= MAX_OFFSET_MS;
        id != self.raw.raft.id && self.is_active(id) && peer.is_some_and(is_near)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOTERS: [u64; 3] = [1, 2, 3];

    fn hash(index: u64, byte: u8) -> StateHash {
        StateHash {
            index,
            hash: [byte; 32],
        }
    }

    fn heard(clocks: &[(u64, u64)], tick: u64) -> Agreement {
        let mut agreement = Agreement::default();
        for (id, time) in clocks {
            let standing = Standing {
                time: Timestamp(*time),
                hash: None,
            };
            agreement.hear(NodeId(*id), standing, Timestamp(100_000), tick);
        }
        agreement
    }

    #[test]
    fn a_clock_is_off_where_most_others_are_elsewhere() {
        let offset = |clocks: &[(u64, u64)]| heard(clocks, 0).offset_ms(&VOTERS, 0);
        assert_eq!(offset(&[(2, 105_000), (3, 105_100)]), 5_000);
        assert_eq!(offset(&[(2, 95_000), (3, 95_100)]), -4_900);
        assert_eq!(
            offset(&[(2, 100_010), (3, 190_000)]),
            10,
            "the third one is off"
        );
        assert_eq!(
            offset(&[(2, 190_000), (3, 10_000)]),
            0,
            "the middle one may lead"
        );
        assert_eq!(offset(&[(2, 190_000)]), 0, "of two nobody knows which");
        assert_eq!(offset(&[]), 0);
    }

    #[test]
    fn everyone_s_clock_is_shown_beside_the_middle() {
        let agreement = heard(&[(2, 105_000), (3, 105_100)], 0);
        let clocks = agreement.clocks(NodeId(1), &VOTERS, 0);
        let expected = [(1, -5_000), (2, 0), (3, 100)].map(|(id, ms)| (NodeId(id), ms));
        assert_eq!(clocks, BTreeMap::from(expected));
        let alone = heard(&[], 0).clocks(NodeId(1), &[1], 0);
        assert!(alone.is_empty(), "there is nobody to compare it with");
    }

    #[test]
    fn what_was_said_long_ago_counts_no_more() {
        let agreement = heard(&[(2, 105_000), (3, 105_000)], 10);
        assert_eq!(agreement.offset_ms(&VOTERS, 10 + FRESH_TICKS), 5_000);
        assert_eq!(agreement.offset_ms(&VOTERS, 11 + FRESH_TICKS), 0);
        assert_eq!(agreement.offset_ms(&[1, 2], 10), 0, "nor who does not vote");
    }

    #[test]
    fn a_state_that_a_majority_does_not_have_is_known_at_the_same_entry_only() {
        let mut agreement = Agreement::default();
        let say = |agreement: &mut Agreement, id: u64, hash: StateHash| {
            let standing = Standing {
                time: Timestamp(0),
                hash: Some(hash),
            };
            agreement.hear(NodeId(id), standing, Timestamp(0), 0);
        };
        remember(&mut agreement.own, hash(7, 1));
        say(&mut agreement, 2, hash(7, 2));
        assert_eq!(
            agreement.diverged_at(1, &VOTERS),
            None,
            "it may be the other"
        );
        say(&mut agreement, 3, hash(8, 2));
        assert_eq!(agreement.diverged_at(1, &VOTERS), None);
        assert_eq!(agreement.agrees_with(NodeId(2)), Some(false));
        assert_eq!(agreement.agrees_with(NodeId(3)), None, "at another entry");
        let mut third = Agreement::default();
        remember(&mut third.own, hash(7, 1));
        say(&mut third, 2, hash(7, 2));
        say(&mut third, 3, hash(7, 2));
        assert_eq!(third.diverged_at(1, &VOTERS), Some(7));
        remember(&mut third.own, hash(9, 1));
        say(&mut third, 2, hash(9, 1));
        assert_eq!(third.agrees_with(NodeId(2)), Some(true), "by the last one");
        assert_eq!(
            third.diverged_at(1, &[1, 2]),
            None,
            "two of two would be needed"
        );
    }
}
