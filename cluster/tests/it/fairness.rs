//! Random clusters: nothing is offered twice, no limit is passed, nothing that is wanted lies idle,
//! the same events give the same decisions, and shares come out as weights say.

mod checks;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use tepui_cluster::charge::Charge;
use tepui_cluster::{Command, Decision, State};
use tepui_types::constraint::{Constraint, Constraints, Test};
use tepui_types::operation::Operation;
use tepui_types::resources::{ResourceLimit, ResourceRequest};
use tepui_types::role::RoleSettings;
use tepui_types::wish::{ReserveRequest, UnreserveRequest};
use tepui_types::*;

use crate::allocation::Leader;
use crate::support::*;

/// A step; numbers are made to fit what is there.
#[derive(Debug, Clone)]
enum Step {
    Want {
        framework: usize,
        count: u32,
        cpus: u64,
        zone: Option<u64>,
        /// For the last of its roles.
        last: bool,
    },
    Use {
        offer: usize,
        cpus: u64,
    },
    Decline {
        offer: usize,
        refuse_ms: u64,
    },
    End {
        task: usize,
    },
    Machine {
        agent: usize,
        cpus: u64,
    },
    Away {
        agent: usize,
        is_away: bool,
    },
    Lose {
        agent: usize,
    },
    Quota {
        role: usize,
        guarantee: u64,
        limit: Option<u64>,
    },
    Suppress {
        framework: usize,
        suppressed: bool,
    },
    Gang {
        framework: usize,
        parts: Vec<(u32, u64)>,
    },
    LaunchGang {
        offer: usize,
    },
    TakeBack,
    Reserve {
        agent: usize,
        role: usize,
        cpus: u64,
        /// Of what the role above has.
        further: bool,
    },
    Unreserve {
        agent: usize,
        role: usize,
    },
    Pass {
        millis: u64,
    },
}

const ROLES: [&str; 4] = ["x", "y", "y/a", "y/b"];

fn step() -> impl Strategy<Value = Step> {
    let (agent, framework) = (0usize..5, 0usize..6);
    prop_oneof![
        6 => (framework.clone(), 0u32..6, 1u64..5, proptest::option::of(0u64..2), any::<bool>())
            .prop_map(|(framework, count, cpus, zone, last)| {
                Step::Want { framework, count, cpus, zone, last }
            }),
        5 => (any::<usize>(), 1u64..4).prop_map(|(offer, cpus)| Step::Use { offer, cpus }),
        4 => (any::<usize>(), 0u64..300)
            .prop_map(|(offer, refuse_ms)| Step::Decline { offer, refuse_ms }),
        4 => any::<usize>().prop_map(|task| Step::End { task }),
        1 => (agent.clone(), 0u64..9).prop_map(|(agent, cpus)| Step::Machine { agent, cpus }),
        1 => (agent.clone(), any::<bool>()).prop_map(|(agent, is_away)| Step::Away { agent, is_away }),
        1 => agent.prop_map(|agent| Step::Lose { agent }),
        2 => (0usize..4, 0u64..6, proptest::option::of(0u64..9))
            .prop_map(|(role, guarantee, limit)| Step::Quota { role, guarantee, limit }),
        1 => (framework, any::<bool>())
            .prop_map(|(framework, suppressed)| Step::Suppress { framework, suppressed }),
        3 => Just(Step::TakeBack),
        3 => (0usize..6, proptest::collection::vec((1u32..4, 1u64..4), 0..3))
            .prop_map(|(framework, parts)| Step::Gang { framework, parts }),
        3 => any::<usize>().prop_map(|offer| Step::LaunchGang { offer }),
        2 => (0usize..5, 0usize..4, 1u64..3, any::<bool>())
            .prop_map(|(agent, role, cpus, further)| Step::Reserve { agent, role, cpus, further }),
        1 => (0usize..5, 0usize..4).prop_map(|(agent, role)| Step::Unreserve { agent, role }),
        2 => (0u64..200).prop_map(|millis| Step::Pass { millis }),
    ]
}

/// So many tasks, perhaps only in one zone.
fn wanted(count: u32, cpus: u64, zone: Option<u64>) -> Demand {
    let groups = zone.map(|zone| {
        vec![Constraint {
            attribute: "zone".into(),
            test: Test::Equals(zone.to_string()),
        }]
    });
    Demand {
        constraints: Constraints(groups.into_iter().collect()),
        ..Demand::new(count, request(cpus, 1))
    }
}

/// A machine in one of two zones.
fn zoned(cpus: u64) -> AgentInfo {
    AgentInfo {
        address: None,
        attributes: BTreeMap::from([("zone".to_owned(), (cpus % 2).to_string())]).into(),
        ..machine(cpus, 16)
    }
}

