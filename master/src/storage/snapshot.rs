//! Images of the state: what a master starts from, with the log after it.
//!
//! An image is written in pieces beside the log's thread; the record that is written last makes it
//! whole, so that one cut short by a crash is never taken for an image. It carries the state's
//! hash, and what is read back must have it.

use serde::{Deserialize, Serialize};

use super::log::Members;
use super::{Batch, Direction, Durability, Family, Scan, Storage, keys};
use crate::error::StorageError;

/// Bytes of one piece: large enough to be few, small enough not to hold up the write-ahead log.
const CHUNK_BYTES: usize = 1024 * 1024;

/// What an image is of.
#[derive(Debug, Clone)]
pub struct NewSnapshot {
    /// The last entry in it.
    pub index: u64,
    /// That entry's term.
    pub term: u64,
    /// The group's members after that entry.
    pub members: Members,
    /// The state's hash.
    pub state_hash: [u8; 32],
}

/// A whole image's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRecord {
    /// The last entry in it.
    pub index: u64,
    /// That entry's term.
    pub term: u64,
    /// The group's members after that entry.
    pub members: Members,
    /// How many pieces it has.
    pub chunks: u32,
    /// Bytes of all pieces.
    pub bytes: u64,
    /// The state's hash.
    pub state_hash: [u8; 32],
}

/// Writes an image and makes it durable. Blocks; the log goes on meanwhile.
pub fn write(
    storage: &Storage,
    image: NewSnapshot,
    bytes: &[u8],
) -> Result<SnapshotRecord, StorageError> {
    // The pieces go around the write-ahead log, which the log's thread syncs at every commit.
    for (number, chunk) in (0..).zip(bytes.chunks(CHUNK_BYTES)) {
        let mut batch = Batch::default();
        let key = keys::snapshot_chunk(image.index, number);
        storage.put(&mut batch, Family::Snapshot, &key, chunk);
        storage.write(batch, Durability::Unlogged)?;
    }
    storage.flush(Family::Snapshot)?;
    let mut batch = Batch::default();
    let record = put_record(storage, &mut batch, image, bytes.len());
    storage.write(batch, Durability::Synced)?;
    Ok(record)
}

/// Adds a whole image to a batch; for small ones.
pub fn put(storage: &Storage, batch: &mut Batch, image: NewSnapshot, bytes: &[u8]) {
    for (number, chunk) in (0..).zip(bytes.chunks(CHUNK_BYTES)) {
        let key = keys::snapshot_chunk(image.index, number);
        storage.put(batch, Family::Snapshot, &key, chunk);
    }
    put_record(storage, batch, image, bytes.len());
}

fn put_record(
    storage: &Storage,
    batch: &mut Batch,
    image: NewSnapshot,
    bytes: usize,
) -> SnapshotRecord {
    let record = SnapshotRecord {
        index: image.index,
        term: image.term,
        members: image.members,
        // 4 PiB fit.
        chunks: bytes.div_ceil(CHUNK_BYTES) as u32,
        bytes: bytes as u64,
        state_hash: image.state_hash,
    };
    storage.put_record(
        batch,
        Family::Snapshot,
        &keys::snapshot_meta(record.index),
        &record,
    );
    record
}

/// The newest whole image's record.
pub fn latest(storage: &Storage) -> Result<Option<SnapshotRecord>, StorageError> {
    let mut found = None;
    let end = keys::snapshot_meta(u64::MAX);
    storage.scan(Family::Snapshot, &end, Direction::Down, |key, _| {
        Ok(match keys::snapshot_index(key) {
            Some((index, true)) => {
                found = Some(index);
                Scan::Stop
            }
            _ => Scan::Continue,
        })
    })?;
    let Some(index) = found else { return Ok(None) };
    let what = format!("the record of snapshot {index}");
    storage.get_record(Family::Snapshot, &keys::snapshot_meta(index), &what)
}

/// An image's bytes.
pub fn read(storage: &Storage, record: &SnapshotRecord) -> Result<Vec<u8>, StorageError> {
    let damaged =
        |detail: String| StorageError::corrupt(format!("snapshot {}", record.index), detail);
    let mut bytes = Vec::new();
    for number in 0..record.chunks {
        let key = keys::snapshot_chunk(record.index, number);
        let chunk = storage
            .get(Family::Snapshot, &key)?
            .ok_or_else(|| damaged(format!("piece {number} of {} is missing", record.chunks)))?;
        bytes.extend_from_slice(&chunk);
    }
    if bytes.len() as u64 != record.bytes {
        return Err(damaged(format!(
            "it has {} bytes of {}",
            bytes.len(),
            record.bytes
        )));
    }
    Ok(bytes)
}

/// Removes every image but one, and what a crash left of others.
pub fn remove_others(storage: &Storage, keep: u64) -> Result<(), StorageError> {
    let mut batch = Batch::default();
    let (from, to) = (keys::snapshot_start(0), keys::snapshot_start(keep));
    storage.delete_range(&mut batch, Family::Snapshot, &from, &to);
    let (from, to) = (
        keys::snapshot_start(keep + 1),
        keys::snapshot_start(u64::MAX),
    );
    storage.delete_range(&mut batch, Family::Snapshot, &from, &to);
    storage.write(batch, Durability::Ordered)
}
