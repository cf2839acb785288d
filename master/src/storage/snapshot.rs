//! Images of the state: what a master starts from, with the log after it.
//!
//! An image is written in pieces beside the log's thread; the record that is written last makes it
//! whole, so that one cut short by a crash is never taken for an image. It carries the state's
//! hash, and what is read back must have it.

use serde::{Deserialize, Serialize};
use tepui_cluster::State;

use super::log::Members;
use super::{Batch, Direction, Durability, FIRST_INDEX, FIRST_TERM, Family, Scan, Storage, keys};
use crate::error::StorageError;

/// Bytes of one piece: large enough to be few, small enough not to hold up the write-ahead log.
const CHUNK_BYTES: usize = 1024 * 1024;
/// Pieces after which the family is flushed: were its memory full, RocksDB would stop all writers,
/// the log's too, until it had room.
const FLUSHED_CHUNKS: u32 = 8;

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

/// The pieces of an image of this state.
pub fn pieces_of(state: &State) -> Vec<Vec<u8>> {
    state.encode_in_pieces(CHUNK_BYTES)
}

/// Writes an image and makes it durable. Blocks; the log goes on meanwhile.
pub fn write(
    storage: &Storage,
    image: NewSnapshot,
    pieces: &[Vec<u8>],
) -> Result<SnapshotRecord, StorageError> {
    let mut batch = Batch::default();
    let record = prepare(storage, &mut batch, image, pieces)?;
    storage.write(batch, Durability::Synced)?;
    Ok(record)
}

/// Writes an image but for its record, which it adds to a batch.
pub fn prepare(
    storage: &Storage,
    batch: &mut Batch,
    image: NewSnapshot,
    pieces: &[Vec<u8>],
) -> Result<SnapshotRecord, StorageError> {
    // The pieces go around the write-ahead log, which the log's thread syncs at every commit.
    for (number, chunk) in (0..).zip(pieces) {
        write_chunk(storage, image.index, number, chunk)?;
        if (number + 1).is_multiple_of(FLUSHED_CHUNKS) {
            storage.flush(Family::Snapshot)?;
        }
    }
    storage.flush(Family::Snapshot)?;
    let bytes = pieces.iter().map(Vec::len).sum();
    Ok(put_record(batch, image, bytes))
}

/// Adds the image that every founder starts from to a batch: a cluster in which nothing has
/// happened, with all its masters as voters.
pub fn put_founding(batch: &mut Batch, state: &State) -> SnapshotRecord {
    let members = Members {
        voters: state.masters.keys().map(|master| master.0).collect(),
        ..Members::default()
    };
    let image = NewSnapshot {
        index: FIRST_INDEX,
        term: FIRST_TERM,
        members,
        state_hash: state.hash(),
    };
    let bytes = state.encode();
    for (number, chunk) in (0..).zip(bytes.chunks(CHUNK_BYTES)) {
        let key = keys::snapshot_chunk(image.index, number);
        batch.put(Family::Snapshot, &key, chunk);
    }
    put_record(batch, image, bytes.len())
}

/// Writes one piece of an image that comes from another master; it counts for nothing until the
/// record of the whole is written.
pub fn write_chunk(
    storage: &Storage,
    index: u64,
    number: u32,
    chunk: &[u8],
) -> Result<(), StorageError> {
    let mut batch = Batch::default();
    let key = keys::snapshot_chunk(index, number);
    batch.put(Family::Snapshot, &key, chunk);
    storage.write(batch, Durability::Unlogged)
}

/// One piece of an image; none if the image was replaced meanwhile.
pub fn read_chunk(
    storage: &Storage,
    index: u64,
    number: u32,
) -> Result<Option<Vec<u8>>, StorageError> {
    let key = keys::snapshot_chunk(index, number);
    storage.get(Family::Snapshot, &key)
}

fn put_record(batch: &mut Batch, image: NewSnapshot, bytes: usize) -> SnapshotRecord {
    let record = SnapshotRecord {
        index: image.index,
        term: image.term,
        members: image.members,
        // 4 PiB fit.
        chunks: bytes.div_ceil(CHUNK_BYTES) as u32,
        bytes: bytes as u64,
        state_hash: image.state_hash,
    };
    put_whole(batch, &record);
    record
}

/// Adds the record that makes an image whole to a batch.
pub fn put_whole(batch: &mut Batch, record: &SnapshotRecord) {
    let key = keys::snapshot_meta(record.index);
    batch.put_record(Family::Snapshot, &key, record);
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

/// The state in an image, which must be what was written.
pub fn load(storage: &Storage, record: &SnapshotRecord) -> Result<State, StorageError> {
    let what = format!("snapshot {}", record.index);
    let bytes = read(storage, record)?;
    // The encoding is canonical: its hash is the state's.
    if State::hash_of(std::slice::from_ref(&bytes)) != record.state_hash {
        let detail = "the state in it has another hash";
        return Err(StorageError::corrupt(what, detail));
    }
    State::decode(&bytes).map_err(StorageError::decode(what))
}

/// Removes every image but one, and what a crash left of others.
pub fn remove_others(storage: &Storage, keep: u64) -> Result<(), StorageError> {
    let mut batch = Batch::default();
    let (from, to) = (keys::snapshot_start(0), keys::snapshot_start(keep));
    batch.delete_range(Family::Snapshot, &from, &to);
    let (from, to) = (
        keys::snapshot_start(keep + 1),
        keys::snapshot_start(u64::MAX),
    );
    batch.delete_range(Family::Snapshot, &from, &to);
    storage.write(batch, Durability::Ordered)
}
