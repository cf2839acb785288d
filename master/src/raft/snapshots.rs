//! Images of the state take the place of the log's beginning, so that a start replays little.
//!
//! An image is written beside the log's thread, from a clone of the state that costs nothing.

use std::thread::Builder;

use super::Node;
use crate::error::{RaftError, StorageError};
use crate::storage::snapshot::{self, NewSnapshot, SnapshotRecord};

/// How much log there is after the last snapshot.
#[derive(Debug, Default)]
pub(super) struct Since {
    pub entries: u64,
    pub bytes: u64,
}

impl Node {
    pub(super) fn on_snapshot_ready(
        &mut self,
        result: Result<SnapshotRecord, StorageError>,
    ) -> Result<(), RaftError> {
        if let Some(thread) = self.snapshot_thread.take() {
            thread.join().ok();
        }
        match result {
            // An image of the leader's has overtaken it.
            Ok(record) if record.index < self.raw.store().snapshot().index => {}
            Ok(record) => {
                let index = record.index;
                self.raw
                    .mut_store()
                    .compact(record, self.options.snapshot_slack)?;
                if !self.is_fetching {
                    snapshot::remove_others(&self.storage, index)?;
                }
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
    pub(super) fn snapshot_if_due(&mut self) -> Result<(), RaftError> {
        let Since { entries, bytes } = self.since_snapshot;
        let due = entries >= self.options.snapshot_entries || bytes >= self.options.snapshot_bytes;
        if self.snapshot_thread.is_some() || !(due || self.raw.store().take_newer_wanted()) {
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
}
