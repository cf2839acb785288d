//! A command of a task in this process: what runs of it, and where.
//!
//! Idle → Starting (in a container, which takes a while) → Running → Draining (its first process has
//! ended, or its start has failed; what that left behind is being killed) → Idle, and perhaps again. It
//! never waits for anything, and decides nothing: that is [`supervision`](crate::supervision)'s. What
//! outlives one of its runs (its outputs, its root file system, its part of the cgroup) stays until its
//! task has ended.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::WaitStatus;
use nix::unistd::{Pid, getpid};
use tepui_executor::cgroup::CgroupError;
use tepui_executor::cgroup::limits::memory_of;
use tepui_executor::environment;
use tepui_executor::log;
use tepui_executor::output::Keep;
use tepui_executor::startup::Startup;
use tepui_types::command::{IoLimits, MAIN};
use tepui_types::container::Container;
use tepui_types::task::{CommandWorkload, Workload, reason};
use tepui_types::wire::executor::{DeviceHook, ExecutorLaunch, RunBeside};
use tepui_types::{Bytes, Reason};

use crate::attempt::{self, Attempt, LAST_PATIENCE, PATIENCE};
use crate::beside::{Begun, NotRun, Stdio};
use crate::cast::Role;
use crate::command::{Prepared, Scene};
use crate::container::Mapped;
use crate::folder::SpareFolder;
use crate::group::TaskGroup;
use crate::input::Input;
use crate::outputs::Outputs;
use crate::process::Newborn;
use crate::runtime::Outside;
use crate::share::Share;
use crate::shared::Shared;
use crate::signals::StopSignal;
use crate::stdio::{CommandStdio, Theirs};
use crate::supervision::Part;
use crate::userns::UserNamespace;
use crate::{container, files, hooks, runtime};

/// The folder of companions, beside the sandbox and in this process's own.
const MEMBERS: &str = "members";

/// The command.
pub struct Member {
    /// None for the task's command itself.
    companion: Option<String>,
    /// Whether it may be started again.
    may_return: bool,
    /// What it may have of the task's memory.
    mem: Option<Bytes>,
    phase: Phase,
    /// From its first start to its task's end.
    outputs: Option<Outputs>,
    /// The same, if something may be sent to it.
    input: Option<Input>,
    /// Its own ends of both, kept for its next run.
    theirs: Option<Theirs>,
    place: Place,
    /// What asks it to end.
    stop_signal: StopSignal,
    /// Whether its first process is the first of a PID namespace.
    is_first: bool,
    /// Its own part of the task's cgroup, where there are several.
    share: Option<Share>,
    /// Its root file system, mounted.
    root: Option<PathBuf>,
    /// What is run when its container has gone.
    after: Vec<DeviceHook>,
    /// That, as long as it runs; neither its task's end nor its own next run waits longer for it than for
    /// anything else that is left.
    farewell: Option<Attempt>,
}

enum Phase {
    Idle,
    Starting(Starting),
    Running { child: Pid, since: Instant },
    Draining(Draining),
}

/// A container that is being started.
struct Starting {
    attempt: Attempt,
    /// When that is given up.
    until: Instant,
    /// It is not wanted any more.
    is_stopped: bool,
}

/// What is left of a run.
#[derive(Clone)]
pub struct Draining {
    /// How that has ended.
    pub end: RunEnd,
    /// Since when.
    pub since: Instant,
    /// When the killing is repeated.
    pub next: Instant,
}

/// How a run ends.
#[derive(Clone)]
pub enum RunEnd {
    /// Its first process has ended like that.
    Exited(WaitStatus),
    /// It never began.
    Refused(Reason),
}

/// Where commands beside it run.
enum Place {
    /// Nothing runs beside it.
    Nowhere,
    /// On the machine as it is.
    Machine(Scene),
    /// In a container, of which its runtime notes in this folder.
    Container(PathBuf),
}

