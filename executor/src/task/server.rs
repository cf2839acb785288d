//! The loop of this process: signals, the agent's connection, the task's
//! output, deadlines.
//!
//! One thread waits for all of them. The newest connection that proves itself
//! is the agent; a task's end is written down before it is said.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use tepui_executor::exits::ExitLog;
use tepui_executor::log;
use tepui_executor::records::RecordsError;
use tepui_executor::spawn::SOCKET_FILE;
use tepui_executor::startup::Startup;
use tepui_types::command::CommandOptions;
use tepui_types::task::reason;
use tepui_types::wire::executor::{ExecutorLaunch, FromExecutor, TaskUpdate, ToExecutor};
use tepui_types::{Reason, TaskId, TaskState};

use crate::beside::Beside;
use crate::callers::Callers;
use crate::connection::Connection;
use crate::outputs::Outputs;
use crate::spare::Spare;
use crate::task::Task;

#[path = "server/inputs.rs"]
mod inputs;
#[path = "server/runs.rs"]
mod runs;

/// How long it stays without an agent when nothing runs: enough for an agent to
/// restart and ask again.
const IDLE_EXIT: Duration = Duration::from_secs(60);
/// How long a command runs before its beginning is said: of one that has ended by then the end says
/// all.
const BEGINNING: Duration = Duration::from_millis(2);
/// How often at most changes of a task's members are said: what ends and is started again all the time
/// is no news.
const NEWS_INTERVAL: Duration = Duration::from_millis(500);
/// How long a new connection may take to prove itself.
const ATTACH_PATIENCE: Duration = Duration::from_secs(5);

/// How long nobody is listened to after a connection that could not be accepted, as where this process
/// has as many open files as it may: it waits there all the while, and would be looked at all the time.
const DEAFNESS: Duration = Duration::from_millis(100);

/// The process's state.
pub struct Server {
    startup: Startup,
    signals: SignalFd,
    exits: ExitLog,
    /// The attached agent.
    agent: Option<Connection>,
    /// The newest connection that has not proven itself, and until when it may.
    stranger: Option<(Connection, Instant)>,
    /// Until when nobody is listened to.
    deaf_until: Option<Instant>,
    /// The one that runs.
    task: Option<Task>,
    /// What runs beside it.
    beside: Beside,
    /// Who sends it something.
    callers: Callers,
    /// When its beginning, or another change, is said.
    say_at: Option<Instant>,
    /// When that was done last.
    said_at: Option<Instant>,
    /// What the next may have of the one before.
    spare: Spare,
    /// Ends that the agent has not told to forget.
    ended: BTreeMap<TaskId, TaskUpdate>,
    /// Whether something of an earlier task is left that would not end.
    is_worn: bool,
    /// Since when there is neither an agent nor a running task.
    idle_since: Instant,
    retiring: bool,
    terminating: bool,
}

