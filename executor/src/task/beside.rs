//! Commands beside the task: they share its cgroup and its container, and end with it.
//!
//! Each is a process of this one, reaped by the server like all others; what it ends with is told
//! once.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use tepui_types::wire::executor::{FromExecutor, RunIo};

use crate::command;

/// More than an agent's checks of one task, and the people who look into one; each is a process.
const MOST: usize = 16;

/// What a command beside the task reads and writes.
pub enum Stdio {
    /// Nothing.
    Nothing,
    /// Input, output and error.
    Pipes([OwnedFd; 3]),
    /// A terminal, for all three.
    Terminal(OwnedFd),
}

impl Stdio {
    /// As it was asked for, of what came with the frame.
    ///
    /// # Errors
    /// Says that something did not come.
    pub fn of(io: RunIo, files: Vec<OwnedFd>) -> Result<Self, String> {
        let missing = "its input and output did not come with the message";
        match io {
            RunIo::Nothing => Ok(Self::Nothing),
            RunIo::Pipes => files
                .try_into()
                .map(Self::Pipes)
                .map_err(|_| missing.into()),
            RunIo::Terminal => {
                let terminal = files.into_iter().next();
                terminal.map(Self::Terminal).ok_or_else(|| missing.into())
            }
        }
    }

    /// Whether it is a terminal, which becomes the controlling one of who has it.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal(_))
    }

    /// The three descriptors.
    ///
    /// # Errors
    /// When the system gives no more.
    pub fn into_three(self) -> io::Result<[OwnedFd; 3]> {
        let same = |file: OwnedFd| Ok([file.try_clone()?, file.try_clone()?, file]);
        match self {
            Self::Pipes(three) => Ok(three),
            Self::Terminal(terminal) => same(terminal),
            Self::Nothing => {
                let nothing = command::nothing().map_err(|why| io::Error::other(why.message))?;
                same(nothing.try_clone_to_owned()?)
            }
        }
    }
}

/// Those that run.
#[derive(Default)]
pub struct Beside {
    running: HashMap<Pid, Command>,
}

struct Command {
    id: u64,
    /// When it is ended, and how long that is; none for what a person runs.
    limit: Option<(Instant, Duration)>,
    is_overdue: bool,
}

impl Beside {
    /// Whether one more may run.
    ///
    /// # Errors
    /// Says that enough do.
    pub fn has_room(&self) -> Result<(), String> {
        match self.running.len() {
            0..MOST => Ok(()),
            _ => Err(format!("{MOST} commands run beside the task already")),
        }
    }

    /// One has started.
    pub fn add(&mut self, pid: Pid, id: u64, timeout: Option<Duration>) {
        let command = Command {
            id,
            limit: timeout.map(|timeout| (Instant::now() + timeout, timeout)),
            is_overdue: false,
        };
        self.running.insert(pid, command);
    }

    /// When the next one has had its time.
    pub fn deadline(&self) -> Option<Instant> {
        let waiting = self.running.values().filter(|command| !command.is_overdue);
        let limits = waiting.filter_map(|command| command.limit);
        limits.map(|(until, _)| until).min()
    }

    /// Ends those that have had their time.
    pub fn on_tick(&mut self, now: Instant) {
        for (pid, command) in &mut self.running {
            let is_due = command.limit.is_some_and(|(until, _)| until <= now);
            if is_due && !command.is_overdue {
                command.is_overdue = true;
                // It leads a session of its own.
                let _ = kill(Pid::from_raw(-pid.as_raw()), Signal::SIGKILL);
            }
        }
    }

    /// Nobody waits for this one any more.
    pub fn abandon(&mut self, id: u64) {
        if let Some((pid, _)) = self.running.iter().find(|(_, command)| command.id == id) {
            // It leads a session of its own.
            let _ = kill(Pid::from_raw(-pid.as_raw()), Signal::SIGKILL);
        }
    }

    /// The agent that wanted them has gone: who waited for those without a limit has gone with it.
    pub fn abandon_all(&self) {
        let waited_for = self
            .running
            .iter()
            .filter(|(_, command)| command.limit.is_none());
        for (pid, _) in waited_for {
            // It leads a session of its own.
            let _ = kill(Pid::from_raw(-pid.as_raw()), Signal::SIGKILL);
        }
    }

    /// A process was reaped; what there is to say, if it was one of these.
    pub fn on_exit(&mut self, status: WaitStatus) -> Option<FromExecutor> {
        let command = self.running.remove(&status.pid()?)?;
        let result = match status {
            _ if command.is_overdue => {
                let timeout = command.limit.map_or(Duration::ZERO, |(_, timeout)| timeout);
                Err(format!("it took more than {} ms", timeout.as_millis()))
            }
            WaitStatus::Exited(_, code) => Ok(code),
            // As shells count them, for who has asked to see it run.
            WaitStatus::Signaled(_, signal, _) if command.limit.is_none() => {
                Ok(128 + signal as i32)
            }
            WaitStatus::Signaled(_, signal, _) => Err(format!("{signal} ended it")),
            other => Err(format!("it ended in an unknown way ({other:?})")),
        };
        Some(FromExecutor::Ran {
            id: command.id,
            result,
        })
    }
}
