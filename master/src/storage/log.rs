//! Raft's log on disk: entries, hard state, and where the log begins and ends.
//!
//! Every entry is written once, with a checksum over its index and all it holds, and every one is
//! checked when the log is opened: a gap, a damaged record or an end before the committed index is
//! a fatal error that names the place. Only the log's thread uses a [`LogStore`]; raft reads it
//! through its `Storage` trait.

use std::cell::Cell;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot, SnapshotMetadata};
use raft::{GetEntriesContext, RaftState};
use serde::{Deserialize, Serialize};

use super::recent::Recent;
use super::snapshot::{self, SnapshotRecord};
use super::watermark::Mark;
use super::{Batch, Direction, Durability, Family, Scan, Storage, entry, keys};
use crate::error::StorageError;

/// What an entry's record costs beside its data, for limits on sizes.
const ENTRY_OVERHEAD_BYTES: u64 = 32;

/// Term, vote and commit, as they are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HardStateRecord {
    /// The highest term that was seen.
    pub term: u64,
    /// Whom this node voted for in it; 0 for nobody.
    pub vote: u64,
    /// The highest index known to be committed.
    pub commit: u64,
}

impl From<&HardState> for HardStateRecord {
    fn from(state: &HardState) -> Self {
        Self {
            term: state.term,
            vote: state.vote,
            commit: state.commit,
        }
    }
}

impl From<HardStateRecord> for HardState {
    fn from(record: HardStateRecord) -> Self {
        Self {
            term: record.term,
            vote: record.vote,
            commit: record.commit,
        }
    }
}

/// The members of the group, as they are stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// Who votes.
    pub voters: Vec<u64>,
    /// Who only follows.
    pub learners: Vec<u64>,
    /// Who votes in the outgoing half of a joint configuration.
    pub voters_outgoing: Vec<u64>,
    /// Who becomes a learner when the joint configuration is left.
    pub learners_next: Vec<u64>,
    /// Whether the joint configuration is left by itself.
    pub auto_leave: bool,
}

impl From<ConfState> for Members {
    fn from(state: ConfState) -> Self {
        Self {
            voters: state.voters,
            learners: state.learners,
            voters_outgoing: state.voters_outgoing,
            learners_next: state.learners_next,
            auto_leave: state.auto_leave,
        }
    }
}

impl From<Members> for ConfState {
    fn from(members: Members) -> Self {
        Self {
            voters: members.voters,
            learners: members.learners,
            voters_outgoing: members.voters_outgoing,
            learners_next: members.learners_next,
            auto_leave: members.auto_leave,
        }
    }
}

/// The last entry that is not in the log any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Truncated {
    /// Its index.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// The log, opened.
pub struct LogStore {
    storage: Storage,
    truncated: Truncated,
    last: u64,
    recent: Recent,
    /// Where each term begins, from the truncated entry's on: terms never need a read.
    terms: Vec<Truncated>,
    hard_state: HardState,
    /// Whether the commit on disk is that of `hard_state`.
    is_commit_written: bool,
    members: Members,
    snapshot: SnapshotRecord,
    /// Whether a peer needs a newer image than there is.
    newer_wanted: Cell<bool>,
}

impl LogStore {
    /// Reads and checks the whole log. Blocks for as long as reading it takes.
    pub fn open(storage: Storage, snapshot: SnapshotRecord) -> Result<Self, StorageError> {
        let truncated: Truncated = required(&storage, keys::TRUNCATED, "the log's start")?;
        let hard_state: HardStateRecord = required(&storage, keys::HARD_STATE, "the hard state")?;
        let (last, terms) = check_entries(&storage, truncated)?;
        check_mark(storage.mark()?, last, hard_state)?;
        if last < hard_state.commit || last < snapshot.index || snapshot.index < truncated.index {
            return Err(StorageError::corrupt(
                "the log",
                format!(
                    "it has entries {} to {last}, but {} is committed and the snapshot is of {}",
                    truncated.index + 1,
                    hard_state.commit,
                    snapshot.index
                ),
            ));
        }
        let mut hard_state = HardState::from(hard_state);
        // What is in a snapshot was committed, whatever the last commit on record.
        hard_state.commit = hard_state.commit.max(snapshot.index);
        // Later changes are applied again with the entries that hold them.
        let members = snapshot.members.clone();
        Ok(Self {
            storage,
            truncated,
            last,
            recent: Recent::default(),
            terms,
            hard_state,
            is_commit_written: true,
            members,
            snapshot,
            newer_wanted: Cell::new(false),
        })
    }

    /// The last index in the log.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// The members after the last applied change.
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// The newest image.
    pub fn snapshot(&self) -> &SnapshotRecord {
        &self.snapshot
    }

    /// Whether a peer needs a newer image than there is; says so once.
    pub fn take_newer_wanted(&self) -> bool {
        self.newer_wanted.take()
    }

