//! What a command reads and writes by: the three descriptors that are its own, and the other ends of
//! them, which stay here.

use std::io::{self, pipe};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::fchown;
use std::path::Path;

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::pty::{Winsize, openpty};
use tepui_executor::output::Keep;
use tepui_types::command::CommandStdin;

use crate::command;
use crate::input::Input;
use crate::outputs::Outputs;

/// The window of a terminal until somebody says another: that of terminals of glass.
const SIZE: Winsize = Winsize {
    ws_row: 24,
    ws_col: 80,
    ws_xpixel: 0,
    ws_ypixel: 0,
};

/// Both ends.
pub struct CommandStdio {
    /// Input, output and error of the command.
    pub theirs: [OwnedFd; 3],
    /// What comes out of it.
    pub outputs: Outputs,
    /// What goes in, if it is kept open.
    pub input: Option<Input>,
    /// Whether it is a terminal.
    pub is_terminal: bool,
}

impl CommandStdio {
    /// For a command that reads that, and whose output goes to files in `folder`.
    ///
    /// # Errors
    /// When the system gives no more descriptors, or no terminal.
    pub fn make(stdin: CommandStdin, folder: &Path, keep: Keep) -> io::Result<Self> {
        if stdin == CommandStdin::Terminal {
            return Self::terminal(folder, keep);
        }
        let (outputs, [stdout, stderr]) = Outputs::make(folder, keep)?;
        let (theirs, input) = match stdin {
            CommandStdin::Open => {
                let (reader, writer) = pipe()?;
                do_not_block(&writer)?;
                let input = Input::new(writer.into(), false);
                (reader.into(), Some(input))
            }
            CommandStdin::Nothing | CommandStdin::Terminal => {
                let nothing = command::nothing().map_err(|why| io::Error::other(why.message))?;
                (nothing.try_clone_to_owned()?, None)
            }
        };
        Ok(Self {
            theirs: [theirs, stdout.into(), stderr.into()],
            outputs,
            input,
            is_terminal: false,
        })
    }

    fn terminal(folder: &Path, keep: Keep) -> io::Result<Self> {
        let pty = openpty(Some(&SIZE), None)?;
        for end in [&pty.master, &pty.slave] {
            fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        }
        do_not_block(&pty.master)?;
        let input = Input::new(pty.master.try_clone()?, true);
        Ok(Self {
            theirs: [pty.slave.try_clone()?, pty.slave.try_clone()?, pty.slave],
            outputs: Outputs::of_terminal(folder, keep, pty.master),
            input: Some(input),
            is_terminal: true,
        })
    }

    /// Lets another user open them once more, as by `/dev/stdout`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn give(&self, uid: u32, gid: u32) -> io::Result<()> {
        let [stdin, stdout, stderr] = &self.theirs;
        fchown(stdout, Some(uid), Some(gid))?;
        fchown(stderr, Some(uid), Some(gid))?;
        // Where it is nothing, that is the machine's.
        match self.input {
            Some(_) => fchown(stdin, Some(uid), Some(gid)),
            None => Ok(()),
        }
    }
}

fn do_not_block(end: &impl AsFd) -> io::Result<()> {
    fcntl(end.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(())
}
