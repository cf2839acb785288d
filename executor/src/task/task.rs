//! A task of this process, from its launch to its end.
//!
//! Running → Draining (its first process has ended, what it left behind is
//! being killed) → Ended. The server calls [`Task::on_exit`] for each reaped
//! process and [`Task::on_tick`] whenever [`Task::deadline`] has come; neither
//! waits for anything.

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use tepui_executor::cgroup::{Counts, Limits, Reach};
use tepui_executor::environment;
use tepui_executor::log;
use tepui_executor::output::Keep;
use tepui_executor::startup::Startup;
use tepui_types::container::Container;
use tepui_types::task::{CommandWorkload, Workload, reason};
use tepui_types::wire::executor::{ExecutorLaunch, RunBeside, TaskUpdate};
use tepui_types::{Reason, TaskId, TaskState};

use crate::beside::Stdio;
use crate::command::{Prepared, Scene};
use crate::group::TaskGroup;
use crate::input::Input;
use crate::outputs::Outputs;
use crate::process::Newborn;
use crate::processes;
use crate::verdict::{self, Facts};
use crate::{container, runtime, signals};

/// How often the killing is repeated until nothing is left.
const DRAIN_INTERVAL: Duration = Duration::from_millis(2);
/// How long processes that ignore even SIGKILL (stuck in the kernel) may hold
/// up the report.
const DRAIN_PATIENCE: Duration = Duration::from_secs(10);

/// The task.
pub struct Task {
    update: TaskUpdate,
    /// Until nothing of it is left in it.
    group: Option<TaskGroup>,
    /// From then on, if the next task may have it.
    spare: Option<TaskGroup>,
    limits: Limits,
    /// From its start to its end.
    outputs: Option<Outputs>,
    /// The same, if something may be sent to it.
    input: Option<Input>,
    kill_grace_ms: u64,
    /// Where commands beside it run.
    place: Place,
    /// What asks it to end.
    stop_signal: Signal,
    /// Whether its first process is the first of a PID namespace.
    is_first: bool,
    phase: Phase,
    kill: Option<Kill>,
}

enum Phase {
    Running {
        child: Pid,
    },
    Draining {
        status: WaitStatus,
        since: Instant,
        next: Instant,
    },
    Ended,
}

/// Where the task runs.
enum Place {
    /// Nothing runs beside it.
    Nowhere,
    /// On the machine as it is.
    Machine(Scene),
    /// In this process's container.
    Container,
}

/// A kill that was asked for.
struct Kill {
    reason: &'static str,
    force_at: Instant,
}

impl Task {
    /// Starts what `launch` describes, in the cgroup of the task before if there is one; a task that
    /// cannot be started is one that has ended.
    pub fn launch(launch: &ExecutorLaunch, startup: &Startup, earlier: Option<TaskGroup>) -> Self {
        let task = &launch.launch;
        let mut this = Self {
            update: TaskUpdate {
                task: task.task.clone(),
                state: TaskState::Running,
                reason: None,
                exit_code: None,
                usage: None,
                members: Vec::new(),
            },
            group: None,
            spare: earlier,
            limits: Limits::of(&task.resources, None),
            outputs: None,
            input: None,
            kill_grace_ms: task.spec.kill_grace_ms,
            place: Place::Nowhere,
            stop_signal: Signal::SIGTERM,
            is_first: false,
            phase: Phase::Ended,
            kill: None,
        };
        match this.start(launch, startup) {
            Ok(child) => this.phase = Phase::Running { child },
            Err(reason) => {
                this.update.state = TaskState::Error;
                this.update.reason = Some(reason);
                this.is_gone();
                this.say_what_stays();
            }
        }
        this
    }

