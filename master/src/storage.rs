//! The master's database: what the log, images and the history are stored in.
//!
//! Four families: `log` (entries), `meta` (hard state, members, identity), `snapshot` (images of
//! the state) and `history` (ended tasks). The log's thread writes `log` and `meta`, and is the
//! only one to ask for a sync; the snapshot's thread writes `snapshot`. What is asked of the bytes
//! below is a [`Disk`]: RocksDB in a master ([`rocks`]), memory in the simulation.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tepui_types::{NodeId, envelope};
use tokio::time::Instant;

use crate::error::StorageError;
use crate::folder::Identity;

mod entry;
pub mod keys;
pub mod log;
mod recent;
mod rocks;
pub mod snapshot;
pub mod watermark;

use log::{HardStateRecord, Truncated};
use snapshot::SnapshotRecord;
use watermark::Mark;

/// Index and term of the image that every first voter starts from: being identical everywhere, it
/// needs no election and no transfer.
pub const FIRST_INDEX: u64 = 1;
/// See [`FIRST_INDEX`].
pub const FIRST_TERM: u64 = 1;

/// The shortest sync that is told apart: a fast disk's; each step is twice as long.
const SYNC_SECONDS: f64 = 0.000_1;
/// Up to 1.6 s, by which a group has elected another leader.
const SYNC_BUCKETS: u16 = 15;

/// What is stored apart from the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// Raft's entries.
    Log,
    /// Small single records.
    Meta,
    /// Images of the state.
    Snapshot,
    /// Ended tasks.
    History,
}

impl Family {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Log, Self::Meta, Self::Snapshot, Self::History];
}

/// What is written together or not at all, in order.
#[derive(Debug, Clone, Default)]
pub struct Batch(Vec<Write>);

/// One change of a batch.
#[derive(Debug, Clone)]
pub enum Write {
    /// The value that is now under a key.
    Put(Family, Vec<u8>, Vec<u8>),
    /// The removal of a key.
    Delete(Family, Vec<u8>),
    /// The removal of all keys from the first to before the second.
    DeleteRange(Family, Vec<u8>, Vec<u8>),
}

impl Batch {
    /// Whether it would write nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Its changes, in order.
    pub fn into_writes(self) -> Vec<Write> {
        self.0
    }

    /// Adds a value.
    pub fn put(&mut self, family: Family, key: &[u8], value: impl Into<Vec<u8>>) {
        self.0.push(Write::Put(family, key.to_vec(), value.into()));
    }

    /// Adds a versioned record.
    pub fn put_record<T: Serialize>(&mut self, family: Family, key: &[u8], record: &T) {
        self.put(family, key, envelope::encode(RECORD_VERSION, record));
    }

    /// Adds the removal of one key.
    pub fn delete(&mut self, family: Family, key: &[u8]) {
        self.0.push(Write::Delete(family, key.to_vec()));
    }

    /// Adds the removal of all keys from `from` to before `to`.
    pub fn delete_range(&mut self, family: Family, from: &[u8], to: &[u8]) {
        let (from, to) = (from.to_vec(), to.to_vec());
        self.0.push(Write::DeleteRange(family, from, to));
    }
}

/// How far a write must have come before it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// On the disk.
    Synced,
    /// In order behind what came before: survives the process, and the machine once something
    /// later is synced.
    Ordered,
    /// In memory until the family is flushed.
    Unlogged,
}

/// Sees one key and its value, and says whether the scan goes on.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<Scan, StorageError> + 'a;

/// All that is asked of the bytes on a disk.
pub trait Disk: Send + Sync {
    /// The value under `key`.
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError>;

    /// Shows keys and values in order, from `from` on, until it is told to stop.
    fn scan(
        &self,
        family: Family,
        from: &[u8],
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Result<(), StorageError>;

    /// Writes a batch, whole or not at all.
    fn write(&self, batch: Batch, durability: Durability) -> Result<(), StorageError>;

    /// Makes what was written [`Durability::Unlogged`] to a family durable.
    fn flush(&self, family: Family) -> Result<(), StorageError>;

    /// What was synced at least, by the note of it; see [`watermark`].
    fn mark(&self) -> Result<Mark, StorageError>;

    /// Notes what was synced; the note itself may be lost with the machine.
    fn set_mark(&self, mark: Mark) -> Result<(), StorageError>;

    /// Takes the note back to where it speaks of nothing that is about to be overwritten. It is on
    /// the disk when this returns: an older one that turned up again after a power failure would
    /// speak of entries that are rightly gone.
    fn take_back_mark(&self, mark: Mark) -> Result<(), StorageError>;
}

/// The open database; clones share it.
#[derive(Clone)]
pub struct Storage {
    disk: Arc<dyn Disk>,
    syncs: Histogram,
    /// Microseconds in all of them.
    synced: Arc<AtomicU64>,
}

impl Storage {
    /// Opens the database in a folder, making an empty one if there is none. Blocks.
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        Ok(Self::on(rocks::Rocks::open(path)?))
    }

    /// The database on a disk.
    pub fn on(disk: impl Disk + 'static) -> Self {
        Self {
            disk: Arc::new(disk),
            syncs: Histogram::new(exponential_buckets(SYNC_SECONDS, 2.0, SYNC_BUCKETS)),
            synced: Arc::default(),
        }
    }

