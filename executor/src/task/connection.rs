//! One agent's connection, as a single-threaded loop needs it: reads never
//! wait, writes wait a bounded time.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use tepui_executor::descriptors::{self, Files};
use tepui_executor::protocol::{FrameBuffer, ProtocolError, write_frame};
use tepui_types::wire::executor::{FromExecutor, ToExecutor};

/// How long an agent may leave its side full before it is hung up on. One
/// task's updates never fill a socket, so it is stuck then.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes taken out of the socket at once.
const READ_BYTES: usize = 16 * 1024;
/// Frames whose open files may wait: one for each command that may be beside a task, and some that
/// are refused.
const MAX_FRAMES: usize = 64;

/// An open connection.
pub struct Connection {
    stream: UnixStream,
    buffer: FrameBuffer,
    /// Those that came with frames that were not taken out yet, frame by frame; none of one where this
    /// process had no room for them.
    files: VecDeque<Option<Vec<OwnedFd>>>,
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
            Ok(received) if received.count == 0 => Ok(false),
            Ok(received) => {
                match received.files {
                    Files::None => {}
                    Files::Came(files) => self.files.push_back(Some(files)),
                    Files::Lost => self.files.push_back(None),
                }
                if self.files.len() > MAX_FRAMES {
                    return Err(io::Error::other("files came that no frame speaks of"));
                }
                self.buffer.extend(&bytes[..received.count]);
                Ok(true)
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(true),
                _ => Err(error),
            },
        }
    }

    /// The open files that came with the frame that was taken out last, which speaks of so many.
    ///
    /// # Errors
    /// Says that they are not here.
    pub fn take_files(&mut self, count: usize) -> Result<Vec<OwnedFd>, String> {
        if count == 0 {
            return Ok(Vec::new());
        }
        match self.files.pop_front() {
            Some(Some(files)) => Ok(files),
            Some(None) => Err(
                "the task's executor has as many open files as it may, and no room for those that \
                 the command reads and writes: end some of what runs beside the task, or raise the \
                 agent's limit of open files (ulimit -n)"
                    .into(),
            ),
            None => Err("its input and output did not come with the message".into()),
        }
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