    fn start(&mut self, launch: &ExecutorLaunch, startup: &Startup) -> Result<Pid, Reason> {
        let failed = |message: String| Reason::new(reason::EXECUTOR_FAILED, message);
        let task = &launch.launch;
        let Workload::Command(command) = &task.spec.workload else {
            return Err(failed("this executor runs native commands alone".into()));
        };
        self.limits = Limits::of(&task.resources, command.pids);
        let options = command.options.as_deref();
        let restrictive =
            options.filter(|options| options.cpuset.is_some() || options.io.is_some());
        let reach = match (&command.container, restrictive) {
            (None, None) => Reach::Needed,
            _ => Reach::All,
        };
        if let Some(earlier) = self.spare.take_if(|_| restrictive.is_some()) {
            // It is not in all hierarchies.
            earlier.discard();
        }
        if let Some(path) = &launch.cgroup {
            let group = TaskGroup::prepare(self.spare.take(), path, self.limits, reach);
            self.group = Some(group.map_err(|error| failed(error.to_string()))?);
        }
        if let Some(options) = restrictive {
            let group = self.group.as_mut().ok_or_else(|| {
                failed(
                    "`cpuset` and `io` need cgroups, and this agent runs without: start it as root \
                     where cgroups are mounted"
                        .into(),
                )
            })?;
            let restricted = group.restrict(options, Path::new(&launch.sandbox));
            restricted.map_err(|error| failed(error.to_string()))?;
        }
        if let Some(container) = &command.container {
            return self.start_container(launch, command, container, startup);
        }
        if command.argv.is_empty() {
            return Err(Reason::new(
                reason::COMMAND_FAILED,
                "argv is empty: name the program",
            ));
        }
        // It enters its cgroup while its folder is made.
        let newborn = match &mut self.group {
            Some(group) => group.take_newborn(),
            None => Newborn::make(&[]),
        };
        let newborn = newborn.map_err(|error| failed(format!("the command's process: {error}")))?;
        let mut env = environment::of(task, startup.agent, &launch.sandbox);
        let given = launch.devices.iter().flat_map(|given| &given.env);
        env.extend(given.cloned());
        let scene = Scene::new(env, PathBuf::from(&launch.sandbox), self.group.is_none());
        let prepared = Prepared {
            argv: &command.argv,
            scene: &scene,
            volumes: &launch.volumes,
            stdin: command.stdin(),
            keep: Keep::of(command, startup.output_limit),
        };
        let (child, stdio) = prepared.start(newborn)?;
        self.outputs = Some(stdio.outputs);
        self.input = stdio.input;
        self.place = Place::Machine(scene);
        Ok(child)
    }

    fn start_container(
        &mut self,
        launch: &ExecutorLaunch,
        command: &CommandWorkload,
        container: &Container,
        startup: &Startup,
    ) -> Result<Pid, Reason> {
        let Some(cgroup) = &launch.cgroup else {
            let message = "containers need cgroups, and this agent runs without: start it as root \
                           where cgroups are mounted";
            return Err(Reason::new(reason::EXECUTOR_FAILED, message));
        };
        let prepared = container::Prepared {
            launch,
            command,
            container,
            cgroup,
        };
        let running = prepared.start(startup)?;
        self.outputs = Some(running.outputs);
        self.input = running.input;
        self.place = Place::Container;
        self.stop_signal = running.stop_signal;
        self.is_first = running.is_first;
        Ok(running.init)
    }

    /// Starts a command beside it.
    pub fn run(&self, run: &RunBeside, stdio: Stdio, startup: &Startup) -> Result<Pid, String> {
        if !matches!(self.phase, Phase::Running { .. }) {
            return Err("the task is ending".into());
        }
        match &self.place {
            Place::Container => runtime::run(startup, run, stdio),
            Place::Machine(scene) => {
                let newborn = match &self.group {
                    Some(group) => group.newborn(),
                    None => Newborn::make(&[]),
                };
                let newborn = newborn.map_err(|error| error.to_string())?;
                let started = scene.run(&run.argv, &run.env, stdio, newborn);
                started.map_err(|reason| reason.message)
            }
            Place::Nowhere => Err("the task does not run".into()),
        }
    }

    /// Which task it is.
    pub fn id(&self) -> &TaskId {
        &self.update.task
    }

    /// Its latest state.
    pub fn update(&self) -> &TaskUpdate {
        &self.update
    }

    /// Its last state.
    pub fn into_update(self) -> TaskUpdate {
        self.update
    }

    /// Whether it has ended and something of it would not.
    pub fn is_left_over(&self) -> bool {
        self.has_ended() && self.group.is_some()
    }

    /// Its cgroup, after its end, if nothing was left in it.
    pub fn take_group(&mut self) -> Option<TaskGroup> {
        self.spare.take()
    }

