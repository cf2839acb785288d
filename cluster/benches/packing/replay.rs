//! One replay: every task is placed on an offer, launched, and never ends.

use std::collections::BTreeMap;
use std::time::Instant;

use tepui_cluster::Command;
use tepui_sdk::packing::{Packer, Place, best_fit};
use tepui_types::resources::ResourceRequest;
use tepui_types::setting::{GpuAgents, Settings};
use tepui_types::{FrameworkId, Resources};

use crate::trace::Trace;
use crate::world::{Dice, World};

/// Who chooses the place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    Pack,
    BestFit,
    Random,
}

/// What came of a replay.
pub struct Found {
    /// Percent of the cluster's gpu that was allocated when as much, or 130 %, was asked for.
    pub at_100: f64,
    pub at_130: f64,
    pub decisions_per_s: f64,
}

/// Replays the trace.
pub fn run(trace: &Trace, policy: Policy, seed: u64) -> Found {
    let mut world = World::new();
    // The list mixes tasks with and without gpus on all machines, however small.
    world.apply(Command::SetSettings(Settings {
        gpu_agents: GpuAgents::ForAll,
        minimum_offer: Vec::new(),
        ..Settings::default()
    }));
    for (number, machine) in trace.machines.iter().enumerate() {
        world.register(number as u128 + 1, None, machine.clone());
    }
    let framework = world.framework("packer".into(), "*");
    // So small that all of an agent is worth an offer as long as any of it is.
    let anything = ResourceRequest {
        cpus: tepui_types::MilliCpus(1),
        ..ResourceRequest::default()
    };
    world.demand(framework, "anything", u32::MAX, &anything);
    let decisions = world.cycle();
    world.hold(decisions);
    let capacity: u64 = trace
        .machines
        .iter()
        .map(|machine| machine.resources.gpu_milli())
        .sum();
    let mut chooser = Chooser::new(trace, policy, seed);
    let mut draws = Dice(seed);
    let (mut asked, mut allocated, mut count) = (0, 0, 0);
    let mut at_100 = 0;
    let begun = Instant::now();
    while asked < capacity * 13 / 10 {
        let drawn = |draws: &mut Dice| &trace.tasks[draws.below(trace.tasks.len() as u64) as usize];
        let task = trace.tasks.get(count).unwrap_or_else(|| drawn(&mut draws));
        asked += task.gpus_milli;
        count += 1;
        if launch(&mut world, framework, &mut chooser, task) {
            allocated += task.gpus_milli;
        }
        if asked <= capacity {
            at_100 = allocated;
        }
    }
    let percent = |milli: u64| milli as f64 * 100.0 / capacity as f64;
    Found {
        at_100: percent(at_100),
        at_130: percent(allocated),
        decisions_per_s: count as f64 / begun.elapsed().as_secs_f64(),
    }
}

/// Places and launches a task, if it fits; the rest of its agent is offered anew.
fn launch(
    world: &mut World,
    framework: FrameworkId,
    chooser: &mut Chooser,
    task: &ResourceRequest,
) -> bool {
    let offers: Vec<&Resources> = world.held.iter().map(|held| &held.resources).collect();
    let Some(place) = chooser.place(&offers, task) else {
        return false;
    };
    let offer = world.held.swap_remove(place.offer);
    let changes = world.launch(framework, &[(offer.agent, place.resources)]);
    world.allocator.on_changes(&world.state, &changes);
    world.allocator.answered(&[offer.id]);
    let decisions = world.cycle();
    world.hold(decisions);
    true
}

struct Chooser {
    policy: Policy,
    packer: Packer,
    dice: Dice,
}

impl Chooser {
    /// The packer expects what the list holds.
    fn new(trace: &Trace, policy: Policy, seed: u64) -> Self {
        let mut expected = BTreeMap::new();
        for task in &trace.tasks {
            *expected.entry(task.clone()).or_insert(0) += 1;
        }
        Self {
            policy,
            packer: Packer::new(expected),
            dice: Dice(seed ^ 0x5eed),
        }
    }

    fn place(&mut self, offers: &[&Resources], task: &ResourceRequest) -> Option<Place> {
        match self.policy {
            Policy::Pack => self.packer.place(offers, task),
            Policy::BestFit => best_fit(offers, task),
            Policy::Random => self.random(offers, task),
        }
    }

    /// Any offer that fits, each as likely as the others.
    fn random(&mut self, offers: &[&Resources], task: &ResourceRequest) -> Option<Place> {
        let fitting = offers.iter().enumerate();
        let mut fitting: Vec<_> = fitting
            .filter_map(|(offer, free)| {
                let resources = free.pick(task).ok()?;
                Some(Place { offer, resources })
            })
            .collect();
        if fitting.is_empty() {
            return None;
        }
        let chosen = self.dice.below(fitting.len() as u64) as usize;
        Some(fitting.swap_remove(chosen))
    }
}
