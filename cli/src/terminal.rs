//! This process's own terminal, while what is typed goes elsewhere.

use std::io::{self, IsTerminal, Read};
use std::os::fd::AsFd;

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use tepui_types::wire::stream::TerminalSize;
use tokio::sync::mpsc;

/// Bytes of input that are read at once.
const CHUNK: usize = 16 * 1024;
/// Chunks that wait to be sent.
const QUEUE: usize = 4;

/// Until it is dropped, what is typed is not looked at on the way: Ctrl-C is a character.
pub struct Raw {
    before: Termios,
}

impl Raw {
    /// Makes it so.
    pub fn begin() -> io::Result<Self> {
        let before = tcgetattr(io::stdin().as_fd())?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(io::stdin().as_fd(), SetArg::TCSADRAIN, &raw)?;
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(io::stdin().as_fd(), SetArg::TCSADRAIN, &self.before);
    }
}

/// Whether someone types.
pub fn is_there() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// How large it is; as usual where it does not know.
pub fn size() -> TerminalSize {
    let usual = TerminalSize {
        columns: 80,
        rows: 24,
    };
    match rustix::termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => TerminalSize {
            columns: size.ws_col,
            rows: size.ws_row,
        },
        _ => usual,
    }
}

/// What comes from standard input; ends where that does. Its thread may hang in a read for as long as
/// this process lives, and takes what comes then: only [`Stdin`](crate::stdin::Stdin) begins it.
pub fn input() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    std::thread::spawn(move || {
        let mut chunk = vec![0; CHUNK];
        while let Ok(count @ 1..) = io::stdin().read(&mut chunk) {
            if sender.blocking_send(chunk[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Ctrl-P Ctrl-Q, as it is typed to leave what one is attached to.
#[derive(Debug, Default)]
pub struct LeaveKeys {
    /// Whether the last character was the first of the two.
    is_begun: bool,
}

impl LeaveKeys {
    const FIRST: u8 = 0x10;
    const SECOND: u8 = 0x11;

    /// What of the typed bytes is passed on; none when it is time to leave.
    pub fn pass(&mut self, typed: &[u8]) -> Option<Vec<u8>> {
        let mut passed = Vec::with_capacity(typed.len() + 1);
        for byte in typed {
            match (self.is_begun, *byte) {
                (true, Self::SECOND) => return None,
                (false, Self::FIRST) => self.is_begun = true,
                (true, byte) => {
                    passed.push(Self::FIRST);
                    self.is_begun = byte == Self::FIRST;
                    if !self.is_begun {
                        passed.push(byte);
                    }
                }
                (false, byte) => passed.push(byte),
            }
        }
        Some(passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_keys_in_a_row_leave_and_nothing_else_is_lost() {
        let pass = |parts: &[&[u8]]| {
            let mut keys = LeaveKeys::default();
            let passed: Option<Vec<_>> = parts.iter().map(|part| keys.pass(part)).collect();
            passed.map(|parts| parts.concat())
        };
        assert_eq!(pass(&[b"ab", b"c"]).unwrap(), b"abc");
        assert_eq!(pass(&[b"a\x10b"]).unwrap(), b"a\x10b");
        assert_eq!(pass(&[b"a\x10", b"\x10b"]).unwrap(), b"a\x10\x10b");
        assert_eq!(pass(&[b"a\x11"]).unwrap(), b"a\x11");
        assert_eq!(pass(&[b"a\x10", b"\x11b"]), None);
        assert_eq!(pass(&[b"a\x10\x10\x11"]), None);
    }
}
