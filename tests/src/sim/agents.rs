//! Agents: the real core of an agent and its real journal's records, on a simulated machine.
//!
//! The shell here does what the agent's own event loop does: all records of a round first, in one
//! write, then the rest in order. It may die between the two. Executor processes are small models
//! that keep to the frames: they outlive the agent's process, and keep the ends of their tasks.

use std::collections::BTreeMap;

use tepui_agent::agent::{Action, Agent, Death, ExecutorId, ExecutorKind};
use tepui_agent::checkpoint::Record;
use tepui_agent::sandbox::Layout;
use tepui_types::wire::agent::{AgentFrame, Hello, MAX_BATCH, MasterFrame};
use tepui_types::wire::executor::{ProcessIdentity, TaskUpdate, ToExecutor};
use tepui_types::{AgentId, AgentInfo, Bytes, ClusterId, MilliCpus, Resources, TaskId, TaskState};

use super::Sabotage;
use super::checks::Violation;
use super::leader::{HEARTBEAT_US, SILENCE_US};
use super::network::Place;
use super::world::{Connection, Happening, MILLI, SECOND, World};

/// Between an agent's looks at the time.
const TICK_US: u64 = 250 * MILLI;
/// Between an agent's dials.
const DIAL_US: u64 = 200 * MILLI;

/// A machine for an agent.
pub struct AgentMachine {
    /// The files of its folder.
    nonce: u128,
    identity: Option<(ClusterId, AgentId)>,
    journal: Vec<Record>,
    /// Of the journal, what is on the disk for sure.
    journal_synced: usize,
    /// Counts the machine's boots, and the agent's processes.
    boot: u64,
    pub life: u64,
    pub process: Option<AgentProcess>,
    executors: BTreeMap<ExecutorId, Executor>,
    next_pid: i32,
}

/// An agent's process.
pub struct AgentProcess {
    agent: Agent,
    connection: Option<u64>,
    is_registered: bool,
    heard_at: u64,
    beat_at: u64,
    dial_at: u64,
    next_master: usize,
    started_at: u64,
    ticked_at: u64,
}

/// An executor process, or what it left.
struct Executor {
    identity: ProcessIdentity,
    tasks: BTreeMap<TaskId, Run>,
    is_alive: bool,
    retires: bool,
    /// Whether it went by itself.
    left: bool,
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

impl AgentMachine {
    /// Whether nothing is left to be told or done.
    pub fn is_idle(&self) -> bool {
        let process = self.process.as_ref();
        process.is_some_and(|process| process.is_registered && process.agent.living_tasks() == 0)
    }

    /// The executor processes that live.
    pub fn living_executors(&self) -> Vec<ExecutorId> {
        let living = self
            .executors
            .iter()
            .filter(|(_, executor)| executor.is_alive);
        living.map(|(id, _)| *id).collect()
    }

    fn boot_id(&self) -> String {
        format!("boot-{}", self.boot)
    }
}

fn info(agent: usize) -> AgentInfo {
    AgentInfo {
        hostname: format!("a{agent}"),
        resources: Resources {
            cpus: MilliCpus(4_000),
            mem: Bytes::gib(4),
            ..Resources::default()
        },
        attributes: BTreeMap::new(),
        version: "0.1.0".into(),
    }
}

impl World {
    pub(super) fn set_up_agents(&mut self) {
        let count = self.dice.within(1..5) as usize;
        for agent in 0..count {
            self.agents.push(AgentMachine {
                nonce: self.dice.throw_wide(),
                identity: None,
                journal: Vec::new(),
                journal_synced: 0,
                boot: 1,
                life: 0,
                process: None,
                executors: BTreeMap::new(),
                next_pid: 100,
            });
            let delay = self.dice.below(2 * SECOND);
            self.after(delay, Happening::StartAgent(agent));
        }
    }