/// What a member's start needs of its task.
pub struct Ground<'a> {
    /// The command, launched as a task of its own would be.
    pub launch: &'a ExecutorLaunch,
    /// This process.
    pub startup: &'a Startup,
    /// The cgroup of the task.
    pub group: Option<&'a mut TaskGroup>,
    /// What the task's containers have in common, where there are several.
    pub shared: Option<&'a mut Shared>,
    /// Their users, where those are none of the machine's own.
    pub users: Option<&'a UserNamespace>,
    /// A folder that may be its own.
    pub folder: Option<SpareFolder>,
    /// A line for people that comes before what it writes.
    pub notice: Option<String>,
}

/// What a command beside a member needs of its task.
pub struct Beside<'a> {
    /// This process.
    pub startup: &'a Startup,
    /// The cgroup of the task.
    pub group: Option<&'a TaskGroup>,
    /// What its containers are started in.
    pub outside: Outside<'a>,
}

impl Member {
    /// One that does not run yet.
    pub fn new(role: &Role) -> Self {
        let member = &role.member;
        Self {
            companion: (member.part != Part::Main).then(|| member.name.clone()),
            may_return: member.restart.is_some(),
            mem: role.mem,
            phase: Phase::Idle,
            outputs: None,
            input: None,
            theirs: None,
            place: Place::Nowhere,
            stop_signal: StopSignal::TERM,
            is_first: false,
            share: None,
            root: None,
            after: Vec::new(),
            farewell: None,
        }
    }

