//! What the allocator must show, as far as its resource model goes.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tepui_cluster::{Allocator, Command, Decision};
use tepui_types::operation::Operation;
use tepui_types::*;

use crate::support::*;

/// A log with the allocator that follows it.
pub struct Leader {
    pub log: Log,
    pub allocator: Allocator,
    pub now: u64,
}

impl Leader {
    pub fn new() -> Self {
        Self {
            log: Log::new(),
            allocator: Allocator::new(),
            now: 0,
        }
    }

    pub fn demand(&mut self, framework: FrameworkId, key: &str, count: u32, cpus: u64) {
        let mut turn = self.log.next_turn(framework);
        turn.demands
            .push((key.into(), Demand::new(count, request(cpus, 1))));
        self.apply(Command::Turn(turn));
    }

    pub fn apply(&mut self, command: Command) {
        let applied = self.log.apply(command);
        applied.outcome.unwrap();
        self.allocator.on_changes(&self.log.state, &applied.changes);
    }

    pub fn cycle(&mut self) -> Vec<Decision> {
        self.allocator
            .allocate(&self.log.state, Timestamp(self.now))
    }

    /// The offers of one cycle: to whom, and where.
    pub fn offers(&mut self) -> Vec<(FrameworkId, Offer)> {
        let decisions = self.cycle().into_iter();
        decisions
            .filter_map(|decision| match decision {
                Decision::Offer(framework, offer) => Some((framework, offer)),
                Decision::Rescind(..) => None,
            })
            .collect()
    }

    pub fn use_offer(&mut self, framework: FrameworkId, offer: &Offer, name: &str, cpus: u64) {
        let mut turn = self.log.next_turn(framework);
        // As the host of frameworks takes it: what is reserved first.
        let wanted = amounts(cpus, 1);
        let taken = offer.resources.grant(&wanted).unwrap_or(wanted);
        let mut operation = launch(offer.agent, name, taken);
        if let Operation::Launch(launch) = &mut operation {
            launch.role = Some(offer.role.clone());
        }
        turn.operations.push(operation);
        if cpus % 2 == 1 {
            turn.specs = vec![limited(20_000)];
        }
        self.apply(Command::Turn(turn));
        self.allocator.answered(&[offer.id]);
    }
}

#[test]
fn without_demand_nothing_is_offered() {
    let mut leader = Leader::new();
    leader.log.agent(4, 4);
    let framework = leader.log.framework("a", "*");
    assert!(leader.offers().is_empty());
    leader.demand(framework, "x", 1, 1);
    assert_eq!(leader.offers().len(), 1);
}

#[test]
fn an_agent_s_free_resources_go_whole_to_one_framework() {
    let mut leader = Leader::new();
    let agent = leader.log.agent(4, 4);
    let framework = leader.log.framework("a", "*");
    leader.demand(framework, "x", 1, 1);
    let (to, offer) = leader.offers().remove(0);
    assert_eq!((to, offer.agent), (framework, agent));
    assert_eq!(
        offer.resources,
        leader.log.state.agent(agent).unwrap().info.resources
    );
    assert!(
        leader.offers().is_empty(),
        "what is offered is not offered again"
    );
}

#[test]
fn a_framework_is_not_offered_more_agents_than_its_demand_can_use() {
    let mut leader = Leader::new();
    for _ in 0..5 {
        leader.log.agent(4, 4);
    }
    let framework = leader.log.framework("a", "*");
    leader.demand(framework, "x", 6, 1);
    assert_eq!(leader.offers().len(), 2, "six fit on two agents of four");
}

#[test]
fn what_cannot_meet_the_demand_is_not_offered() {
    let mut leader = Leader::new();
    leader.log.agent(2, 4);
    let framework = leader.log.framework("a", "*");
    leader.demand(framework, "x", 1, 3);
    assert!(leader.offers().is_empty());
    let big = leader.log.agent(3, 4);
    leader.allocator = Allocator::new();
    assert_eq!(
        leader.offers()[0].1.agent,
        big,
        "the search goes on past what does not fit"
    );
}

#[test]
fn the_lowest_dominant_share_is_served_first() {
    let mut leader = Leader::new();
    let agent = leader.log.agent(8, 8);
    let (rich, poor) = (
        leader.log.framework("a", "rich"),
        leader.log.framework("b", "poor"),
    );
    leader.log.launch_with(rich, agent, "x", amounts(2, 1));
    leader.demand(rich, "x", 1, 1);
    leader.demand(poor, "x", 1, 1);
    assert_eq!(leader.offers()[0].0, poor);
}

