//! Executor processes: small models that keep to the frames.
//!
//! They outlive the agent's process, start a task once for each launch of one that they do not have,
//! and keep the ends of their tasks until they are told to forget them.

use std::collections::BTreeMap;

use tepui_agent::agent::ExecutorId;
use tepui_types::wire::executor::{ProcessIdentity, TaskUpdate, ToExecutor};
use tepui_types::{TaskId, TaskState};

use super::checks::Violation;
use super::world::{Happening, MILLI, SECOND, World};

/// An executor process, or what it left.
pub struct Executor {
    pub identity: ProcessIdentity,
    tasks: BTreeMap<TaskId, Run>,
    pub is_alive: bool,
    retires: bool,
    /// Whether it went by itself.
    pub left: bool,
}

struct Run {
    state: TaskState,
    is_killed: bool,
}

/// Something of an executor process on its way to the agent, or to it.
#[derive(Debug)]
pub enum FromProcess {
    /// The agent's process reaches it, or finds it dead.
    Found(ExecutorId),
    /// Its tasks have moved.
    Updates(ExecutorId, Vec<TaskUpdate>),
    /// The agent says this to it.
    Said(ExecutorId, Box<ToExecutor>),
}

impl World {
    /// An executor hears something.
    pub(super) fn on_said(
        &mut self,
        number: usize,
        id: ExecutorId,
        message: ToExecutor,
    ) -> Result<(), Violation> {
        let machine = &mut self.agents[number];
        let boot = machine.boot;
        let Some(executor) = machine.executors.get_mut(&id) else {
            return Ok(());
        };
        if !executor.is_alive {
            return Ok(());
        }
        match message {
            // No task of the simulation is checked.
            ToExecutor::Attach { .. }
            | ToExecutor::Run(_)
            | ToExecutor::Abandon(_)
            | ToExecutor::Input(_)
            | ToExecutor::CallerLeft(_)
            | ToExecutor::Look(_)
            | ToExecutor::Measure { .. }
            | ToExecutor::Resize { .. }
            | ToExecutor::Throttle { .. } => {}
            ToExecutor::Launch(launch) => {
                let task = launch.launch.task;
                if executor.tasks.contains_key(&task) {
                    return Ok(());
                }
                if executor.tasks.values().any(|run| !run.state.is_terminal()) {
                    return Err(format!("{id} got {task} beside a task that runs"));
                }
                let ahead = self.checks.ahead_of(&task);
                let alive = machine.executors.values().filter(|other| other.is_alive);
                let mut runs = alive.flat_map(|other| &other.tasks);
                let is_of_line = |(other, run): &(&TaskId, &Run)| {
                    let is_behind = || self.checks.ahead_of(other).contains(&task);
                    !run.state.is_terminal() && (ahead.contains(other) || is_behind())
                };
                if let Some((other, _)) = runs.find(is_of_line) {
                    return Err(format!("{task} begins while {other} runs"));
                }
                let run = Run {
                    state: TaskState::Running,
                    is_killed: false,
                };
                if let Some(executor) = machine.executors.get_mut(&id) {
                    executor.tasks.insert(task.clone(), run);
                }
                self.checks.on_start(&task)?;
                let length = match self.dice.below(10) {
                    0 => self.dice.within(SECOND..20 * SECOND),
                    1..5 => self.dice.within(MILLI..SECOND),
                    _ => self.dice.within(MILLI..50 * MILLI),
                };
                self.after(
                    length,
                    Happening::Exit {
                        agent: number,
                        boot,
                        process: id.0,
                        task: task.to_string(),
                    },
                );
                self.tell_of(number, id, &task);
            }
            ToExecutor::Kill { task, .. } => {
                if let Some(run) = executor.tasks.get_mut(&task)
                    && !run.state.is_terminal()
                {
                    run.is_killed = true;
                    let task = task.to_string();
                    self.after(
                        MILLI,
                        Happening::Exit {
                            agent: number,
                            boot,
                            process: id.0,
                            task,
                        },
                    );
                }
            }
            ToExecutor::Forget(task) => {
                executor.tasks.remove(&task);
                self.leave_if_done(number, id);
            }
            ToExecutor::Retire => {
                executor.retires = true;
                self.leave_if_done(number, id);
            }
        }
        Ok(())
    }