    /// Writes entries, over any that stand in their place, and the hard state with the last commit
    /// that was noted: one write for all that was proposed since the last, which is the group
    /// commit.
    pub fn persist(
        &mut self,
        entries: &[Entry],
        hard_state: Option<&HardState>,
        durability: Durability,
    ) -> Result<(), StorageError> {
        let mut batch = Batch::default();
        if entries
            .first()
            .is_some_and(|first| first.index <= self.last)
        {
            // A mark is never before the log, so it goes back first.
            let mark = Mark {
                index: self.truncated.index,
                ..self.mark()
            };
            self.storage.take_back_mark(mark)?;
        }
        self.append(&mut batch, entries);
        if let Some(hard_state) = hard_state {
            self.set_hard_state(&mut batch, hard_state);
        } else if !entries.is_empty() && !self.is_commit_written {
            self.set_hard_state(&mut batch, &self.hard_state.clone());
        }
        if batch.is_empty() {
            return Ok(());
        }
        self.storage.write(batch, durability)?;
        match durability {
            Durability::Synced => self.storage.set_mark(self.mark()),
            Durability::Ordered | Durability::Unlogged => Ok(()),
        }
    }

    fn mark(&self) -> Mark {
        Mark {
            index: self.last,
            term: self.hard_state.term,
            vote: self.hard_state.vote,
        }
    }

    fn append(&mut self, batch: &mut Batch, entries: &[Entry]) {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return;
        };
        assert!(
            first.index > self.truncated.index && first.index <= self.last + 1,
            "no gap"
        );
        if last.index < self.last {
            let (from, to) = (keys::log(last.index + 1), keys::log(self.last + 1));
            batch.delete_range(Family::Log, &from, &to);
        }
        while self
            .terms
            .last()
            .is_some_and(|run| run.index >= first.index)
        {
            self.terms.pop();
        }
        for entry in entries {
            batch.put(Family::Log, &keys::log(entry.index), entry::encode(entry));
            push_term(&mut self.terms, entry.index, entry.term);
        }
        self.last = last.index;
        self.recent.append(entries);
    }

    fn set_hard_state(&mut self, batch: &mut Batch, state: &HardState) {
        self.hard_state = state.clone();
        self.is_commit_written = true;
        let record = HardStateRecord::from(state);
        batch.put_record(Family::Meta, keys::HARD_STATE, &record);
    }

    /// Notes a commit that went on. The next entries take it to the disk; should there be none, the
    /// group finds it again by electing a leader.
    pub fn note_commit(&mut self, commit: u64) {
        self.hard_state.commit = commit;
        self.is_commit_written = false;
    }

    /// The members have changed; on disk they stand in the entry that says so, and in snapshots.
    pub fn set_members(&mut self, members: Members) {
        self.members = members;
    }

    /// Starts the log anew after an image that came from the leader: everything before it is in the
    /// image, everything after it is to come. One write, so that a crash leaves the old or the new.
    pub fn install(
        &mut self,
        snapshot: SnapshotRecord,
        hard_state: Option<&HardState>,
    ) -> Result<(), StorageError> {
        let (index, term) = (snapshot.index, snapshot.term);
        let truncated = Truncated { index, term };
        // A mark is never before the log, so it goes back first.
        self.storage.take_back_mark(Mark {
            index: self.truncated.index.min(index),
            ..self.mark()
        })?;
        let mut batch = Batch::default();
        let (from, to) = (keys::log(self.truncated.index), keys::log(self.last + 1));
        batch.delete_range(Family::Log, &from, &to);
        snapshot::put_whole(&mut batch, &snapshot);
        batch.put_record(Family::Meta, keys::TRUNCATED, &truncated);
        let mut hard_state = hard_state.unwrap_or(&self.hard_state).clone();
        hard_state.commit = hard_state.commit.max(index);
        self.set_hard_state(&mut batch, &hard_state);
        self.storage.write(batch, Durability::Synced)?;
        self.members = snapshot.members.clone();
        self.truncated = truncated;
        self.last = index;
        self.recent.clear();
        self.terms = vec![truncated];
        self.snapshot = snapshot;
        self.storage.set_mark(self.mark())
    }

    /// Takes a finished snapshot for the newest, and drops the entries up to `slack` before it:
    /// so many are kept for peers that are only a little behind.
    pub fn compact(&mut self, snapshot: SnapshotRecord, slack: u64) -> Result<(), StorageError> {
        assert!(
            snapshot.index >= self.snapshot.index,
            "snapshots go forward"
        );
        let index = snapshot.index.saturating_sub(slack);
        self.snapshot = snapshot;
        if index <= self.truncated.index {
            return Ok(());
        }
        let term = self.term_of(index);
        let truncated = Truncated { index, term };
        let mut batch = Batch::default();
        let (from, to) = (keys::log(self.truncated.index), keys::log(index + 1));
        batch.delete_range(Family::Log, &from, &to);
        batch.put_record(Family::Meta, keys::TRUNCATED, &truncated);
        self.storage.write(batch, Durability::Ordered)?;
        self.terms.retain(|run| run.index > index);
        self.terms.insert(0, truncated);
        self.truncated = truncated;
        Ok(())
    }

    /// The term of an index between the truncated one and the last.
    fn term_of(&self, index: u64) -> u64 {
        let runs_begun = self.terms.partition_point(|run| run.index <= index);
        self.terms[runs_begun - 1].term
    }

    fn read(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, StorageError> {
        if let Some(entries) = self.recent.read(low, high, max_bytes) {
            return Ok(entries);
        }
        let mut entries = Vec::new();
        let mut bytes = 0;
        let mut next = low;
        self.storage
            .scan(Family::Log, &keys::log(low), Direction::Up, |key, value| {
                if next == high || keys::log_index(key) != Some(next) {
                    return Ok(Scan::Stop);
                }
                let entry = entry::decode(next, value)?;
                bytes += entry_bytes(&entry);
                if bytes > max_bytes && !entries.is_empty() {
                    return Ok(Scan::Stop);
                }
                entries.push(entry);
                next += 1;
                Ok(Scan::Continue)
            })?;
        if entries.is_empty() && low < high {
            return Err(StorageError::corrupt(
                format!("log entry {low}"),
                "it is missing",
            ));
        }
        Ok(entries)
    }
}

