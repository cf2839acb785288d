//! What only a leader does, small: sessions of agents, the real allocator, frameworks' turns.
//!
//! It follows the master's own order: effects go to sessions, a session begins with what is owed,
//! silence becomes a command, and everything here is forgotten with the term.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future as _;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tepui_cluster::state::frameworks::Framework;
use tepui_cluster::{Allocator, Command, Decision, Effect, Rejection, State, Turn};
use tepui_master::agents::departures::{Decisions, Departures, Rules};
use tepui_master::proposals::{Committed, ProposeError, Request};
use tepui_master::raft::Leadership;
use tepui_types::wire::agent::{AgentEffect, AgentFrame, MAX_BATCH, MasterFrame, effect_batches};
use tepui_types::{
    AgentId, AgentStatus, FrameworkId, FrameworkPhase, Offer, OfferId, Principal, Reason, TaskId,
    TaskState, Timestamp,
};
use tokio::time::Instant;

use super::checks::Violation;
use super::network::Place;
use super::scheduler;
use super::world::{Happening, MILLI, SECOND, World};

/// Between a leader's looks at deadlines.
const LOOK_US: u64 = 100 * MILLI;
/// Silence after which an agent is given up.
pub const SILENCE_US: u64 = 5 * SECOND;
/// Between heartbeats.
pub const HEARTBEAT_US: u64 = SECOND;
/// Which agents are given up, and how fast.
const RULES: Rules = Rules {
    window: Duration::from_micros(SILENCE_US),
    per_minute: 60,
    silent_share: 50,
};

/// Who waits for a command.
#[derive(Debug)]
pub enum Purpose {
    /// An agent's introduction.
    Register { connection: u64 },
    /// An agent's statuses.
    Report { connection: u64 },
    /// An agent's silence.
    Unreachable(AgentId),
    /// The tasks of an agent that was unreachable for so many milliseconds.
    Replace(AgentId, u64),
    /// A framework's turn.
    Turn {
        framework: FrameworkId,
        incarnation: u64,
        number: u64,
        shown: Shown,
    },
    /// A framework's end after a trap.
    Trap(FrameworkId),
    /// A client's wish, by its number.
    Client { client: usize, ask: u64 },
    /// A client's read, and what had been acknowledged when it came.
    Read { client: usize, acknowledged: u64 },
    /// Deadlines of the state.
    Deadlines,
    /// Nobody in particular.
    Nothing,
}

/// The leader's soft state.
pub struct Leader {
    pub term: u64,
    allocator: Allocator,
    pub sessions: BTreeMap<AgentId, u64>,
    /// Frames of a connection that wait for the one before.
    pub inboxes: BTreeMap<u64, VecDeque<AgentFrame>>,
    pub heard: BTreeMap<AgentId, u64>,
    /// Whether deadlines of the state are being met.
    meets_deadlines: bool,
    departures: Departures,
    /// Agents that are being marked as unreachable.
    marking: BTreeSet<AgentId>,
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

/// Offers that a turn has seen, and for how long it declines what it leaves of them.
#[derive(Debug, Default)]
pub struct Shown {
    offers: Vec<OfferId>,
    refuse_ms: u64,
}

/// What a framework does next.
enum Next {
    Wait,
    Start,
    /// The next turn of this incarnation, with its number.
    Handle(u64, u64),
}

impl Purpose {
    fn turn(turn: &Turn, shown: Shown) -> Self {
        Self::Turn {
            framework: turn.framework,
            incarnation: turn.incarnation,
            number: turn.number,
            shown,
        }
    }
}

impl Host {
    fn next(
        &self,
        script: &scheduler::Script<'_>,
        framework: &Framework,
        now: u64,
        time: Timestamp,
    ) -> Next {
        if self.is_busy || self.rests_until > now {
            return Next::Wait;
        }
        let starts = match framework.phase {
            FrameworkPhase::Starting => true,
            FrameworkPhase::Running => self.instance.is_none(),
            FrameworkPhase::Backoff => framework.restart_at <= time,
            FrameworkPhase::Failed | FrameworkPhase::Removing => return Next::Wait,
        };
        match self.instance {
            _ if starts => Next::Start,
            Some((incarnation, number)) if script.has_work(&self.offers) => {
                Next::Handle(incarnation, number)
            }
            _ => Next::Wait,
        }
    }

