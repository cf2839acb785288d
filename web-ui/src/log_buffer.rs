//! What a log view holds: the end of a log, bounded, as edits to a page.
//!
//! Bytes come in pieces that end anywhere. [`LogBuffer::push`] answers with the
//! few edits that bring a list of text nodes up to date, so that a page never
//! lays out the whole log again for one line. Characters cut in two wait for
//! their rest; terminal colours are left out; the oldest text goes first.

use std::collections::VecDeque;

/// The most text that is held, in bytes: enough to read back through, and what
/// a browser still lays out without a pause.
pub const MAX_BYTES: usize = 1024 * 1024;

/// The text of one node, in bytes. Text goes and comes in pieces of this size:
/// a longer one would drop much at once, a shorter one makes many nodes.
const PIECE_BYTES: usize = 16 * 1024;

/// One change to the list of text nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// The last node grows by this.
    Append(String),
    /// A new node follows.
    Begin(String),
    /// The first node goes.
    DropFirst,
}

/// Where the reader of terminal sequences stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Escape {
    Text,
    /// After ESC.
    Started,
    /// In `ESC [ …`, until a final byte.
    Control,
    /// In `ESC ] …`, until BEL or ESC.
    Title,
}

/// The end of a log.
#[derive(Debug)]
pub struct LogBuffer {
    /// Bytes of each node's text, first to last.
    pieces: VecDeque<usize>,
    held: usize,
    dropped: bool,
    /// The start of a character whose rest has not come yet: at most 3 bytes.
    partial: Vec<u8>,
    escape: Escape,
    after_return: bool,
}

impl Default for LogBuffer {
    fn default() -> Self {
        Self {
            pieces: VecDeque::new(),
            held: 0,
            dropped: false,
            partial: Vec::new(),
            escape: Escape::Text,
            after_return: false,
        }
    }
}

impl LogBuffer {
    /// Takes the next bytes.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Edit> {
        let decoded = self.decode(bytes);
        let text = self.plain(&decoded);
        let mut edits = Vec::new();
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let room = match self.pieces.back() {
                Some(length) if *length < PIECE_BYTES => PIECE_BYTES - length,
                _ => 0,
            };
            let wanted = if room == 0 { PIECE_BYTES } else { room };
            let (piece, later) = rest.split_at(character_edge(rest, wanted));
            rest = later;
            self.held += piece.len();
            match self.pieces.back_mut() {
                Some(last) if room > 0 => {
                    *last += piece.len();
                    edits.push(Edit::Append(piece.to_owned()));
                }
                _ => {
                    self.pieces.push_back(piece.len());
                    edits.push(Edit::Begin(piece.to_owned()));
                }
            }
            while self.held > MAX_BYTES
                && let Some(length) = self.pieces.pop_front()
            {
                self.held -= length;
                self.dropped = true;
                edits.push(Edit::DropFirst);
            }
        }
        edits
    }

    /// Whether text was dropped at the start.
    pub fn has_dropped(&self) -> bool {
        self.dropped
    }

    /// Whether nothing came yet.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    fn decode(&mut self, bytes: &[u8]) -> String {
        let mut all = std::mem::take(&mut self.partial);
        all.extend_from_slice(bytes);
        let mut text = String::with_capacity(all.len());
        let mut chunks = all.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            text.push_str(chunk.valid());
            let invalid = chunk.invalid();
            if invalid.is_empty() {
                continue;
            }
            if chunks.peek().is_none() && may_continue(invalid) {
                self.partial = invalid.to_vec();
            } else {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        text
    }

    /// Leaves terminal sequences out; a lone carriage return starts a line.
    fn plain(&mut self, text: &str) -> String {
        let mut plain = String::with_capacity(text.len());
        for character in text.chars() {
            let after_return = std::mem::take(&mut self.after_return);
            self.escape = match (self.escape, character) {
                (Escape::Text | Escape::Title, '\u{1b}') => Escape::Started,
                (Escape::Text, '\r') => {
                    self.after_return = true;
                    plain.push('\n');
                    Escape::Text
                }
                (Escape::Text, '\n') if after_return => Escape::Text,
                (Escape::Text, '\n' | '\t') => {
                    plain.push(character);
                    Escape::Text
                }
                (Escape::Text, control) if control.is_control() => Escape::Text,
                (Escape::Text, _) => {
                    plain.push(character);
                    Escape::Text
                }
                (Escape::Started, '[') => Escape::Control,
                (Escape::Started, ']') => Escape::Title,
                (Escape::Started, _) => Escape::Text,
                (Escape::Control, '\u{40}'..='\u{7e}') => Escape::Text,
                (Escape::Control, _) => Escape::Control,
                (Escape::Title, '\u{7}') => Escape::Text,
                // A title that is never closed does not swallow the log.
                (Escape::Title, '\n') => {
                    plain.push('\n');
                    Escape::Text
                }
                (Escape::Title, _) => Escape::Title,
            };
        }
        plain
    }
}

