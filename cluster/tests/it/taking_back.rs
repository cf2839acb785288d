//! Nothing is taken back in vain: who it was taken back for gets it, whatever others want meanwhile,
//! and nobody ends whose end was not needed.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use tepui_cluster::state::preemption::Preemption;
use tepui_cluster::{Command, Decision, State};
use tepui_types::constraint::{Constraint, Constraints, Test};
use tepui_types::role::RoleSettings;
use tepui_types::*;

use crate::allocation::Leader;
use crate::support::*;

/// A full cluster in which `prod` wants a gang that is guaranteed to it.
#[derive(Debug, Clone)]
struct Full {
    /// The cpus of each agent, and of the tasks on it: of `dev`, which may be ended, or of `other`.
    agents: Vec<(u64, Vec<(u64, bool)>)>,
    /// How many tasks of how many cpus.
    parts: Vec<(u32, u64)>,
    /// What is guaranteed to `dev`.
    kept: u64,
    /// In which order tasks end.
    ends: usize,
}

fn full(parts: usize, kept: u64) -> impl Strategy<Value = Full> {
    let tasks = proptest::collection::vec((1u64..5, proptest::bool::weighted(0.8)), 0..5);
    let agents = proptest::collection::vec((2u64..9, tasks), 1..6);
    let parts = proptest::collection::vec((1u32..4, 1u64..4), 1..=parts);
    (agents, parts, 0..=kept, any::<usize>()).prop_map(|(agents, parts, kept, ends)| Full {
        agents,
        parts,
        kept,
        ends,
    })
}

struct Play {
    leader: Leader,
    dev: FrameworkId,
    other: FrameworkId,
    prod: FrameworkId,
    offered: BTreeMap<OfferId, (FrameworkId, Offer)>,
}

impl Play {
    fn new(full: &Full) -> Self {
        let mut leader = Leader::new();
        let [dev, other, prod] =
            ["dev", "other", "prod"].map(|role| leader.log.framework(role, role));
        let mut play = Self {
            leader,
            dev,
            other,
            prod,
            offered: BTreeMap::new(),
        };
        let mut names = 0;
        for (cpus, tasks) in &full.agents {
            let agent = play.leader.log.agent(*cpus, 64);
            let mut left = *cpus;
            for (cpus, may_end) in tasks {
                if *cpus <= left {
                    left -= cpus;
                    names += 1;
                    let owner = if *may_end { dev } else { other };
                    let name = format!("t{names}");
                    let log = &mut play.leader.log;
                    log.launch_with(owner, agent, &name, amounts(*cpus, 1));
                }
            }
        }
        let tasks = full
            .parts
            .iter()
            .map(|(count, cpus)| u64::from(*count) * cpus);
        play.promise("prod", tasks.sum(), None);
        play.promise("dev", full.kept, Some(true));
        let mut turn = play.leader.log.next_turn(prod);
        let parts = full.parts.iter().map(|(count, cpus)| GangPart {
            count: *count,
            request: request(*cpus, 1),
            constraints: Default::default(),
        });
        let gang = Gang {
            parts: parts.collect(),
            ..Gang::of(1, request(1, 1))
        };
        turn.gangs.push(("g".into(), Some(gang)));
        play.leader.apply(Command::Turn(turn));
        play.cycle();
        play
    }

    fn promise(&mut self, role: &str, cpus: u64, preemptible: Option<bool>) {
        self.leader.apply(Command::SetRole {
            role: role.parse().unwrap(),
            settings: RoleSettings {
                guarantee: request(cpus, 0),
                preemptible,
                ..RoleSettings::default()
            },
            force: true,
        });
    }

    /// A cycle; answers where the gang's tasks go if it is offered them.
    fn cycle(&mut self) -> Vec<(u32, u32)> {
        let mut parts = Vec::new();
        for decision in self.leader.cycle() {
            match decision {
                Decision::Offer(to, offer) => {
                    let share = offer.gang.iter().filter(|_| to == self.prod);
                    parts.extend(share.flat_map(|share| share.parts.clone()));
                    self.offered.insert(offer.id, (to, offer));
                }
                Decision::Rescind(_, id) => _ = self.offered.remove(&id),
            }
        }
        parts
    }

    /// Whoever was offered something takes it if it is a single task's.
    fn launch_singles(&mut self) {
        let offers = std::mem::take(&mut self.offered).into_values();
        for (number, (to, offer)) in offers.enumerate() {
            if offer.gang.is_some() {
                self.offered.insert(offer.id, (to, offer));
                continue;
            }
            let name = format!("s{}-{number}", offer.id.0);
            self.leader.use_offer(to, &offer, &name, 1);
        }
    }

    fn wants_gang(&self) -> Gang {
        let record = self.leader.log.state.framework(self.prod).unwrap();
        (*record.gangs["g"].gang).clone()
    }
}

/// The cpus that an agent has for `prod` when `without` stays and all else that is ending has ended.
fn comes_free(state: &State, agent: AgentId, without: &TaskId) -> u64 {
    let record = state.agent(agent).unwrap();
    let tasks = state.tasks.values();
    let staying = tasks.filter(|task| task.agent == agent && task.is_living());
    let staying = staying.filter(|task| task.kill.is_none() || task.id == *without);
    let used: u64 = staying.map(|task| task.resources.cpus.0).sum();
    record.info.resources.cpus.0 - used
}