    fn leave_if_done(&mut self, number: usize, id: ExecutorId) {
        let life = self.agents[number].life;
        let Some(executor) = self.agents[number].executors.get_mut(&id) else {
            return;
        };
        if executor.retires && executor.tasks.is_empty() {
            (executor.is_alive, executor.left) = (false, true);
            let what = Box::new(FromProcess::Found(id));
            self.after(
                MILLI,
                Happening::Process {
                    agent: number,
                    life,
                    what,
                },
            );
        }
    }

    pub(super) fn on_exit(
        &mut self,
        number: usize,
        boot: u64,
        process: u64,
        task: &str,
    ) -> Result<(), Violation> {
        let id = ExecutorId(process);
        let task: TaskId = task.parse().map_err(|error| format!("{task}: {error}"))?;
        let fails = self.dice.chance(1_000);
        let machine = &mut self.agents[number];
        let executor = machine
            .executors
            .get_mut(&id)
            .filter(|_| machine.boot == boot);
        let Some(run) = executor
            .filter(|executor| executor.is_alive)
            .and_then(|executor| executor.tasks.get_mut(&task))
        else {
            return Ok(());
        };
        if run.state.is_terminal() {
            return Ok(());
        }
        run.state = match (run.is_killed, fails) {
            (true, _) => TaskState::Killed,
            (false, true) => TaskState::Failed,
            (false, false) => TaskState::Finished,
        };
        self.tell_of(number, id, &task);
        Ok(())
    }

    /// The executor tells its agent of a task, if that is there.
    fn tell_of(&mut self, number: usize, id: ExecutorId, task: &TaskId) {
        let machine = &self.agents[number];
        let Some(run) = machine
            .executors
            .get(&id)
            .and_then(|executor| executor.tasks.get(task))
        else {
            return;
        };
        let updates = vec![update(task, run)];
        let (life, what) = (machine.life, Box::new(FromProcess::Updates(id, updates)));
        self.after(
            300,
            Happening::Process {
                agent: number,
                life,
                what,
            },
        );
    }

    /// An executor process is killed.
    pub(super) fn kill_executor(&mut self, number: usize, id: ExecutorId) {
        let life = self.agents[number].life;
        if let Some(executor) = self.agents[number].executors.get_mut(&id) {
            executor.die(false);
            let what = Box::new(FromProcess::Found(id));
            self.after(
                MILLI,
                Happening::Process {
                    agent: number,
                    life,
                    what,
                },
            );
        }
    }
}

impl Executor {
    pub fn new(identity: ProcessIdentity) -> Self {
        Self {
            identity,
            tasks: BTreeMap::new(),
            is_alive: true,
            retires: false,
            left: false,
        }
    }

    /// It is gone, and with it its tasks; the ends that it wrote down stay, unless they are lost.
    pub fn die(&mut self, loses_ends: bool) {
        self.is_alive = false;
        let stays = |run: &Run| run.state.is_terminal() && !loses_ends;
        self.tasks.retain(|_, run| stays(run));
    }

    /// Whether a task runs in it.
    pub fn runs(&self, task: &TaskId) -> bool {
        let run = self.tasks.get(task).filter(|_| self.is_alive);
        run.is_some_and(|run| !run.state.is_terminal())
    }

    pub fn updates(&self) -> Vec<TaskUpdate> {
        self.tasks
            .iter()
            .map(|(task, run)| update(task, run))
            .collect()
    }

    pub fn ends(&self) -> Vec<TaskUpdate> {
        let ended = self.tasks.iter().filter(|(_, run)| run.state.is_terminal());
        ended.map(|(task, run)| update(task, run)).collect()
    }
}

fn update(task: &TaskId, run: &Run) -> TaskUpdate {
    TaskUpdate {
        task: task.clone(),
        state: run.state,
        reason: None,
        exit_code: None,
        usage: None,
        members: Vec::new(),
    }
}
