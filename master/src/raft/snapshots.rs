//! Images of the state take the place of the log's beginning, so that a start replays little.
//!
//! An image is written beside the log's thread, from a clone of the state that costs nothing.

use tepui_cluster::State;

use super::member::Member;
use super::world::World;
use super::{LENT_FACTOR, Options};
use crate::error::{RaftError, StorageError};
use crate::storage::Storage;
use crate::storage::log::Members;
use crate::storage::snapshot::{self, NewSnapshot, SnapshotRecord};

/// How much log there is after the last snapshot.
#[derive(Debug, Default)]
pub(super) struct Since {
    pub entries: u64,
    pub bytes: u64,
}

/// An image that is to be written.
#[derive(Debug)]
pub struct Image {
    index: u64,
    term: u64,
    members: Members,
    state: State,
}

/// An image in bytes.
#[derive(Debug)]
pub(super) struct Encoded {
    image: NewSnapshot,
    pieces: Vec<Vec<u8>>,
}

impl Image {
    /// Writes it and makes it durable. Blocks.
    pub fn write(self, storage: &Storage) -> Result<SnapshotRecord, StorageError> {
        self.encode().write(storage)
    }

    /// The first half of that, which takes a processor for seconds where there are millions of tasks.
    pub(super) fn encode(&self) -> Encoded {
        let pieces = snapshot::pieces_of(&self.state);
        let image = NewSnapshot {
            index: self.index,
            term: self.term,
            members: self.members.clone(),
            state_hash: State::hash_of(&pieces),
        };
        Encoded { image, pieces }
    }
}

impl Encoded {
    /// The second half, which takes the disk. Blocks.
    pub(super) fn write(self, storage: &Storage) -> Result<SnapshotRecord, StorageError> {
        let record = snapshot::write(storage, self.image, &self.pieces)?;
        let hash = record.state_hash.iter();
        let hash: String = hash.map(|byte| format!("{byte:02x}")).collect();
        tracing::info!(
            index = record.index,
            bytes = record.bytes,
            hash,
            "took a snapshot"
        );
        Ok(record)
    }
}

impl<W: World> Member<W> {
    pub(super) fn on_snapshot_ready(
        &mut self,
        result: Result<SnapshotRecord, StorageError>,
    ) -> Result<(), RaftError> {
        self.is_writing_image = false;
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

    /// Has an image of the applied state written, if it is time for one, which is later while the last
    /// is lent. The state's clone costs nothing, and applying goes on.
    pub(super) fn snapshot_if_due(&mut self) -> Result<(), RaftError> {
        let is_lent = self.lending.is_lending() || self.ticks < self.lent_until;
        let factor = if is_lent { LENT_FACTOR } else { 1 };
        let Options {
            snapshot_entries,
            snapshot_bytes,
            ..
        } = self.options;
        let Since { entries, bytes } = self.since_snapshot;
        let due = entries >= snapshot_entries.saturating_mul(factor)
            || bytes >= snapshot_bytes.saturating_mul(factor);
        if self.is_writing_image || !(due || self.raw.store().take_newer_wanted()) {
            return Ok(());
        }
        self.since_snapshot = Since::default();
        let index = self.applier.applied;
        let term = self.raw.raft.raft_log.term(index);
        let term = term.map_err(|source| RaftError::Raft {
            step: "take a snapshot",
            source,
        })?;
        self.is_writing_image = true;
        self.world.write_image(Image {
            index,
            term,
            members: self.raw.store().members().clone(),
            state: self.applier.state.clone(),
        })
    }
}