    /// Whether it has come to its end.
    pub fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended)
    }

    /// Its outputs, until its end.
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

    /// Ends it as its specification says, for the reason of that code.
    pub fn kill_with_own_grace(&mut self, reason: &'static str) {
        self.kill(reason, Duration::from_millis(self.kill_grace_ms));
    }

    /// Asks its processes to end, and makes them after `grace`. Asked again, the
    /// earlier end counts.
    pub fn kill(&mut self, reason: &'static str, grace: Duration) {
        let Phase::Running { child } = self.phase else {
            return;
        };
        let force_at = Instant::now() + grace;
        match &mut self.kill {
            Some(kill) => kill.force_at = kill.force_at.min(force_at),
            None => {
                self.kill = Some(Kill { reason, force_at });
                let group = Pid::from_raw(-child.as_raw());
                // They may have ended meanwhile. A stopped process acts on
                // SIGTERM only once it goes on.
                let _ = kill(group, self.stop_signal);
                let _ = kill(group, Signal::SIGCONT);
                if self.is_first && !signals::is_handled(child, self.stop_signal) {
                    // What ends any other process does not even reach it.
                    let _ = kill(child, Signal::SIGKILL);
                }
            }
        }
        self.on_tick(Instant::now());
    }

    /// When [`Task::on_tick`] wants to be called next.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Running { .. } => self.kill.as_ref().map(|kill| kill.force_at),
            Phase::Draining { next, .. } => Some(*next),
            Phase::Ended => None,
        }
    }

    /// A process was reaped; true when the task has now ended.
    pub fn on_exit(&mut self, status: WaitStatus) -> bool {
        let first = matches!(self.phase, Phase::Running { child } if status.pid() == Some(child));
        if first {
            let now = Instant::now();
            self.phase = Phase::Draining {
                status,
                since: now,
                next: now,
            };
        }
        matches!(self.phase, Phase::Draining { .. }) && self.on_tick(Instant::now())
    }

    /// Forces what is due; true when the task has now ended.
    pub fn on_tick(&mut self, now: Instant) -> bool {
        match self.phase {
            Phase::Running { .. } => {
                if let Some(kill) = &mut self.kill
                    && kill.force_at <= now
                {
                    // Again, until its first process has been reaped.
                    kill.force_at = now + DRAIN_INTERVAL;
                    self.kill_all();
                }
                false
            }
            Phase::Draining { status, since, .. } => {
                let account = self.account();
                if self.is_gone() || now.duration_since(since) > DRAIN_PATIENCE {
                    self.end(status, account);
                    return true;
                }
                self.kill_all();
                self.phase = Phase::Draining {
                    status,
                    since,
                    next: now + DRAIN_INTERVAL,
                };
                false
            }
            Phase::Ended => false,
        }
    }

    /// Whether nothing of it is left; then its cgroup is another's, or removed.
    fn is_gone(&mut self) -> bool {
        let Some(group) = self.group.take() else {
            return !processes::any_left();
        };
        match group.clear() {
            Ok(spare) => self.spare = spare,
            Err(group) => self.group = Some(*group),
        }
        self.group.is_none()
    }

    /// What its processes have used and run into.
    fn account(&mut self) -> Counts {
        match &mut self.group {
            Some(group) => group.counts(),
            None => Counts {
                usage: processes::usage(),
                ..Counts::default()
            },
        }
    }

    fn kill_all(&self) {
        match &self.group {
            Some(group) => group.kill(),
            None => processes::kill_descendants(),
        }
    }

    fn end(&mut self, status: WaitStatus, account: Counts) {
        self.input = None;
        if let Some(outputs) = self.outputs.take() {
            outputs.finish();
        }
        let asked = self.kill.as_ref().map(|kill| kill.reason);
        let facts = Facts {
            status,
            asked,
            oom_kills: account.oom_kills,
            refused_pids: account.refused_pids,
            limits: self.limits,
        };
        let (state, reason, exit_code) = verdict::of(&facts);
        self.update.state = state;
        self.update.reason = reason;
        self.update.exit_code = exit_code;
        self.update.usage = Some(account.usage);
        self.phase = Phase::Ended;
        self.say_what_stays();
    }

    /// The agent ends what is left when this process is gone.
    fn say_what_stays(&self) {
        if let Some(group) = &self.group {
            log::say(format_args!("the cgroup {} stays", group.path()));
        }
    }
}
