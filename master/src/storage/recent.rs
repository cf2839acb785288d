//! The newest entries of the log, which raft asks for right after they were written: looking them up
//! again would cost as much as to apply them.

use std::collections::VecDeque;

use raft::eraftpb::Entry;

use super::log::entry_bytes;

/// Bytes that are kept at most; beyond, and after a start, the log is read.
const MAX_BYTES: u64 = 1024 * 1024;

/// A part of the log, its end.
#[derive(Debug, Default)]
pub(super) struct Recent {
    entries: VecDeque<Entry>,
    bytes: u64,
}

impl Recent {
    /// Takes entries that were written, over any that stood in their place.
    pub fn append(&mut self, written: &[Entry]) {
        let Some(first) = written.first() else { return };
        let last = |entries: &VecDeque<Entry>| entries.back().map(|entry| entry.index);
        while last(&self.entries).is_some_and(|last| last >= first.index) {
            let replaced = self.entries.pop_back();
            self.bytes -= replaced.as_ref().map_or(0, entry_bytes);
        }
        if last(&self.entries).is_some_and(|last| last + 1 != first.index) {
            self.clear();
        }
        self.bytes += written.iter().map(entry_bytes).sum::<u64>();
        self.entries.extend(written.iter().cloned());
        while self.bytes > MAX_BYTES
            && let Some(oldest) = self.entries.pop_front()
        {
            self.bytes -= entry_bytes(&oldest);
        }
    }

    /// Those from `low` to before `high`, as many as `max_bytes` allow but one at least; none if the first
    /// is not here.
    pub fn read(&self, low: u64, high: u64, max_bytes: u64) -> Option<Vec<Entry>> {
        let first = self.entries.front()?.index;
        let from = usize::try_from(low.checked_sub(first)?).ok()?;
        let count = usize::try_from(high.checked_sub(low)?).ok()?;
        let mut bytes = 0;
        let fitting = self.entries.iter().skip(from).take(count);
        let fitting = fitting.enumerate().take_while(|(place, entry)| {
            bytes += entry_bytes(entry);
            bytes <= max_bytes || *place == 0
        });
        let entries: Vec<_> = fitting.map(|(_, entry)| entry.clone()).collect();
        (!entries.is_empty()).then_some(entries)
    }

    /// Forgets them all.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(indexes: std::ops::Range<u64>, term: u64, bytes: usize) -> Vec<Entry> {
        let entry = |index| Entry {
            index,
            term,
            data: vec![0; bytes],
            ..Entry::default()
        };
        indexes.map(entry).collect()
    }

    fn read(recent: &Recent, low: u64, high: u64, max_bytes: u64) -> Option<Vec<(u64, u64)>> {
        let found = recent.read(low, high, max_bytes)?;
        Some(
            found
                .iter()
                .map(|entry| (entry.index, entry.term))
                .collect(),
        )
    }

    #[test]
    fn what_was_written_last_is_there_as_it_was_written_last() {
        let mut recent = Recent::default();
        assert_eq!(read(&recent, 1, 2, u64::MAX), None);
        recent.append(&entries(5..8, 1, 10));
        assert_eq!(read(&recent, 4, 6, u64::MAX), None, "it may be on disk");
        assert_eq!(read(&recent, 6, 8, u64::MAX), Some(vec![(6, 1), (7, 1)]));
        assert_eq!(read(&recent, 5, 8, 0), Some(vec![(5, 1)]));
        assert_eq!(read(&recent, 5, 8, 100), Some(vec![(5, 1), (6, 1)]));
        // Another leader's stand in their place.
        recent.append(&entries(6..7, 2, 10));
        assert_eq!(read(&recent, 5, 7, u64::MAX), Some(vec![(5, 1), (6, 2)]));
        assert_eq!(read(&recent, 7, 8, u64::MAX), None);
        // After a gap only what follows it is known.
        recent.append(&entries(20..21, 2, 10));
        assert_eq!(read(&recent, 6, 7, u64::MAX), None);
        assert_eq!(read(&recent, 20, 21, u64::MAX), Some(vec![(20, 2)]));
    }

    #[test]
    fn the_oldest_make_room() {
        let mut recent = Recent::default();
        let half = usize::try_from(MAX_BYTES / 2).unwrap();
        for index in 1..5 {
            recent.append(&entries(index..index + 1, 1, half));
            assert!(recent.bytes <= MAX_BYTES);
        }
        assert_eq!(read(&recent, 3, 4, u64::MAX), None);
        assert_eq!(read(&recent, 4, 5, u64::MAX), Some(vec![(4, 1)]));
        recent.append(&entries(5..6, 1, 3 * half));
        assert_eq!(
            read(&recent, 5, 6, u64::MAX),
            None,
            "larger than all that is kept"
        );
        recent.append(&entries(6..7, 1, 1));
        assert_eq!(read(&recent, 6, 7, u64::MAX), Some(vec![(6, 1)]));
    }
}