    /// The instance is gone; these offers are given back.
    fn give_up(&mut self) -> Vec<OfferId> {
        self.instance = None;
        self.offers.drain(..).map(|offer| offer.id).collect()
    }
}

impl Leader {
    /// What is decided of agents that are not heard of.
    fn look(&mut self, state: &State, begun: Instant, now_us: u64) -> Decisions {
        let now = begun + Duration::from_micros(now_us);
        let with = |status: AgentStatus| {
            let agents = state.agents.values();
            agents.filter(move |agent| agent.status == status)
        };
        let unreachable = with(AgentStatus::Unreachable).map(|agent| agent.id);
        self.departures.see_unreachable(now, unreachable, |agent| {
            let agent = state.agent(agent);
            agent.map_or_else(Vec::new, |agent| state.replacement_times(agent))
        });
        let silences = with(AgentStatus::Active).map(|agent| {
            let heard = *self.heard.entry(agent.id).or_insert(now_us);
            (agent.id, Duration::from_micros(now_us - heard))
        });
        let silences: Vec<_> = silences.collect();
        self.departures.look(now, &silences)
    }

    /// Effects as frames for those who have a session: one agent's keep their order.
    fn frames(&self, state: &State, effects: Vec<Effect>) -> Vec<(u64, MasterFrame)> {
        let mut owed: BTreeMap<AgentId, Vec<AgentEffect>> = BTreeMap::new();
        let mut recorded: BTreeMap<AgentId, Vec<(TaskId, TaskState)>> = BTreeMap::new();
        for effect in effects {
            match effect {
                Effect::Agent(agent, effect) if state.is_wanted(&effect) => {
                    owed.entry(agent).or_default().push(effect);
                }
                Effect::Agent(..) => {}
                Effect::Recorded(agent, tasks) => recorded.entry(agent).or_default().extend(tasks),
                Effect::Archive(_) => {}
            }
        }
        let term = self.term;
        let mut frames = Vec::new();
        for (agent, connection) in &self.sessions {
            for effects in effect_batches(owed.remove(agent).unwrap_or_default()) {
                frames.push((*connection, MasterFrame::Effects { term, effects }));
            }
            for tasks in recorded.remove(agent).unwrap_or_default().chunks(MAX_BATCH) {
                frames.push((*connection, MasterFrame::Recorded(tasks.to_vec())));
            }
        }
        frames
    }
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
        let now_there = self.begun + Duration::from_micros(self.now);
        if let Leadership::Leader { term } = now {
            let state = running.state();
            running.leader = Some(Leader {
                term,
                allocator: Allocator::new(),
                sessions: BTreeMap::new(),
                inboxes: BTreeMap::new(),
                meets_deadlines: false,
                departures: Departures::new(RULES, now_there),
                marking: BTreeSet::new(),
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
        let Some(running) = &mut self.masters[master].running else {
            return Ok(());
        };
        let Some(leader) = &mut running.leader else {
            return Ok(());
        };
        let mut context = Context::from_waker(Waker::noop());
        let delivery = std::pin::pin!(running.log.mailbox.take()).poll(&mut context);
        let Poll::Ready(delivery) = delivery else {
            return Ok(());
        };
        if delivery.overflowed {
            return Err("so little overflows the mailbox".into());
        }
        let state = running.log.view.load();
        leader.allocator.on_changes(&state, &delivery.changes);
        for (connection, frame) in leader.frames(&state, delivery.effects) {
            self.send_to_agent(connection, frame);
        }
        self.allocate(master);
        self.take_turns(master)
    }

    /// Deadlines, silences, starts.
    pub(super) fn on_lead(&mut self, master: usize) -> Result<(), Violation> {
        self.set_clock(master);
        let (begun, now) = (self.begun, self.now);
        let Some(running) = &mut self.masters[master].running else {
            return Ok(());
        };
        let Some(leader) = &mut running.leader else {
            return Ok(());
        };
        let state = running.log.view.load();
        let Decisions {
            mut mark, replace, ..
        } = leader.look(&state, begun, now);
        mark.retain(|agent| leader.marking.insert(*agent));
        for agent in mark {
            let request = Request::new(Principal::Leader, Command::MarkAgentUnreachable { agent });
            running.propose(Purpose::Unreachable(agent), request);
        }
        for (agent, unreachable_ms) in replace {
            let command = Command::ReplaceTasks {
                agent,
                unreachable_ms,
            };
            let request = Request::new(Principal::Leader, command);
            running.propose(Purpose::Replace(agent, unreachable_ms), request);
        }
        let due = state.next_deadline();
        let is_due = due.is_some_and(|due| due <= running.log.clock.now());
        if let Some(leader) = running.leader.as_mut().filter(|_| is_due)
            && !std::mem::replace(&mut leader.meets_deadlines, true)
        {
            let request = Request::new(Principal::Leader, Command::MeetDeadlines);
            running.propose(Purpose::Deadlines, request);
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
        let traps = if self.is_peace { 0 } else { self.faults.traps };
        let Some(running) = &mut self.masters[master].running else {
            return Ok(());
        };
        let Some(leader) = &mut running.leader else {
            return Ok(());
        };
        let state = running.log.view.load();
        let (now, time) = (self.now, running.log.clock.now());
        let mut proposals = Vec::new();
        for framework in state.frameworks.values() {
            let host = leader.hosts.entry(framework.id).or_default();
            let script = scheduler::Script::of(&state, framework);
            match host.next(&script, framework, now, time) {
                Next::Wait => continue,
                Next::Start => {
                    let turn = script.start();
                    let shown = Shown::default();
                    proposals.push((Purpose::turn(&turn, shown), Command::Turn(turn)));
                }
                Next::Handle(incarnation, _) if self.dice.chance(traps) => {
                    // Nothing of the turn remains, and the offers are given back.
                    leader.allocator.answered(&host.give_up());
                    let stop = Command::StopFramework {
                        framework: framework.id,
                        incarnation,
                        reason: Reason::new("trap", "it divided by zero"),
                    };
                    proposals.push((Purpose::Trap(framework.id), stop));
                }
                Next::Handle(incarnation, number) => {
                    let offers = std::mem::take(&mut host.offers);
                    let turn = script.handle((incarnation, number), &offers)?;
                    let shown = Shown {
                        offers: offers.iter().map(|offer| offer.id).collect(),
                        refuse_ms: self.dice.below(3_000),
                    };
                    proposals.push((Purpose::turn(&turn, shown), Command::Turn(turn)));
                }
            }
            host.is_busy = true;
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
            Purpose::Deadlines => {
                if let Some(leader) = self.leader(master) {
                    leader.meets_deadlines = false;
                }
                Ok(())
            }
            Purpose::Client { client, ask } => self.on_client_answer(client, ask, result),
            Purpose::Read {
                client,
                acknowledged,
            } => self.on_read(client, master, acknowledged, result),
            Purpose::Register { connection } => self.on_registered(connection, result),
            Purpose::Report { connection } => self.on_reported(connection, result),
            Purpose::Unreachable(agent) => {
                let Some(leader) = self.leader(master) else {
                    return Ok(());
                };
                leader.marking.remove(&agent);
                let session = leader.sessions.get(&agent).copied();
                if let Some(connection) = session.filter(|_| result.is_ok()) {
                    self.hang_up(connection, Place::Master(master));
                }
                Ok(())
            }
            Purpose::Replace(agent, waited_ms) => {
                let is_lost = result.is_err();
                if let Some(leader) = self.leader(master).filter(|_| is_lost) {
                    leader.departures.replace_again(agent, waited_ms);
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
                shown,
            } => self.on_turn(master, framework, (incarnation, number), shown, result),
        }
    }

    fn on_turn(
        &mut self,
        master: usize,
        framework: FrameworkId,
        (incarnation, number): (u64, u64),
        shown: Shown,
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
        leader
            .allocator
            .decline(&shown.offers, shown.refuse_ms, now);
        let host = leader.hosts.entry(framework).or_default();
        host.is_busy = false;
        if is_committed && !discards {
            host.instance = Some((incarnation, number + 1));
        } else {
            host.rests_until = rests_until;
            leader.allocator.answered(&host.give_up());
        }
        self.allocate(master);
        self.take_turns(master)
    }

    pub(super) fn leader(&mut self, master: usize) -> Option<&mut Leader> {
        self.masters[master].running.as_mut()?.leader.as_mut()
    }

    /// A master's end of a connection is gone.
    pub(super) fn forget_session(&mut self, connection: u64, master: usize) {
        if let Some(leader) = self.leader(master) {
            leader.sessions.retain(|_, session| *session != connection);
            leader.inboxes.remove(&connection);
        }
    }
}