    /// How long synced writes took, in seconds.
    pub fn syncs(&self) -> &Histogram {
        &self.syncs
    }

    /// How long all of them took.
    pub fn synced(&self) -> Duration {
        Duration::from_micros(self.synced.load(Ordering::Relaxed))
    }

    /// Who the database belongs to; none before [`Storage::initialize`].
    pub fn identity(&self) -> Result<Option<Identity>, StorageError> {
        self.get_record(Family::Meta, keys::IDENTITY, "the database's identity")
    }

    /// The node id of a master that has no cluster yet; `drawn` if it has none: once told to peers,
    /// it stays.
    pub fn candidate(&self, drawn: NodeId) -> Result<NodeId, StorageError> {
        let what = "the candidate's id";
        if let Some(node) = self.get_record(Family::Meta, keys::CANDIDATE, what)? {
            return Ok(node);
        }
        let mut batch = Batch::default();
        batch.put_record(Family::Meta, keys::CANDIDATE, &drawn);
        self.write(batch, Durability::Synced)?;
        Ok(drawn)
    }

    /// Makes this the database of a master, in one synced step: with its ids and the image that it
    /// starts from, whose record or whole is in `batch`.
    pub fn initialize(
        &self,
        identity: Identity,
        record: &SnapshotRecord,
        mut batch: Batch,
    ) -> Result<(), StorageError> {
        let SnapshotRecord { index, term, .. } = *record;
        let hard_state = HardStateRecord {
            term,
            vote: 0,
            commit: index,
        };
        batch.put_record(Family::Meta, keys::HARD_STATE, &hard_state);
        let truncated = Truncated { index, term };
        batch.put_record(Family::Meta, keys::TRUNCATED, &truncated);
        batch.put_record(Family::Meta, keys::IDENTITY, &identity);
        self.write(batch, Durability::Synced)
    }

    /// The value under `key`.
    pub fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        self.disk.get(family, key)
    }

    /// The versioned record under `key`; `what` names it to people.
    pub fn get_record<T: DeserializeOwned>(
        &self,
        family: Family,
        key: &[u8],
        what: &str,
    ) -> Result<Option<T>, StorageError> {
        match self.get(family, key)? {
            Some(bytes) => envelope::decode(RECORD_VERSION, &bytes)
                .map(Some)
                .map_err(StorageError::decode(what)),
            None => Ok(None),
        }
    }

    /// Writes a batch.
    pub fn write(&self, batch: Batch, durability: Durability) -> Result<(), StorageError> {
        let begun = Instant::now();
        self.disk.write(batch, durability)?;
        if durability == Durability::Synced {
            let took = begun.elapsed();
            self.syncs.observe(took.as_secs_f64());
            // 500,000 years fit.
            let micros = took.as_micros() as u64;
            self.synced.fetch_add(micros, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Writes a family's memory to files; what was [`Durability::Unlogged`] is durable after it.
    pub fn flush(&self, family: Family) -> Result<(), StorageError> {
        self.disk.flush(family)
    }

    /// Reads keys and values in order, from `from` on, until `visit` says to stop.
    pub fn scan(
        &self,
        family: Family,
        from: &[u8],
        direction: Direction,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<Scan, StorageError>,
    ) -> Result<(), StorageError> {
        self.disk.scan(family, from, direction, &mut visit)
    }

    /// What was synced at least, by the note of it.
    pub fn mark(&self) -> Result<Mark, StorageError> {
        self.disk.mark()
    }

    /// Notes what was synced.
    pub fn set_mark(&self, mark: Mark) -> Result<(), StorageError> {
        self.disk.set_mark(mark)
    }

    /// Takes the note of it back, before what it speaks of is overwritten.
    pub fn take_back_mark(&self, mark: Mark) -> Result<(), StorageError> {
        self.disk.take_back_mark(mark)
    }
}

/// Which way a scan goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To larger keys.
    Up,
    /// To smaller keys.
    Down,
}

/// Whether a scan goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scan {
    /// To the next key.
    Continue,
    /// It has seen enough.
    Stop,
}

/// Version of every record that is a plain struct.
const RECORD_VERSION: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Record(u32);

    #[test]
    fn families_keep_what_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let storage = Storage::open(&path).unwrap();
        let mut batch = Batch::default();
        batch.put_record(Family::Meta, b"a", &Record(7));
        batch.put(Family::History, b"a", b"x".as_slice());
        storage.write(batch, Durability::Synced).unwrap();
        drop(storage);
        let storage = Storage::open(&path).unwrap();
        assert_eq!(
            storage.get_record(Family::Meta, b"a", "it").unwrap(),
            Some(Record(7))
        );
        assert_eq!(storage.get(Family::History, b"a").unwrap().unwrap(), b"x");
        assert!(storage.get(Family::Log, b"a").unwrap().is_none());
    }

    #[test]
    fn a_second_opening_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let _storage = Storage::open(folder.path()).unwrap();
        assert!(matches!(
            Storage::open(folder.path()),
            Err(StorageError::Open { .. })
        ));
    }
}
