//! One log entry as bytes.
//!
//! A version, the CRC-32 of what follows, index, term, kind, the context's length, context, data.
//! The index stands in the record too, so that one under another's key is found out.

use raft::eraftpb::Entry;

use crate::error::StorageError;

/// The layout that this release writes.
const ENTRY_VERSION: u8 = 1;
/// Version, checksum, index, term, kind, and the context's length.
const HEADER_BYTES: usize = 1 + 4 + 8 + 8 + 4 + 4;

/// The record of an entry.
pub fn encode(entry: &Entry) -> Vec<u8> {
    let mut record = Vec::with_capacity(HEADER_BYTES + entry.context.len() + entry.data.len());
    record.push(ENTRY_VERSION);
    record.extend([0; 4]);
    record.extend(entry.index.to_le_bytes());
    record.extend(entry.term.to_le_bytes());
    record.extend(entry.entry_type.to_le_bytes());
    // A context is a few bytes; this crate gives none.
    record.extend((entry.context.len() as u32).to_le_bytes());
    record.extend(&entry.context);
    record.extend(&entry.data);
    let checksum = crc32fast::hash(&record[5..]);
    record[1..5].copy_from_slice(&checksum.to_le_bytes());
    record
}

/// The entry at `index` in its record.
pub fn decode(index: u64, record: &[u8]) -> Result<Entry, StorageError> {
    let damaged = |detail: &str| StorageError::corrupt(format!("log entry {index}"), detail);
    let short = || damaged("its record is cut short");
    let (version, rest) = record.split_first().ok_or_else(short)?;
    if *version != ENTRY_VERSION {
        return Err(damaged(&format!(
            "its record is of version {version}, and this release reads {ENTRY_VERSION}"
        )));
    }
    let (checksum, body) = rest.split_first_chunk::<4>().ok_or_else(short)?;
    if crc32fast::hash(body) != u32::from_le_bytes(*checksum) {
        return Err(damaged("its checksum does not fit its bytes"));
    }
    let (stored_index, rest) = body.split_first_chunk::<8>().ok_or_else(short)?;
    let (term, rest) = rest.split_first_chunk::<8>().ok_or_else(short)?;
    let (entry_type, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
    let (context_len, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
    let context_len = u32::from_le_bytes(*context_len) as usize;
    let (context, data) = rest.split_at_checked(context_len).ok_or_else(short)?;
    if u64::from_le_bytes(*stored_index) != index {
        return Err(damaged("it stands under another index's key"));
    }
    Ok(Entry {
        entry_type: i32::from_le_bytes(*entry_type),
        term: u64::from_le_bytes(*term),
        index,
        data: data.to_vec(),
        context: context.to_vec(),
        sync_log: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_1_stays_as_it_is() {
        let entry = Entry {
            term: 3,
            index: 7,
            data: b"command".to_vec(),
            ..Entry::default()
        };
        let hex: String = encode(&entry)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let golden = "01103afd24070000000000000003000000000000000000000000000000636f6d6d616e64";
        assert_eq!(hex, golden);
    }

    #[test]
    fn every_changed_bit_is_noticed() {
        let entry = Entry {
            term: 3,
            index: 7,
            data: b"command".to_vec(),
            ..Entry::default()
        };
        let record = encode(&entry);
        assert_eq!(decode(7, &record).unwrap(), entry);
        assert!(decode(8, &record).is_err(), "it stands under another key");
        for bit in 0..record.len() * 8 {
            let mut changed = record.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(7, &changed).is_err(), "bit {bit}");
        }
        for len in 0..record.len() {
            assert!(decode(7, &record[..len]).is_err(), "cut at {len}");
        }
    }
}
