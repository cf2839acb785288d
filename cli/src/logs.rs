//! A task's output on its way to this process's: from where it broke off, for as long as the master
//! or the agent may only be away for a moment; or its last lines.

use std::collections::VecDeque;

use anyhow::Result;
use futures::StreamExt;
use tepui_types::TaskId;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::client::{Client, ClientError, LogStream};
use crate::{output, patience};

/// The most lines that are counted from the end: what their beginnings take in memory is bounded.
pub const MAX_TAIL: u64 = 1_000_000;

/// Which output, and which part of it.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Whose.
    pub task: &'a TaskId,
    /// Which of the two.
    pub stream: LogStream,
    /// Of which companion; of its own command when absent.
    pub member: Option<&'a str>,
    /// Bytes to skip, of all that was ever written.
    pub offset: u64,
    /// Whether to go on until the task has ended.
    pub follow: bool,
}

/// Copies an output, and says where it is not all there any more.
pub async fn copy(
    client: &Client,
    wanted: Wanted<'_>,
    mut to: impl AsyncWrite + Unpin,
) -> Result<()> {
    let mut wanted = wanted;
    let mut failures = 0;
    loop {
        // What is followed goes on where it breaks off: its bytes are counted.
        let error = match client.task_logs(wanted, wanted.follow).await {
            Ok((begins, mut bytes)) => {
                if begins > wanted.offset {
                    say_missed(wanted.stream.as_str(), begins - wanted.offset);
                    wanted.offset = begins;
                }
                loop {
                    match bytes.next().await {
                        Some(Ok(chunk)) => {
                            to.write_all(&chunk).await?;
                            to.flush().await?;
                            wanted.offset += chunk.len() as u64;
                            failures = 0;
                        }
                        Some(Err(error)) => break error,
                        None => return Ok(()),
                    }
                }
            }
            Err(error) => error,
        };
        failures += 1;
        // What is only looked at once is asked for again by whoever looks.
        let is_over = !wanted.follow || failures > patience::MAX_FAILURES;
        if is_over || !patience::may_come_back(&error) {
            return Err(error.into());
        }
        tokio::time::sleep(patience::PAUSE).await;
    }
}

/// Says that so many bytes of an output are not shown.
pub fn say_missed(output: &str, bytes: u64) {
    output::note(&format!(
        "tepui: {bytes} bytes of its {output} were rotated away before they could be read"
    ));
}

/// Where the last lines begin of what is there now. All of it is read: where a line begins only who
/// reads it knows, and what is followed afterwards is to begin exactly there.
///
/// # Errors
/// When the output cannot be read.
pub async fn tail(client: &Client, wanted: Wanted<'_>, lines: u64) -> Result<u64, ClientError> {
    let follow = false;
    let mut wanted = Wanted { follow, ..wanted };
    let mut tail = Tail::new(lines.min(MAX_TAIL), wanted.offset);
    let mut failures = 0;
    loop {
        let error = match client.task_logs(wanted, true).await {
            Ok((begins, mut bytes)) => {
                tail.go_on_at(begins);
                loop {
                    match bytes.next().await {
                        Some(Ok(chunk)) => tail.push(&chunk),
                        Some(Err(error)) => break error,
                        None => return Ok(tail.start()),
                    }
                }
            }
            Err(error) => error,
        };
        // It breaks off where something was rotated away before it was read, too.
        failures += 1;
        if failures > patience::MAX_FAILURES || !error.is_connection() {
            return Err(error);
        }
        wanted.offset = tail.end;
        tokio::time::sleep(patience::PAUSE).await;
    }
}

/// Where the last lines begin of what was pushed.
struct Tail {
    lines: u64,
    /// Beginnings of lines, as many at most, the oldest first.
    begins: VecDeque<u64>,
    end: u64,
    is_within_line: bool,
}

impl Tail {
    fn new(lines: u64, offset: u64) -> Self {
        Self {
            lines,
            begins: VecDeque::new(),
            end: offset,
            is_within_line: false,
        }
    }

    /// The next byte is there; what was before it is not, where that leaves something out.
    fn go_on_at(&mut self, place: u64) {
        if place > self.end {
            *self = Self::new(self.lines, place);
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if !self.is_within_line {
                self.begins.push_back(self.end);
                if self.begins.len() as u64 > self.lines {
                    self.begins.pop_front();
                }
            }
            self.is_within_line = *byte != b'\n';
            self.end += 1;
        }
    }

    fn start(&self) -> u64 {
        self.begins.front().copied().unwrap_or(self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_begin_where_they_do_wherever_the_output_is_cut() {
        let text = b"one\ntwo\n\nfour";
        for (lines, start) in [(0, 13), (1, 9), (2, 8), (3, 4), (4, 0), (9, 0)] {
            for size in 1..=text.len() {
                let mut tail = Tail::new(lines, 0);
                text.chunks(size).for_each(|chunk| tail.push(chunk));
                assert_eq!(tail.start(), start, "{lines} lines, in pieces of {size}");
            }
        }
        assert_eq!(Tail::new(3, 7).start(), 7);
    }

    #[test]
    fn lines_are_counted_from_where_nothing_is_left_out() {
        let mut tail = Tail::new(2, 0);
        tail.push(b"one\ntwo\nth");
        tail.go_on_at(10);
        tail.push(b"ree\n");
        assert_eq!(tail.start(), 4);
        tail.go_on_at(100);
        assert_eq!(tail.start(), 100);
        tail.push(b"ten\neleven\ntwelve\n");
        assert_eq!(tail.start(), 104);
    }
}
