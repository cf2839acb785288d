//! Doing what the core said: records first, with one write, then the rest in order.

use tepui_types::Digest;

use super::{Event, EventLoop};
use crate::agent::Action;
use crate::checkpoint::{Journal, Record};
use crate::error::AgentError;

impl EventLoop {
    /// Does what the core said: records first, with one write.
    pub(super) fn perform(&mut self) -> Result<(), AgentError> {
        if self.out.is_empty() {
            return Ok(());
        }
        let actions = std::mem::take(&mut self.out);
        let record = |action: &'_ Action| matches!(action, Action::Record(_));
        if actions.iter().any(record) {
            self.parts
                .journal
                .append(actions.iter().filter_map(as_record))?;
        }
        for action in actions {
            match action {
                Action::Record(_) => {}
                Action::Fetch(digest) => self.fetch(digest),
                Action::Prepare(launch) => self.parts.containers.prepare(launch),
                Action::Check(launch) => {
                    let network = self.parts.agent.network_of(&launch.task);
                    self.parts.checker.begin(launch, network);
                }
                Action::Release(task) => self.parts.containers.release(&task),
                Action::Remove(digest) => self.remove(digest),
                Action::Start(id, kind) => match self.parts.identity.agent {
                    Some(agent) => self.parts.supervisor.start(id, &kind, agent),
                    None => tracing::error!(executor = %id, "a start before any registration"),
                },
                Action::Find(id) => self.parts.supervisor.find(id),
                Action::Send(id, message) => {
                    self.parts.supervisor.send(id, message);
                }
                Action::Clear(id) => self.parts.supervisor.clear(id),
                Action::End(id) => self.parts.supervisor.end(id),
                Action::KeepVolumes(list) => self.parts.volumes.keep(list),
                Action::Ended(task, state) => {
                    self.parts.metrics.task_ended(state);
                    self.parts.checker.end(&task);
                    if let Some(ended) = self.followed.remove(&task) {
                        ended.cancel();
                    }
                }
            }
        }
        if self.parts.journal.has_outgrown() {
            self.replace_journal()?;
        }
        Ok(())
    }

    /// Replaces the journal by one of what is needed; on a full disk the one that is there goes on.
    fn replace_journal(&mut self) -> Result<(), AgentError> {
        let records = self.parts.agent.records(&self.parts.boot_id);
        match Journal::create(&self.parts.layout.checkpoint(), &records) {
            Ok(journal) => self.parts.journal = journal,
            Err(error) if error.is_full() => {
                tracing::warn!(%error, "the journal grows on: the disk is full");
                self.parts.journal.put_off_replacement();
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn fetch(&self, digest: Digest) {
        let (fetcher, events) = (self.parts.fetcher.clone(), self.events.clone());
        tokio::spawn(async move {
            let result = fetcher.fetch(digest).await;
            // The loop is gone only when the agent ends.
            let _ = events.send(Event::Fetched(digest, result)).await;
        });
    }

    fn remove(&self, digest: Digest) {
        let (path, events) = (self.parts.layout.artifact(&digest), self.events.clone());
        tokio::spawn(async move {
            match tokio::fs::remove_file(&path).await {
                Ok(()) => tracing::info!(%digest, "an artifact that no task needs is removed"),
                Err(error) => tracing::warn!(%digest, %error, "an artifact stays"),
            }
            // The loop is gone only when the agent ends.
            let _ = events.send(Event::Removed(digest)).await;
        });
    }
}

fn as_record(action: &Action) -> Option<&Record> {
    match action {
        Action::Record(record) => Some(record),
        _ => None,
    }
}
