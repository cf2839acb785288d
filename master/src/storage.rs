//! The master's database: RocksDB under `DIR/db`.
//!
//! Four column families: `log` (entries), `meta` (hard state, members, identity), `snapshot`
//! (images of the state) and `history` (ended tasks). The log's thread writes `log` and `meta`,
//! and is the only one to ask for a sync; the snapshot's thread writes `snapshot`. A write without
//! sync is in the write-ahead log in its order, so that the next sync makes it durable too.

use std::path::Path;
use std::sync::Arc;

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType,
    DBPinnableSlice, DBRecoveryMode, Options, WriteBatch, WriteOptions,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tepui_types::{NodeId, envelope};

use crate::error::StorageError;
use crate::folder::Identity;

mod entry;
pub mod keys;
pub mod log;
pub mod snapshot;
pub mod watermark;

use log::{HardStateRecord, Truncated};
use snapshot::SnapshotRecord;

/// Index and term of the image that every first voter starts from: being identical everywhere, it
/// needs no election and no transfer.
pub const FIRST_INDEX: u64 = 1;
/// See [`FIRST_INDEX`].
pub const FIRST_TERM: u64 = 1;

/// All families share it. Reads are rare: the state is in memory, the log is read at start.
const BLOCK_CACHE_BYTES: usize = 32 * 1024 * 1024;
/// Past it RocksDB flushes the family that holds the oldest write-ahead log back, so that a start
/// after a crash replays little.
const MAX_WAL_BYTES: u64 = 64 * 1024 * 1024;
/// Each open file costs a descriptor and its index blocks.
const MAX_OPEN_FILES: i32 = 256;
/// One flush and one compaction beside each other.
const BACKGROUND_JOBS: i32 = 2;
/// RocksDB's own log, for those who debug it: two files of so many bytes.
const INFO_LOG_BYTES: usize = 4 * 1024 * 1024;

/// A column family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    const ALL: [Self; 4] = [Self::Log, Self::Meta, Self::Snapshot, Self::History];

    fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Meta => "meta",
            Self::Snapshot => "snapshot",
            Self::History => "history",
        }
    }

    /// Memory that is filled before a file is written. Memory is taken as it is needed.
    fn write_buffer_bytes(self) -> usize {
        match self {
            Self::Log | Self::Snapshot => 16 * 1024 * 1024,
            Self::History => 8 * 1024 * 1024,
            Self::Meta => 1024 * 1024,
        }
    }
}

/// What is written together or not at all.
#[derive(Default)]
pub struct Batch(WriteBatch);

impl Batch {
    /// Whether it would write nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
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

/// The open database; clones share it.
#[derive(Clone)]
pub struct Storage {
    db: Arc<DB>,
    path: Arc<Path>,
}

impl Storage {
    /// Opens the database, making an empty one if there is none. Blocks.
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        let cache = Cache::new_lru_cache(BLOCK_CACHE_BYTES);
        let families = Family::ALL.map(|family| {
            ColumnFamilyDescriptor::new(family.name(), family_options(family, &cache))
        });
        // RocksDB has a family `default` in every database. Nothing is in it, and with its own
        // options it would make RocksDB reserve 64 MiB of disk for every write-ahead log.
        let unused = ColumnFamilyDescriptor::new("default", family_options(Family::Meta, &cache));
        let families = families.into_iter().chain([unused]);
        let db =
            DB::open_cf_descriptors(&database_options(), path, families).map_err(|source| {
                StorageError::Open {
                    path: path.to_owned(),
                    source,
                }
            })?;
        Ok(Self {
            db: Arc::new(db),
            path: path.into(),
        })
    }

    /// The database's folder.
    pub fn path(&self) -> &Path {
        &self.path
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
        self.put_record(&mut batch, Family::Meta, keys::CANDIDATE, &drawn);
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
        self.put_record(&mut batch, Family::Meta, keys::HARD_STATE, &hard_state);
        let truncated = Truncated { index, term };
        self.put_record(&mut batch, Family::Meta, keys::TRUNCATED, &truncated);
        self.put_record(&mut batch, Family::Meta, keys::IDENTITY, &identity);
        self.write(batch, Durability::Synced)
    }

