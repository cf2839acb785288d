//! A task of this process, from its launch to its end.
//!
//! Its members are its command and that one's companions; what [`Supervision`] says of them is done
//! here. Once they have all ended, what is left of them is killed, and the task has ended. The server
//! calls [`Task::on_exit`] for each reaped process and [`Task::on_tick`] whenever [`Task::deadline`]
//! has come, or one of [`Task::attempt_fds`] can be read; neither waits for anything.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use tepui_executor::cgroup::{Counts, Limits, Reach};
use tepui_executor::log;
use tepui_executor::startup::Startup;
use tepui_types::task::{Workload, reason};
use tepui_types::wire::executor::{ExecutorLaunch, RunBeside, TaskUpdate};
use tepui_types::{MilliCpus, Reason, TaskId, TaskState};

use crate::beside::{Begun, NotRun, Stdio};
use crate::cast;
use crate::fullness;
use crate::group::TaskGroup;
use crate::input::Input;
use crate::member::{Draining, Ground, Member, RunEnd};
use crate::outputs::Outputs;
use crate::share;
use crate::shared::Shared;
use crate::spare::Spare;
use crate::supervision::{Action, Supervision};
use crate::userns::UserNamespace;
use crate::verdict::{self, Facts};
use crate::{container, member, processes};

#[path = "task/clearing.rs"]
mod clearing;

/// How often the killing is repeated until nothing is left.
const DRAIN_INTERVAL: Duration = Duration::from_millis(2);
/// How long processes that ignore even SIGKILL (stuck in the kernel) may hold
/// up the report.
const DRAIN_PATIENCE: Duration = Duration::from_secs(10);

/// The task.
pub struct Task {
    update: TaskUpdate,
    /// Whether its members have moved since that was last asked.
    has_news: bool,
    /// Whether anything of it has run.
    has_begun: bool,
    /// Until nothing of it is left in it.
    group: Option<TaskGroup>,
    /// Of the task before; from its own end on, for the next.
    spare: Spare,
    limits: Limits,
    kill_grace_ms: u64,
    supervision: Supervision,
    members: Vec<Member>,
    /// Each member as a task of its own.
    launches: Vec<ExecutorLaunch>,
    /// What containers have in common, where there are several.
    shared: Option<Shared>,
    /// Their users, where those are none of the machine's own.
    users: Option<UserNamespace>,
    phase: Phase,
    /// What was counted before the present run of a command that is alone.
    before: Counts,
    /// Whether nothing of it is left.
    is_gone: bool,
}

enum Phase {
    /// Nothing was made for it yet.
    New,
    /// Its members run, or will.
    Open,
    /// They have ended, and what is left is killed.
    Clearing {
        since: Instant,
        next: Instant,
        /// What had been counted when there was something left.
        account: Counts,
    },
    /// Its end can be told.
    Ended,
}

impl Task {
    /// Starts what `launch` describes, with what is left of the task before; a task that cannot be
    /// started is one that has ended.
    pub fn launch(launch: ExecutorLaunch, startup: &Startup, spare: Spare) -> Self {
        let task = &launch.launch;
        let pids = match &task.spec.workload {
            Workload::Command(command) => command.pids,
            Workload::Wasm(_) => None,
        };
        let limits = Limits::of(&task.resources, pids);
        let kill_grace_ms = task.spec.kill_grace_ms;
        let update = TaskUpdate {
            task: task.task.clone(),
            state: TaskState::Running,
            reason: None,
            exit_code: None,
            usage: None,
            members: Vec::new(),
        };
        let roles = cast::of(launch);
        let mut watched = Vec::with_capacity(roles.len());
        let mut members = Vec::with_capacity(roles.len());
        let mut launches = Vec::with_capacity(roles.len());
        for role in roles {
            members.push(Member::new(&role));
            watched.push(role.member);
            launches.push(role.launch);
        }
        let grace = Duration::from_millis(kill_grace_ms);
        let mut this = Self {
            update,
            has_news: false,
            has_begun: false,
            group: None,
            spare,
            limits,
            kill_grace_ms,
            supervision: Supervision::new(watched, grace),
            members,
            launches,
            shared: None,
            users: None,
            phase: Phase::New,
            before: Counts::default(),
            is_gone: false,
        };
        this.advance(startup, Instant::now());
        // What a runtime that gave up has left is killed first, on the next tick.
        if let Some(verdict) = this.supervision.verdict()
            && this.is_gone()
        {
            this.end(verdict, None);
        }
        this
    }