impl Server {
    /// Prepares everything that the loop needs.
    pub fn new(startup: Startup) -> anyhow::Result<Self> {
        let mut signals = SigSet::empty();
        for signal in [
            Signal::SIGCHLD,
            Signal::SIGTERM,
            Signal::SIGINT,
            Signal::SIGHUP,
        ] {
            signals.add(signal);
        }
        signals.thread_block().context("failed to block signals")?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&signals, flags).context("failed to watch signals")?;
        set_child_subreaper(true).context("failed to become a subreaper")?;
        startup
            .listener
            .set_nonblocking(true)
            .context("failed to prepare the socket")?;
        let exits = ExitLog::open(&startup.dir)?;
        Ok(Self {
            startup,
            signals,
            exits,
            agent: None,
            stranger: None,
            deaf_until: None,
            task: None,
            beside: Beside::default(),
            callers: Callers::default(),
            say_at: None,
            said_at: None,
            spare: Spare::default(),
            ended: BTreeMap::new(),
            is_worn: false,
            idle_since: Instant::now(),
            retiring: false,
            terminating: false,
        })
    }

    /// Serves until there is nothing left to do.
    pub fn run(mut self) -> anyhow::Result<()> {
        while !self.is_done(Instant::now()) {
            let ready = self.wait()?;
            // Ends first: a kill must not be counted against a task that had ended.
            if ready.signals {
                self.on_signals()?;
            }
            if ready.outputs != 0 {
                self.on_output(ready.outputs);
            }
            if ready.input {
                self.on_input_room();
            }
            if ready.attempts {
                self.on_answers();
            }
            if ready.agent {
                self.on_agent();
            }
            if ready.stranger {
                self.on_stranger();
            }
            if ready.listener {
                self.on_connection();
            }
            self.on_deadlines(Instant::now());
            self.take_input();
        }
        std::mem::take(&mut self.spare).discard();
        if let Some(group) = self.startup.cgroup.take() {
            // Left to the agent when it fails; nothing runs in it any more.
            let _ = group.leave();
        }
        if !self.terminating {
            // Tells the agent that nothing was left behind: a task that it was about to hand over
            // can go to another executor.
            let _ = std::fs::remove_file(self.startup.dir.join(SOCKET_FILE));
        }
        Ok(())
    }

    fn is_done(&mut self, now: Instant) -> bool {
        if self.task.is_some() || self.agent.is_some() {
            self.idle_since = now;
        }
        // A task that has ended is written down, where an agent finds it.
        let idle = now.duration_since(self.idle_since) >= IDLE_EXIT;
        idle || (self.retiring && self.task.is_none() && self.ended.is_empty())
    }

    fn wait(&self) -> anyhow::Result<Ready> {
        let now = Instant::now();
        let fds = [
            Some(self.signals.as_fd()),
            self.deaf_until
                .is_none()
                .then(|| self.startup.listener.as_fd()),
            self.agent.as_ref().map(AsFd::as_fd),
            self.stranger
                .as_ref()
                .map(|(connection, _)| connection.as_fd()),
        ];
        let outputs = || self.outputs().map(|(bit, outputs)| (bit, outputs.fds(now)));
        let streams = outputs().flat_map(|(_, fds)| fds);
        let readers = fds.into_iter().chain(streams).flatten();
        let attempts = || {
            let of_task = self.task.iter().flat_map(Task::attempt_fds);
            of_task.chain(self.beside.fds())
        };
        let readers = readers.chain(attempts());
        let readers = readers.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        let input = self.task.as_ref().and_then(Task::input_fd);
        let writers = input.map(|fd| PollFd::new(fd, PollFlags::POLLOUT));
        let mut polled: Vec<PollFd<'_>> = readers.chain(writers).collect();
        match poll(&mut polled, self.timeout(now)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("failed to wait for events"),
        }
        let mut events = polled.iter().map(|fd| fd.any().unwrap_or(false));
        let mut next = |fd: Option<_>| fd.is_some() && events.next().unwrap_or(false);
        let mut ready = Ready {
            signals: next(fds[0]),
            listener: next(fds[1]),
            agent: next(fds[2]),
            stranger: next(fds[3]),
            outputs: 0,
            attempts: false,
            input: false,
        };
        for (bit, [stdout, stderr]) in outputs() {
            ready.outputs |= u32::from(next(stdout)) << bit;
            ready.outputs |= u32::from(next(stderr)) << (bit + 1);
        }
        for attempt in attempts() {
            ready.attempts |= next(Some(attempt));
        }
        ready.input = next(input);
        Ok(ready)
    }

    /// With the first of the two bits that stand for each in [`Ready`].
    fn outputs(&self) -> impl Iterator<Item = (usize, &Outputs)> {
        let all = self.task.iter().flat_map(Task::outputs);
        all.map(|(number, outputs)| (2 * number, outputs))
    }

    fn on_output(&mut self, readable: u32) {
        let Some(task) = &mut self.task else {
            return;
        };
        let is_set = |bit: usize| readable >> bit & 1 == 1;
        for number in 0..MOST_MEMBERS {
            let readable = [is_set(2 * number), is_set(2 * number + 1)];
            if readable != [false, false] {
                task.on_output(number, readable, Instant::now());
            }
        }
    }

    /// Some that were being started run now, or never will.
    fn on_answers(&mut self) {
        let said = self.beside.on_answers(runs::may_take_along(&self.task));
        self.tell_all(said);
        let now = Instant::now();
        let task = self.task.as_mut();
        if task.is_some_and(|task| task.on_tick(now, &self.startup)) {
            self.on_end();
        }
    }

    fn timeout(&self, now: Instant) -> PollTimeout {
        let task = self.task.as_ref().and_then(|task| task.deadline(now));
        let outputs = self.outputs();
        let outputs = outputs.filter_map(|(_, outputs)| outputs.deadline(now));
        let outputs = outputs.min();
        let stranger = self.stranger.as_ref().map(|(_, until)| *until);
        let idle = self.agent.is_none().then_some(self.idle_since + IDLE_EXIT);
        let beside = self.beside.deadline();
        let deadlines = [
            task,
            outputs,
            beside,
            self.say_at,
            stranger,
            self.deaf_until,
            idle,
        ];
        match deadlines.into_iter().flatten().min() {
            // Rounded up, so that the deadline has come when the wait ends.
            Some(next) => {
                let wait = next.saturating_duration_since(now) + Duration::from_micros(999);
                PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX)
            }
            None => PollTimeout::NONE,
        }
    }

    fn on_signals(&mut self) -> anyhow::Result<()> {
        while let Some(info) = self
            .signals
            .read_signal()
            .context("failed to read a signal")?
        {
            // Children are looked for below; a lost terminal means nothing.
            if let Ok(Signal::SIGTERM | Signal::SIGINT) = Signal::try_from(info.ssi_signo as i32) {
                self.on_terminate();
            }
        }
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(()),
                Ok(status) => {
                    let said = self
                        .beside
                        .on_exit(status, runs::may_take_along(&self.task));
                    let kills = self.beside.take_kills();
                    // Before anybody is told: whoever waits for that may end the task in the next moment.
                    if let Some(task) = self.task.as_mut().filter(|_| kills > 0) {
                        task.forgive_kills(kills);
                    }
                    self.tell_all(said);
                    let ends = |task: &mut Task| task.on_exit(status, &self.startup);
                    if self.task.as_mut().is_some_and(ends) {
                        self.on_end();
                    }
                }
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno).context("failed to reap a process"),
            }
        }
    }

    /// Someone ends this process politely: the task goes first.
    fn on_terminate(&mut self) {
        self.retiring = true;
        self.terminating = true;
        self.ended.clear();
        if let Some(task) = &mut self.task {
            task.kill_with_own_grace(reason::EXECUTOR_TERMINATED, &self.startup);
        }
    }

    fn on_deadlines(&mut self, now: Instant) {
        if let Some(task) = &mut self.task
            && task.deadline(now).is_some_and(|deadline| deadline <= now)
            && task.on_tick(now, &self.startup)
        {
            self.on_end();
        }
        if self.task.as_ref().is_none_or(Task::is_ending) {
            self.beside.begin_no_more(now);
        }
        let said = self.beside.on_tick(now);
        self.tell_all(said);
        self.on_news(now);
        self.deaf_until.take_if(|until| *until <= now);
        if self
            .stranger
            .as_ref()
            .is_some_and(|(_, until)| *until <= now)
        {
            self.stranger = None;
        }
    }

    /// Says how the task is, where something has changed and not too often.
    fn on_news(&mut self, now: Instant) {
        let Some(task) = self.task.as_mut().filter(|task| task.has_begun()) else {
            return;
        };
        if self.said_at.is_none() && self.say_at.is_none() {
            self.say_at = Some(now + BEGINNING);
        }
        if task.take_news() && self.say_at.is_none() {
            let said_at = self.said_at.map(|at| at + NEWS_INTERVAL);
            self.say_at = Some(said_at.map_or(now, |at| at.max(now)));
        }
        if self.say_at.is_some_and(|at| at <= now) {
            (self.say_at, self.said_at) = (None, Some(now));
            let update = task.update().clone();
            self.say(update);
        }
    }

    /// The task has ended: kept first, said second.
    fn on_end(&mut self) {
        let Some(mut task) = self.task.take() else {
            return;
        };
        (self.say_at, self.said_at) = (None, None);
        self.is_worn |= task.is_left_over();
        self.spare = task.take_spare(&self.startup);
        self.end_input();
        self.keep_end(task.into_update());
        if !self.retiring {
            self.spare.expect_next();
        }
    }

    fn keep_end(&mut self, update: TaskUpdate) {
        // Said all the same: the agent that hears it keeps it.
        self.exits.append([&update]).unwrap_or_else(say_error);
        if self.exits.has_outgrown() {
            let kept = self.ended.values().chain([&update]);
            self.exits.replace(kept).unwrap_or_else(say_error);
        }
        self.say(update.clone());
        if !(self.terminating || (self.retiring && self.agent.is_none())) {
            self.ended.insert(update.task.clone(), update);
        }
    }

    fn say(&mut self, update: TaskUpdate) {
        self.tell(&FromExecutor::Update(update));
    }

    fn tell(&mut self, frame: &FromExecutor) {
        if let Some(agent) = &mut self.agent
            && agent.send(frame).is_err()
        {
            self.agent = None;
        }
    }

    fn tell_all(&mut self, frames: Vec<FromExecutor>) {
        for frame in &frames {
            self.tell(frame);
        }
    }

    fn on_connection(&mut self) {
        let accepted = self.startup.listener.accept();
        match accepted.and_then(|(stream, _)| Connection::new(stream)) {
            Ok(connection) => {
                self.stranger = Some((connection, Instant::now() + ATTACH_PATIENCE));
            }
            // One that is gone again before it is accepted is no error; any other is still there.
            Err(_) => self.deaf_until = Some(Instant::now() + DEAFNESS),
        }
    }

    fn on_stranger(&mut self) {
        let Some((mut connection, until)) = self.stranger.take() else {
            return;
        };
        if !connection.fill().unwrap_or(false) {
            return;
        }
        match connection.next_frame() {
            Ok(None) => self.stranger = Some((connection, until)),
            Ok(Some(ToExecutor::Attach { token })) if token == self.startup.token => {
                self.on_attach(connection);
            }
            // A wrong token or other first words are hung up on.
            Ok(Some(_)) | Err(_) => {}
        }
    }

    fn on_attach(&mut self, mut connection: Connection) {
        let attached = FromExecutor::Attached {
            identity: self.startup.identity.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            tasks: self.updates().cloned().collect(),
        };
        if connection.send(&attached).is_ok() {
            self.beside.abandon_all(Instant::now());
            self.callers.leave_all();
            // The newest wins: the one before is closed here.
            self.agent = Some(connection);
            self.on_frames();
        }
    }

    /// The state of every task that is here.
    fn updates(&self) -> impl Iterator<Item = &TaskUpdate> {
        let running = self.task.as_ref().map(Task::update);
        self.ended.values().chain(running)
    }

    fn on_agent(&mut self) {
        match self.agent.as_mut().map(Connection::fill) {
            Some(Ok(true)) => self.on_frames(),
            _ => self.agent = None,
        }
    }

    fn on_frames(&mut self) {
        loop {
            let Some(agent) = &mut self.agent else {
                return;
            };
            match agent.next_frame() {
                Ok(Some(frame)) => self.on_frame(frame),
                Ok(None) => return,
                Err(error) => {
                    log::say(format_args!("hung up on the agent: {error}"));
                    self.agent = None;
                }
            }
        }
    }

    fn on_frame(&mut self, frame: ToExecutor) {
        match frame {
            // It is attached already.
            ToExecutor::Attach { .. } => self.agent = None,
            ToExecutor::Launch(launch) => self.on_launch(*launch),
            ToExecutor::Kill { task, grace_ms } => {
                if let Some(known) = self.task.as_mut().filter(|known| *known.id() == task) {
                    let grace = Duration::from_millis(grace_ms);
                    known.kill(reason::KILL_REQUESTED, grace, &self.startup);
                }
            }
            ToExecutor::Run(run) => self.on_run(&run),
            ToExecutor::Abandon(id) => self.beside.abandon(id, Instant::now()),
            ToExecutor::Input(input) => self.on_input(input),
            ToExecutor::CallerLeft(caller) => self.callers.leave(caller),
            ToExecutor::Look(look) => self.on_look(&look),
            // Its cgroup tells.
            ToExecutor::Measure { id, .. } => {
                let tasks = Vec::new();
                self.tell(&FromExecutor::Measured { id, tasks });
            }
            ToExecutor::Resize { task, size } => {
                if let Some(input) = self.input_of(&task) {
                    input.resize(size);
                }
            }
            ToExecutor::Throttle { task, most } => {
                if let Some(known) = self.task.as_mut().filter(|known| *known.id() == task) {
                    known.throttle(most);
                }
            }
            ToExecutor::Forget(task) => {
                self.ended.remove(&task);
            }
            ToExecutor::Retire => self.retiring = true,
        }
    }

    fn on_launch(&mut self, launch: ExecutorLaunch) {
        let id = &launch.launch.task;
        // The same launch, sent again.
        let known = self.updates().find(|update| update.task == *id).cloned();
        if let Some(update) = known {
            return self.say(update);
        }
        if self.task.is_some() {
            return self.refuse(&launch, "this executor has a task already");
        }
        if self.is_worn {
            // Ends that are not forgotten are written down. The agent finds that it has left
            // without a word about this task, and gives that to another.
            log::say("left for another, since something of an earlier task would not end");
            (self.retiring, self.agent) = (true, None);
            return self.ended.clear();
        }
        if self.retiring {
            return self.refuse(&launch, "this executor is ending");
        }
        let spare = std::mem::take(&mut self.spare);
        let task = Task::launch(launch, &self.startup, spare);
        if task.has_ended() {
            self.task = Some(task);
            return self.on_end();
        }
        self.task = Some(task);
    }

    fn refuse(&mut self, launch: &ExecutorLaunch, why: &str) {
        self.say(TaskUpdate {
            task: launch.launch.task.clone(),
            state: TaskState::Error,
            reason: Some(Reason::new(reason::EXECUTOR_FAILED, why)),
            exit_code: None,
            usage: None,
            members: Vec::new(),
        });
    }
}

fn say_error(error: RecordsError) {
    log::say(format_args!("{:#}", anyhow::Error::from(error)));
}

/// What can be read, or written to.
struct Ready {
    signals: bool,
    listener: bool,
    agent: bool,
    stranger: bool,
    /// Two bits for each member of the task: its output and its error.
    outputs: u32,
    /// What was being started, of the task or beside it, runs, or never will.
    attempts: bool,
    /// The task has read what it was sent.
    input: bool,
}

/// So many members have bits.
const MOST_MEMBERS: usize = u32::BITS as usize / 2;
const _: () = assert!(CommandOptions::MAX_COMPANIONS < MOST_MEMBERS);
