//! Commands beside the task: they share its cgroup and its container, and end with it.
//!
//! Each is a process of this one, reaped by the server like all others; what it ends with is told
//! once. One in a container is being started for a while first, and may be given up until it is.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use tepui_types::Reason;
use tepui_types::wire::executor::{FromExecutor, RunBeside, RunIo};

use crate::attempt::{self, Attempt, LAST_PATIENCE, PATIENCE};
use crate::{command, lookup};

/// What a command with a limit may take to begin, besides: a busy machine makes a container's process in
/// a second or two.
const START: Duration = Duration::from_secs(5);
/// More than an agent's checks of one task, and the people who look into one; each is a process.
const MOST: usize = 16;

/// Why a command is not run beside the task.
#[derive(Debug)]
pub enum NotRun {
    /// The one beside which it was to run has not begun, or pauses: that is no fault of anybody.
    Now,
    /// Anything else.
    Refused(String),
}

impl From<String> for NotRun {
    fn from(why: String) -> Self {
        Self::Refused(why)
    }
}

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

    /// Where it writes what is wrong, once more, if somebody reads that.
    ///
    /// # Errors
    /// When the system gives no more descriptors.
    pub fn stderr(&self) -> io::Result<Option<OwnedFd>> {
        match self {
            Self::Nothing => Ok(None),
            Self::Pipes([.., stderr]) | Self::Terminal(stderr) => stderr.try_clone().map(Some),
        }
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

/// A command that was asked for, and is not refused.
pub enum Begun {
    /// It runs.
    Runs(Pid),
    /// It is being started; where it can be told what is wrong with it, unless its runtime does so.
    Attempted(Attempt, Option<OwnedFd>),
    /// It is no program, for a reason that [`lookup`] knows, and there it can be told.
    Unfit(Reason, Option<OwnedFd>),
}

/// Those that run, or are being started.
#[derive(Default)]
pub struct Beside {
    starting: Vec<Starting>,
    running: HashMap<Pid, Command>,
    kills: u64,
}

struct Starting {
    command: Command,
    attempt: Attempt,
    stderr: Option<OwnedFd>,
    begun: Instant,
    give_up_at: Instant,
    /// It is ended as soon as it runs.
    is_abandoned: bool,
}

struct Command {
    id: u64,
    /// Beside which of the task's commands.
    member: Option<String>,
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
        match self.running.len() + self.starting.len() {
            0..MOST => Ok(()),
            _ => Err(format!("{MOST} commands run beside the task already")),
        }
    }

    /// One has begun, or will not; then that is to be said.
    pub fn add(&mut self, begun: Begun, run: &RunBeside, now: Instant) -> Option<FromExecutor> {
        let timeout = run.timeout_ms.map(Duration::from_millis);
        let command = Command {
            id: run.id,
            member: run.member.clone(),
            limit: timeout.map(|timeout| (now + timeout, timeout)),
            is_overdue: false,
        };
        match begun {
            Begun::Runs(pid) => {
                self.running.insert(pid, command);
            }
            Begun::Unfit(reason, stderr) => return Some(command.not_run(reason, stderr)),
            Begun::Attempted(attempt, stderr) => self.starting.push(Starting {
                command,
                attempt,
                stderr,
                begun: now,
                give_up_at: now + PATIENCE,
                is_abandoned: false,
            }),
        }
        None
    }

    /// What can be read when one has been started, or has not.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.starting
            .iter()
            .map(|starting| starting.attempt.as_fd())
    }

    /// When the next one has had its time.
    pub fn deadline(&self) -> Option<Instant> {
        let waiting = self.running.values().filter(|command| !command.is_overdue);
        let limits = waiting.filter_map(|command| command.limit);
        let limits = limits.map(|(until, _)| until);
        limits
            .chain(self.starting.iter().map(Starting::until))
            .min()
    }

    /// Ends those that have had their time; what there is to say of those that had not begun.
    pub fn on_tick(&mut self, now: Instant) -> Vec<FromExecutor> {
        for (pid, command) in &mut self.running {
            let is_due = command.limit.is_some_and(|(until, _)| until <= now);
            if is_due && !command.is_overdue {
                command.is_overdue = true;
                end(*pid);
            }
        }
        let late = self.starting.extract_if(.., |one| one.until() <= now);
        late.map(|one| one.give_up(now)).collect()
    }

    /// Nobody waits for this one any more.
    pub fn abandon(&mut self, id: u64, now: Instant) {
        for starting in &mut self.starting {
            if starting.command.id == id {
                starting.abandon(now);
            }
        }
        if let Some((pid, _)) = self.running.iter().find(|(_, command)| command.id == id) {
            end(*pid);
        }
    }

    /// The agent that wanted them has gone: who waited for those without a limit has gone with it.
    pub fn abandon_all(&mut self, now: Instant) {
        for starting in &mut self.starting {
            if starting.command.limit.is_none() {
                starting.abandon(now);
            }
        }
        let waited_for = self
            .running
            .iter()
            .filter(|(_, command)| command.limit.is_none());
        for (pid, _) in waited_for {
            end(*pid);
        }
    }

    /// The task ends: nothing more begins beside it.
    pub fn begin_no_more(&mut self, now: Instant) {
        for starting in &mut self.starting {
            starting.abandon(now);
        }
    }

    /// Some that were being started may run by now; what there is to say of those that never will.
    /// `is_along` is as of [`Beside::on_exit`].
    pub fn on_answers(&mut self, is_along: impl Fn(Option<&str>) -> bool) -> Vec<FromExecutor> {
        self.take_answers(Attempt::answer, &is_along)
    }

    /// A process was reaped; what there is to say, if it was one of these or would have become one.
    /// `is_along` tells whether the command beside which it ran may have taken it along, to be started
    /// again itself.
    pub fn on_exit(
        &mut self,
        status: WaitStatus,
        is_along: impl Fn(Option<&str>) -> bool,
    ) -> Vec<FromExecutor> {
        let Some(pid) = status.pid() else {
            return Vec::new();
        };
        let mut said = self.take_answers(|attempt| attempt.answer_before(pid), &is_along);
        if let Some(command) = self.running.remove(&pid) {
            self.kills += u64::from(command.was_killed(status));
            let is_killed = matches!(status, WaitStatus::Signaled(_, Signal::SIGKILL, _));
            said.push(match is_killed && command.is_cut_short(is_along) {
                true => FromExecutor::NotNow(command.id),
                false => command.ran(command.end(status)),
            });
        }
        said
    }

    /// How many were killed by somebody else since the last call.
    pub fn take_kills(&mut self) -> u64 {
        std::mem::take(&mut self.kills)
    }

    fn take_answers(
        &mut self,
        answer: impl Fn(&mut Attempt) -> Option<Result<Pid, Reason>>,
        is_along: &impl Fn(Option<&str>) -> bool,
    ) -> Vec<FromExecutor> {
        let mut said = Vec::new();
        let mut left = Vec::with_capacity(self.starting.len());
        for mut starting in self.starting.drain(..) {
            match answer(&mut starting.attempt) {
                None => left.push(starting),
                Some(Err(_)) if starting.command.is_cut_short(is_along) => {
                    said.push(FromExecutor::NotNow(starting.command.id));
                }
                Some(Err(reason)) => said.push(starting.command.not_run(reason, starting.stderr)),
                Some(Ok(pid)) => {
                    if starting.is_abandoned {
                        end(pid);
                    }
                    let mut command = starting.command;
                    // Its time is its own: a machine that starts programs slowly takes none of it.
                    let limit = command.limit.map(|(_, timeout)| timeout);
                    command.limit = limit.map(|timeout| (Instant::now() + timeout, timeout));
                    self.running.insert(pid, command);
                }
            }
        }
        self.starting = left;
        said
    }
}