/// What a role has, reserved and by tasks, without those that are being ended.
fn stays(state: &State, role: &Role) -> MilliCpus {
    let tasks = state.tasks.values();
    let ending = tasks.filter(|task| task.is_living() && task.kill.is_some());
    let ending = ending.filter(|task| task.role.is_within(role));
    let all = state.role_use(role);
    ending
        .fold(all, |left, task| {
            left.saturating_sub(&Charge::of(&task.resources).at(role))
        })
        .cpus
}

/// A cluster of a few agents and frameworks, and what is offered in it.
struct Play {
    leader: Leader,
    agents: Vec<AgentId>,
    frameworks: Vec<FrameworkId>,
    held: Vec<(FrameworkId, Offer)>,
    launched: u64,
    away: BTreeSet<AgentId>,
    /// Whether someone asks why before each cycle.
    asks: bool,
}

impl Play {
    fn new() -> Self {
        let mut leader = Leader::new();
        let agents = (1..6).map(AgentId).collect();
        for (nonce, cpus) in (1..).zip([4, 2, 8, 3, 1]) {
            let hello = register(nonce, None, zoned(cpus), Vec::new());
            leader.log.accept(hello);
        }
        let roles = ["x", "x", "y", "y/a,x", "y/a", "y/b"];
        let frameworks = roles.iter().enumerate();
        let frameworks = frameworks
            .map(|(n, role)| leader.log.framework(&format!("f{n}"), role))
            .collect();
        Self {
            leader,
            agents,
            frameworks,
            held: Vec::new(),
            launched: 0,
            away: BTreeSet::new(),
            asks: false,
        }
    }

    /// Takes a step and a cycle; answers what the cycle decided.
    fn take(&mut self, step: &Step) -> Vec<Decision> {
        match step {
            Step::Want {
                framework,
                count,
                cpus,
                zone,
                last,
            } => {
                let framework = self.frameworks[*framework];
                let mut turn = self.leader.log.next_turn(framework);
                let roles = &self
                    .leader
                    .log
                    .state
                    .framework(framework)
                    .unwrap()
                    .info
                    .roles;
                let role = roles.iter().last().filter(|_| *last).cloned();
                // Two shapes for each role.
                let role_name = role.as_ref().unwrap_or(roles.first());
                let key = format!("{role_name}-{}", cpus % 2);
                let demand = Demand {
                    role,
                    time_limit_ms: cpus.is_multiple_of(2).then_some(20_000),
                    ..wanted(*count, *cpus, *zone)
                };
                turn.demands.push((key, demand));
                self.leader.apply(Command::Turn(turn));
            }
            Step::Use { offer, cpus } => {
                if let Some((framework, offer)) = self.pick(*offer) {
                    // A framework takes no more than it was offered.
                    let cpus = (*cpus).min(offer.resources.flat(false).cpus.0 / 1000);
                    self.launched += 1;
                    let name = format!("t{}", self.launched);
                    self.leader.use_offer(framework, &offer, &name, cpus);
                }
            }
            Step::Decline { offer, refuse_ms } => {
                if let Some((_, offer)) = self.pick(*offer) {
                    let now = Timestamp(self.leader.now);
                    self.leader.allocator.decline(&[offer.id], *refuse_ms, now);
                }
            }
            Step::End { task } => self.end(*task),
            Step::Machine { agent, cpus } => self.machine(self.agents[*agent], *cpus),
            Step::Away { agent, is_away } => {
                let agent = self.agents[*agent];
                match is_away {
                    true => self.away.insert(agent),
                    false => self.away.remove(&agent),
                };
                self.leader.allocator.set_away(agent, *is_away);
            }
            Step::Lose { agent } => {
                let agent = self.agents[*agent];
                self.leader.apply(Command::MarkAgentUnreachable { agent });
            }
            Step::Quota {
                role,
                guarantee,
                limit,
            } => self.quota(ROLES[*role], *guarantee, *limit),
            Step::Suppress {
                framework,
                suppressed,
            } => {
                let mut turn = self.leader.log.next_turn(self.frameworks[*framework]);
                turn.suppressed = all_roles(
                    &self.leader.log.state,
                    self.frameworks[*framework],
                    *suppressed,
                );
                self.leader.apply(Command::Turn(turn));
            }
            Step::Gang { framework, parts } => {
                let mut turn = self.leader.log.next_turn(self.frameworks[*framework]);
                let parts = parts.iter().map(|(count, cpus)| GangPart {
                    count: *count,
                    request: request(*cpus, 1),
                    constraints: Constraints::default(),
                });
                let parts: Vec<_> = parts.collect();
                let gang = Gang {
                    parts,
                    ..Gang::of(1, request(1, 1))
                };
                let gang = (!gang.parts.is_empty()).then_some(gang);
                turn.gangs.push(("g".into(), gang));
                self.leader.apply(Command::Turn(turn));
            }
            Step::LaunchGang { offer } => self.launch_gang(*offer),
            Step::TakeBack => self.take_back(),
            Step::Reserve {
                agent,
                role,
                cpus,
                further,
            } => {
                let role: Role = ROLES[*role].parse().unwrap();
                let from = role.parent().filter(|_| *further);
                let amounts = request(*cpus, 1);
                let wish = ReserveRequest::new(role, amounts);
                self.operate(*agent, Wish::Reserve(ReserveRequest { from, ..wish }));
            }
            Step::Unreserve { agent, role } => {
                let wish = UnreserveRequest {
                    role: ROLES[*role].parse().unwrap(),
                    amounts: ResourceRequest::default(),
                    disk: None,
                };
                self.operate(*agent, Wish::Unreserve(wish));
            }
            Step::Pass { millis } => {
                self.leader.now += millis;
                // Claims wait for half a minute.
                self.leader.log.time += 500 * millis;
                self.leader.apply(Command::MeetDeadlines);
            }
        }
        if self.asks {
            self.ask();
        }
        self.cycle()
    }

