//! A busy cluster in which one thing changes after another.
//!
//! Four fifths of the agents are full; of each of the others a quarter is free. Four frameworks of
//! ten want more of what only the largest agents have free, so small agents stay free and large ones
//! are waited for. Three of ten frameworks have declined most of what they were offered, and one role
//! of ten has a quota. Half of the frameworks stay out of one zone of six.

use std::time::{Duration, Instant};

use tepui_types::wire::agent::StatusReport;
use tepui_types::{AgentId, Demand, FrameworkId, OperationId, Resources, TaskState};

use crate::samples::Samples;
use crate::world::{Dice, World, amounts, machine, request};

/// Offers that frameworks keep beside those of the beginning before they answer the oldest.
const KEPT: usize = 100;
/// Milliseconds for which frameworks that are filtered decline: longer than any run.
const LONG_MS: u64 = 3_600_000;

/// A cluster in the middle of its work.
pub struct Load {
    pub world: World,
    dice: Dice,
    frameworks: Vec<FrameworkId>,
    agents: u64,
    tasks: Vec<OperationId>,
    most_held: usize,
}

impl Load {
    /// So many agents and frameworks, after the first cycle.
    pub fn new(agents: u64, frameworks: u64) -> Self {
        let mut world = World::new();
        let mut dice = Dice(agents);
        let teams = (frameworks / 10).max(1);
        let frameworks: Vec<_> = (0..frameworks)
            .map(|n| {
                let role = format!("team-{}/group-{}", n % teams, n / teams % 2);
                world.framework(format!("f{n}"), &role)
            })
            .collect();
        let mut launches = vec![Vec::new(); frameworks.len()];
        for agent in 0..agents {
            let slot = 2 << (agent % 4);
            world.register(agent as u128 + 1, None, machine(4 * slot, 16 * slot, agent));
            let used = if agent % 20 < 16 { 4 } else { 3 };
            for _ in 0..used {
                let owner = dice.below(frameworks.len() as u64) as usize;
                launches[owner].push((AgentId(agent + 1), task(slot)));
            }
        }
        for (framework, launches) in frameworks.iter().zip(&launches) {
            world.launch(*framework, launches);
        }
        for framework in frameworks
            .iter()
            .step_by(5)
            .chain(frameworks.iter().skip(1).step_by(5))
        {
            world.demand(*framework, "large", 10_000, &request(16, 16));
        }
        // Of a hundredth of the cluster that a team has, a tenth more is guaranteed to some.
        let cpus: u64 = (0..agents).map(|agent| 8 << (agent % 4)).sum();
        for team in (0..teams).step_by(10) {
            let share = cpus * 11 / 10 / teams;
            world.quota(&format!("team-{team}"), share, 3 * share);
            world.quota(&format!("team-{team}/group-0"), share / 2, share);
        }
        let tasks = world.state.tasks.keys().copied().collect();
        let mut load = Self {
            world,
            dice,
            frameworks,
            agents,
            tasks,
            most_held: 0,
        };
        load.filter();
        load
    }

    /// The first cycles: three frameworks of ten decline what they get.
    fn filter(&mut self) {
        for _ in 0..3 {
            let decisions = self.world.cycle();
            self.world.hold(decisions);
            let world = &mut self.world;
            let (declined, kept) = std::mem::take(&mut world.held)
                .into_iter()
                .partition(|held| held.framework.0 % 10 < 3);
            world.held = kept;
            let declined: Vec<_> = declined.iter().map(|held| held.id).collect();
            world.allocator.decline(&declined, LONG_MS, world.now);
        }
        let decisions = self.world.cycle();
        self.world.hold(decisions);
        self.most_held = self.world.held.len() + KEPT;
        // Someone has asked why what is wanted is not met: it is counted from now on.
        let (allocator, state) = (&mut self.world.allocator, &self.world.state);
        for slot in (1..=8).chain([16]) {
            let demand = Demand::new(1, request(slot, slot));
            allocator.explain(state, self.frameworks[0], &demand);
        }
    }

    /// Microseconds of a cycle after one change, so often or for so long.
    pub fn one_change(&mut self, times: usize, budget: Duration) -> Samples {
        let mut samples = Samples::default();
        let begun = Instant::now();
        while samples.count() < times && begun.elapsed() < budget {
            self.world.now = self.world.now.after_millis(1);
            let took = match self.dice.below(10) {
                0..6 => self.end_task(),
                6..8 => self.decline(),
                8 => self.want(),
                _ => self.change_agent(),
            };
            samples.add(took.as_secs_f64() * 1e6);
            self.answer();
        }
        samples
    }

