//! One agent's connection, as a single-threaded loop needs it: reads never
//! wait, writes wait a bounded time.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use tepui_executor::descriptors;
use tepui_executor::protocol::{FrameBuffer, ProtocolError, write_frame};
use tepui_types::wire::executor::{FromExecutor, ToExecutor};

/// How long an agent may leave its side full before it is hung up on. One
/// task's updates never fill a socket, so it is stuck then.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes taken out of the socket at once.
const READ_BYTES: usize = 16 * 1024;
/// Open files that may wait: those of all the commands that may be beside a task.
const MAX_FILES: usize = 64;

/// An open connection.
pub struct Connection {
    stream: UnixStream,
    buffer: FrameBuffer,
    /// Those that came with frames that were not taken out yet, and of no more than a few.
    files: VecDeque<OwnedFd>,
}

impl Connection {
    /// Takes over an accepted stream.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        Ok(Self {
            stream,
            buffer: FrameBuffer::default(),
            files: VecDeque::new(),
        })
    }

    /// Takes in what has arrived; false when the other side has hung up.
    pub fn fill(&mut self) -> io::Result<bool> {
        let mut bytes = [0; READ_BYTES];
        match descriptors::receive(self.stream.as_fd(), &mut bytes) {
            Ok((0, _)) => Ok(false),
            Ok((count, files)) => {
                self.files.extend(files);
                if self.files.len() > MAX_FILES {
                    return Err(io::Error::other("files came that no frame speaks of"));
                }
                self.buffer.extend(&bytes[..count]);
                Ok(true)
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(true),
                _ => Err(error),
            },
        }
    }

    /// The open files that came with the frame that was taken out last; fewer when they did not.
    pub fn take_files(&mut self, count: usize) -> Vec<OwnedFd> {
        self.files.drain(..count.min(self.files.len())).collect()
    }

    /// The next whole frame that has arrived.
    pub fn next_frame(&mut self) -> Result<Option<ToExecutor>, ProtocolError> {
        self.buffer.next_frame()
    }

    /// Sends one frame.
    pub fn send(&mut self, frame: &FromExecutor) -> Result<(), ProtocolError> {
        write_frame(&mut self.stream, frame)
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