    pub(super) fn start_agent(&mut self, number: usize) -> Result<(), Violation> {
        let now = self.now;
        if self.is_sabotaged(Sabotage::ForgetJournal) {
            self.agents[number].journal.clear();
        }
        let next_master = self.dice.place(self.masters.len());
        let machine = &mut self.agents[number];
        if machine.process.is_some() {
            return Ok(());
        }
        machine.life += 1;
        let layout = Layout::new(format!("/agent/{number}").into());
        let (mut agent, last_boot) = Agent::restore(layout, machine.journal.clone());
        let boot_id = machine.boot_id();
        let mut first = Vec::new();
        if last_boot.is_some_and(|last| last != boot_id) {
            let known: Vec<ExecutorId> = agent.executor_ids().collect();
            let exits = known.into_iter().map(|id| {
                let executor = machine.executors.get(&id);
                (id, executor.map(Executor::ends).unwrap_or_default())
            });
            let exits = exits.collect();
            agent.on_reboot(&mut first, exits);
        } else {
            agent.on_restart(&mut first);
        }
        // The fresh journal says what those actions would record.
        first.retain(|action| !matches!(action, Action::Record(_)));
        machine.journal = agent.records(&boot_id);
        machine.journal_synced = machine.journal.len();
        machine.process = Some(AgentProcess {
            agent,
            connection: None,
            is_registered: false,
            heard_at: now,
            beat_at: now,
            dial_at: now,
            next_master,
            started_at: now,
            ticked_at: now,
        });
        let life = machine.life;
        self.after(
            MILLI,
            Happening::AgentTick {
                agent: number,
                life,
            },
        );
        self.perform(number, first)
    }

    /// The agent's process ends, or its machine and all that ran there.
    pub(super) fn stop_agent(&mut self, number: usize, power: bool) -> Result<(), Violation> {
        self.hang_up_all(Place::Agent(number));
        let machine = &mut self.agents[number];
        machine.process = None;
        if power {
            machine.boot += 1;
            let kept = machine.journal.len() - machine.journal_synced;
            let kept = match self.options.loses_journals {
                true => self.dice.place(kept + 1),
                false => kept,
            };
            machine.journal.truncate(machine.journal_synced + kept);
            for executor in machine.executors.values_mut() {
                executor.is_alive = false;
                let loses_exits = self.dice.chance(3_000);
                executor
                    .tasks
                    .retain(|_, run| run.state.is_terminal() && !loses_exits);
            }
        }
        self.trace_with(|| format!("agent {number} is gone, power cut: {power}"));
        Ok(())
    }

    pub(super) fn on_agent_tick(&mut self, number: usize, life: u64) -> Result<(), Violation> {
        let now = self.now;
        if self.agents[number].life == life && self.agents[number].process.is_some() {
            self.after(
                TICK_US,
                Happening::AgentTick {
                    agent: number,
                    life,
                },
            );
        }
        let machine = &mut self.agents[number];
        let Some(process) = machine.process.as_mut().filter(|_| machine.life == life) else {
            return Ok(());
        };
        if process.connection.is_some() && now - process.heard_at > SILENCE_US {
            let connection = process.connection;
            if let Some(connection) = connection {
                self.hang_up(connection, Place::Agent(number));
            }
        } else if process.connection.is_none() && process.dial_at <= now {
            self.dial(number);
        } else if process.is_registered && now - process.beat_at >= HEARTBEAT_US {
            process.beat_at = now;
            if let Some(connection) = process.connection {
                self.send_to_master(connection, AgentFrame::Heartbeat);
            }
        }
        let Some(process) = &mut self.agents[number].process else {
            return Ok(());
        };
        if now - process.ticked_at >= SECOND {
            process.ticked_at = now;
            let now_ms = (now - process.started_at) / MILLI;
            return self.tell(number, |agent, out| agent.on_tick(out, now_ms));
        }
        Ok(())
    }

    /// Tries the next master.
    fn dial(&mut self, number: usize) {
        let connection = self.next_connection;
        self.next_connection += 1;
        let count = self.masters.len();
        let machine = &mut self.agents[number];
        let Some(process) = &mut machine.process else {
            return;
        };
        let master = process.next_master % count;
        process.next_master = master + 1;
        process.connection = Some(connection);
        process.is_registered = false;
        process.heard_at = self.now;
        let hello = AgentFrame::Hello(Hello {
            cluster: machine.identity.map(|(cluster, _)| cluster),
            agent: machine.identity.map(|(_, agent)| agent),
            nonce: machine.nonce,
            info: info(number),
            tasks: process.agent.hello_tasks(),
        });
        let delay = self.network.delay_us(&mut self.dice);
        self.connections.insert(
            connection,
            Connection {
                agent: number,
                master,
                to_master_at: self.now + delay,
                to_agent_at: self.now + delay,
                carries: true,
            },
        );
        let hello = Box::new(hello);
        self.after(delay, Happening::Dialled { connection, hello });
    }

