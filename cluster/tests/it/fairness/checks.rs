//! What holds after every step of a random cluster.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tepui_cluster::charge::Charge;
use tepui_cluster::state::preemption::Preemption;
use tepui_cluster::{Allocator, Changes, Decision};
use tepui_types::api::demand::Explanation;
use tepui_types::resources::ResourceRequest;
use tepui_types::*;

use super::{Play, wanted};
use crate::support::Log;

impl Play {
    /// What offers and tasks hold together is there.
    pub fn nothing_is_had_twice(&self) -> Result<(), TestCaseError> {
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
    pub fn no_limit_is_passed(&self) -> Result<(), TestCaseError> {
        for record in self.leader.log.state.roles.values() {
            let offers = self.held.iter();
            let offers = offers.filter(|(_, offer)| offer.role.is_within(&record.role));
            let mut wanted = ResourceRequest::default();
            // What is reserved is charged to its owner already.
            offers
                .for_each(|(_, offer)| wanted.add(&Charge::of(&offer.resources).at(&record.role)));
            if wanted.cpus.0 > 0 {
                wanted.add(&self.leader.log.state.role_use(&record.role));
                let passed = record.settings.limit.passed_by(&wanted);
                prop_assert_eq!(passed, None, "{}", record.role);
            }
        }
        Ok(())
    }

    /// The counts that are kept are those that a look at every agent gives.
    pub fn reasons_are_counted(&mut self) -> Result<(), TestCaseError> {
        for (framework, cpus, zone) in [(0, 2, None), (3, 4, Some(0)), (5, 1, Some(1))] {
            let framework = self.frameworks[framework];
            let demand = wanted(1, cpus, zone);
            let request = &demand.request;
            let mut expected = Explanation::default();
            for agent in &self.agents {
                let record = self.leader.log.state.agent(*agent).unwrap();
                expected.agents += 1;
                let is_active = record.standing() == AgentStatus::Active;
                if !is_active || self.away.contains(agent) {
                    expected.inactive += 1;
                    continue;
                }
                if record.short().is_some() {
                    expected.lacking += 1;
                    continue;
                }
                if !demand.constraints.hold_of(&record.info) {
                    expected.constrained += 1;
                    let unmet = demand.constraints.each();
                    for constraint in unmet.filter(|it| !it.holds_of(&record.info)) {
                        *expected.unmet.entry(constraint.to_string()).or_default() += 1;
                    }
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
                let usable = |all: &Resources| all.usable_by(own.1, false).flat(false).into_owned();
                let short = |counts: &mut BTreeMap<String, u64>, short| {
                    for name in Vec::from_iter(short) {
                        *counts.entry(name).or_default() += 1;
                    }
                };
                match (
                    usable(record.total()).pick(request),
                    usable(&unused).pick(request),
                    usable(&unused.saturating_sub(&held)).pick(request),
                ) {
                    (Err(_), ..) if record.total().flat(true).pick(request).is_ok() => {
                        expected.reserved += 1;
                    }
                    // Even with all that is set apart.
                    (Err(_), ..) if !record.total().pools.is_empty() => {
                        let all = record.total().flat(true);
                        short(&mut expected.too_small, all.pick(request).unwrap_err());
                    }
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
    pub fn nothing_wanted_lies_idle(&mut self) -> Result<(), TestCaseError> {
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

    /// Were all that is ending to end now, who it ends for would be offered what it wants, if not
    /// elsewhere now that nobody holds anything.
    pub fn is_not_in_vain(&self, wish: &Preemption) {
        let (state, time) = (self.leader.log.state.clone(), self.leader.log.time);
        let mut log = Log {
            state,
            time,
            term: 1,
        };
        let tasks: Vec<_> = log.state.tasks.values().cloned().collect();
        for task in tasks.iter().filter(|task| task.kill.is_some()) {
            log.report(task.agent, &task.id, TaskState::Killed);
        }
        let mut allocator = Allocator::new();
        for agent in &self.away {
            allocator.set_away(*agent, true);
        }
        let decisions = allocator.allocate(&log.state, Timestamp(self.leader.now));
        let offers = decisions.into_iter().filter_map(|decision| match decision {
            Decision::Offer(to, offer) => Some((to, offer)),
            Decision::Rescind(..) => None,
        });
        let offers: Vec<_> = offers.collect();
        let Some((framework, key)) = &wish.gang else {
            let is_for_it = |(_, offer): &(FrameworkId, Offer)| {
                let fits = offer.resources.flat(false).pick(&wish.places[0].request);
                offer.role.is_within(&wish.role) && fits.is_ok()
            };
            assert!(offers.iter().any(is_for_it), "{wish:?} comes to {offers:?}");
            return;
        };
        let shares = offers.iter().filter(|(to, _)| to == framework);
        let shares = shares.filter_map(|(_, offer)| offer.gang.as_deref());
        let record = log.state.framework(*framework).unwrap();
        let gang = &record.gangs[key.as_str()].gang;
        assert!(gang.is_whole(shares), "{wish:?} comes to {offers:?}");
    }

    /// Whoever has some of a gang's offers has all of them.
    pub fn gangs_are_whole(&self) -> Result<(), TestCaseError> {
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
}
