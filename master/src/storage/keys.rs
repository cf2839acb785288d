//! The keys of every column family.
//!
//! Each begins with the version of its family's layout, so that a later release can tell what it
//! reads; numbers are big-endian, so that RocksDB's order is theirs.

use tepui_types::{OperationId, TaskId};

/// The layout that this release writes.
pub const VERSION: u8 = 1;

/// Family `meta`: who this database belongs to; written with the first snapshot.
pub const IDENTITY: &[u8] = b"\x01identity";
/// Family `meta`: the node id of a master that has no cluster yet.
pub const CANDIDATE: &[u8] = b"\x01candidate";
/// Family `meta`: term, vote and commit.
pub const HARD_STATE: &[u8] = b"\x01hard-state";
/// Family `meta`: index and term of the last entry that was compacted away.
pub const TRUNCATED: &[u8] = b"\x01truncated";
/// Family `meta`: how many ended tasks `history` holds, and their bytes.
pub const HISTORY_SIZE: &[u8] = b"\x01history-size";

const SNAPSHOT_CHUNK: u8 = 0;
const SNAPSHOT_META: u8 = 1;
const HISTORY_BY_OPERATION: u8 = 0;
const HISTORY_BY_TASK: u8 = 1;

/// Family `log`: one entry.
pub fn log(index: u64) -> [u8; 9] {
    let mut key = [VERSION; 9];
    key[1..].copy_from_slice(&index.to_be_bytes());
    key
}

/// The index in a key of family `log`.
pub fn log_index(key: &[u8]) -> Option<u64> {
    match key.split_first() {
        Some((&VERSION, index)) => index.try_into().ok().map(u64::from_be_bytes),
        _ => None,
    }
}

/// Family `snapshot`: one piece of an image.
pub fn snapshot_chunk(index: u64, number: u32) -> [u8; 14] {
    snapshot(index, SNAPSHOT_CHUNK, number)
}

/// Family `snapshot`: the record that makes an image whole.
pub fn snapshot_meta(index: u64) -> [u8; 14] {
    snapshot(index, SNAPSHOT_META, 0)
}

/// Where the records of the image at `index` begin; those of the next end them.
pub fn snapshot_start(index: u64) -> [u8; 14] {
    snapshot_chunk(index, 0)
}

/// The index in a key of family `snapshot`, and whether it is the meta record's.
pub fn snapshot_index(key: &[u8]) -> Option<(u64, bool)> {
    let (&version, rest) = key.split_first()?;
    let (index, rest) = rest.split_first_chunk::<8>()?;
    let (&kind, _) = rest.split_first()?;
    (version == VERSION).then(|| (u64::from_be_bytes(*index), kind == SNAPSHOT_META))
}

fn snapshot(index: u64, kind: u8, number: u32) -> [u8; 14] {
    let mut key = [VERSION; 14];
    key[1..9].copy_from_slice(&index.to_be_bytes());
    key[9] = kind;
    key[10..].copy_from_slice(&number.to_be_bytes());
    key
}

/// Family `history`: an ended task, by the operation that launched it.
pub fn history_by_operation(operation: OperationId) -> [u8; 14] {
    let mut key = [VERSION; 14];
    key[1] = HISTORY_BY_OPERATION;
    key[2..10].copy_from_slice(&operation.index.to_be_bytes());
    key[10..].copy_from_slice(&operation.ordinal.to_be_bytes());
    key
}

/// The operation in such a key; `None` for keys of the other kind.
pub fn history_operation(key: &[u8]) -> Option<OperationId> {
    let rest = key.strip_prefix(&[VERSION, HISTORY_BY_OPERATION])?;
    let (index, rest) = rest.split_first_chunk::<8>()?;
    let ordinal = rest.try_into().ok()?;
    Some(OperationId {
        index: u64::from_be_bytes(*index),
        ordinal: u32::from_be_bytes(ordinal),
    })
}

/// Family `history`: the operation that launched a task; attempts of a name are in order.
pub fn history_by_task(task: &TaskId) -> Vec<u8> {
    let name = task.name.as_str().as_bytes();
    let mut key = Vec::with_capacity(19 + name.len());
    key.extend([VERSION, HISTORY_BY_TASK]);
    key.extend(task.framework.0.to_be_bytes());
    key.extend(name);
    // No name holds a zero, so one that begins like another is apart from it.
    key.push(0);
    key.extend(task.attempt.to_be_bytes());
    key
}

/// Whether two such keys are of the same name of one framework.
pub fn is_history_of_same_name(one: &[u8], other: &[u8]) -> bool {
    let name = |key: &[u8]| key.len().checked_sub(8).map(|end| key[..end].to_vec());
    name(one) == name(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_by_number_and_every_key_reads_back() {
        assert!(log(255) < log(256));
        assert_eq!(log_index(&log(256)), Some(256));
        assert_eq!(log_index(b"\x02aaaaaaaa"), None);
        assert!(snapshot_chunk(7, u32::MAX) < snapshot_meta(7));
        assert!(snapshot_meta(7) < snapshot_start(8));
        assert_eq!(snapshot_index(&snapshot_meta(7)), Some((7, true)));
        assert_eq!(snapshot_index(&snapshot_chunk(7, 3)), Some((7, false)));
        let operation = OperationId {
            index: 300,
            ordinal: 2,
        };
        assert_eq!(
            history_operation(&history_by_operation(operation)),
            Some(operation)
        );
        let task = "f1.hello.0".parse().unwrap();
        assert_eq!(history_operation(&history_by_task(&task)), None);
    }
}