    pub(super) fn on_master_frame(
        &mut self,
        connection: u64,
        frame: MasterFrame,
    ) -> Result<(), Violation> {
        let Some((number, _)) = self.arrive(connection, false) else {
            return Ok(());
        };
        let now = self.now;
        let machine = &mut self.agents[number];
        let Some(process) = &mut machine.process else {
            return Ok(());
        };
        if process.connection != Some(connection) {
            return Ok(());
        }
        process.heard_at = now;
        match frame {
            MasterFrame::Welcome(welcome) => {
                let identity = (welcome.cluster, welcome.agent);
                if *machine.identity.get_or_insert(identity) != identity {
                    return Err(format!("agent {number} is given another id: {identity:?}"));
                }
                process.is_registered = true;
                let mut out = Vec::new();
                if process.agent.on_registered(&mut out, welcome.term).is_err() {
                    self.hang_up(connection, Place::Agent(number));
                    return Ok(());
                }
                self.perform(number, out)
            }
            MasterFrame::Effects { term, effects } => {
                let mut out = Vec::new();
                if process.agent.on_effects(&mut out, term, effects).is_err() {
                    self.hang_up(connection, Place::Agent(number));
                    return Ok(());
                }
                self.perform(number, out)
            }
            MasterFrame::Recorded(recorded) => {
                self.tell(number, |agent, out| agent.on_recorded(out, recorded))
            }
            MasterFrame::Refused { .. }
            | MasterFrame::OpenStream { .. }
            | MasterFrame::Heartbeat
            | MasterFrame::Masters(_) => Ok(()),
        }
    }

    /// Tells the agent's core something and does what it says.
    fn tell(
        &mut self,
        number: usize,
        call: impl FnOnce(&mut Agent, &mut Vec<Action>),
    ) -> Result<(), Violation> {
        let mut out = Vec::new();
        if let Some(process) = &mut self.agents[number].process {
            call(&mut process.agent, &mut out);
        }
        self.perform(number, out)
    }

    fn perform(&mut self, number: usize, actions: Vec<Action>) -> Result<(), Violation> {
        let records = actions.iter().filter_map(|action| match action {
            Action::Record(record) => Some(record.clone()),
            _ => None,
        });
        self.agents[number].journal.extend(records);
        let dies =
            !self.is_peace && !actions.is_empty() && self.dice.chance(self.faults.agent_deaths);
        // It dies before the next action, or does them all.
        let done = match dies {
            true => self.dice.place(actions.len() + 1),
            false => actions.len(),
        };
        for action in actions.into_iter().take(done) {
            self.act(number, action)?;
        }
        if dies {
            let delay = self.dice.within(10 * MILLI..2 * SECOND);
            self.after(delay, Happening::StartAgent(number));
            return self.stop_agent(number, false);
        }
        self.send_statuses(number);
        Ok(())
    }

