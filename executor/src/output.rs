//! How much of a task's output is kept: a bound for each stream, and the line
//! that says what was dropped.
//!
//! Both executors ask a stream's [`Ration`] what to write. Past the bound the
//! file ends with one notice, begun when the first byte is dropped, so that who
//! follows the file reads at once why it stands still, and completed with a
//! count when the task ends.
//!
//! A native command may ask that its latest output is kept instead ([`Keep::Latest`]). What is written now
//! is in `stdout` then, and what was before it in complete files, each of which has in its name where it
//! begins ([`parts`]); and so for `stderr`. Read one after another they are what was kept, without a gap or
//! anything twice, and `stdout` begins where the last of the others ends. When `stdout` is full it gets
//! such a name, the oldest are removed, and `stdout` is made again: it is missing only meanwhile, and the
//! others are complete when it is there. No file is ever cut, and each byte has the same place in the
//! stream for as long as the task lives and after it, whatever is removed before it. There is no line of
//! this process's own in them, but where the disk has refused something.

use std::fmt::Display;

use tepui_types::Bytes;
use tepui_types::command::{CommandWorkload, LogPolicy};

pub use rotation::{Portion, Rotation};

pub mod parts;
mod rotation;

/// What is kept of a stream where nobody says otherwise: about a million lines,
/// more than people read, and little beside the disk of a machine that runs
/// many tasks.
pub const DEFAULT_LIMIT: Bytes = Bytes::mib(64);

/// What is kept of each stream of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// The first bytes, in one file.
    First(Bytes),
    /// The latest, in several.
    Latest {
        /// Bytes of one file at most.
        bytes: Bytes,
        /// How many files there are at most; two at least.
        files: u32,
    },
}

impl Keep {
    /// What a command asks for, within what its agent keeps of any. Of files that are too many together
    /// there are fewer, rather than smaller ones.
    pub fn of(command: &CommandWorkload, limit: Bytes) -> Self {
        let options = command.options.as_ref();
        Self::within(options.and_then(|options| options.logs), limit)
    }

    fn within(policy: Option<LogPolicy>, limit: Bytes) -> Self {
        match policy {
            None => Self::First(limit),
            Some(policy) if policy.files <= 1 => Self::First(policy.max_bytes.min(limit)),
            Some(policy) => {
                let fit = limit.0 / policy.max_bytes.0.max(1);
                let fit = u32::try_from(fit).unwrap_or(u32::MAX).max(2);
                let files = policy.files.min(fit);
                // A file holds something.
                let bytes = policy.max_bytes.0.min(limit.0 / u64::from(files)).max(1);
                Self::Latest {
                    bytes: Bytes(bytes),
                    files,
                }
            }
        }
    }
}

/// What of one stream goes into its file.
#[derive(Debug)]
pub struct Ration {
    limit: u64,
    kept: u64,
    dropped: u64,
    /// Whether what was kept ends within a line.
    in_line: bool,
}

impl Ration {
    /// Nothing written yet, of at most `limit`.
    pub fn new(limit: Bytes) -> Self {
        Self {
            limit: limit.0,
            kept: 0,
            dropped: 0,
            in_line: false,
        }
    }

    /// What to keep of the bytes that the task wrote next and, if they are the
    /// first that are not all kept, the notice to write after them.
    #[must_use]
    pub fn take<'a>(&mut self, bytes: &'a [u8]) -> (&'a [u8], Option<String>) {
        let room = usize::try_from(self.limit - self.kept).unwrap_or(usize::MAX);
        let (kept, rest) = bytes.split_at(bytes.len().min(room));
        self.kept += kept.len() as u64;
        if let Some(last) = kept.last() {
            self.in_line = *last != b'\n';
        }
        let limit = Bytes(self.limit);
        let why = format_args!("the first {limit} of this output are kept");
        let notice = self.lose(rest, why);
        (kept, notice)
    }

    /// The last `lost` could not be written, and nothing more is tried. The
    /// notice to write, should there be room for that at least.
    #[must_use]
    pub fn stop(&mut self, lost: &[u8], why: impl Display) -> Option<String> {
        self.kept -= lost.len() as u64;
        self.limit = self.kept;
        let why = format_args!("this output could be written no further ({why})");
        self.lose(lost, why)
    }

    fn lose(&mut self, bytes: &[u8], why: impl Display) -> Option<String> {
        let is_first = self.dropped == 0 && !bytes.is_empty();
        self.dropped += bytes.len() as u64;
        let newline = if self.in_line { "\n" } else { "" };
        is_first.then(|| format!("{newline}[tepui: {why}, the rest is dropped"))
    }

    /// The end of the notice, if it has a beginning.
    #[must_use]
    pub fn finish(&self) -> Option<String> {
        (self.dropped > 0).then(|| format!(": {} bytes]\n", self.dropped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_keeps_no_more_than_its_agent() {
        let keep = |max_bytes, files| {
            let max_bytes = Bytes(max_bytes);
            Keep::within(Some(LogPolicy { max_bytes, files }), Bytes(1000))
        };
        let latest = |bytes, files| Keep::Latest {
            bytes: Bytes(bytes),
            files,
        };
        assert_eq!(Keep::within(None, Bytes(1000)), Keep::First(Bytes(1000)));
        assert_eq!(keep(300, 1), Keep::First(Bytes(300)));
        assert_eq!(keep(3000, 1), Keep::First(Bytes(1000)));
        assert_eq!(keep(300, 3), latest(300, 3));
        assert_eq!(keep(300, 100), latest(300, 3));
        assert_eq!(keep(900, 5), latest(500, 2));
        assert_eq!(keep(9000, 2), latest(500, 2));
    }

    /// The file after these writes.
    fn file(limit: u64, writes: &[&str]) -> String {
        let mut ration = Ration::new(Bytes(limit));
        let mut text = String::new();
        for write in writes {
            let (kept, notice) = ration.take(write.as_bytes());
            text += std::str::from_utf8(kept).unwrap();
            text += &notice.unwrap_or_default();
        }
        text + &ration.finish().unwrap_or_default()
    }

    #[test]
    fn up_to_the_limit_all_is_kept_and_nothing_said() {
        assert_eq!(file(8, &[]), "");
        assert_eq!(file(8, &["four", "", "more"]), "fourmore");
    }

    #[test]
    fn past_the_limit_one_line_says_how_much_is_kept_and_dropped() {
        let notice =
            "[tepui: the first 8 B of this output are kept, the rest is dropped: 5 bytes]\n";
        assert_eq!(
            file(8, &["four", "more+++", "++"]),
            format!("fourmore\n{notice}")
        );
        assert_eq!(
            file(8, &["fourmor\n", "+++++"]),
            format!("fourmor\n{notice}")
        );
    }

    #[test]
    fn what_could_not_be_written_is_said_and_ends_the_keeping() {
        let mut ration = Ration::new(Bytes(8));
        assert_eq!(ration.take(b"one\n"), (&b"one\n"[..], None));
        assert_eq!(ration.take(b"two\n"), (&b"two\n"[..], None));
        let notice = ration.stop(b"two\n", "disk full").unwrap();
        assert!(notice.starts_with("[tepui: this output could be written no further (disk full)"));
        assert_eq!(ration.take(b"more"), (&b""[..], None));
        assert_eq!(ration.finish().unwrap(), ": 8 bytes]\n");
    }
}
