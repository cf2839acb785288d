//! What only a leader does, small: sessions of agents, the real allocator, frameworks' turns.
//!
//! It follows the master's own order: effects go to sessions, a session begins with what is owed,
//! silence becomes a command, and everything here is forgotten with the term.

use std::collections::{BTreeMap, VecDeque};

use tepui_cluster::{Accepted, Allocator, Command, Decision, Effect, Rejection, State};
use tepui_master::proposals::{Committed, ProposeError, Request};
use tepui_master::raft::Leadership;
use tepui_types::wire::agent::{
    AgentEffect, AgentFrame, MAX_BATCH, MasterFrame, Welcome, effect_batches,
};
use tepui_types::{
    AgentId, AgentStatus, FrameworkId, FrameworkPhase, Offer, OfferId, Principal, Reason, TaskId,
    TaskState,
};

use super::checks::Violation;
use super::network::Place;
use super::scheduler;
use super::world::{Connection, Happening, MILLI, SECOND, World};

/// Between a leader's looks at deadlines.
const LOOK_US: u64 = 100 * MILLI;
/// Silence after which an agent is given up, and between heartbeats.
pub const SILENCE_US: u64 = 5 * SECOND;
pub const HEARTBEAT_US: u64 = SECOND;

/// Who waits for a command.
#[derive(Debug)]
pub enum Purpose {
    /// An agent's introduction.
    Register { connection: u64 },
    /// An agent's statuses.
    Report { connection: u64 },
    /// An agent's silence.
    Unreachable(AgentId),
    /// A framework's turn.
    Turn {
        framework: FrameworkId,
        incarnation: u64,
        number: u64,
        used: Vec<OfferId>,
        refuse_ms: u64,
    },
    /// A framework's end after a trap.
    Trap(FrameworkId),
    /// A client's wish.
    Client(usize),
    /// A client's read, and what had been acknowledged when it came.
    Read { client: usize, acknowledged: u64 },
    /// Nobody in particular.
    Nothing,
}

/// The leader's soft state.
pub struct Leader {
    pub term: u64,
    allocator: Allocator,
    sessions: BTreeMap<AgentId, u64>,
    /// Frames of a connection that wait for the one before.
    inboxes: BTreeMap<u64, VecDeque<AgentFrame>>,
    heard: BTreeMap<AgentId, u64>,
    hosts: BTreeMap<FrameworkId, Host>,
}

/// Where a framework runs.
#[derive(Default)]
struct Host {
    instance: Option<(u64, u64)>,
    offers: Vec<Offer>,
    is_busy: bool,
    rests_until: u64,
}

impl World {
    /// A master leads from now on, or no more.
    pub(super) fn on_leadership(
        &mut self,
        master: usize,
        now: Leadership,
    ) -> Result<(), Violation> {
        self.hang_up_all(Place::Master(master));
        let Some(running) = &mut self.masters[master].running else {
            return Ok(());
        };
        running.leader = None;
        if let Leadership::Leader { term } = now {
            let state = running.state();
            running.leader = Some(Leader {
                term,
                allocator: Allocator::new(),
                sessions: BTreeMap::new(),
                inboxes: BTreeMap::new(),
                heard: state
                    .agents
                    .keys()
                    .map(|agent| (*agent, self.now))
                    .collect(),
                hosts: BTreeMap::new(),
            });
            self.trace_with(|| format!("master {master} leads term {term}"));
            self.after(LOOK_US, Happening::Lead(master));
        }
        Ok(())
    }

    /// What applied commands left for the leader.
    pub(super) fn on_delivery(&mut self, master: usize) -> Result<(), Violation> {
        use std::future::Future as _;
        let Some(running) = &mut self.masters[master].running else {
            return Ok(());
        };
        let Some(leader) = &mut running.leader else {
            return Ok(());
        };
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let delivery = std::pin::pin!(running.log.mailbox.take()).poll(&mut context);
        let std::task::Poll::Ready(delivery) = delivery else {
            return Ok(());
        };
        let state = running.log.view.load();
        leader.allocator.on_changes(&state, &delivery.changes);
        let mut frames: Vec<(u64, MasterFrame)> = Vec::new();
        if delivery.overflowed {
            return Err("so little overflows the mailbox".into());
        }
        let mut effects: BTreeMap<AgentId, Vec<AgentEffect>> = BTreeMap::new();
        let mut recorded: BTreeMap<AgentId, Vec<(TaskId, TaskState)>> = BTreeMap::new();
        for effect in delivery.effects {
            match effect {
                Effect::Agent(agent, effect) => effects.entry(agent).or_default().push(effect),
                Effect::Recorded(agent, tasks) => recorded.entry(agent).or_default().extend(tasks),
                Effect::Archive(_) => {}
            }
        }
        let term = leader.term;
        for (agent, effects) in effects {
            if let Some(connection) = leader.sessions.get(&agent) {
                for effects in effect_batches(effects) {
                    frames.push((*connection, MasterFrame::Effects { term, effects }));
                }
            }
        }
        for (agent, tasks) in recorded {
            if let Some(connection) = leader.sessions.get(&agent) {
                let chunks = tasks.chunks(MAX_BATCH);
                frames.extend(
                    chunks.map(|chunk| (*connection, MasterFrame::Recorded(chunk.to_vec()))),
                );
            }
        }
        for (connection, frame) in frames {
            self.send_to_agent(connection, frame);
        }
        self.allocate(master);
        self.take_turns(master)
    }

