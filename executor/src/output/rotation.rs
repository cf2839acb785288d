//! Where a stream's next bytes go when its latest output is kept: which of them are the last of their
//! file.
//!
//! A file never grows above its bound. It ends with a line where one ends in its last part, so that
//! lines are cut only where they are long; the next file begins with the first byte that comes after.

/// How much of the end of a file may stay empty so that it ends with a line, in bytes: longer than
/// nearly all lines.
const NEAR: u64 = 4096;

/// What one stream's present file holds.
#[derive(Debug)]
pub struct Rotation {
    /// The most bytes of a file.
    limit: u64,
    /// Bytes of the present file.
    kept: u64,
    /// Whether the next byte begins another.
    is_full: bool,
}

/// What comes next of the bytes that a task wrote.
#[derive(Debug, PartialEq, Eq)]
pub struct Portion<'a> {
    /// Whether it begins a new file.
    is_first: bool,
    /// It goes into one file.
    bytes: &'a [u8],
    /// What comes after it.
    rest: &'a [u8],
}

impl<'a> Portion<'a> {
    /// Whether it begins a new file.
    pub fn begins_file(&self) -> bool {
        self.is_first
    }

    /// What goes into one file.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// What comes after it.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl Rotation {
    /// In files of at most `limit` bytes, at least one, of which the present one has `kept`.
    pub fn new(limit: u64, kept: u64) -> Self {
        Self {
            limit,
            kept,
            is_full: kept >= limit,
        }
    }

    /// The next portion of what was written; none when nothing was.
    #[must_use]
    pub fn take<'a>(&mut self, bytes: &'a [u8]) -> Option<Portion<'a>> {
        if bytes.is_empty() {
            return None;
        }
        let is_first = self.is_full;
        if is_first {
            (self.kept, self.is_full) = (0, false);
        }
        let room = usize::try_from(self.limit - self.kept).unwrap_or(usize::MAX);
        let within = &bytes[..bytes.len().min(room)];
        let (end, is_full) = match self.line_end(within) {
            Some(end) => (end, true),
            None => (within.len(), within.len() == room),
        };
        self.kept += end as u64;
        self.is_full = is_full;
        let (bytes, rest) = bytes.split_at(end);
        Some(Portion {
            is_first,
            bytes,
            rest,
        })
    }

    /// Where the last line ends that ends in the last part of the file.
    fn line_end(&self, bytes: &[u8]) -> Option<usize> {
        let part = self.limit - NEAR.min(self.limit / 8);
        let before = usize::try_from(part.saturating_sub(self.kept)).unwrap_or(usize::MAX);
        let last = bytes.get(before.saturating_sub(1)..)?;
        let newline = last.iter().rposition(|byte| *byte == b'\n')?;
        Some(bytes.len() - last.len() + newline + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The files after these writes, the oldest first.
    fn files(limit: u64, writes: &[&str]) -> Vec<String> {
        let mut rotation = Rotation::new(limit, 0);
        let mut files = vec![String::new()];
        for write in writes {
            let mut rest = write.as_bytes();
            while let Some(portion) = rotation.take(rest) {
                if portion.begins_file() {
                    files.push(String::new());
                }
                let text = std::str::from_utf8(portion.bytes()).unwrap();
                files.last_mut().unwrap().push_str(text);
                rest = portion.rest();
            }
        }
        files
    }

    #[test]
    fn nothing_is_lost_doubled_or_out_of_its_order() {
        let text: String = (0..2_000)
            .map(|number| format!("line {number}\n"))
            .collect();
        for limit in [1, 2, 7, 64, 1000, 4096, 100_000] {
            for size in [1, 3, 50, 999, text.len()] {
                let writes: Vec<_> = text
                    .as_bytes()
                    .chunks(size)
                    .map(|chunk| std::str::from_utf8(chunk).unwrap())
                    .collect();
                let files = files(limit, &writes);
                assert_eq!(files.concat(), text, "{limit} {size}");
                let fit = files.iter().all(|file| file.len() as u64 <= limit);
                assert!(fit, "{limit} {size}");
            }
        }
    }

    #[test]
    fn files_end_with_a_line_where_one_is_near() {
        let text: String = (0..1_000)
            .map(|number| format!("line {number}\n"))
            .collect();
        for size in [1, 50, text.len()] {
            let writes: Vec<_> = text
                .as_bytes()
                .chunks(size)
                .map(|chunk| std::str::from_utf8(chunk).unwrap())
                .collect();
            for file in files(1024, &writes) {
                assert!(file.ends_with('\n'), "{size}: {file}");
            }
        }
        let long = "x".repeat(20);
        assert_eq!(files(8, &[&long]), ["xxxxxxxx", "xxxxxxxx", "xxxx"]);
        assert_eq!(files(8, &["1234\n678"]), ["1234\n678"]);
    }

    #[test]
    fn a_full_file_is_followed_only_when_something_comes() {
        assert_eq!(files(8, &["1234567\n"]), ["1234567\n"]);
        assert_eq!(files(8, &["1234567\n", "", "8"]), ["1234567\n", "8"]);
        let mut rotation = Rotation::new(8, 8);
        assert!(rotation.take(b"x").unwrap().begins_file());
        let mut rotation = Rotation::new(8, 7);
        assert!(!rotation.take(b"x").unwrap().begins_file());
    }
}