    /// Makes what its members need together, before the first of them.
    fn prepare(&mut self, startup: &Startup) -> Result<(), Reason> {
        if !matches!(self.phase, Phase::New) {
            return Ok(());
        }
        self.phase = Phase::Open;
        let launch = &self.launches[0];
        let command = match &launch.launch.spec.workload {
            Workload::Command(command) => command,
            // Its member says that it cannot be.
            Workload::Wasm(_) => return Ok(()),
        };
        let container = command.container.as_deref();
        let options = command.options.as_deref();
        let restrictive =
            options.filter(|options| options.cpuset.is_some() || options.io.is_some());
        let reach = match (container, restrictive) {
            (None, None) => Reach::Needed,
            _ => Reach::All,
        };
        if let Some(earlier) = self.spare.group.take_if(|_| restrictive.is_some()) {
            // It is not in all hierarchies.
            earlier.discard();
        }
        if let Some(path) = &launch.cgroup {
            let group = TaskGroup::prepare(self.spare.group.take(), path, self.limits, reach);
            let group = self
                .group
                .insert(group.map_err(|error| failed(error.to_string()))?);
            group.begin(&startup.dir, &self.update.task);
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
        let Some(container) = container else {
            return Ok(());
        };
        self.users = UserNamespace::of(launch, container)?;
        if self.members.len() > 1 {
            self.shared = Some(Shared::of(launch, container, self.users.as_ref())?);
        }
        Ok(())
    }

    /// Does what its supervision says, until there is nothing to be done now. A container takes a
    /// while to start: before the next one, the server looks at all else.
    fn advance(&mut self, startup: &Startup, now: Instant) {
        while let Some(action) = self.supervision.next(now) {
            match action {
                Action::Start(number) => match self.start(number, startup, now) {
                    Ok(()) if self.members[number].is_starting() => {
                        self.supervision.on_starting(number);
                        break;
                    }
                    Ok(()) => {
                        self.on_started(number, now);
                        break;
                    }
                    Err(reason) => self.supervision.on_refused(number, reason, now),
                },
                Action::Stop(number) => self.members[number].stop(now),
                Action::Force(number) => self.force(number),
            }
        }
        let members = self.supervision.statuses();
        if members != self.update.members {
            self.update.members = members;
            self.has_news = true;
        }
    }

    fn on_started(&mut self, number: usize, now: Instant) {
        self.has_begun = true;
        self.supervision.on_started(number, now);
    }

    /// Looks whether those that are being started run; true where one has begun to.
    fn take_answers(&mut self, reaped: Option<Pid>, now: Instant) -> bool {
        let mut is_news = false;
        for number in 0..self.members.len() {
            if self.members[number].on_answer(reaped, now) {
                self.on_started(number, now);
                is_news = true;
            }
        }
        is_news
    }

    fn start(&mut self, number: usize, startup: &Startup, now: Instant) -> Result<(), Reason> {
        self.prepare(startup)?;
        if let Some(group) = self.group.as_ref().filter(|_| self.members.len() > 1) {
            let name = self.supervision.name(number);
            let share = self.members[number].make_share(
                group.path(),
                name,
                share::io_of(&self.launches[0]),
            );
            share.map_err(|error| failed(error.to_string()))?;
        }
        let (restarts, last) = self.supervision.past(number);
        let notice = last.map(|end| {
            let (count, how) = (restarts + 1, &end.how);
            format!("[tepui: started again, {count}. time, after: {how}]\n")
        });
        let ground = Ground {
            launch: &self.launches[number],
            startup,
            group: self.group.as_mut(),
            shared: self.shared.as_mut(),
            users: self.users.as_ref(),
            folder: self.spare.folder.take(),
            notice,
        };
        self.members[number].start(ground, now)
    }

    /// Kills all of a member.
    fn force(&self, number: usize) {
        match self.members[number].share() {
            Some(share) => share.kill(),
            None => self.kill_all(),
        }
    }

    /// Whether its end is decided, or it has come.
    pub fn is_ending(&self) -> bool {
        self.supervision.is_ending()
    }

    /// Starts a command beside one of its members.
    ///
    /// # Errors
    /// Says what kept it from that.
    pub fn run(&self, run: &RunBeside, stdio: Stdio, startup: &Startup) -> Result<Begun, NotRun> {
        let member = self.living(run.member.as_deref())?;
        let ground = member::Beside {
            startup,
            group: self.group.as_ref(),
            // The network is the same for all.
            outside: container::outside(&self.launches[0], self.users.as_ref()),
        };
        member.run(run, stdio, ground)
    }

    /// Looks whether one of its members has run since then, or since ever if that was before.
    ///
    /// # Errors
    /// Says that it has not.
    pub fn has_run_since(&self, name: Option<&str>, since: Option<Instant>) -> Result<(), NotRun> {
        match self.living(name)?.running_since() {
            Some(begun) if since.is_some_and(|since| begun <= since) => Ok(()),
            Some(_) | None => Err(NotRun::Now),
        }
    }

    /// A member that runs, or will.
    fn living(&self, name: Option<&str>) -> Result<&Member, NotRun> {
        if self.supervision.is_ending() {
            return Err(NotRun::Refused("the task is ending".into()));
        }
        let number = self.number_of(name);
        let number = number.ok_or_else(|| "the task has no command of that name".to_owned())?;
        if self.supervision.is_member_over(number) {
            return Err(NotRun::Refused("the command has ended for good".into()));
        }
        Ok(&self.members[number])
    }

    /// Whether what runs beside a member may be ended at any time because that has ended, to be
    /// started again.
    pub fn may_take_along(&self, member: Option<&str>) -> bool {
        let number = self.number_of(member);
        number.is_some_and(|number| self.members[number].may_take_along())
    }

    fn number_of(&self, member: Option<&str>) -> Option<usize> {
        match member {
            Some(name) => self.supervision.number_of(name),
            None => Some(0),
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

    /// Whether its members have moved since this was last asked.
    pub fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.has_news)
    }

    /// Whether anything of it has run.
    pub fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Lets it have no more of the processors than this, or all that it was given; without a cgroup
    /// nothing holds it.
    pub fn throttle(&mut self, most: Option<MilliCpus>) {
        if let Some(group) = &mut self.group {
            group.throttle(most).unwrap_or_else(log::say);
        }
    }

    /// Whether it has come to its end.
    pub fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended)
    }

    /// Its members' outputs, by their numbers, until its end.
    pub fn outputs(&self) -> impl Iterator<Item = (usize, &Outputs)> {
        let all = self.members.iter().enumerate();
        all.filter_map(|(number, member)| Some((number, member.outputs()?)))
    }

    /// The processes of a member have written to these of its outputs.
    pub fn on_output(&mut self, number: usize, readable: [bool; 2], now: Instant) {
        if let Some(member) = self.members.get_mut(number) {
            member.on_output(readable, now);
        }
    }

    /// What can be read when a member has been started, or has not.
    pub fn attempt_fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.members.iter().filter_map(Member::attempt_fd)
    }

    /// What its command is sent, if it reads that.
    pub fn input(&mut self) -> Option<&mut Input> {
        self.members.first_mut()?.input()
    }

    /// Whether its command runs now, and has not begun to end.
    pub fn does_command_run(&self) -> bool {
        let child = self.members.first().and_then(Member::child);
        child.is_some_and(|child| !processes::is_ending(child))
    }

    /// So many commands beside it were killed: if that was for memory, the task's own end is not. Once its
    /// command ends, they are killed with it.
    pub fn forgive_kills(&mut self, most: u64) {
        if !self.does_command_run() {
            return;
        }
        let kills = self.account().oom_kills;
        self.before.oom_kills = kills.min(self.before.oom_kills + most);
    }

    /// What can be written to when it has read, if something waits for that.
    pub fn input_fd(&self) -> Option<BorrowedFd<'_>> {
        self.members.first()?.input_fd()
    }

    /// Ends it as its specification says, for the reason of that code.
    pub fn kill_with_own_grace(&mut self, reason: &'static str, startup: &Startup) {
        self.kill(reason, Duration::from_millis(self.kill_grace_ms), startup);
    }

    /// Asks its processes to end, and makes them after `grace`. Asked again, the
    /// earlier end counts.
    pub fn kill(&mut self, reason: &'static str, grace: Duration, startup: &Startup) {
        let now = Instant::now();
        self.supervision.kill(reason, grace, now);
        self.advance(startup, now);
    }

    /// When [`Task::on_tick`] wants to be called next.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        match &self.phase {
            // Nothing ran when its end was asked for.
            Phase::New | Phase::Open if self.supervision.is_over() => Some(now),
            Phase::New | Phase::Open => {
                let draining = self.members.iter().filter_map(Member::deadline);
                draining.chain(self.supervision.deadline(now)).min()
            }
            Phase::Clearing { next, .. } => Some(*next),
            Phase::Ended => None,
        }
    }

    /// A process was reaped; true when the task has now ended.
    pub fn on_exit(&mut self, status: WaitStatus, startup: &Startup) -> bool {
        let now = Instant::now();
        // What was to be done once it runs, as to stop it, has waited for that.
        let has_begun = self.take_answers(status.pid(), now);
        let mut members = self.members.iter_mut();
        if let Some(number) = members.position(|member| member.on_exit(status, now)) {
            self.supervision.on_exited(number);
        }
        let is_waiting = has_begun
            || matches!(self.phase, Phase::Clearing { .. })
            || self
                .members
                .iter()
                .any(|member| member.deadline().is_some());
        is_waiting && self.on_tick(now, startup)
    }

    /// Does what is due; true when the task has now ended.
    pub fn on_tick(&mut self, now: Instant, startup: &Startup) -> bool {
        if self.has_ended() {
            return false;
        }
        self.take_answers(None, now);
        for number in 0..self.members.len() {
            if let Some(draining) = self.members[number].draining() {
                self.drain(number, draining, now);
            }
        }
        self.advance(startup, now);
        match self.supervision.verdict() {
            Some(verdict) => self.clear(verdict, now),
            None => false,
        }
    }

    /// Kills what is left of a member's run, until there is nothing.
    fn drain(&mut self, number: usize, draining: Draining, now: Instant) {
        let of_task = self.account();
        let is_late = now.duration_since(draining.since) > DRAIN_PATIENCE;
        let member = &self.members[number];
        let is_drained = match (member.share(), member.may_return(), &self.group) {
            (Some(share), ..) => share.is_empty() && !member.is_helped(),
            (None, true, Some(group)) => group.is_quiet(),
            (None, true, None) => !processes::any_left(),
            // It is the whole task.
            (None, false, _) => self.is_gone(),
        };
        if !is_drained && !is_late {
            self.force(number);
            return self.members[number].wait_until(now + DRAIN_INTERVAL);
        }
        let member = &mut self.members[number];
        member.set_idle();
        let of_run = of_task.since(std::mem::replace(&mut self.before, of_task));
        let (counts, mem) = match member.share() {
            Some(share) => (share.counts(), share.mem()),
            None => (of_run, None),
        };
        let mem = mem.unwrap_or(self.limits.mem);
        let status = match draining.end {
            RunEnd::Exited(status) => status,
            RunEnd::Refused(reason) => {
                let reason = verdict::refused(reason, counts.oom_kills, mem);
                return self.supervision.on_refused(number, reason, now);
            }
        };
        let launch = &self.launches[number];
        let facts = Facts {
            status,
            oom_kills: counts.oom_kills,
            // The bound is the task's, and newer kernels count it there (v2).
            refused_pids: counts.refused_pids.max(of_run.refused_pids),
            mem,
            pids: self.limits.pids,
            full_disk: fullness::given_if_full(
                Path::new(&launch.sandbox),
                launch.launch.resources.disk,
            ),
        };
        self.supervision.on_ended(number, verdict::of(&facts), now);
        if self.supervision.is_over() {
            self.phase = Phase::Clearing {
                since: draining.since,
                next: now,
                account: of_task,
            };
        }
    }
}

fn failed(message: String) -> Reason {
    Reason::new(reason::EXECUTOR_FAILED, message)
}