    /// The value under `key`.
    pub fn get(
        &self,
        family: Family,
        key: &[u8],
    ) -> Result<Option<DBPinnableSlice<'_>>, StorageError> {
        self.db
            .get_pinned_cf(self.family(family), key)
            .map_err(|source| StorageError::Database {
                step: "read from",
                source,
            })
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

    /// Adds a value to a batch.
    pub fn put(&self, batch: &mut Batch, family: Family, key: &[u8], value: &[u8]) {
        batch.0.put_cf(self.family(family), key, value);
    }

    /// Adds a versioned record to a batch.
    pub fn put_record<T: Serialize>(
        &self,
        batch: &mut Batch,
        family: Family,
        key: &[u8],
        record: &T,
    ) {
        self.put(
            batch,
            family,
            key,
            &envelope::encode(RECORD_VERSION, record),
        );
    }

    /// Adds the removal of one key to a batch.
    pub fn delete(&self, batch: &mut Batch, family: Family, key: &[u8]) {
        batch.0.delete_cf(self.family(family), key);
    }

    /// Adds the removal of all keys from `from` to before `to` to a batch.
    pub fn delete_range(&self, batch: &mut Batch, family: Family, from: &[u8], to: &[u8]) {
        batch.0.delete_range_cf(self.family(family), from, to);
    }

    /// Writes a batch.
    pub fn write(&self, batch: Batch, durability: Durability) -> Result<(), StorageError> {
        let mut options = WriteOptions::default();
        options.set_sync(durability == Durability::Synced);
        options.disable_wal(durability == Durability::Unlogged);
        self.db
            .write_opt(batch.0, &options)
            .map_err(|source| StorageError::Database {
                step: "write to",
                source,
            })
    }

    /// Writes a family's memory to files; what was [`Durability::Unlogged`] is durable after it.
    pub fn flush(&self, family: Family) -> Result<(), StorageError> {
        self.db
            .flush_cf(self.family(family))
            .map_err(|source| StorageError::Database {
                step: "flush",
                source,
            })
    }

    /// Reads keys and values in order, from `from` on, until `visit` says to stop.
    pub fn scan(
        &self,
        family: Family,
        from: &[u8],
        direction: Direction,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<Scan, StorageError>,
    ) -> Result<(), StorageError> {
        let mut iterator = self.db.raw_iterator_cf(self.family(family));
        match direction {
            Direction::Up => iterator.seek(from),
            Direction::Down => iterator.seek_for_prev(from),
        }
        while let Some((key, value)) = iterator.item() {
            if visit(key, value)? == Scan::Stop {
                return Ok(());
            }
            match direction {
                Direction::Up => iterator.next(),
                Direction::Down => iterator.prev(),
            }
        }
        iterator.status().map_err(|source| StorageError::Database {
            step: "read from",
            source,
        })
    }

    fn family(&self, family: Family) -> &ColumnFamily {
        // invariant: `open` opens every family, and nothing drops one.
        self.db
            .cf_handle(family.name())
            .expect("every family is open")
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

fn database_options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    // A record torn by a crash at the very end was never acknowledged and goes; anything damaged
    // before it stops the start. (RocksDB's default would cut the log at the damage in silence.)
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_paranoid_checks(true);
    options.set_max_total_wal_size(MAX_WAL_BYTES);
    options.set_max_open_files(MAX_OPEN_FILES);
    options.set_max_background_jobs(BACKGROUND_JOBS);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(INFO_LOG_BYTES);
    // An idle master sleeps: no statistics at intervals.
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options
}

fn family_options(family: Family, cache: &Cache) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_cache_index_and_filter_blocks(true);
    if family == Family::History {
        table.set_bloom_filter(10.0, false);
    }
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_write_buffer_size(family.write_buffer_bytes());
    options.set_max_write_buffer_number(2);
    options.set_compression_type(DBCompressionType::None);
    options
}

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
        storage.put_record(&mut batch, Family::Meta, b"a", &Record(7));
        storage.put(&mut batch, Family::History, b"a", b"x");
        storage.write(batch, Durability::Synced).unwrap();
        drop(storage);
        let storage = Storage::open(&path).unwrap();
        assert_eq!(
            storage.get_record(Family::Meta, b"a", "it").unwrap(),
            Some(Record(7))
        );
        assert_eq!(&*storage.get(Family::History, b"a").unwrap().unwrap(), b"x");
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
