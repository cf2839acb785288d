//! What is sent to the command while it runs: by a pipe, or by a terminal.
//!
//! It is written as the command reads it, and never waited for: what the command has not read waits
//! here, up to a bound. Who sends asks first for the room that there is
//! ([`Callers`](crate::callers::Callers)), so that nothing is lost.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::unistd::write;
use tepui_executor::log;
use tepui_types::wire::stream::TerminalSize;

use crate::callers::Room;

/// How much may wait, in bytes: several times what a pipe holds, so that a command that reads never
/// waits for the next piece.
const MOST: usize = 256 * 1024;
/// What a terminal in its usual mode takes for the end of the input, at the beginning of a line; within
/// one it gives the command what is there of it.
const END_OF_INPUT: u8 = 4;

/// The writing end.
pub struct Input {
    /// None once it is closed.
    to: Option<OwnedFd>,
    is_terminal: bool,
    waiting: VecDeque<u8>,
    /// Whether it is closed when nothing waits any more.
    is_closing: bool,
    /// Whether the last that was sent ended within a line.
    in_line: bool,
}

impl Input {
    /// By the writing end of a pipe, or the master of a terminal, which does not block.
    pub fn new(to: OwnedFd, is_terminal: bool) -> Self {
        Self {
            to: Some(to),
            is_terminal,
            waiting: VecDeque::new(),
            is_closing: false,
            in_line: false,
        }
    }

    /// Whether it is a terminal.
    pub fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// What can be written to when the command has read, if something waits for that.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        let to = self.to.as_ref().filter(|_| !self.waiting.is_empty());
        to.map(AsFd::as_fd)
    }

    /// How much may be sent now.
    pub fn room(&self) -> Room {
        match self.is_closing || self.to.is_none() {
            true => Room::Never,
            false => Room::Bytes(MOST - self.waiting.len()),
        }
    }

    /// Writes this, for which there is room, as soon as the command reads; nothing is the input's end.
    pub fn send(&mut self, bytes: &[u8]) {
        if self.is_closing || self.to.is_none() {
            return;
        }
        match (bytes.last(), self.is_terminal) {
            (Some(last), _) => {
                self.in_line = *last != b'\n';
                self.waiting.extend(bytes);
            }
            // It stays the terminal of whoever attaches next.
            (None, true) if self.in_line => {
                self.in_line = false;
                self.waiting.extend([END_OF_INPUT, END_OF_INPUT]);
            }
            (None, true) => self.waiting.push_back(END_OF_INPUT),
            (None, false) => self.is_closing = true,
        }
        self.pump();
    }

    /// Writes what the command takes now.
    pub fn pump(&mut self) {
        while let Some(to) = &self.to {
            let (bytes, _) = self.waiting.as_slices();
            if bytes.is_empty() {
                break;
            }
            match write(to, bytes) {
                Ok(count) => drop(self.waiting.drain(..count)),
                Err(Errno::EAGAIN) => return,
                Err(Errno::EINTR) => {}
                // Nobody reads it any more.
                Err(_) => {
                    self.waiting = VecDeque::new();
                    self.to = None;
                }
            }
        }
        if self.is_closing {
            self.to = None;
        }
    }

    /// The terminal's window has another size; the kernel tells the command.
    pub fn resize(&self, size: TerminalSize) {
        let Some(to) = self.to.as_ref().filter(|_| self.is_terminal) else {
            return;
        };
        let size = libc::winsize {
            ws_row: size.rows,
            ws_col: size.columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // SAFETY: the descriptor is open, and the structure is the one that this request reads.
        if unsafe { libc::ioctl(to.as_raw_fd(), libc::TIOCSWINSZ, &size) } < 0 {
            let error = std::io::Error::last_os_error();
            log::say(format_args!("the terminal keeps its size: {error}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, pipe};

    use nix::fcntl::{FcntlArg, OFlag, fcntl};

    use super::*;

    #[test]
    fn what_is_not_read_waits_up_to_a_bound_and_comes_in_order() {
        let (mut reader, writer) = pipe().unwrap();
        fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let holds = fcntl(&writer, FcntlArg::F_GETPIPE_SZ).unwrap() as usize;
        let mut input = Input::new(writer.into(), false);
        let sent: Vec<u8> = (0..holds + MOST).map(|number| number as u8).collect();
        // A pipe holds pages, and here all of them are full.
        for chunk in sent.chunks(4096) {
            input.send(chunk);
        }
        assert_eq!(input.room(), Room::Bytes(0));
        input.send(b"");
        assert_eq!(input.room(), Room::Never);
        input.send(b"after the end");
        let mut read = vec![0; 1000];
        reader.read_exact(&mut read).unwrap();
        while input.fd().is_some() {
            let mut part = vec![0; holds / 2];
            let count = reader.read(&mut part).unwrap();
            read.extend(&part[..count]);
            input.pump();
        }
        reader.read_to_end(&mut read).unwrap();
        assert!(read == sent);
    }

    #[test]
    fn who_does_not_read_any_more_ends_it() {
        let (reader, writer) = pipe().unwrap();
        let mut input = Input::new(writer.into(), false);
        drop(reader);
        input.send(b"x");
        assert!(input.fd().is_none() && input.to.is_none());
        assert_eq!(input.room(), Room::Never);
    }
}
