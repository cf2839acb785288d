//! Applies committed entries and tells everyone.
//!
//! Owned by the log's thread. For each batch, in this order: every command is applied to the state;
//! forgotten tasks and the commit are written down; the view is published; the leader's loop gets what
//! agents and frameworks wait for; those who wait get their outcomes; watchers get the rest. So whoever
//! has an outcome finds it in the view, and a task is always either in the state or in the history.

use raft::eraftpb::{Entry, EntryType};
use tepui_cluster::effect::Archived;
use tepui_cluster::{Applied, Changes, Effect, Envelope, State};
use tepui_types::api::event::{Event, Sequence};

use super::waiters::{Answer, Waiters};
use crate::error::StorageError;
use crate::feed::Feed;
use crate::history::Archive;
use crate::mailbox::Mailbox;
use crate::storage::Batch;
use crate::view::View;

/// The state and all who follow it.
pub(super) struct Applier {
    pub state: State,
    /// The last entry that was applied, with a command or without.
    pub applied: u64,
    pub archive: Archive,
    pub view: View,
    pub feed: Feed,
    pub mailbox: Mailbox,
}

/// What a batch of entries did, until it is told.
#[derive(Default)]
pub(super) struct Consequences {
    answers: Vec<Answer>,
    events: Vec<Event>,
    effects: Vec<Effect>,
    archived: Vec<Archived>,
    /// What changed.
    pub changes: Changes,
}

impl Applier {
    /// Applies one entry that holds a command, or nothing: the first of a term.
    pub fn apply(
        &mut self,
        entry: &Entry,
        waiters: &mut Waiters,
        consequences: &mut Consequences,
    ) -> Result<(), StorageError> {
        assert!(
            entry.index == self.applied + 1,
            "entries are applied in order, each once"
        );
        self.applied = entry.index;
        if entry.entry_type() != EntryType::EntryNormal || entry.data.is_empty() {
            return Ok(());
        }
        let what = || format!("the command in log entry {}", entry.index);
        let envelope = Envelope::decode(&entry.data).map_err(StorageError::decode(what()))?;
        let applied = self.state.apply(entry.index, &envelope);
        tracing::debug!(
            index = entry.index,
            request = format_args!("{:032x}", envelope.request_id),
            principal = %envelope.principal,
            accepted = applied.outcome.is_ok(),
            "applied"
        );
        let Applied {
            outcome,
            effects,
            events,
            changes,
        } = applied;
        consequences
            .answers
            .extend(waiters.resolve(entry.index, entry.term, outcome));
        consequences.events.extend(events);
        consequences.changes.merge(changes);
        for effect in effects {
            match effect {
                Effect::Archive(archived) => consequences.archived.push(archived),
                Effect::Agent(..) | Effect::Recorded(..) => consequences.effects.push(effect),
            }
        }
        Ok(())
    }

    /// Takes another state in the place of this one: the leader's, which is further.
    pub fn install(&mut self, state: State, index: u64) {
        self.state = state;
        self.applied = index;
        self.view.publish(self.state.clone(), index);
        self.feed.restart(Sequence {
            index,
            ordinal: u32::MAX,
        });
    }

    /// Adds what the batch leaves on disk.
    pub fn write(
        &mut self,
        batch: &mut Batch,
        consequences: &Consequences,
    ) -> Result<(), StorageError> {
        self.archive.append(batch, &consequences.archived)
    }

    /// Tells everyone.
    pub fn publish(&self, consequences: Consequences) {
        self.view.publish(self.state.clone(), self.applied);
        self.mailbox
            .deliver(consequences.effects, consequences.changes);
        consequences.answers.into_iter().for_each(Answer::send);
        self.feed.publish(consequences.events);
    }
}