    /// Deadlines, silences, starts.
    pub(super) fn on_lead(&mut self, master: usize) -> Result<(), Violation> {
        self.set_clock(master);
        let now = self.now;
        let Some(running) = &mut self.masters[master].running else {
            return Ok(());
        };
        let Some(leader) = &mut running.leader else {
            return Ok(());
        };
        let state = running.log.view.load();
        let active = state
            .agents
            .values()
            .filter(|agent| agent.status == AgentStatus::Active);
        let silent: Vec<AgentId> = active
            .map(|agent| agent.id)
            .filter(|id| now - *leader.heard.entry(*id).or_insert(now) > SILENCE_US)
            .collect();
        for agent in silent {
            // Once a look: the command is the same each time.
            let request = Request::new(Principal::Leader, Command::MarkAgentUnreachable { agent });
            running.propose(Purpose::Unreachable(agent), request);
        }
        self.wake(master);
        self.allocate(master);
        self.take_turns(master)?;
        self.after(LOOK_US, Happening::Lead(master));
        Ok(())
    }

    fn allocate(&mut self, master: usize) {
        let Some(running) = &mut self.masters[master].running else {
            return;
        };
        let Some(leader) = &mut running.leader else {
            return;
        };
        let state = running.log.view.load();
        for decision in leader.allocator.allocate(&state, running.log.clock.now()) {
            match decision {
                Decision::Offer(framework, offer) => {
                    leader
                        .hosts
                        .entry(framework)
                        .or_default()
                        .offers
                        .push(offer);
                }
                Decision::Rescind(framework, id) => {
                    let host = leader.hosts.entry(framework).or_default();
                    host.offers.retain(|offer| offer.id != id);
                }
            }
        }
    }

    /// Lets every framework that has something to do take its next turn.
    fn take_turns(&mut self, master: usize) -> Result<(), Violation> {
        let Some(running) = &mut self.masters[master].running else {
            return Ok(());
        };
        let Some(leader) = &mut running.leader else {
            return Ok(());
        };
        let state = running.log.view.load();
        let time = running.log.clock.now();
        let mut proposals = Vec::new();
        for framework in state.frameworks.values() {
            let host = leader.hosts.entry(framework.id).or_default();
            if host.is_busy || host.rests_until > self.now {
                continue;
            }
            let id = framework.id;
            let may_start = match framework.phase {
                FrameworkPhase::Starting | FrameworkPhase::Running => host.instance.is_none(),
                FrameworkPhase::Backoff => framework.restart_at <= time,
                FrameworkPhase::Failed | FrameworkPhase::Removing => continue,
            };
            let script = scheduler::Script::of(&state, framework);
            if may_start {
                host.is_busy = true;
                let incarnation = framework.incarnation + 1;
                let purpose = Purpose::Turn {
                    framework: id,
                    incarnation,
                    number: 0,
                    used: Vec::new(),
                    refuse_ms: 0,
                };
                proposals.push((purpose, Command::Turn(script.start())));
                continue;
            }
            let Some((incarnation, number)) = host.instance else {
                continue;
            };
            if !script.has_work(&host.offers) {
                continue;
            }
            host.is_busy = true;
            if !self.is_peace && self.dice.chance(self.faults.traps) {
                // Nothing of the turn remains, and the offers are given back.
                host.instance = None;
                let offers: Vec<_> = host.offers.drain(..).map(|offer| offer.id).collect();
                leader.allocator.answered(&offers);
                let reason = Reason::new("trap", "it divided by zero");
                let stop = Command::StopFramework {
                    framework: id,
                    incarnation,
                    reason,
                };
                proposals.push((Purpose::Trap(id), stop));
                continue;
            }
            let offers = std::mem::take(&mut host.offers);
            let used = offers.iter().map(|offer| offer.id).collect();
            let turn = script.handle((incarnation, number), &offers)?;
            let refuse_ms = self.dice.below(3_000);
            let purpose = Purpose::Turn {
                framework: id,
                incarnation,
                number,
                used,
                refuse_ms,
            };
            proposals.push((purpose, Command::Turn(turn)));
        }
        for (purpose, body) in proposals {
            let principal = match &purpose {
                Purpose::Turn { framework, .. } | Purpose::Trap(framework) => {
                    Principal::Framework(*framework)
                }
                _ => Principal::Leader,
            };
            running.propose(purpose, Request::new(principal, body));
        }
        self.wake(master);
        Ok(())
    }

