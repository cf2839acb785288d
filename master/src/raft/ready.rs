//! What raft wants done: send, persist, apply, advance.
//!
//! The order is the algorithm's: a leader's messages may go out beside its own sync, and count for
//! nothing without it; entries and votes are synced before anything else that follows from them is
//! said or applied; the commit that a sync made possible is written down with the entries that come
//! next; only then raft hears that all is done. Empty entries go the same way as others.

use raft::StateRole;
use raft::eraftpb::{ConfChange, ConfChangeV2, ConfState, Entry, EntryType, Message};
use raft::prelude::Ready;
use tepui_types::NodeId;

use super::Leadership;
use super::agreement::is_hashed;
use super::apply::Consequences;
use super::member::Member;
use super::world::{Saying, World};
use crate::error::{RaftError, StorageError};
use crate::storage::log::Members;
use crate::storage::{Batch, Durability};

impl<W: World> Member<W> {
    /// Does what raft wants until it wants no more.
    pub(super) fn on_ready(&mut self) -> Result<(), RaftError> {
        while self.raw.has_ready() {
            let mut ready = self.raw.ready();
            self.follow_role(&ready);
            let read_states = ready.take_read_states();
            let committed = ready.take_committed_entries();
            self.send(ready.take_messages());
            if ready.snapshot().metadata.is_some() {
                self.install(ready.hs())?;
            }
            self.persist(&ready)?;
            self.send(ready.take_persisted_messages());
            self.apply(committed, None)?;
            let mut light = self.raw.advance_append(ready);
            self.send(light.take_messages());
            self.apply(light.take_committed_entries(), light.commit_index())?;
            self.raw.advance_apply();
            self.answer_readers(read_states);
            self.snapshot_if_due()?;
        }
        Ok(())
    }

    fn send(&mut self, messages: Vec<Message>) {
        for message in messages {
            let to = NodeId(message.to);
            self.world.send(to, Saying::Message(Box::new(message)));
        }
    }

    /// Syncs what has to be before anything follows from it.
    fn persist(&mut self, ready: &Ready) -> Result<(), StorageError> {
        let durability = if ready.must_sync() {
            Durability::Synced
        } else {
            Durability::Ordered
        };
        let store = self.raw.mut_store();
        store.persist(ready.entries(), ready.hs(), durability)
    }

    /// Applies committed entries, writes down what follows from them, and tells everyone.
    fn apply(&mut self, entries: Vec<Entry>, commit: Option<u64>) -> Result<(), RaftError> {
        if let Some(commit) = commit {
            self.raw.mut_store().note_commit(commit);
        }
        let mut consequences = Consequences::default();
        for entry in &entries {
            let before = self.applier.state.now;
            self.applier
                .apply(entry, &mut self.waiters, &mut consequences)?;
            // Alone, there is nobody to compare it with.
            if is_hashed(before, &self.applier.state) && !self.is_alone() {
                let state = self.applier.state.clone();
                self.world.hash_state(entry.index, state);
            }
            self.since_snapshot.entries += 1;
            self.since_snapshot.bytes += entry.data.len() as u64;
            self.change_members(entry)?;
        }
        let mut batch = Batch::default();
        self.applier.write(&mut batch, &consequences)?;
        if !batch.is_empty() {
            // Not synced: the log brings it all back.
            self.storage.write(batch, Durability::Ordered)?;
        }
        if let Some(last) = entries.last() {
            if consequences.changes.masters {
                self.follow_masters();
            }
            self.applier.publish(consequences);
            self.lead_if_applied(last.term);
            self.change_membership();
        }
        Ok(())
    }

    /// Members change when the entry that says so is applied. The one that leaves a joint
    /// configuration holds nothing else.
    fn change_members(&mut self, entry: &Entry) -> Result<(), RaftError> {
        let what = || format!("the members in log entry {}", entry.index);
        let malformed =
            |error: prost::DecodeError| StorageError::corrupt(what(), error.to_string());
        let change = match entry.entry_type() {
            EntryType::EntryNormal => return Ok(()),
            EntryType::EntryConfChange => {
                let change: ConfChange =
                    prost::Message::decode(entry.data.as_slice()).map_err(malformed)?;
                self.raw.apply_conf_change(&change)
            }
            EntryType::EntryConfChangeV2 => {
                let change: ConfChangeV2 =
                    prost::Message::decode(entry.data.as_slice()).map_err(malformed)?;
                self.raw.apply_conf_change(&change)
            }
        };
        let members: ConfState = change.map_err(|source| RaftError::Raft {
            step: "change the members",
            source,
        })?;
        self.raw.mut_store().set_members(Members::from(members));
        self.note_members();
        Ok(())
    }

    /// A follower says so at once; a leader only once its term's first entry is applied.
    fn follow_role(&mut self, ready: &Ready) {
        let Some(soft_state) = ready.ss() else { return };
        if soft_state.raft_state != StateRole::Leader {
            self.stop_leading(self.leader());
        }
    }

    fn lead_if_applied(&mut self, term: u64) {
        let raft = &self.raw.raft;
        let leads = raft.state == StateRole::Leader && raft.term == term;
        if leads && *self.leadership.borrow() != (Leadership::Leader { term }) {
            self.lead(term);
        }
    }
}