    /// What someone asks meanwhile changes nothing.
    fn ask(&mut self) {
        let (allocator, state) = (&mut self.leader.allocator, &self.leader.log.state);
        allocator.explain(state, self.frameworks[0], &wanted(1, 2, Some(1)));
    }

    fn cycle(&mut self) -> Vec<Decision> {
        let decisions = self.leader.cycle();
        for decision in &decisions {
            match decision {
                Decision::Offer(framework, offer) => self.held.push((*framework, offer.clone())),
                Decision::Rescind(_, id) => self.held.retain(|(_, offer)| offer.id != *id),
            }
        }
        decisions
    }

    fn pick(&mut self, number: usize) -> Option<(FrameworkId, Offer)> {
        let count = self.held.len();
        (count > 0).then(|| self.held.swap_remove(number % count))
    }

    fn end(&mut self, number: usize) {
        let tasks = self.leader.log.state.tasks.values();
        let living: Vec<_> = tasks.filter(|task| task.is_living()).cloned().collect();
        if !living.is_empty() {
            let task = &living[number % living.len()];
            let reports = vec![report(&task.id, TaskState::Finished)];
            let agent = task.agent;
            self.leader.apply(Command::ReportTasks { agent, reports });
        }
    }

    fn machine(&mut self, agent: AgentId, cpus: u64) {
        let known = self.leader.log.state.agent(agent).unwrap().clone();
        let tasks = known.tasks.iter();
        let tasks = tasks.map(|operation| &self.leader.log.state.tasks[operation].id);
        let tasks = tasks.map(|task| report(task, TaskState::Running)).collect();
        let hello = register(known.nonce, Some(agent), zoned(cpus), tasks);
        self.leader.apply(hello);
    }

    fn quota(&mut self, role: &str, guarantee: u64, limit: Option<u64>) {
        let settings = RoleSettings {
            guarantee: request(guarantee, 0),
            limit: ResourceLimit {
                cpus: limit.map(|cpus| MilliCpus(cpus * 1000)),
                ..ResourceLimit::default()
            },
            weight_milli: 1000 + 500 * guarantee as u32,
            preemptible: Some(guarantee.is_multiple_of(2)),
        };
        let role = role.parse().unwrap();
        let set = Command::SetRole {
            role,
            settings,
            force: true,
        };
        // What does not fit into the other quotas is refused, and nothing is changed.
        let applied = self.leader.log.apply(set);
        let state = &self.leader.log.state;
        self.leader.allocator.on_changes(state, &applied.changes);
    }

