//! Random clusters: nothing is offered twice, no limit is passed, nothing that is wanted lies idle,
//! the same events give the same decisions, and shares come out as weights say.

use std::collections::BTreeSet;

use proptest::prelude::*;
use tepui_cluster::{Changes, Command, Decision, State};
use tepui_types::api::demand::Explanation;
use tepui_types::constraint::{Constraint, Constraints, Test};
use tepui_types::operation::Operation;
use tepui_types::resources::{ResourceLimit, ResourceRequest};
use tepui_types::role::RoleSettings;
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
        attributes: [("zone".to_owned(), (cpus % 2).to_string())].into(),
        ..machine(cpus, 16)
    }
}

/// What the tasks of a role have that are not being ended.
fn stays(state: &State, role: &Role) -> MilliCpus {
    let tasks = state.tasks.values();
    let staying = tasks.filter(|task| task.is_living() && task.kill.is_none());
    let staying = staying.filter(|task| task.role.is_within(role));
    MilliCpus(staying.map(|task| task.resources.cpus.0).sum())
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
                // One shape for each role: what several cover depends on their order.
                let key = role.as_ref().unwrap_or(roles.first()).to_string();
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
                    let cpus = (*cpus).min(offer.resources.cpus.0 / 1000);
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
            for (part, count) in &offer.gang.as_ref().unwrap().parts {
                let cpus = gang.parts[*part as usize].request.cpus.0 / 1000;
                for _ in 0..*count {
                    self.launched += 1;
                    let name = format!("t{}", self.launched);
                    match launch(offer.agent, &name, amounts(cpus, 1)) {
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

    /// Whoever has some of a gang's offers has all of them.
    fn gangs_are_whole(&self) -> Result<(), TestCaseError> {
        for framework in &self.frameworks {
            let offers = self.held.iter().filter(|(to, _)| to == framework);
            let shares: Vec<_> = offers
                .filter_map(|(_, offer)| offer.gang.as_deref())
                .collect();
            if shares.is_empty() {
                continue;
            }
            let record = self.leader.log.state.framework(*framework).unwrap();
            let gang = record.gangs.get("g").map(|entry| entry.gang.clone());
            let is_whole = gang.is_some_and(|gang| gang.is_whole(shares.iter().copied()));
            prop_assert!(is_whole, "{framework} has {shares:?}");
        }
        Ok(())
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
        let applied = self.leader.log.apply(Command::Preempt(wish));
        let state = &self.leader.log.state;
        self.leader.allocator.on_changes(state, &applied.changes);
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

    /// What offers and tasks hold together is there.
    fn nothing_is_had_twice(&self) -> Result<(), TestCaseError> {
        for agent in &self.agents {
            let record = self.leader.log.state.agent(*agent).unwrap();
            let offers = self.held.iter().filter(|(_, offer)| offer.agent == *agent);
            let mut taken = Resources::default();
            for (_, offer) in offers {
                taken = taken.checked_add(&offer.resources).unwrap();
            }
            prop_assert!(
                record.free().contains(&taken),
                "{agent} has not got {taken}"
            );
        }
        Ok(())
    }

    /// No offer would let a role pass a limit, were all of them used whole.
    fn no_limit_is_passed(&self) -> Result<(), TestCaseError> {
        for record in self.leader.log.state.roles.values() {
            let offers = self.held.iter();
            let offers = offers.filter(|(_, offer)| offer.role.is_within(&record.role));
            let mut wanted = ResourceRequest::default();
            offers.for_each(|(_, offer)| wanted.include(&offer.resources));
            if wanted.cpus.0 > 0 {
                wanted.add(&self.leader.log.state.role_use(&record.role));
                let passed = record.settings.limit.passed_by(&wanted);
                prop_assert_eq!(passed, None, "{}", record.role);
            }
        }
        Ok(())
    }

    /// The counts that are kept are those that a look at every agent gives.
    fn reasons_are_counted(&mut self) -> Result<(), TestCaseError> {
        for (framework, cpus, zone) in [(0, 2, None), (3, 4, Some(0)), (5, 1, Some(1))] {
            let framework = self.frameworks[framework];
            let demand = wanted(1, cpus, zone);
            let request = &demand.request;
            let mut expected = Explanation::default();
            for agent in &self.agents {
                let record = self.leader.log.state.agent(*agent).unwrap();
                expected.agents += 1;
                if record.standing() != AgentStatus::Active || self.away.contains(agent) {
                    expected.inactive += 1;
                    continue;
                }
                if !demand.constraints.hold_of(&record.info) {
                    expected.constrained += 1;
                    continue;
                }
                let own = self.leader.log.state.framework(framework).unwrap();
                let own = (framework, own.info.roles.first());
                let others = self.held.iter();
                let others = others.filter(|(to, offer)| (*to, &offer.role) != own);
                let others = others.filter(|(_, offer)| offer.agent == *agent);
                let held = others.fold(Resources::default(), |sum, (_, offer)| {
                    sum.checked_add(&offer.resources).unwrap()
                });
                let unused = record.free();
                let short = |counts: &mut std::collections::BTreeMap<String, u64>, short| {
                    for name in Vec::from_iter(short) {
                        *counts.entry(name).or_default() += 1;
                    }
                };
                match (
                    record.info.resources.pick(request),
                    unused.pick(request),
                    unused.saturating_sub(&held).pick(request),
                ) {
                    (Err(names), ..) => short(&mut expected.too_small, names),
                    (_, Err(names), _) => short(&mut expected.busy, names),
                    (.., Err(_)) => expected.held += 1,
                    (.., Ok(_)) => expected.fitting += 1,
                }
            }
            let (allocator, state) = (&mut self.leader.allocator, &self.leader.log.state);
            let why = allocator.explain(state, framework, &demand);
            expected.fitting -= why.filtered + why.withheld + why.behind_gang;
            expected.behind_gang = why.behind_gang;
            expected.filtered = why.filtered;
            expected.withheld = why.withheld;
            expected.summary = why.summary.clone();
            expected.largest = why.largest.clone();
            expected.quota = why.quota.clone();
            prop_assert_eq!(why, expected);
        }
        Ok(())
    }

    /// A look at everything finds nothing more to offer.
    fn nothing_wanted_lies_idle(&mut self) -> Result<(), TestCaseError> {
        let all = Changes {
            agents: self.agents.iter().copied().collect(),
            frameworks: self.frameworks.iter().copied().collect(),
            ..Changes::default()
        };
        let state = &self.leader.log.state;
        self.leader.allocator.on_changes(state, &all);
        let decisions = self.cycle();
        // Whether a gang fits is not known for certain: with fewer agents to choose from the
        // places that are tried first may do where others did not.
        let is_of_gang = |decision: &Decision| match decision {
            Decision::Offer(_, offer) => offer.gang.is_some(),
            Decision::Rescind(..) => false,
        };
        let is_found = decisions.is_empty() || decisions.iter().any(is_of_gang);
        prop_assert!(is_found, "it was overlooked: {decisions:?}");
        Ok(())
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