    /// What became of a command that someone on this master waits for.
    pub(super) fn on_answer(
        &mut self,
        master: usize,
        purpose: Purpose,
        result: Result<Committed, ProposeError>,
    ) -> Result<(), Violation> {
        self.trace_with(|| format!("master {master}: {purpose:?}: {result:?}"));
        if let Ok(Committed { index, outcome }) = &result
            && outcome.is_ok()
        {
            self.checks.on_acknowledged(*index);
        }
        match purpose {
            Purpose::Nothing => Ok(()),
            Purpose::Client(client) => self.on_client_answer(client, master, result),
            Purpose::Read {
                client,
                acknowledged,
            } => self.on_read(client, master, acknowledged, result),
            Purpose::Register { connection } => self.on_registered(connection, result),
            Purpose::Report { connection } => self.on_reported(connection, result),
            Purpose::Unreachable(agent) => {
                if result.is_ok()
                    && let Some(leader) = self.leader(master)
                    && let Some(connection) = leader.sessions.get(&agent).copied()
                {
                    self.hang_up(connection, Place::Master(master));
                }
                Ok(())
            }
            Purpose::Trap(framework) => {
                let rests_until = self.now + SECOND / 10;
                if let Some(leader) = self.leader(master) {
                    let host = leader.hosts.entry(framework).or_default();
                    host.is_busy = false;
                    host.rests_until = rests_until;
                }
                Ok(())
            }
            Purpose::Turn {
                framework,
                incarnation,
                number,
                used,
                refuse_ms,
            } => self.on_turn(
                master,
                framework,
                (incarnation, number),
                (used, refuse_ms),
                result,
            ),
        }
    }

    fn on_turn(
        &mut self,
        master: usize,
        framework: FrameworkId,
        (incarnation, number): (u64, u64),
        (used, refuse_ms): (Vec<OfferId>, u64),
        result: Result<Committed, ProposeError>,
    ) -> Result<(), Violation> {
        let is_committed = matches!(&result, Ok(Committed { outcome: Ok(_), .. }));
        if is_committed {
            self.checks.on_turn(framework, incarnation, number);
        }
        if let Ok(Committed {
            outcome: Err(rejection),
            ..
        }) = &result
            && !matches!(rejection, Rejection::Fenced(_) | Rejection::NotFound(_))
        {
            return Err(format!("a turn of {framework} is refused: {rejection}"));
        }
        let rests_until = self.now + self.dice.below(SECOND / 5);
        let discards = self.dice.chance(500);
        let Some(running) = &mut self.masters[master].running else {
            return Ok(());
        };
        let now = running.log.clock.now();
        let Some(leader) = &mut running.leader else {
            return Ok(());
        };
        leader.allocator.decline(&used, refuse_ms, now);
        let host = leader.hosts.entry(framework).or_default();
        host.is_busy = false;
        if is_committed && !discards {
            host.instance = Some((incarnation, number + 1));
        } else {
            host.instance = None;
            host.rests_until = rests_until;
            let offers: Vec<_> = host.offers.drain(..).map(|offer| offer.id).collect();
            leader.allocator.answered(&offers);
        }
        self.allocate(master);
        self.take_turns(master)
    }

    fn leader(&mut self, master: usize) -> Option<&mut Leader> {
        self.masters[master].running.as_mut()?.leader.as_mut()
    }

    /// An agent is at the door.
    pub(super) fn on_dialled(
        &mut self,
        connection: u64,
        hello: AgentFrame,
    ) -> Result<(), Violation> {
        let Some(Connection { agent, master, .. }) = self.connections.get(&connection) else {
            return Ok(());
        };
        let (agent, master) = (*agent, *master);
        let leads = self.leader(master).is_some();
        let AgentFrame::Hello(hello) = hello else {
            return Err("an agent says nothing of itself first".into());
        };
        if !leads
            || !self
                .network
                .carries(Place::Agent(agent), Place::Master(master))
        {
            self.hang_up(connection, Place::Master(master));
            return Ok(());
        }
        let Some(running) = &mut self.masters[master].running else {
            return Ok(());
        };
        let principal = match hello.agent {
            Some(agent) => Principal::Agent(agent),
            None => Principal::Leader,
        };
        let command = Command::RegisterAgent {
            nonce: hello.nonce,
            agent: hello.agent,
            info: hello.info,
            tasks: hello.tasks,
        };
        running.propose(
            Purpose::Register { connection },
            Request::new(principal, command),
        );
        self.wake(master);
        Ok(())
    }

