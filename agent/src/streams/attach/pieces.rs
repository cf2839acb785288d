//! What a caller has sent to a task's input, and what was not taken yet. Pure.
//!
//! A frame is sent on as one part, so that an attempt of a task takes it whole or not at all, and small
//! ones together. The first part alone is under way; it leaves when it was taken: callers of one task take
//! turns by that.

use std::collections::VecDeque;

use tepui_types::wire::stream::{INPUT_WINDOW, MAX_CHUNK};

/// The most bytes of small frames that go together.
const TOGETHER: usize = 16 * 1024;
/// Bytes from which on no more are taken in: a caller that keeps to its window never comes so far, and
/// so is heard when it hangs up.
const MOST: usize = INPUT_WINDOW + MAX_CHUNK;
/// The same in parts: an end has no bytes.
const MOST_PARTS: usize = 1_024;

/// All that is not taken.
#[derive(Debug)]
pub(super) struct Pieces {
    source: u128,
    /// Where the first begins in its input.
    at: u64,
    parts: VecDeque<Part>,
    /// Whether the first is under way: nothing is added to it then.
    is_sent: bool,
    /// Of all of them.
    bytes: usize,
    /// How many of the caller's frames were taken.
    taken: u64,
}

/// Bytes, or none: the end.
#[derive(Debug)]
struct Part {
    bytes: Vec<u8>,
    /// How many of the caller's frames end with it.
    frames: u64,
}

impl Pieces {
    /// Nothing of that input yet.
    pub(super) fn new(source: u128) -> Self {
        Self {
            source,
            at: 0,
            parts: VecDeque::new(),
            is_sent: false,
            bytes: 0,
            taken: 0,
        }
    }

    /// How many of the caller's frames were taken.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// Whether more is taken in.
    pub(super) fn has_room(&self) -> bool {
        self.bytes < MOST && self.parts.len() < MOST_PARTS
    }

    /// The caller says which input it sends. Only before all else of it: what is under way has its
    /// place.
    pub(super) fn on_source(&mut self, source: u128, at: u64) {
        if self.parts.is_empty() {
            (self.source, self.at) = (source, at);
        }
    }

    /// The caller sends something.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
        let is_open = self.parts.len() > usize::from(self.is_sent);
        if let Some(last) = self
            .parts
            .back_mut()
            .filter(|last| is_open && last.takes(bytes))
        {
            last.bytes.extend_from_slice(bytes);
            last.frames += 1;
            return;
        }
        // What is larger than a frame may be has no right to be taken whole.
        for part in bytes.chunks(MAX_CHUNK) {
            self.parts.push_back(Part {
                bytes: part.to_vec(),
                frames: 0,
            });
        }
        match self.parts.back_mut() {
            // None of it, without being the end, says nothing.
            Some(last) => last.frames += 1,
            None => self.taken += 1,
        }
    }

    /// The caller sends no more.
    pub(super) fn end(&mut self) {
        self.parts.push_back(Part {
            bytes: Vec::new(),
            frames: 1,
        });
    }

    /// The next part, with its input and its place in that; none while one is under way.
    pub(super) fn send(&mut self) -> Option<(u128, u64, Vec<u8>)> {
        let part = self.parts.front().filter(|_| !self.is_sent)?;
        self.is_sent = true;
        Some((self.source, self.at, part.bytes.clone()))
    }

    /// The one under way was taken.
    pub(super) fn on_taken(&mut self) {
        self.is_sent = false;
        if let Some(part) = self.parts.pop_front() {
            self.bytes -= part.bytes.len();
            self.at += part.bytes.len().max(1) as u64;
            self.taken += part.frames;
        }
    }
}

impl Part {
    /// Whether this may be added to it.
    fn takes(&self, bytes: &[u8]) -> bool {
        !self.bytes.is_empty() && !bytes.is_empty() && self.bytes.len() + bytes.len() <= TOGETHER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What goes out next; it is taken at once.
    fn next(pieces: &mut Pieces) -> Option<(u64, usize)> {
        let (_, at, bytes) = pieces.send()?;
        assert!(pieces.send().is_none(), "one is under way");
        pieces.on_taken();
        Some((at, bytes.len()))
    }

    #[test]
    fn frames_go_whole_and_small_ones_together() {
        let mut pieces = Pieces::new(1);
        pieces.on_source(7, 100);
        pieces.add(&[b'x'; MAX_CHUNK]);
        pieces.add(b"yy");
        pieces.add(b"");
        pieces.add(&[b'y'; TOGETHER - 2]);
        pieces.add(b"y");
        pieces.end();
        pieces.add(b"z");
        let mut at = 100;
        for (length, taken) in [(MAX_CHUNK, 1), (TOGETHER, 4), (1, 5), (0, 6), (1, 7)] {
            assert_eq!(next(&mut pieces), Some((at, length)));
            assert_eq!(pieces.taken(), taken);
            at += length.max(1) as u64;
        }
        assert_eq!(next(&mut pieces), None);
        pieces.add(b"");
        assert_eq!(pieces.taken(), 8);
    }

    #[test]
    fn what_is_larger_than_a_frame_may_be_goes_in_parts_and_counts_with_the_last() {
        let mut pieces = Pieces::new(1);
        pieces.add(&[b'x'; MAX_CHUNK + 1]);
        assert_eq!(next(&mut pieces), Some((0, MAX_CHUNK)));
        assert_eq!(pieces.taken(), 0);
        assert_eq!(next(&mut pieces), Some((MAX_CHUNK as u64, 1)));
        assert_eq!(pieces.taken(), 1);
    }

    #[test]
    fn nothing_is_added_to_what_is_under_way() {
        let mut pieces = Pieces::new(1);
        pieces.add(b"one");
        assert_eq!(pieces.send(), Some((1, 0, b"one".to_vec())));
        pieces.add(b"two");
        pieces.add(b"three");
        pieces.on_taken();
        assert_eq!(pieces.send(), Some((1, 3, b"twothree".to_vec())));
        pieces.on_taken();
        assert_eq!((pieces.taken(), pieces.bytes), (3, 0));
    }

    #[test]
    fn a_window_and_more_of_frames_is_taken_in_and_then_no_more() {
        let mut pieces = Pieces::new(1);
        while pieces.has_room() {
            pieces.add(&[0; MAX_CHUNK]);
        }
        assert!(pieces.bytes > INPUT_WINDOW && pieces.bytes <= MOST + MAX_CHUNK);
        next(&mut pieces);
        while next(&mut pieces).is_some() {}
        assert!(pieces.has_room());
    }
}
