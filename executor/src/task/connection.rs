//! One agent's connection, as a single-threaded loop needs it: reads never
//! wait, writes wait a bounded time.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use tepui_executor::protocol::{FrameBuffer, ProtocolError, write_frame};
use tepui_types::wire::executor::{FromExecutor, ToExecutor};

/// How long an agent may leave its side full before it is hung up on. One
/// task's updates never fill a socket, so it is stuck then.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes taken out of the socket at once.
const READ_BYTES: usize = 16 * 1024;

/// An open connection.
pub struct Connection {
    stream: UnixStream,
    buffer: FrameBuffer,
}

impl Connection {
    /// Takes over an accepted stream.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        Ok(Self {
            stream,
            buffer: FrameBuffer::default(),
        })
    }

    /// Takes in what has arrived; false when the other side has hung up.
    pub fn fill(&mut self) -> io::Result<bool> {
        let mut bytes = [0; READ_BYTES];
        match recv(self.stream.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => Ok(false),
            Ok(count) => {
                self.buffer.extend(&bytes[..count]);
                Ok(true)
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(true),
            Err(errno) => Err(errno.into()),
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