#[test]
fn equal_shares_alternate() {
    let mut leader = Leader::new();
    leader.log.agent(4, 4);
    let frameworks = [
        leader.log.framework("a", "*"),
        leader.log.framework("b", "*"),
    ];
    frameworks
        .iter()
        .for_each(|framework| leader.demand(*framework, "x", 1, 1));
    let mut served = BTreeMap::<FrameworkId, u32>::new();
    for _ in 0..10 {
        let (framework, offer) = leader.offers().remove(0);
        *served.entry(framework).or_default() += 1;
        leader.allocator.answered(&[offer.id]);
    }
    assert_eq!(served.values().copied().collect::<Vec<_>>(), [5, 5]);
}

#[test]
fn a_filter_holds_for_its_time_and_covers_subsets() {
    let mut leader = Leader::new();
    let agent = leader.log.agent(4, 4);
    let (picky, other) = (
        leader.log.framework("a", "*"),
        leader.log.framework("b", "*"),
    );
    leader.demand(picky, "x", 1, 1);
    let (_, offer) = leader.offers().remove(0);
    leader
        .allocator
        .decline(&[offer.id], 1_000, Timestamp(leader.now));
    assert!(leader.offers().is_empty());
    // Less than what was declined stays away, too.
    leader.log.launch(other, agent, "x");
    leader
        .allocator
        .on_changes(&leader.log.state, &agents([agent]));
    assert!(leader.offers().is_empty());
    assert_eq!(leader.allocator.next_deadline(), Some(Timestamp(1_000)));
    leader.now = 1_000;
    assert_eq!(leader.offers().len(), 1);
}

fn agents(agents: impl IntoIterator<Item = AgentId>) -> tepui_cluster::Changes {
    tepui_cluster::Changes {
        agents: agents.into_iter().collect(),
        ..Default::default()
    }
}

#[test]
fn new_demand_clears_filters() {
    let mut leader = Leader::new();
    leader.log.agent(4, 4);
    let framework = leader.log.framework("a", "*");
    leader.demand(framework, "x", 1, 1);
    let (_, offer) = leader.offers().remove(0);
    leader
        .allocator
        .decline(&[offer.id], 60_000, Timestamp(leader.now));
    assert!(leader.offers().is_empty());
    leader.demand(framework, "y", 1, 1);
    assert_eq!(leader.offers().len(), 1);
}

#[test]
fn suppressed_frameworks_are_left_alone_until_they_revive() {
    let mut leader = Leader::new();
    leader.log.agent(4, 4);
    let framework = leader.log.framework("a", "*");
    leader.demand(framework, "x", 1, 1);
    for (suppressed, offers) in [(true, 0), (false, 1)] {
        let mut turn = leader.log.next_turn(framework);
        turn.suppressed = all_roles(&leader.log.state, framework, suppressed);
        leader.apply(Command::Turn(turn));
        assert_eq!(leader.offers().len(), offers);
    }
}

#[test]
fn offers_expire_and_are_rescinded_with_their_agent() {
    let mut leader = Leader::new();
    let agent = leader.log.agent(4, 4);
    let framework = leader.log.framework("a", "*");
    leader.demand(framework, "x", 1, 1);
    let (_, offer) = leader.offers().remove(0);
    leader.now = setting::Settings::DEFAULT_OFFER_TIMEOUT_MS;
    assert_eq!(leader.cycle(), [Decision::Rescind(framework, offer.id)]);
    leader.now *= 2;
    let (_, offer) = leader.offers().remove(0);
    leader.apply(Command::MarkAgentUnreachable { agent });
    assert_eq!(leader.cycle(), [Decision::Rescind(framework, offer.id)]);
    assert!(leader.allocator.offered_total() == Default::default());
}

#[test]
fn freed_resources_are_offered_again() {
    let mut leader = Leader::new();
    let agent = leader.log.agent(1, 4);
    let framework = leader.log.framework("a", "*");
    leader.demand(framework, "x", 2, 1);
    let (_, offer) = leader.offers().remove(0);
    leader.use_offer(framework, &offer, "x", 1);
    assert!(leader.offers().is_empty());
    let task: TaskId = "f1.x.0".parse().unwrap();
    leader.apply(Command::ReportTasks {
        agent,
        reports: vec![report(&task, TaskState::Finished)],
    });
    assert_eq!(leader.offers().len(), 1);
}