/// Each of a wish's victims is needed where it ends: without its end one place is too small.
fn is_needed(state: &State, wish: &Preemption) -> bool {
    wish.places.iter().all(|place| {
        let is_short = |id| comes_free(state, place.agent, id) < place.request.cpus.0;
        place.victims.iter().all(is_short)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn a_gang_for_which_tasks_end_starts_when_they_have_ended(
        full in full(3, 6),
        rivals in any::<bool>(),
    ) {
        let mut play = Play::new(&full);
        let Some(wish) = play.leader.allocator.plan_preemption(&play.leader.log.state) else {
            return Ok(());
        };
        let before = play.leader.log.state.clone();
        // Nothing has changed since: what is planned is granted.
        play.leader.apply(Command::Preempt(wish.clone()));
        prop_assert!(is_needed(&play.leader.log.state, &wish), "{:?}", wish);
        let dev: Role = "dev".parse().unwrap();
        let used = |state: &State| state.role_use(&dev).saturating_sub(&state.ending_use(&dev)).cpus;
        let (had, has) = (used(&before), used(&play.leader.log.state));
        prop_assert!(has == had || has.0 >= full.kept * 1000);
        if rivals {
            for framework in [play.dev, play.other, play.prod] {
                play.leader.demand(framework, "more", 9, 1);
            }
        }
        let mut parts = play.cycle();
        play.launch_singles();
        let mut victims: Vec<TaskId> = wish.victims().cloned().collect();
        while !victims.is_empty() {
            let id = victims.swap_remove(full.ends % victims.len());
            let agent = play.leader.log.state.task(&id).unwrap().agent;
            let reports = vec![report(&id, TaskState::Killed)];
            play.leader.apply(Command::ReportTasks { agent, reports });
            parts.extend(play.cycle());
            play.launch_singles();
        }
        let gang = play.wants_gang();
        prop_assert!(gang.has_all(parts.iter()), "of {gang:?} there is {parts:?}");
    }

    #[test]
    fn a_gang_of_like_tasks_that_would_fit_is_made_room_for(full in full(1, 0)) {
        let mut play = Play::new(&full);
        let (count, cpus) = full.parts[0];
        let state = &play.leader.log.state;
        let fits = state.agents.values().map(|agent| {
            let tasks = agent.tasks.iter().map(|operation| &state.tasks[operation]);
            let staying = tasks.filter(|task| task.id.framework == play.other);
            let staying: u64 = staying.map(|task| task.resources.cpus.0).sum();
            (agent.info.resources.cpus.0 - staying) / (cpus * 1000)
        });
        let fits = fits.sum::<u64>() >= u64::from(count);
        let is_offered = !play.offered.is_empty();
        let wish = play.leader.allocator.plan_preemption(state);
        prop_assert_eq!(wish.is_some(), fits && !is_offered);
        if let Some(wish) = wish {
            let agents: BTreeSet<_> = wish.places.iter().map(|place| place.agent).collect();
            prop_assert_eq!(agents.len(), wish.places.len());
            play.leader.apply(Command::Preempt(wish));
            let state = &play.leader.log.state;
            prop_assert_eq!(play.leader.allocator.plan_preemption(state), None);
        }
    }
}

/// A gang of two tasks of four cpus in zone `a`.
fn gang_in_zone_a() -> Gang {
    let constraint = Constraint {
        attribute: "zone".into(),
        test: Test::Equals("a".into()),
    };
    let mut gang = Gang::of(2, request(4, 1));
    gang.parts[0].constraints = Constraints(vec![vec![constraint]]);
    gang
}

#[test]
fn an_offer_of_what_is_claimed_meanwhile_is_rescinded() {
    let mut leader = Leader::new();
    let [dev, other, prod] = ["dev", "other", "prod"].map(|role| leader.log.framework(role, role));
    for (nonce, zone, cpus) in [(1, "a", 4), (2, "a", 4), (3, "b", 8)] {
        let info = AgentInfo {
            address: None,
            attributes: BTreeMap::from([("zone".to_owned(), zone.to_owned())]).into(),
            ..machine(cpus, 8)
        };
        leader.log.accept(register(nonce, None, info, Vec::new()));
    }
    leader.log.launch_with(dev, AgentId(1), "t1", amounts(4, 1));
    let mut play = Play {
        leader,
        dev,
        other,
        prod,
        offered: BTreeMap::new(),
    };
    play.promise("dev", 0, Some(true));
    play.promise("prod", 8, None);
    let mut turn = play.leader.log.next_turn(prod);
    turn.gangs.push(("g".into(), Some(gang_in_zone_a())));
    play.leader.apply(Command::Turn(turn));
    assert_eq!(play.cycle(), []);
    let wish = play
        .leader
        .allocator
        .plan_preemption(&play.leader.log.state);
    // Before that commits, another is offered what is free beyond the guarantee.
    play.leader.demand(other, "d", 1, 1);
    play.cycle();
    let (to, offer) = play.offered.pop_first().unwrap().1;
    assert_eq!((to, offer.agent), (other, AgentId(2)));
    play.leader.apply(Command::Preempt(wish.unwrap()));
    let decisions = play.leader.cycle();
    assert_eq!(decisions[0], Decision::Rescind(other, offer.id));
    let elsewhere = |decision: &Decision| {
        matches!(
            decision,
            Decision::Offer(to, offer) if *to == other && offer.agent == AgentId(3)
        )
    };
    assert!(decisions.iter().any(elsewhere), "{decisions:?}");
}