impl raft::Storage for LogStore {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(
            self.hard_state.clone(),
            self.members.clone().into(),
        ))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.truncated.index {
            return Err(raft::Error::Store(raft::StorageError::Compacted));
        }
        assert!(high <= self.last + 1, "raft asks for what it has stored");
        self.read(low, high, max_size.into().unwrap_or(u64::MAX))
            .map_err(to_raft)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index < self.truncated.index {
            return Err(raft::Error::Store(raft::StorageError::Compacted));
        }
        if index > self.last {
            return Err(raft::Error::Store(raft::StorageError::Unavailable));
        }
        Ok(self.term_of(index))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.truncated.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last)
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let members = &self.snapshot.members;
        // Raft would not restore an image from before its reader was a member.
        let has_reader = members.voters.contains(&to) || members.learners.contains(&to);
        if self.snapshot.index < request_index || !has_reader {
            self.newer_wanted.set(true);
            // The next one will do; raft asks again.
            return Err(raft::Error::Store(
                raft::StorageError::SnapshotTemporarilyUnavailable,
            ));
        }
        let metadata = SnapshotMetadata {
            conf_state: Some(self.snapshot.members.clone().into()),
            index: self.snapshot.index,
            term: self.snapshot.term,
        };
        // Its bytes do not go through raft: whoever is sent it fetches them.
        Ok(Snapshot {
            data: Vec::new(),
            metadata: Some(metadata),
        })
    }
}

/// What an entry counts where bytes are limited.
pub(super) fn entry_bytes(entry: &Entry) -> u64 {
    entry.data.len() as u64 + ENTRY_OVERHEAD_BYTES
}

fn to_raft(error: StorageError) -> raft::Error {
    raft::Error::Store(raft::StorageError::Other(Box::new(error)))
}

fn required<T: serde::de::DeserializeOwned>(
    storage: &Storage,
    key: &[u8],
    what: &str,
) -> Result<T, StorageError> {
    storage
        .get_record(Family::Meta, key, what)?
        .ok_or_else(|| StorageError::corrupt(what, "its record is missing"))
}

/// Every entry after the truncated one, looked at: the last index and where each term begins.
fn check_entries(
    storage: &Storage,
    truncated: Truncated,
) -> Result<(u64, Vec<Truncated>), StorageError> {
    let mut last = truncated.index;
    let mut terms = vec![truncated];
    storage.scan(Family::Log, &keys::log(0), Direction::Up, |key, value| {
        let index = keys::log_index(key).ok_or_else(|| {
            StorageError::corrupt("the log", format!("key {key:02x?} is foreign"))
        })?;
        if index <= truncated.index {
            return Ok(Scan::Continue);
        }
        if index != last + 1 {
            let detail = format!("it is missing, though entry {index} is there");
            return Err(StorageError::corrupt(
                format!("log entry {}", last + 1),
                detail,
            ));
        }
        let entry = entry::decode(index, value)?;
        push_term(&mut terms, index, entry.term);
        last = index;
        Ok(Scan::Continue)
    })?;
    Ok((last, terms))
}

/// What was synced, by the note of it, must all be there.
fn check_mark(mark: Mark, last: u64, hard_state: HardStateRecord) -> Result<(), StorageError> {
    let HardStateRecord { term, vote, .. } = hard_state;
    let vote_is_lost = term == mark.term && vote == 0 && mark.vote != 0;
    if last < mark.index || term < mark.term || vote_is_lost {
        return Err(StorageError::corrupt(
            "the log",
            format!(
                "it ends at entry {last} in term {term}, but entry {} in term {} was synced",
                mark.index, mark.term
            ),
        ));
    }
    Ok(())
}

fn push_term(terms: &mut Vec<Truncated>, index: u64, term: u64) {
    if terms.last().is_none_or(|run| run.term != term) {
        terms.push(Truncated { index, term });
    }
}