    /// Has a part of its own of the task's cgroup from now on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn make_share(
        &mut self,
        of_task: &str,
        name: &str,
        io: Option<(&IoLimits, &Path)>,
    ) -> Result<(), CgroupError> {
        if self.share.is_none() {
            self.share = Some(Share::make(of_task, name, self.mem, io)?);
        }
        Ok(())
    }

    /// Starts it. Where it does not run yet after that, [`Member::on_answer`] says what has become of it.
    ///
    /// # Errors
    /// Says what kept it from that; nothing runs then.
    pub fn start(&mut self, ground: Ground<'_>, now: Instant) -> Result<(), Reason> {
        let Workload::Command(command) = &ground.launch.launch.spec.workload else {
            return Err(failed("this executor runs native commands alone"));
        };
        if let Some(share) = &mut self.share {
            share.begin();
        }
        self.phase = match &command.container {
            Some(container) => Phase::Starting(Starting {
                attempt: self.start_container(command, container, ground)?,
                until: now + PATIENCE,
                is_stopped: false,
            }),
            None => Phase::Running {
                child: self.start_on_machine(command, ground)?,
                since: now,
            },
        };
        Ok(())
    }

    fn start_on_machine(
        &mut self,
        command: &CommandWorkload,
        ground: Ground<'_>,
    ) -> Result<Pid, Reason> {
        let (launch, startup) = (ground.launch, ground.startup);
        let task = &launch.launch;
        if command.argv.is_empty() {
            return Err(Reason::new(
                reason::COMMAND_FAILED,
                "argv is empty: name the program",
            ));
        }
        let mem = ground.group.as_deref().map(TaskGroup::mem);
        // It enters its cgroup while its folder is made.
        let newborn = match ground.group {
            Some(group) => group.take_newborn(),
            None => Newborn::make(&[]),
        };
        let newborn = newborn.map_err(|error| failed(format!("the command's process: {error}")))?;
        let mut env = environment::of(task, startup.agent, &launch.sandbox);
        let given = launch.devices.iter().flat_map(|given| &given.env);
        env.extend(given.cloned());
        let scene = Scene::new(env, PathBuf::from(&launch.sandbox), mem);
        let prepared = Prepared {
            argv: &command.argv,
            scene: &scene,
            volumes: &launch.volumes,
            stdin: command.stdin(),
            keep: Keep::of(command, startup.output_limit),
            folder: ground.folder,
        };
        let child = match self.theirs_again(ground.notice) {
            Some(theirs) => prepared.start_again(&theirs.map_err(stdio_failed)?, newborn)?,
            None => {
                let (child, stdio) = prepared.start(newborn)?;
                self.outputs = Some(stdio.outputs);
                self.input = stdio.input;
                self.theirs = Some(stdio.theirs).filter(|_| self.may_return);
                child
            }
        };
        self.place = Place::Machine(scene);
        Ok(child)
    }

    fn start_container(
        &mut self,
        command: &CommandWorkload,
        container: &Container,
        ground: Ground<'_>,
    ) -> Result<Attempt, Reason> {
        let (launch, startup) = (ground.launch, ground.startup);
        let Some(cgroup) = &launch.cgroup else {
            let message = "containers need cgroups, and this agent runs without: start it as root \
                           where cgroups are mounted";
            return Err(failed(message));
        };
        let sandbox = Path::new(&launch.sandbox);
        let beside = self.folder_in(sandbox.parent().unwrap_or(sandbox));
        let dir = self.folder_in(&startup.dir);
        let theirs = match self.theirs_again(ground.notice) {
            Some(theirs) => theirs,
            None => self.make_theirs(command, sandbox, &beside, startup),
        };
        let theirs = theirs.map_err(stdio_failed)?;
        let cgroup = self.share.as_ref().map_or(cgroup.as_str(), Share::path);
        let name = self.companion.as_deref().unwrap_or(MAIN);
        let stage = ground.users.map(|users| users.stage(name));
        let mapped = ground.users.zip(stage.as_deref());
        let mapped = mapped.map(|(users, stage)| Mapped { users, stage });
        let prepared = container::Prepared {
            launch,
            command,
            container,
            cgroup,
            mem: self
                .mem
                .unwrap_or_else(|| memory_of(&launch.launch.resources)),
            beside: &beside,
            dir: &dir,
            root: self.root.as_deref(),
            shared: ground.shared,
            mapped,
        };
        let started = prepared.start(theirs, startup)?;
        self.after = hooks::after(launch.devices.as_deref());
        self.place = Place::Container(dir);
        self.stop_signal = started.stop_signal;
        self.is_first = started.is_first;
        self.root = Some(started.root);
        Ok(started.init)
    }

    /// Its folder in one of its task's.
    fn folder_in(&self, of_task: &Path) -> PathBuf {
        match &self.companion {
            Some(name) => of_task.join(MEMBERS).join(name),
            None => of_task.to_owned(),
        }
    }

    /// Makes what its first run reads and writes by.
    fn make_theirs(
        &mut self,
        command: &CommandWorkload,
        sandbox: &Path,
        beside: &Path,
        startup: &Startup,
    ) -> io::Result<Theirs> {
        files::make(sandbox, beside)?;
        let keep = Keep::of(command, startup.output_limit);
        let stdio = CommandStdio::make(command.stdin(), beside, keep)?;
        self.outputs = Some(stdio.outputs);
        self.input = stdio.input;
        if self.may_return {
            self.theirs = Some(stdio.theirs.again()?);
        }
        Ok(stdio.theirs)
    }

    /// What its next run reads and writes by, after that line in its standard error; none before the
    /// first.
    fn theirs_again(&mut self, notice: Option<String>) -> Option<io::Result<Theirs>> {
        let theirs = match self.theirs.as_ref()?.again() {
            Ok(theirs) => theirs,
            Err(error) => return Some(Err(error)),
        };
        if let (Some(line), Some(outputs)) = (notice, &mut self.outputs) {
            // Makes room for it. What stays is of processes that would not end.
            outputs.pump([theirs.is_terminal, true], Instant::now());
            let [.., stderr] = &theirs.files;
            // A line more is not worth failing for, nor to wait for a terminal that was stopped.
            let mut room = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
            if poll(&mut room, PollTimeout::ZERO) == Ok(1) {
                let _ = nix::unistd::write(stderr, line.as_bytes());
            }
        }
        Some(Ok(theirs))
    }

    /// Starts a command beside it.
    ///
    /// # Errors
    /// Says what kept it from that.
    pub fn run(&self, run: &RunBeside, stdio: Stdio, ground: Beside<'_>) -> Result<Begun, NotRun> {
        let Beside {
            group,
            startup,
            outside,
        } = ground;
        if !matches!(self.phase, Phase::Running { .. }) {
            return Err(NotRun::Now);
        }
        match &self.place {
            Place::Container(dir) => Ok(runtime::run(startup, dir, outside, run, stdio)?),
            Place::Machine(scene) => {
                let newborn = group.map_or_else(|| Newborn::to_be_made(&[]), TaskGroup::newborn);
                Ok(scene.run(&run.argv, &run.env, stdio, newborn)?)
            }
            Place::Nowhere => Err(NotRun::Now),
        }
    }

    /// Whether it has run, and in no container.
    pub fn is_on_machine(&self) -> bool {
        matches!(self.place, Place::Machine(_))
    }

    /// Since when it has run without an end, if it runs.
    pub fn running_since(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Running { since, .. } => Some(*since),
            Phase::Idle | Phase::Starting(_) | Phase::Draining(_) => None,
        }
    }

    /// Its first process, if it runs.
    pub fn child(&self) -> Option<Pid> {
        match self.phase {
            Phase::Running { child, .. } => Some(child),
            Phase::Idle | Phase::Starting(_) | Phase::Draining(_) => None,
        }
    }

    /// Whether it is being started.
    pub fn is_starting(&self) -> bool {
        matches!(self.phase, Phase::Starting(_))
    }

    /// What can be read when it has been started, or has not.
    pub fn attempt_fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.phase {
            Phase::Starting(starting) => Some(starting.attempt.as_fd()),
            Phase::Idle | Phase::Running { .. } | Phase::Draining(_) => None,
        }
    }

    /// Looks what has become of its start, before a process is taken for anything that was reaped now;
    /// true if it runs since. One that will not, or has taken too long, may have left something, which is
    /// drained as what is left of any run.
    pub fn on_answer(&mut self, reaped: Option<Pid>, now: Instant) -> bool {
        let Phase::Starting(starting) = &mut self.phase else {
            return false;
        };
        let answer = match reaped {
            Some(pid) => starting.attempt.answer_before(pid),
            None => starting.attempt.answer(),
        };
        let is_late = starting.until <= now;
        let answer = answer.or_else(|| {
            is_late.then(|| match starting.is_stopped {
                true => Err(failed("the command did not run")),
                false => Err(failed(attempt::late(PATIENCE))),
            })
        });
        match answer {
            None => return false,
            Some(Ok(child)) => self.phase = Phase::Running { child, since: now },
            Some(Err(reason)) => self.drain(RunEnd::Refused(reason), now),
        }
        matches!(self.phase, Phase::Running { .. })
    }

    fn drain(&mut self, end: RunEnd, now: Instant) {
        self.phase = Phase::Draining(Draining {
            end,
            since: now,
            next: now,
        });
        self.bid_farewell();
    }

    /// Asks its processes to end. One that is being started is given up soon, or asked once it runs.
    pub fn stop(&mut self, now: Instant) {
        if let Phase::Starting(starting) = &mut self.phase {
            starting.until = starting.until.min(now + LAST_PATIENCE);
            starting.is_stopped = true;
        }
        let Some(child) = self.child() else {
            return;
        };
        let group = Pid::from_raw(-child.as_raw());
        // Who is woken by the signal is no longer seen to wait for it.
        let is_heard = !self.is_first || self.stop_signal.is_heard_by(child);
        // They may have ended meanwhile. A stopped process acts on
        // SIGTERM only once it goes on.
        self.stop_signal.send(group);
        let _ = kill(group, Signal::SIGCONT);
        if !is_heard {
            // What ends any other process does not even reach it.
            let _ = kill(child, Signal::SIGKILL);
        }
    }

    /// A process was reaped; true if it was its first.
    pub fn on_exit(&mut self, status: WaitStatus, now: Instant) -> bool {
        if let Some(pid) = status.pid() {
            self.farewell
                .take_if(|helper| helper.answer_before(pid).is_some());
        }
        let first =
            matches!(self.phase, Phase::Running { child, .. } if status.pid() == Some(child));
        if first {
            self.drain(RunEnd::Exited(status), now);
        }
        first
    }

    /// Has a helper run what comes after its container's end.
    fn bid_farewell(&mut self) {
        let Place::Container(dir) = &self.place else {
            return;
        };
        if self.after.is_empty() {
            return;
        }
        let begun = Attempt::begin(|| {
            hooks::run_after(&self.after, dir)
                .unwrap_or_else(|why| log::say(format_args!("after the container's end: {why}")));
            Ok(getpid())
        });
        match begun {
            Ok(helper) => self.farewell = Some(helper),
            Err(error) => log::say(format_args!("after the container's end: {error}")),
        }
    }

    /// Whether a helper, which is not in its cgroup, is at work for it: as it starts, or after its end.
    pub fn is_helped(&self) -> bool {
        self.is_starting() || self.farewell.is_some()
    }

    /// Whether what was killed beside it was killed with it, and that is no end of the task: its run
    /// has ended, or may have. With the first process of a PID namespace the others are reaped before.
    pub fn may_take_along(&self) -> bool {
        let is_running = matches!(self.phase, Phase::Running { .. });
        self.may_return && (!is_running || self.is_first)
    }

    /// Whether it may be started again.
    pub fn may_return(&self) -> bool {
        self.may_return
    }

    /// What is left of its run, if it has ended.
    pub fn draining(&self) -> Option<Draining> {
        match &self.phase {
            Phase::Draining(draining) => Some(draining.clone()),
            Phase::Idle | Phase::Starting(_) | Phase::Running { .. } => None,
        }
    }

    /// Something is left, and is killed again then.
    pub fn wait_until(&mut self, next: Instant) {
        if let Phase::Draining(draining) = &mut self.phase {
            draining.next = next;
        }
    }

    /// When the killing of what is left is repeated, or its start is given up.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Starting(starting) => Some(starting.until),
            Phase::Draining(draining) => Some(draining.next),
            Phase::Idle | Phase::Running { .. } => None,
        }
    }

    /// Nothing is left of its run, or is waited for.
    pub fn set_idle(&mut self) {
        self.phase = Phase::Idle;
    }

    /// Its own part of the task's cgroup, where there are several.
    pub fn share(&self) -> Option<&Share> {
        self.share.as_ref()
    }

    /// What it writes, from its first start to its task's end.
    pub fn outputs(&self) -> Option<&Outputs> {
        self.outputs.as_ref()
    }

    /// Its processes have written to these of its outputs.
    pub fn on_output(&mut self, readable: [bool; 2], now: Instant) {
        if let Some(outputs) = &mut self.outputs {
            outputs.pump(readable, now);
            if outputs.have_ended() {
                // Who has closed a terminal's output reads nothing from it either.
                self.input.take_if(|input| input.is_terminal());
            }
        }
    }

    /// What it is sent, if it reads that.
    pub fn input(&mut self) -> Option<&mut Input> {
        self.input.as_mut()
    }

    /// What can be written to when it has read, if something waits for that.
    pub fn input_fd(&self) -> Option<BorrowedFd<'_>> {
        self.input.as_ref().and_then(Input::fd)
    }

    /// Keeps the last that it wrote: its task has ended.
    pub fn finish(&mut self) {
        (self.theirs, self.input) = (None, None);
        if let Some(outputs) = self.outputs.take() {
            outputs.finish();
        }
    }
}

fn stdio_failed(error: io::Error) -> Reason {
    failed(format!("the command's folder, input and output: {error}"))
}

fn failed(message: impl Into<String>) -> Reason {
    Reason::new(reason::EXECUTOR_FAILED, message)
}
