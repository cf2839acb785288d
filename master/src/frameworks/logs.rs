//! The lines that a framework logs: the last thousand, in memory, of this leader.
//!
//! They are for the framework's author and are kept even when the turn that
//! wrote them fails. A reader who falls behind is told how many lines it missed.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::{Stream, StreamExt, stream};
use tepui_types::Timestamp;
use tepui_types::api::framework::LogLine;
use tokio::sync::watch;

use super::limits;

/// One framework's lines.
#[derive(Debug, Clone)]
pub struct Logs(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    lines: Arc<Mutex<Lines>>,
    written: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Lines {
    kept: VecDeque<LogLine>,
    /// Lines ever written; the last of `kept` is number `written - 1`.
    written: u64,
    /// Lines of this turn.
    of_turn: usize,
    /// The last line of this turn that is an error.
    last_error: Option<String>,
}

impl Default for Logs {
    fn default() -> Self {
        Self(Arc::new(Shared {
            lines: Arc::default(),
            written: watch::Sender::new(0),
        }))
    }
}

impl Logs {
    /// A turn begins, and may write its share of lines.
    pub fn begin_turn(&self) {
        let mut lines = self.lock();
        (lines.of_turn, lines.last_error) = (0, None);
    }

    /// The last error that this turn has written: a panic says there why.
    pub fn last_error(&self) -> Option<String> {
        self.lock().last_error.clone()
    }

    /// Adds a line; a long one is cut, the oldest gives way. What a turn writes
    /// beyond its share is left out.
    pub fn write(&self, time: Timestamp, level: &str, message: &str) {
        let mut lines = self.lock();
        lines.of_turn += 1;
        match lines.of_turn.cmp(&limits::TURN_LOG_LINES) {
            Ordering::Less => lines.push(time, level, message),
            Ordering::Equal => {
                lines.push(
                    time,
                    "warn",
                    "[this turn logs too much: the rest of it is left out]",
                );
            }
            Ordering::Greater => return,
        }
        self.0.written.send_replace(lines.written);
    }

    /// A reader that begins with the oldest line that is kept.
    pub fn tail(&self) -> LogTail {
        let written = self.0.written.subscribe();
        LogTail {
            lines: self.0.lines.clone(),
            next: 0,
            written,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.0.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    fn push(&mut self, time: Timestamp, level: &str, message: &str) {
        let mut end = message.len().min(limits::LOG_LINE_BYTES);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        let mut text = message[..end].to_owned();
        if end < message.len() {
            text.push_str(&format!(" […{} bytes cut]", message.len() - end));
        }
        if level == "error" {
            self.last_error = Some(text.clone());
        }
        if self.kept.len() == limits::LOG_LINES {
            self.kept.pop_front();
        }
        self.kept.push_back(LogLine {
            time,
            level: level.to_owned(),
            message: text,
        });
        self.written += 1;
    }
}

/// Reads a framework's lines, oldest first, and then as they are written. It
/// does not keep the framework's log alive.
#[derive(Debug)]
pub struct LogTail {
    lines: Arc<Mutex<Lines>>,
    next: u64,
    written: watch::Receiver<u64>,
}

impl LogTail {
    /// The lines that are there and not yet read; perhaps none.
    pub fn read(&mut self) -> Vec<LogLine> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let first = lines.written - lines.kept.len() as u64;
        let missed = first.saturating_sub(self.next);
        let mut read = Vec::new();
        if missed > 0 && self.next > 0 {
            let time = lines
                .kept
                .front()
                .map_or(Timestamp::default(), |line| line.time);
            let message = format!("[{missed} lines were written too fast to be read]");
            read.push(LogLine {
                time,
                level: "warn".into(),
                message,
            });
        }
        let skip = self.next.saturating_sub(first) as usize;
        read.extend(lines.kept.iter().skip(skip).cloned());
        self.next = lines.written;
        read
    }

    /// The lines one by one: those that are kept, and with `follow` those to
    /// come, until the framework is gone.
    pub fn lines(mut self, follow: bool) -> impl Stream<Item = LogLine> + Send + 'static {
        let kept = self.read();
        let batches = stream::unfold(Some((kept, self)), move |step| async move {
            let (lines, mut tail) = step?;
            let next = if follow { tail.follow().await } else { None };
            Some((stream::iter(lines), next.map(|lines| (lines, tail))))
        });
        batches.flatten()
    }

    /// Waits for lines; none means that the framework is gone and no more come.
    pub async fn follow(&mut self) -> Option<Vec<LogLine>> {
        loop {
            let lines = self.read();
            if !lines.is_empty() {
                return Some(lines);
            }
            let next = self.next;
            self.written
                .wait_for(|written| *written > next)
                .await
                .ok()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_in_length_and_number() {
        let logs = Logs::default();
        logs.write(Timestamp(1), "info", &"é".repeat(limits::LOG_LINE_BYTES));
        let lines = logs.tail().read();
        assert!(
            lines[0].message.ends_with("[…4096 bytes cut]"),
            "{}",
            lines[0].message
        );
        let mut tail = logs.tail();
        tail.read();
        for number in 0..2 * limits::LOG_LINES {
            logs.begin_turn();
            logs.write(Timestamp(2), "info", &number.to_string());
        }
        let lines = tail.read();
        assert_eq!(lines.len(), limits::LOG_LINES + 1);
        assert_eq!(
            lines[0].message,
            "[1000 lines were written too fast to be read]"
        );
        assert_eq!(lines[1].message, "1000");
        assert!(tail.read().is_empty());
    }

    #[test]
    fn a_turn_that_floods_the_log_is_cut_short() {
        let logs = Logs::default();
        logs.write(Timestamp(1), "info", "before");
        logs.begin_turn();
        for _ in 0..3 * limits::TURN_LOG_LINES {
            logs.write(Timestamp(1), "info", "x");
        }
        let lines = logs.tail().read();
        assert!(lines.last().unwrap().message.contains("left out"));
        assert_eq!(lines.iter().filter(|line| line.message == "x").count(), 999);
    }

    #[tokio::test]
    async fn a_reader_ends_with_the_framework() {
        let logs = Logs::default();
        logs.write(Timestamp(1), "info", "last");
        let mut tail = logs.tail();
        drop(logs);
        assert_eq!(tail.follow().await.unwrap().len(), 1);
        assert!(tail.follow().await.is_none());
    }
}
