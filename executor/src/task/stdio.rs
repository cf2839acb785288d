//! What a command reads and writes by: the three descriptors that are its own, and the other ends of
//! them, which stay here.

use std::fs::File;
use std::io::{self, pipe};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, fchown};
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
    /// The command's.
    pub theirs: Theirs,
    /// What comes out of it.
    pub outputs: Outputs,
    /// What goes in, if it is kept open.
    pub input: Option<Input>,
}

/// The command's ends.
pub struct Theirs {
    /// Its input, output and error.
    pub files: [OwnedFd; 3],
    /// Whether its input is its own, and not nothing.
    has_input: bool,
    /// Whether they are a terminal.
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
        let theirs = Theirs {
            files: [theirs, stdout.into(), stderr.into()],
            has_input: input.is_some(),
            is_terminal: false,
        };
        Ok(Self {
            theirs,
            outputs,
            input,
        })
    }

    fn terminal(folder: &Path, keep: Keep) -> io::Result<Self> {
        let pty = openpty(Some(&SIZE), None)?;
        for end in [&pty.master, &pty.slave] {
            fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        }
        do_not_block(&pty.master)?;
        let input = Input::new(pty.master.try_clone()?, true);
        let theirs = Theirs {
            files: [pty.slave.try_clone()?, pty.slave.try_clone()?, pty.slave],
            has_input: true,
            is_terminal: true,
        };
        Ok(Self {
            theirs,
            outputs: Outputs::of_terminal(folder, keep, pty.master)?,
            input: Some(input),
        })
    }
}

impl Theirs {
    /// The same for another run of the command; these stay open meanwhile.
    ///
    /// # Errors
    /// When the system gives no more descriptors.
    pub fn again(&self) -> io::Result<Self> {
        let [stdin, stdout, stderr] = &self.files;
        let files = match self.is_terminal {
            // With the session that it controlled, whoever has it open was hung up on.
            true => {
                let path = format!("/proc/self/fd/{}", stdin.as_raw_fd());
                let mut options = File::options();
                options.read(true).write(true).custom_flags(libc::O_NOCTTY);
                let slave = OwnedFd::from(options.open(std::fs::read_link(path)?)?);
                [slave.try_clone()?, slave.try_clone()?, slave]
            }
            false => [stdin.try_clone()?, stdout.try_clone()?, stderr.try_clone()?],
        };
        Ok(Self { files, ..*self })
    }

    /// Lets another user open them once more, as by `/dev/stdout`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn give(&self, uid: u32, gid: u32) -> io::Result<()> {
        let [stdin, stdout, stderr] = &self.files;
        fchown(stdout, Some(uid), Some(gid))?;
        fchown(stderr, Some(uid), Some(gid))?;
        // Where it is nothing, that is the machine's.
        match self.has_input {
            true => fchown(stdin, Some(uid), Some(gid)),
            false => Ok(()),
        }
    }
}

fn do_not_block(end: &impl AsFd) -> io::Result<()> {
    fcntl(end.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(())
}
