//! Standard output and error of tasks: buffered, then appended to a file.
//!
//! A file is made at the first write and open only while it is appended to, so
//! that a thousand quiet tasks hold no descriptor. What a guest wrote is in the
//! file after [`FLUSH_INTERVAL`] at the latest, and before its end is told. Little
//! that is not in a file when the guest ends may go into a pack instead
//! ([`tepui_executor::packs`]). Past the limit it is dropped, and the guest does
//! not learn of it.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use tepui_executor::output::Ration;
use tokio::io::AsyncWrite;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

/// How long written bytes may wait for more.
const FLUSH_INTERVAL: Duration = Duration::from_millis(20);
/// How many bytes may wait. Also what a guest may write in one call.
const BUFFER_BYTES: usize = 32 * 1024;

/// Appends, some milliseconds later, what waits in outputs: one thread for all.
#[derive(Clone)]
pub struct Flusher {
    waiting: Arc<(Mutex<Vec<Output>>, Condvar)>,
}

impl Flusher {
    /// Starts the thread.
    #[expect(clippy::disallowed_methods, reason = "on a thread of its own")]
    pub fn start() -> io::Result<Self> {
        let flusher = Self {
            waiting: Arc::default(),
        };
        let waiting = flusher.waiting.clone();
        thread::Builder::new()
            .name("output".into())
            .spawn(move || {
                loop {
                    let (outputs, arrived) = &*waiting;
                    let guard = outputs.lock().unwrap_or_else(PoisonError::into_inner);
                    drop(arrived.wait_while(guard, |outputs| outputs.is_empty()));
                    thread::sleep(FLUSH_INTERVAL);
                    let due = std::mem::take(
                        &mut *outputs.lock().unwrap_or_else(PoisonError::into_inner),
                    );
                    for output in due {
                        output.flush();
                    }
                }
            })?;
        Ok(flusher)
    }

    /// Never more than two for each task: an output is here once at most.
    fn add(&self, output: Output) {
        let (outputs, arrived) = &*self.waiting;
        outputs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(output);
        arrived.notify_one();
    }
}

/// One standard stream of one task.
#[derive(Clone)]
pub struct Output {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    flusher: Flusher,
    state: Mutex<State>,
}

struct State {
    ration: Ration,
    bytes: Vec<u8>,
    /// Whether there is a file.
    has_file: bool,
    /// Whether the flusher has it.
    waiting: bool,
    /// Why the last append failed; said to the guest at its next write.
    failed: Option<io::Error>,
    /// Whether the log has heard of a failure: a guest may bring about many.
    logged: bool,
}

impl Output {
    /// Output that goes to the file at `path`, as far as `limit`.
    pub fn new(path: PathBuf, limit: tepui_types::Bytes, flusher: Flusher) -> Self {
        let state = State {
            ration: Ration::new(limit),
            bytes: Vec::new(),
            has_file: false,
            waiting: false,
            failed: None,
            logged: false,
        };
        Self {
            shared: Arc::new(Shared {
                path,
                flusher,
                state: Mutex::new(state),
            }),
        }
    }

    /// The guest has ended: says how much was dropped, and gives all of the output if it is no more
    /// than so many bytes and none of it is in the file. What it then does not give is in the file.
    #[must_use]
    pub fn finish(&self, most: usize) -> Option<Vec<u8>> {
        let mut state = self.lock();
        let notice = state.ration.finish();
        state
            .bytes
            .extend_from_slice(notice.unwrap_or_default().as_bytes());
        if !state.has_file && state.bytes.len() <= most {
            return Some(std::mem::take(&mut state.bytes));
        }
        self.append(&mut state);
        None
    }

    /// Appends what [`finish`](Self::finish) gave.
    pub fn restore(&self, bytes: Vec<u8>) {
        let mut state = self.lock();
        state.bytes = bytes;
        self.append(&mut state);
    }

    /// Says something to who reads it, in between what the guest writes.
    pub fn say(&self, line: impl std::fmt::Display) {
        // What is lost here, the guest hears of at its next write.
        let _ = self.write(format!("[tepui: {line}]\n").as_bytes());
    }

    /// Appends what waits. What cannot be appended is dropped, and said to the
    /// guest at its next write.
    pub fn flush(&self) {
        let mut state = self.lock();
        state.waiting = false;
        self.append(&mut state);
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.lock();
        if let Some(error) = state.failed.take() {
            return Err(error);
        }
        let (kept, notice) = state.ration.take(bytes);
        state.bytes.extend_from_slice(kept);
        state
            .bytes
            .extend_from_slice(notice.unwrap_or_default().as_bytes());
        if state.bytes.len() >= BUFFER_BYTES {
            self.append(&mut state);
            return state.failed.take().map_or(Ok(()), Err);
        }
        if !state.waiting && !state.bytes.is_empty() {
            state.waiting = true;
            self.shared.flusher.add(self.clone());
        }
        Ok(())
    }

    fn append(&self, state: &mut State) {
        if state.bytes.is_empty() {
            return;
        }
        let path = &self.shared.path;
        state.has_file = true;
        let appended = open(path).and_then(|mut file| file.write_all(&state.bytes));
        if let Err(error) = appended {
            if !std::mem::replace(&mut state.logged, true) {
                tracing::warn!(path = %path.display(), %error, "a task's output is lost");
            }
            state.failed = Some(error);
        }
        state.bytes.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens the file at `path` for appending; makes it, and its folder.
fn open(path: &Path) -> io::Result<fs::File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o644);
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(path.parent().unwrap_or(path))?;
            options.open(path)
        }
        opened => opened,
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        Output::write(self, &bytes).map_err(|error| StreamError::LastOperationFailed(error.into()))
    }

    fn flush(&mut self) -> StreamResult<()> {
        // The flusher is soon enough, and guests flush after each line.
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(BUFFER_BYTES)
    }
}

impl AsyncWrite for Output {
    fn poll_write(
        self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let bytes = &bytes[..bytes.len().min(BUFFER_BYTES)];
        Poll::Ready(Output::write(&self, bytes).map(|()| bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: tepui_types::Bytes = tepui_types::Bytes::mib(1);

    #[test]
    fn a_quiet_task_has_no_file_and_a_written_one_is_complete_after_a_flush() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tasks/t/stdout");
        let output = Output::new(path.clone(), LIMIT, Flusher::start().unwrap());
        assert_eq!(output.finish(0), Some(Vec::new()));
        assert!(!path.exists());
        for _ in 0..3 {
            output.write(&[b'x'; BUFFER_BYTES / 2]).unwrap();
        }
        output.write(b"end").unwrap();
        output.flush();
        assert_eq!(fs::read(&path).unwrap().len(), 3 * BUFFER_BYTES / 2 + 3);
    }

    #[test]
    fn a_write_after_a_lost_one_fails() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let path = dir.path().join("file/stdout");
        let output = Output::new(path, LIMIT, Flusher::start().unwrap());
        output.write(b"lost").unwrap();
        output.flush();
        assert!(output.write(b"told").is_err());
    }
}