impl Starting {
    fn until(&self) -> Instant {
        let limit = self.command.limit.map(|(until, _)| until);
        let until = limit.map(|until| until + START);
        until.map_or(self.give_up_at, |until| until.min(self.give_up_at))
    }

    fn abandon(&mut self, now: Instant) {
        self.is_abandoned = true;
        self.give_up_at = self.give_up_at.min(now + LAST_PATIENCE);
    }

    /// Nothing is left of it.
    fn give_up(self, now: Instant) -> FromExecutor {
        let why = match self.is_abandoned {
            true => "it was not wanted any more before it began".into(),
            false => attempt::late(now.duration_since(self.begun)),
        };
        self.command.ran(Err(why))
    }
}

impl Command {
    /// Whether it is a check that was not made to its end, of which nothing follows.
    fn is_cut_short(&self, is_along: impl Fn(Option<&str>) -> bool) -> bool {
        self.limit.is_some() && !self.is_overdue && is_along(self.member.as_deref())
    }

    /// Whether somebody else has killed it, or something of it that its shell has waited for.
    fn was_killed(&self, status: WaitStatus) -> bool {
        const KILLED: i32 = 128 + Signal::SIGKILL as i32;
        let is_killed = matches!(
            status,
            WaitStatus::Signaled(_, Signal::SIGKILL, _) | WaitStatus::Exited(_, KILLED)
        );
        is_killed && !self.is_overdue
    }

    fn end(&self, status: WaitStatus) -> Result<i32, String> {
        match status {
            _ if self.is_overdue => {
                let timeout = self.limit.map_or(Duration::ZERO, |(_, timeout)| timeout);
                Err(format!("it took more than {} ms", timeout.as_millis()))
            }
            WaitStatus::Exited(_, code) => Ok(code),
            // As shells count them, for who has asked to see it run.
            WaitStatus::Signaled(_, signal, _) if self.limit.is_none() => Ok(128 + signal as i32),
            WaitStatus::Signaled(_, signal, _) => Err(format!("{signal} ended it")),
            other => Err(format!("it ended in an unknown way ({other:?})")),
        }
    }

    /// What a person ran is answered as a shell would: in its own output, and by a code.
    fn not_run(&self, reason: Reason, stderr: Option<OwnedFd>) -> FromExecutor {
        let code = lookup::exit_code(&reason).filter(|_| self.limit.is_none());
        let Some(code) = code else {
            return self.ran(Err(reason.message));
        };
        if let Some(stderr) = stderr {
            say(&stderr, &reason.message);
        }
        self.ran(Ok(code))
    }

    fn ran(&self, result: Result<i32, String>) -> FromExecutor {
        FromExecutor::Ran {
            id: self.id,
            result,
        }
    }
}

/// Writes a line, if there is room for it: nothing is waited for.
fn say(to: &OwnedFd, line: &str) {
    let mut room = [PollFd::new(to.as_fd(), PollFlags::POLLOUT)];
    if poll(&mut room, PollTimeout::ZERO) == Ok(1) {
        let _ = nix::unistd::write(to, format!("tepui: {line}\n").as_bytes());
    }
}

/// It leads a session of its own.
fn end(pid: Pid) {
    let _ = kill(Pid::from_raw(-pid.as_raw()), Signal::SIGKILL);
}