    /// Launches the gang of an offer, if it is of one.
    fn launch_gang(&mut self, number: usize) {
        let shares = self.held.iter().filter(|(_, offer)| offer.gang.is_some());
        let Some((framework, _)) = shares.clone().nth(number % shares.count().max(1)) else {
            return;
        };
        let framework = *framework;
        let is_its = |(to, offer): &(FrameworkId, Offer)| *to == framework && offer.gang.is_some();
        let (offers, rest) = std::mem::take(&mut self.held).into_iter().partition(is_its);
        self.held = rest;
        let offers: Vec<(FrameworkId, Offer)> = offers;
        let state = &self.leader.log.state;
        let gang = state.framework(framework).unwrap().gangs["g"].gang.clone();
        let mut launches = Vec::new();
        for (_, offer) in &offers {
            let mut left = offer.resources.clone();
            for (part, count) in &offer.gang.as_ref().unwrap().parts {
                let cpus = gang.parts[*part as usize].request.cpus.0 / 1000;
                for _ in 0..*count {
                    self.launched += 1;
                    let name = format!("t{}", self.launched);
                    let picked = left.pick(&request(cpus, 1)).unwrap();
                    left = left.saturating_sub(&picked);
                    match launch(offer.agent, &name, picked) {
                        Operation::Launch(launch) => launches.push(launch),
                        other => panic!("{other:?}"),
                    }
                }
            }
        }
        let mut turn = self.leader.log.next_turn(framework);
        turn.gangs.push(("g".into(), None));
        turn.operations.push(Operation::LaunchGang(launches));
        self.leader.apply(Command::Turn(turn));
        let ids: Vec<_> = offers.iter().map(|(_, offer)| offer.id).collect();
        self.leader.allocator.answered(&ids);
    }

    /// What cannot be is refused, and nothing is changed.
    fn operate(&mut self, agent: usize, wish: Wish) {
        let agent = self.agents[agent];
        let applied = self.leader.log.apply(Command::Operate { agent, wish });
        let state = &self.leader.log.state;
        self.leader.allocator.on_changes(state, &applied.changes);
    }

    /// Takes back what is guaranteed; nobody is brought below their own guarantee by it.
    fn take_back(&mut self) {
        let state = &self.leader.log.state;
        let Some(wish) = self.leader.allocator.plan_preemption(state) else {
            return;
        };
        let before = state.clone();
        let guaranteed = wish.guaranteed.clone();
        // The allocator may have seen less than the state has.
        let applied = self.leader.log.apply(Command::Preempt(wish.clone()));
        let state = &self.leader.log.state;
        self.leader.allocator.on_changes(state, &applied.changes);
        if applied.outcome.is_ok() {
            self.is_not_in_vain(&wish);
        }
        let state = &self.leader.log.state;
        let others = state.roles.values();
        let others = others.filter(|record| {
            !record.role.is_within(&guaranteed) && !guaranteed.is_within(&record.role)
        });
        for record in others {
            let promised = record.settings.guarantee.cpus;
            let (had, has) = (stays(&before, &record.role), stays(state, &record.role));
            assert!(has == had || has >= promised, "{} of {}", has, record.role);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn offers_add_up_keep_to_limits_and_leave_nothing_wanted_idle(
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let mut play = Play::new();
        for step in &steps {
            play.take(step);
            play.nothing_is_had_twice()?;
            play.no_limit_is_passed()?;
            play.gangs_are_whole()?;
            play.reasons_are_counted()?;
            play.nothing_wanted_lies_idle()?;
        }
    }

    #[test]
    fn the_same_events_give_the_same_decisions_whoever_asks_meanwhile(
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let (mut one, mut other) = (Play::new(), Play::new());
        other.asks = true;
        for step in &steps {
            prop_assert_eq!(one.take(step), other.take(step));
        }
    }

    #[test]
    fn equal_agents_are_shared_by_weight_to_within_one(
        weights in proptest::collection::vec(1u32..6, 2..5),
        agents in 1u64..60,
    ) {
        let mut leader = Leader::new();
        let mut frameworks = Vec::new();
        for (n, weight) in weights.iter().enumerate() {
            let role: Role = format!("r{n}").parse().unwrap();
            let weight_milli = weight * 1000;
            let settings = RoleSettings { weight_milli, ..RoleSettings::default() };
            leader.log.accept(Command::SetRole { role, settings, force: false });
            frameworks.push(leader.log.framework(&format!("f{n}"), &format!("r{n}")));
        }
        for _ in 0..agents {
            leader.log.agent(2, 2);
        }
        for framework in &frameworks {
            leader.demand(*framework, "d", 1_000, 1);
        }
        let offers = leader.offers();
        prop_assert_eq!(offers.len() as u64, agents);
        let got = |n: usize| offers.iter().filter(|(to, _)| *to == frameworks[n]).count() as u64;
        for (n, weight) in weights.iter().enumerate() {
            for (m, other) in weights.iter().enumerate() {
                // Without the last agent that it got, nobody has more for its weight than another.
                let (mine, theirs) = (got(n).saturating_sub(1), got(m));
                prop_assert!(mine * u64::from(*other) <= theirs * u64::from(*weight));
            }
        }
    }
}