#[test]
fn an_explanation_counts_agents_by_what_they_lack() {
    let mut leader = Leader::new();
    let (small, busy) = (leader.log.agent(1, 8), leader.log.agent(4, 4));
    leader.log.agent(4, 4);
    leader
        .log
        .apply(Command::MarkAgentUnreachable { agent: AgentId(3) });
    let framework = leader.log.framework("a", "*");
    leader.log.launch_with(framework, busy, "x", amounts(3, 1));
    let why =
        leader
            .allocator
            .explain(&leader.log.state, framework, &Demand::new(1, request(2, 1)));
    assert_eq!((why.agents, why.fitting, why.inactive), (3, 0, 1));
    assert_eq!(
        why.too_small,
        BTreeMap::from([("cpus".into(), 1)]),
        "{small}"
    );
    assert_eq!(why.busy, BTreeMap::from([("cpus".into(), 1)]));
    assert!(
        why.summary
            .contains("cpus too small on 1 of 3 agents (the most is 4)"),
        "{}",
        why.summary
    );
}

#[test]
fn agents_without_a_connection_are_not_offered() {
    let mut leader = Leader::new();
    let (here, away) = (leader.log.agent(4, 4), leader.log.agent(4, 4));
    let framework = leader.log.framework("a", "*");
    leader.allocator.set_away(away, true);
    leader.demand(framework, "x", 2, 3);
    let offers = leader.offers();
    let agents: Vec<_> = offers.iter().map(|(_, offer)| offer.agent).collect();
    assert_eq!(agents, [here]);
    let explain = |leader: &mut Leader| {
        let (allocator, state) = (&mut leader.allocator, &leader.log.state);
        allocator.explain(state, framework, &Demand::new(1, request(5, 1)))
    };
    let why = explain(&mut leader);
    assert_eq!(why.inactive, 1);
    assert!(why.summary.contains("1 agent not active"), "{why:?}");

    leader.allocator.set_away(away, false);
    assert_eq!(leader.offers()[0].1.agent, away, "it is back");
    assert_eq!(explain(&mut leader).inactive, 0);
    leader.allocator.set_away(here, true);
    let decisions = leader.cycle();
    let rescinded = Decision::Rescind(framework, offers[0].1.id);
    assert!(decisions.contains(&rescinded), "{decisions:?}");
}

proptest! {
    #[test]
    fn nothing_is_offered_twice_or_while_it_is_used(
        steps in proptest::collection::vec((0u8..4, 0usize..8, 1u64..4), 1..60),
    ) {
        let mut leader = Leader::new();
        let agents = [leader.log.agent(4, 8), leader.log.agent(2, 8)];
        let frameworks = [leader.log.framework("a", "x"), leader.log.framework("b", "y")];
        let mut held: Vec<(FrameworkId, Offer)> = Vec::new();
        for (number, (kind, pick, amount)) in steps.into_iter().enumerate() {
            match kind {
                0 => leader.demand(frameworks[pick % 2], &format!("d{}", pick % 3), amount as u32, amount),
                1 if !held.is_empty() => {
                    let (framework, offer) = held.swap_remove(pick % held.len());
                    leader.use_offer(framework, &offer, &format!("t{number}"), amount);
                }
                2 if !held.is_empty() => {
                    let (_, offer) = held.swap_remove(pick % held.len());
                    leader.allocator.decline(&[offer.id], 100, Timestamp(leader.now));
                }
                _ => leader.now += 60,
            }
            for decision in leader.cycle() {
                match decision {
                    Decision::Offer(framework, offer) => held.push((framework, offer)),
                    Decision::Rescind(_, id) => held.retain(|(_, offer)| offer.id != id),
                }
            }
            for agent in agents {
                let record = leader.log.state.agent(agent).unwrap();
                let mut taken = record.used.clone();
                for (_, offer) in held.iter().filter(|(_, offer)| offer.agent == agent) {
                    taken = taken.checked_add(&offer.resources).unwrap();
                }
                prop_assert!(record.info.resources.contains(&taken));
            }
        }
    }
}

#[test]
fn a_gang_that_waits_is_looked_at_now_and_then_and_nothing_else_wakes_the_leader() {
    let mut leader = Leader::new();
    leader.log.agent(2, 4);
    let framework = leader.log.framework("a", "*");
    let mut turn = leader.log.next_turn(framework);
    let gang = |count| ("g".to_owned(), Some(Gang::of(count, request(1, 1))));
    turn.gangs.push(gang(3));
    leader.apply(Command::Turn(turn));
    for _ in 0..3 {
        assert!(leader.cycle().is_empty());
        let next = leader.allocator.next_deadline().unwrap();
        assert!(next > Timestamp(leader.now), "it would be woken at once");
        leader.now = next.0;
    }
    let mut turn = leader.log.next_turn(framework);
    turn.gangs.push(gang(2));
    leader.apply(Command::Turn(turn));
    assert_eq!(leader.offers().len(), 1);
    let next = leader.allocator.next_deadline().unwrap();
    let expiry = leader.now + setting::Settings::DEFAULT_OFFER_TIMEOUT_MS;
    assert_eq!(next, Timestamp(expiry), "only the offer ends by itself");
}