    /// Microseconds of a cycle with nothing to do.
    pub fn idle(&mut self, times: usize, budget: Duration) -> Samples {
        let mut samples = Samples::default();
        let begun = Instant::now();
        while samples.count() < times && begun.elapsed() < budget {
            let cycle = Instant::now();
            let decisions = self.world.cycle();
            samples.add(cycle.elapsed().as_secs_f64() * 1e6);
            assert!(decisions.is_empty(), "there was something to do");
        }
        samples
    }

    fn end_task(&mut self) -> Duration {
        let pick = self.dice.below(self.tasks.len() as u64) as usize;
        let operation = self.tasks.swap_remove(pick);
        let task = &self.world.state.tasks[&operation];
        let (agent, task) = (task.agent, task.id.clone());
        let state = TaskState::Finished;
        let report = StatusReport {
            task,
            state,
            reason: None,
            exit_code: None,
            usage: None,
            signs: None,
        };
        let reports = vec![report];
        let command = tepui_cluster::Command::ReportTasks { agent, reports };
        let changes = self.world.apply(command).1;
        self.cycle_after(&changes)
    }

    fn want(&mut self) -> Duration {
        let pick = self.dice.below(self.frameworks.len() as u64) as usize;
        let slot = 1 + self.dice.below(8);
        let framework = self.frameworks[pick];
        let changes = self
            .world
            .demand(framework, "burst", 2, &request(slot, slot));
        self.cycle_after(&changes)
    }

    fn change_agent(&mut self) -> Duration {
        let agent = self.dice.below(self.agents);
        let slot = 2 << (agent % 4);
        let zone = self.dice.below(1_000);
        let info = machine(4 * slot + self.dice.below(2), 16 * slot, zone);
        let known = self
            .world
            .state
            .agent(AgentId(agent + 1))
            .expect("it is registered");
        let tasks = known.tasks.iter().map(|operation| {
            let task = self.world.state.tasks[operation].id.clone();
            let state = TaskState::Running;
            StatusReport {
                task,
                state,
                reason: None,
                exit_code: None,
                usage: None,
                signs: None,
            }
        });
        let hello = tepui_cluster::Command::RegisterAgent {
            nonce: known.nonce,
            boot: 1,
            agent: Some(known.id),
            info,
            tasks: tasks.collect(),
        };
        let changes = self.world.apply(hello).1;
        self.cycle_after(&changes)
    }

    fn decline(&mut self) -> Duration {
        if self.world.held.is_empty() {
            return self.end_task();
        }
        let pick = self.dice.below(self.world.held.len() as u64) as usize;
        let offer = self.world.held.swap_remove(pick).id;
        let begun = Instant::now();
        self.world
            .allocator
            .decline(&[offer], 5_000, self.world.now);
        let decisions = self.world.cycle();
        let took = begun.elapsed();
        self.world.hold(decisions);
        took
    }

    fn cycle_after(&mut self, changes: &tepui_cluster::Changes) -> Duration {
        let begun = Instant::now();
        self.world.allocator.on_changes(&self.world.state, changes);
        let decisions = self.world.cycle();
        let took = begun.elapsed();
        self.world.hold(decisions);
        took
    }

    /// Lets frameworks use the oldest offers; not measured.
    fn answer(&mut self) {
        while self.world.held.len() > self.most_held {
            let offer = self.world.held.remove(0);
            let record = self
                .world
                .state
                .framework(offer.framework)
                .expect("it is deployed");
            let wanted = record.demands.values().map(|entry| &entry.demand.request);
            let picked = wanted
                .filter_map(|request| offer.resources.pick(request).ok())
                .next();
            let launches: Vec<_> = picked.into_iter().map(|task| (offer.agent, task)).collect();
            let mut changes = self.world.launch(offer.framework, &launches);
            self.tasks.extend(self.world.state.tasks.keys().next_back());
            changes.merge(
                self.world
                    .demand(offer.framework, "burst", 0, &request(1, 1)),
            );
            self.world.allocator.on_changes(&self.world.state, &changes);
            self.world.allocator.answered(&[offer.id]);
            let decisions = self.world.cycle();
            self.world.hold(decisions);
        }
    }
}

fn task(slot: u64) -> Resources {
    amounts(slot, slot)
}
