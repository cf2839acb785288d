//! RocksDB under `DIR/db`: the disk of a master.
//!
//! Every family is a column family. A write without sync is in the write-ahead log in its order, so
//! that the next sync makes it durable too. The note of what was synced lies beside RocksDB's files,
//! which lets foreign ones be.

use std::path::Path;

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType,
    DBRecoveryMode, Options, WriteBatch, WriteOptions,
};

use super::watermark::{Mark, Watermark};
use super::{Batch, Direction, Disk, Durability, Family, Scan, Visit, Write};
use crate::error::StorageError;

/// The note of what was synced, in the database's folder.
const WATERMARK: &str = "SYNCED";
/// All families share it. Reads are rare: the state is in memory, the log is read at start.
const BLOCK_CACHE_BYTES: usize = 32 * 1024 * 1024;
/// Past it RocksDB flushes the family that holds the oldest write-ahead log back, so that a start
/// after a crash replays little.
const MAX_WAL_BYTES: u64 = 64 * 1024 * 1024;
/// Each open file costs a descriptor and its index blocks.
const MAX_OPEN_FILES: i32 = 256;
/// One flush and one compaction beside each other.
const BACKGROUND_JOBS: i32 = 2;
/// Large files are handed to the disk piece by piece, so that a sync of the log never waits for all
/// of one.
const BYTES_PER_SYNC: u64 = 256 * 1024;
/// What flushes and compactions may write in a second: an image of the state would else keep the
/// disk from the log for as long as it is written. Several times what the log needs at its fastest.
const BACKGROUND_BYTES_PER_SECOND: i64 = 64 * 1024 * 1024;
/// In portions of this span, in microseconds: each is written at the disk's full speed.
const BACKGROUND_PORTION_MICROS: i64 = 5_000;
/// RocksDB's own value: how often those wait that would otherwise be first.
const BACKGROUND_FAIRNESS: i32 = 10;
/// RocksDB's own log, for those who debug it: two files of so many bytes.
const INFO_LOG_BYTES: usize = 4 * 1024 * 1024;

/// The open database.
pub struct Rocks {
    db: DB,
    watermark: Watermark,
}

impl Rocks {
    /// Opens the database, making an empty one if there is none. Blocks.
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        let cache = Cache::new_lru_cache(BLOCK_CACHE_BYTES);
        let families = Family::ALL.map(|family| {
            ColumnFamilyDescriptor::new(name(family), family_options(family, &cache))
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
        let path = path.join(WATERMARK);
        let watermark =
            Watermark::open(&path).map_err(|source| StorageError::Watermark { path, source })?;
        Ok(Self { db, watermark })
    }

    fn family(&self, family: Family) -> &ColumnFamily {
        // invariant: `open` opens every family, and nothing drops one.
        self.db
            .cf_handle(name(family))
            .expect("every family is open")
    }

    fn watermark_error(&self) -> impl FnOnce(std::io::Error) -> StorageError {
        let path = self.watermark.path().to_owned();
        move |source| StorageError::Watermark { path, source }
    }
}

impl Disk for Rocks {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        self.db
            .get_cf(self.family(family), key)
            .map_err(failed("read from"))
    }

    fn scan(
        &self,
        family: Family,
        from: &[u8],
        direction: Direction,
        visit: &mut Visit<'_>,
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
        iterator.status().map_err(failed("read from"))
    }

    fn write(&self, batch: Batch, durability: Durability) -> Result<(), StorageError> {
        let mut written = WriteBatch::default();
        for write in batch.into_writes() {
            match write {
                Write::Put(family, key, value) => written.put_cf(self.family(family), key, value),
                Write::Delete(family, key) => written.delete_cf(self.family(family), key),
                Write::DeleteRange(family, from, to) => {
                    written.delete_range_cf(self.family(family), from, to);
                }
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(durability == Durability::Synced);
        options.disable_wal(durability == Durability::Unlogged);
        self.db
            .write_opt(written, &options)
            .map_err(failed("write to"))
    }

    fn flush(&self, family: Family) -> Result<(), StorageError> {
        self.db
            .flush_cf(self.family(family))
            .map_err(failed("flush"))
    }

    fn mark(&self) -> Result<Mark, StorageError> {
        self.watermark.read().map_err(self.watermark_error())
    }

    fn set_mark(&self, mark: Mark) -> Result<(), StorageError> {
        self.watermark.write(mark).map_err(self.watermark_error())
    }

    fn take_back_mark(&self, mark: Mark) -> Result<(), StorageError> {
        let written = self.watermark.write(mark);
        let synced = written.and_then(|()| self.watermark.sync());
        synced.map_err(self.watermark_error())
    }
}

fn failed(step: &'static str) -> impl FnOnce(rocksdb::Error) -> StorageError {
    move |source| StorageError::Database { step, source }
}

fn name(family: Family) -> &'static str {
    match family {
        Family::Log => "log",
        Family::Meta => "meta",
        Family::Snapshot => "snapshot",
        Family::History => "history",
    }
}

/// Memory that is filled before a file is written. Memory is taken as it is needed.
fn write_buffer_bytes(family: Family) -> usize {
    match family {
        Family::Log | Family::Snapshot => 16 * 1024 * 1024,
        Family::History => 8 * 1024 * 1024,
        Family::Meta => 1024 * 1024,
    }
}

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
    options.set_bytes_per_sync(BYTES_PER_SYNC);
    options.set_ratelimiter(
        BACKGROUND_BYTES_PER_SECOND,
        BACKGROUND_PORTION_MICROS,
        BACKGROUND_FAIRNESS,
    );
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
    options.set_write_buffer_size(write_buffer_bytes(family));
    options.set_max_write_buffer_number(2);
    options.set_compression_type(DBCompressionType::None);
    if family == Family::Snapshot {
        // An image is many files at once. However many wait to be merged, no writer is slowed down,
        // for that would slow the log's.
        options.set_level_zero_slowdown_writes_trigger(i32::MAX);
        options.set_level_zero_stop_writes_trigger(i32::MAX);
        options.set_soft_pending_compaction_bytes_limit(0);
        options.set_hard_pending_compaction_bytes_limit(0);
    }
    options
}