    fn act(&mut self, number: usize, action: Action) -> Result<(), Violation> {
        let delay = self.dice.within(50..2 * MILLI);
        let machine = &mut self.agents[number];
        let life = machine.life;
        match action {
            Action::Record(_) | Action::Ended(..) => {}
            Action::Fetch(_) | Action::Remove(_) => {
                return Err("native tasks need no artifact".into());
            }
            Action::Start(id, ExecutorKind::Native(_)) => {
                let identity = ProcessIdentity {
                    boot_id: machine.boot_id(),
                    pid: machine.next_pid,
                    start_time: self.now,
                };
                machine.next_pid += 1;
                let executor = Executor {
                    identity,
                    tasks: BTreeMap::new(),
                    is_alive: true,
                    retires: false,
                    left: false,
                };
                machine.executors.insert(id, executor);
                let what = Box::new(FromProcess::Found(id));
                self.after(
                    10 * delay,
                    Happening::Process {
                        agent: number,
                        life,
                        what,
                    },
                );
            }
            Action::Start(_, ExecutorKind::Wasm(_)) => return Err("every task is native".into()),
            Action::Find(id, _) => {
                let what = Box::new(FromProcess::Found(id));
                self.after(
                    delay,
                    Happening::Process {
                        agent: number,
                        life,
                        what,
                    },
                );
            }
            Action::Send(id, message) => {
                let what = Box::new(FromProcess::Said(id, Box::new(message)));
                // What was written to the socket arrives, whatever becomes of the agent; its order
                // stays, so all take equally long.
                let life = machine.boot;
                self.after(
                    300,
                    Happening::Process {
                        agent: number,
                        life,
                        what,
                    },
                );
            }
            Action::Clear(id) => {
                machine.executors.remove(&id);
            }
        }
        Ok(())
    }

    fn send_statuses(&mut self, number: usize) {
        let Some(process) = &mut self.agents[number].process else {
            return;
        };
        let (true, Some(connection)) = (process.is_registered, process.connection) else {
            return;
        };
        let reports = process.agent.take_statuses(MAX_BATCH);
        if !reports.is_empty() {
            self.send_to_master(connection, AgentFrame::Statuses(reports));
        }
    }

    pub(super) fn on_process(
        &mut self,
        number: usize,
        life: u64,
        what: FromProcess,
    ) -> Result<(), Violation> {
        let machine = &mut self.agents[number];
        match what {
            FromProcess::Said(id, message) => match life == machine.boot {
                true => self.on_said(number, id, *message),
                false => Ok(()),
            },
            _ if life != machine.life || machine.process.is_none() => Ok(()),
            FromProcess::Updates(id, updates) => {
                self.tell(number, |agent, out| agent.on_updates(out, id, updates))
            }
            FromProcess::Found(id) => match machine.executors.get(&id) {
                Some(executor) if executor.is_alive => {
                    let (identity, tasks) = (executor.identity.clone(), executor.updates());
                    self.tell(number, |agent, out| {
                        agent.on_attached(out, id, identity, tasks)
                    })
                }
                other => {
                    let death = Death {
                        exits: other.map(Executor::ends).unwrap_or_default(),
                        left: other.is_some_and(|executor| executor.left),
                        last_words: String::new(),
                    };
                    self.tell(number, |agent, out| agent.on_executor_lost(out, id, death))
                }
            },
        }
    }

    /// An executor hears something.
    fn on_said(
        &mut self,
        number: usize,
        id: ExecutorId,
        message: ToExecutor,
    ) -> Result<(), Violation> {
        let boot = self.agents[number].boot;
        let Some(executor) = self.agents[number].executors.get_mut(&id) else {
            return Ok(());
        };
        if !executor.is_alive {
            return Ok(());
        }
        match message {
            ToExecutor::Attach { .. } => {}
            ToExecutor::Launch(launch) => {
                let task = launch.launch.task;
                if executor.tasks.contains_key(&task) {
                    return Ok(());
                }
                let run = Run {
                    state: TaskState::Running,
                    is_killed: false,
                };
                executor.tasks.insert(task.clone(), run);
                self.checks.on_start(&task)?;
                let length = match self.dice.chance(1_000) {
                    true => self.dice.within(SECOND..20 * SECOND),
                    false => self.dice.within(MILLI..SECOND),
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
            executor.is_alive = false;
            executor.tasks.retain(|_, run| run.state.is_terminal());
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

    /// An agent's end of a connection is gone.
    pub(super) fn forget_master(&mut self, connection: u64, number: usize) {
        let now = self.now;
        if let Some(process) = &mut self.agents[number].process
            && process.connection == Some(connection)
        {
            process.connection = None;
            process.is_registered = false;
            process.dial_at = now + DIAL_US;
        }
    }
}

impl Executor {
    fn updates(&self) -> Vec<TaskUpdate> {
        self.tasks
            .iter()
            .map(|(task, run)| update(task, run))
            .collect()
    }

    fn ends(&self) -> Vec<TaskUpdate> {
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
    }
}