/// Whether more bytes may make `start`, which is no character, into one.
fn may_continue(start: &[u8]) -> bool {
    match std::str::from_utf8(start) {
        Err(error) => error.valid_up_to() == 0 && error.error_len().is_none(),
        Ok(_) => false,
    }
}

/// The largest character edge of `text` at or below `wanted`, but never 0.
fn character_edge(text: &str, wanted: usize) -> usize {
    match text.floor_char_boundary(wanted) {
        0 => text.chars().next().map_or(0, char::len_utf8),
        edge => edge,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text nodes after `edits`.
    fn apply(nodes: &mut VecDeque<String>, edits: Vec<Edit>) {
        for edit in edits {
            match edit {
                Edit::Append(text) => nodes.back_mut().unwrap().push_str(&text),
                Edit::Begin(text) => nodes.push_back(text),
                Edit::DropFirst => drop(nodes.pop_front().unwrap()),
            }
        }
    }

    fn shown(pieces: &[&[u8]]) -> String {
        let mut buffer = LogBuffer::default();
        let mut nodes = VecDeque::new();
        for piece in pieces {
            apply(&mut nodes, buffer.push(piece));
        }
        nodes.into_iter().collect()
    }

    #[test]
    fn characters_may_be_cut_anywhere() {
        let text = "né 日本 🏔 end\n";
        for cut in 0..text.len() {
            let (start, end) = text.as_bytes().split_at(cut);
            assert_eq!(shown(&[start, end]), text);
        }
        let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        assert_eq!(shown(&bytes), text);
    }

    #[test]
    fn bytes_that_are_no_text_are_marked() {
        assert_eq!(shown(&[b"a\xffb"]), "a\u{fffd}b");
        assert_eq!(shown(&[b"a\xc3", b"b"]), "a\u{fffd}b");
        assert_eq!(shown(&[b"\xc3a\xc3", b"\xa9"]), "\u{fffd}aé");
    }

    #[test]
    fn colours_and_titles_are_left_out() {
        assert_eq!(shown(&[b"\x1b[1;32mok\x1b[0m\n"]), "ok\n");
        assert_eq!(shown(&[b"\x1b[3", b"1mred\x1b", b"[m"]), "red");
        assert_eq!(shown(&[b"\x1b]0;title\x07text"]), "text");
        assert_eq!(shown(&[b"\x1b]0;title\x1b\\text"]), "text");
        assert_eq!(shown(&[b"a\x00\x08b\tc"]), "ab\tc");
    }

    #[test]
    fn returns_start_lines() {
        assert_eq!(shown(&[b"10%\r20%\r\ndone\r", b"\nx"]), "10%\n20%\ndone\nx");
    }

    #[test]
    fn the_oldest_text_goes_first_and_that_is_said() {
        let mut buffer = LogBuffer::default();
        let mut nodes = VecDeque::new();
        let line = "x".repeat(99) + "\n";
        for _ in 0..3 * MAX_BYTES / line.len() {
            apply(&mut nodes, buffer.push(line.as_bytes()));
        }
        apply(&mut nodes, buffer.push(b"the end"));
        let held: usize = nodes.iter().map(String::len).sum();
        assert!(buffer.has_dropped());
        assert!(
            held <= MAX_BYTES && held > MAX_BYTES - 2 * PIECE_BYTES,
            "{held}"
        );
        assert!(
            nodes.len() <= MAX_BYTES / PIECE_BYTES + 1,
            "{}",
            nodes.len()
        );
        assert!(nodes.back().unwrap().ends_with("the end"));
    }
}
