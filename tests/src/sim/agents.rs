//! Agents: the real core of an agent and its real journal's records, on a simulated machine.
//!
//! The shell here does what the agent's own event loop does: all records of a round first, in one
//! write, then the rest in order. It may die between the two. Executor processes are small models
//! that keep to the frames: they outlive the agent's process, and keep the ends of their tasks.

use std::collections::BTreeMap;

use tepui_agent::agent::{Action, Agent, Death, ExecutorId, ExecutorKind, Urgency};
use tepui_agent::checkpoint::Record;
use tepui_agent::sandbox::Layout;
use tepui_pressure::Launches;
use tepui_types::task::PartitionPolicy;
use tepui_types::wire::agent::{AgentEffect, AgentFrame, Hello, MAX_BATCH, MasterFrame};
use tepui_types::wire::executor::ProcessIdentity;
use tepui_types::{AgentId, AgentInfo, Bytes, ClusterId, MilliCpus, Resources, TaskId};

use super::Sabotage;
use super::checks::Violation;
use super::executors::{Executor, FromProcess};
use super::leader::{HEARTBEAT_US, SILENCE_US};
use super::network::Place;
use super::scheduler;
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
    pub boot: u64,
    pub life: u64,
    pub process: Option<AgentProcess>,
    pub executors: BTreeMap<ExecutorId, Executor>,
    next_pid: i32,
    /// When masters were last known to hear it, as its file of this boot says.
    contact_ms: Option<u64>,
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
    /// When the introduction of its connection was given.
    hello_ms: u64,
}

impl AgentMachine {
    /// The id that it was given.
    pub fn id(&self) -> Option<AgentId> {
        self.identity.map(|(_, agent)| agent)
    }

    /// Nothing is left of its folder, nor of what ran there.
    pub fn empty(&mut self, nonce: u128) {
        (self.nonce, self.identity) = (nonce, None);
        self.journal.clear();
        self.journal_synced = 0;
        self.executors.clear();
    }

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
        address: None,
        hostname: format!("a{agent}"),
        resources: Resources {
            cpus: MilliCpus(4_000),
            mem: Bytes::gib(4),
            ..Resources::default()
        },
        attributes: Default::default(),
        version: "0.1.0".into(),
        full: None,
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
                contact_ms: None,
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
        let layout = Layout::new(format!("/agent/{number}").into())
            .with_cgroup(Some(format!("tepui/{number}")));
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
        agent.on_contact(machine.contact_ms.unwrap_or(now / MILLI));
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
            hello_ms: now / MILLI,
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
            let unsynced = machine.journal.len() - machine.journal_synced;
            let kept = machine.journal_synced + self.dice.place(unsynced + 1);
            machine.journal.truncate(kept);
            for executor in machine.executors.values_mut() {
                executor.die(self.dice.chance(3_000));
            }
            machine.contact_ms = None;
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
                self.send_to_master(connection, AgentFrame::Heartbeat(now / MILLI));
            }
        }
        let now_ms = now / MILLI;
        let is_deaf_to_silence = self.is_sabotaged(Sabotage::StopNothing);
        let is_short = !self.is_peace && self.dice.chance(500);
        let launches = match is_short {
            true => Launches::Nothing,
            false => Launches::All,
        };
        self.tell(number, |agent, out| {
            agent.on_may_launch(launches);
            if is_deaf_to_silence {
                agent.on_contact(now_ms);
            }
            agent.on_tick(out, now_ms);
        })?;
        let machine = &mut self.agents[number];
        let process = machine.process.as_ref();
        let contact = process.and_then(|process| process.agent.kept_contact());
        machine.contact_ms = contact.or(machine.contact_ms);
        Ok(())
    }

    /// A task counts as gone that its agent was to end before: it runs there no more, unless the agent's
    /// process was not there for as long.
    pub(super) fn check_stopped(&self, id: AgentId, task: &TaskId) -> Result<(), Violation> {
        let PartitionPolicy::StopAfter(after_ms) = scheduler::policy(&task.name) else {
            return Ok(());
        };
        let here = |machine: &&AgentMachine| machine.id() == Some(id);
        let Some(machine) = self.agents.iter().find(here) else {
            return Ok(());
        };
        let was_there = |process: &AgentProcess| process.started_at + after_ms * MILLI < self.now;
        let is_there = machine.process.as_ref().is_some_and(was_there);
        let mut executors = machine.executors.values();
        if is_there && executors.any(|executor| executor.runs(task)) {
            return Err(format!("{task} counts as gone, and runs on agent {id}"));
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
        process.hello_ms = self.now / MILLI;
        let hello = AgentFrame::Hello(Hello {
            cluster: machine.identity.map(|(cluster, _)| cluster),
            agent: machine.identity.map(|(_, agent)| agent),
            nonce: machine.nonce,
            // No folder is copied here.
            process: machine.nonce,
            boot: u128::from(machine.boot),
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
                process.agent.on_contact(process.hello_ms);
                let mut out = Vec::new();
                if process.agent.on_registered(&mut out, welcome.term).is_err() {
                    self.hang_up(connection, Place::Agent(number));
                    return Ok(());
                }
                self.perform(number, out)
            }
            MasterFrame::Effects { term, effects } => {
                for effect in &effects {
                    if let AgentEffect::Launch(launch) = effect
                        && let Some(after) = &launch.after
                    {
                        self.checks.on_promise(&launch.task, after)?;
                    }
                }
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
            MasterFrame::Heard(sent_ms) => self.tell(number, |agent, _| agent.on_contact(sent_ms)),
            MasterFrame::Refused { .. }
            | MasterFrame::OpenStream { .. }
            | MasterFrame::Heartbeat
            | MasterFrame::Masters(_) => Ok(()),
        }
    }

    /// Tells the agent's core something and does what it says.
    pub(super) fn tell(
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
        let machine = &mut self.agents[number];
        machine.journal.extend(records);
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
            // No task of the simulation stores anything.
            Action::Record(_) | Action::Ended(..) | Action::KeepVolumes(_) => {}
            Action::Fetch(_)
            | Action::Remove(_)
            | Action::Prepare(_)
            | Action::Release(_)
            | Action::Check(_) => {
                return Err("plain commands need nothing".into());
            }
            Action::Start(id, ExecutorKind::Native(_)) => {
                let identity = ProcessIdentity {
                    boot_id: machine.boot_id(),
                    pid: machine.next_pid,
                    start_time: self.now,
                };
                machine.next_pid += 1;
                machine.executors.insert(id, Executor::new(identity));
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
            Action::Start(_, ExecutorKind::Wasm(_) | ExecutorKind::Container(_)) => {
                return Err("every task is a plain command".into());
            }
            Action::Find(id) => {
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
            Action::End(_) => return Err("every process is of this release".into()),
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
        // Else they wait for what happens next, ends never for others.
        let [are_ends_due, is_progress_due] = [(); 2].map(|()| self.dice.chance(5_000));
        let mut reports = Vec::new();
        if are_ends_due || is_progress_due || process.agent.has_urgent_statuses() {
            reports = process.agent.take_statuses(Urgency::End, MAX_BATCH);
        }
        if is_progress_due {
            reports.extend(process.agent.take_statuses(Urgency::Progress, MAX_BATCH));
        }
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
                        ..Death::default()
                    };
                    self.tell(number, |agent, out| agent.on_executor_lost(out, id, death))
                }
            },
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