    fn on_registered(
        &mut self,
        connection: u64,
        result: Result<Committed, ProposeError>,
    ) -> Result<(), Violation> {
        let Some(Connection { master, .. }) = self.connections.get(&connection) else {
            return Ok(());
        };
        let master = *master;
        let agent = match result {
            Ok(Committed {
                outcome: Ok(Accepted::Agent { agent }),
                ..
            }) => agent,
            Ok(Committed { outcome, .. }) => {
                return Err(format!("an agent is turned away: {outcome:?}"));
            }
            Err(_) => {
                self.hang_up(connection, Place::Master(master));
                return Ok(());
            }
        };
        let now = self.now;
        let Some(running) = &mut self.masters[master].running else {
            return Ok(());
        };
        let state = running.log.view.load();
        let Some(leader) = &mut running.leader else {
            return Ok(());
        };
        let term = leader.term;
        let before = leader.sessions.insert(agent, connection);
        leader.heard.insert(agent, now);
        let welcome = Welcome {
            cluster: state.cluster,
            masters: Vec::new(),
            agent,
            term,
            heartbeat_ms: HEARTBEAT_US / MILLI,
            timeout_ms: SILENCE_US / MILLI,
        };
        if let Some(before) = before {
            self.hang_up(before, Place::Master(master));
        }
        // Hanging up the older session took the table's entry with it.
        if let Some(leader) = self.leader(master) {
            leader.sessions.insert(agent, connection);
        }
        self.send_to_agent(connection, MasterFrame::Welcome(welcome));
        if state
            .agent(agent)
            .is_none_or(|agent| agent.status != AgentStatus::Active)
        {
            self.hang_up(connection, Place::Master(master));
            return Ok(());
        }
        for effects in effect_batches(owed(&state, agent)) {
            self.send_to_agent(connection, MasterFrame::Effects { term, effects });
        }
        Ok(())
    }

    /// A frame of an agent's.
    pub(super) fn on_agent_frame(
        &mut self,
        connection: u64,
        frame: AgentFrame,
    ) -> Result<(), Violation> {
        let Some((agent, master)) = self.arrive(connection, true) else {
            return Ok(());
        };
        let now = self.now;
        let Some(leader) = self.leader(master) else {
            return Ok(());
        };
        let session = leader
            .sessions
            .iter()
            .find(|(_, session)| **session == connection);
        let Some(id) = session.map(|(agent, _)| *agent) else {
            return Ok(());
        };
        leader.heard.insert(id, now);
        let inbox = leader.inboxes.entry(connection).or_default();
        let is_first = inbox.is_empty();
        if matches!(frame, AgentFrame::Heartbeat) {
            self.send_to_agent(connection, MasterFrame::Heartbeat);
            return Ok(());
        }
        inbox.push_back(frame);
        if is_first {
            self.report_next(connection, id, master);
        }
        let _ = agent;
        Ok(())
    }

    /// Proposes the oldest frame of a connection; the next waits for what becomes of it.
    fn report_next(&mut self, connection: u64, agent: AgentId, master: usize) {
        let Some(running) = &mut self.masters[master].running else {
            return;
        };
        let Some(leader) = &mut running.leader else {
            return;
        };
        let Some(AgentFrame::Statuses(reports)) =
            leader.inboxes.entry(connection).or_default().front()
        else {
            return;
        };
        let command = Command::ReportTasks {
            agent,
            reports: reports.clone(),
        };
        let request = Request::new(Principal::Agent(agent), command);
        running.propose(Purpose::Report { connection }, request);
        self.wake(master);
    }

    fn on_reported(
        &mut self,
        connection: u64,
        result: Result<Committed, ProposeError>,
    ) -> Result<(), Violation> {
        let Some(Connection { master, .. }) = self.connections.get(&connection) else {
            return Ok(());
        };
        let master = *master;
        if result.is_err() {
            // A report that is not taken is sent again by the agent's next session.
            self.hang_up(connection, Place::Master(master));
            return Ok(());
        }
        let now = self.now;
        let Some(leader) = self.leader(master) else {
            return Ok(());
        };
        if let Some(inbox) = leader.inboxes.get_mut(&connection) {
            inbox.pop_front();
        }
        let session = leader
            .sessions
            .iter()
            .find(|(_, session)| **session == connection);
        if let Some(agent) = session.map(|(agent, _)| *agent) {
            leader.heard.insert(agent, now);
            self.report_next(connection, agent, master);
        }
        Ok(())
    }

    /// A master's end of a connection is gone.
    pub(super) fn forget_session(&mut self, connection: u64, master: usize) {
        if let Some(leader) = self.leader(master) {
            leader.sessions.retain(|_, session| *session != connection);
            leader.inboxes.remove(&connection);
        }
    }
}

fn owed(state: &State, agent: AgentId) -> Vec<AgentEffect> {
    state.owed_to(agent)
}
