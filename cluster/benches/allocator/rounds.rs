//! Whole cycles: everything is free and everybody wants it.

use std::time::{Duration, Instant};

use tepui_cluster::{Allocator, Command};
use tepui_types::resources::{Conversion, Pool, PoolKind, Pools, Reservation};
use tepui_types::{AgentId, Resources, Wish};

use crate::samples::Samples;
use crate::world::{World, amounts, machine, request};

/// The longest that one row's measurements take.
const BUDGET: Duration = Duration::from_secs(20);
/// Milliseconds for which an offer is declined: a day.
const LONG_MS: u64 = 86_400_000;

/// So many agents, all free, and frameworks that want more than there is.
pub fn open(agents: u64, frameworks: u64) -> World {
    let mut world = World::new();
    for agent in 0..agents {
        let slot = 2 << (agent % 4);
        world.register(agent as u128 + 1, None, machine(4 * slot, 16 * slot, agent));
    }
    let teams = (frameworks / 10).max(1);
    for n in 0..frameworks {
        let role = format!("team-{}/group-{}", n % teams, n / teams % 2);
        let framework = world.framework(format!("f{n}"), &role);
        world.demand(framework, "all", 1_000_000, &request(1, 2));
    }
    world
}

/// As many agents as roles and frameworks. Half of the roles are guaranteed half an agent and half
/// one and a half, which is all that there is.
pub fn quota(count: u64) -> World {
    let mut world = World::new();
    for agent in 0..count {
        world.register(agent as u128 + 1, None, machine(16, 64, agent));
    }
    for n in 0..count {
        let role = format!("role-{n}");
        let cpus = if n % 2 == 0 { 8 } else { 24 };
        world.quota(&role, cpus, 4 * cpus);
        let framework = world.framework(format!("f{n}"), &role);
        world.demand(framework, "all", 1_000_000, &request(1, 4));
    }
    world
}

/// The time from an allocator that knows nothing to all offers; a second is `second`.
pub fn full(world: &mut World, times: usize, second: f64) -> Samples {
    let mut samples = Samples::default();
    let begun = Instant::now();
    while samples.count() < times && (samples.count() == 0 || begun.elapsed() < BUDGET) {
        let cycle = Instant::now();
        let mut allocator = Allocator::new();
        let decisions = allocator.allocate(&world.state, world.now);
        samples.add(cycle.elapsed().as_secs_f64() * second);
        let cut = decisions.len() >= world.state.agents.len();
        assert!(cut, "every agent is offered, whole or in parts");
        world.allocator = allocator;
        world.held.clear();
        world.hold(decisions);
    }
    samples
}

/// Seconds of a round in which every offer is declined for long, and all are offered to others.
pub fn decline(world: &mut World, times: usize) -> Samples {
    let mut samples = Samples::default();
    let begun = Instant::now();
    while samples.count() < times && (samples.count() == 0 || begun.elapsed() < BUDGET) {
        world.now = world.now.after_millis(1_000);
        let offers: Vec<_> = world.held.drain(..).map(|held| held.id).collect();
        let round = Instant::now();
        world.allocator.decline(&offers, LONG_MS, world.now);
        let decisions = world.allocator.allocate(&world.state, world.now);
        samples.add(round.elapsed().as_secs_f64());
        assert_eq!(
            decisions.len(),
            offers.len(),
            "every agent goes to another framework"
        );
        world.hold(decisions);
    }
    samples
}

/// Microseconds of a cycle after one offer was declined for a moment.
pub fn decline_one(world: &mut World, times: usize) -> Samples {
    let mut samples = Samples::default();
    for number in 0..times {
        world.now = world.now.after_millis(1);
        let place = number * 7 % world.held.len();
        let offer = world.held.swap_remove(place).id;
        let cycle = Instant::now();
        world.allocator.decline(&[offer], 1, world.now);
        let decisions = world.allocator.allocate(&world.state, world.now);
        samples.add(cycle.elapsed().as_secs_f64() * 1e6);
        world.hold(decisions);
    }
    samples
}

/// Seconds of so many operations on an agent with so many reservations, each followed by a cycle.
pub fn update_reservations(count: u64, operations: u64, times: usize) -> Samples {
    let mut world = World::new();
    let agent = AgentId(1);
    world.register(1, None, machine(2 * count, 2 * count, 0));
    let framework = world.framework("f".into(), "eng");
    world.demand(framework, "all", 1, &request(1, 1));
    let labelled = |number: u64| {
        let mut reservation = Reservation::dynamic("eng".parse().expect("a role"));
        reservation
            .labels
            .insert("number".into(), number.to_string());
        reservation
    };
    let reserve = |number| Conversion::Reserve {
        resources: amounts(1, 1),
        reservation: labelled(number),
    };
    let unreserve = |number| {
        let kind = PoolKind {
            reservations: vec![labelled(number)],
            ..PoolKind::default()
        };
        let pool = Pool {
            kind,
            amounts: amounts(1, 1),
        };
        Conversion::Unreserve {
            resources: Resources {
                pools: Pools::from(pool),
                ..Resources::default()
            },
        }
    };
    let operate = |world: &mut World, conversion| {
        let wish = Wish::Exactly(conversion);
        let (_, changes) = world.apply(Command::Operate { agent, wish });
        world.allocator.on_changes(&world.state, &changes);
    };
    for number in 0..count {
        operate(&mut world, reserve(number));
    }
    let decisions = world.cycle();
    world.hold(decisions);
    let mut samples = Samples::default();
    let begun = Instant::now();
    while samples.count() < times && (samples.count() == 0 || begun.elapsed() < BUDGET) {
        let round = Instant::now();
        for step in 0..operations {
            let number = count + step / 2;
            let conversion = match step % 2 {
                0 => reserve(number),
                _ => unreserve(number),
            };
            operate(&mut world, conversion);
            let decisions = world.cycle();
            world.hold(decisions);
        }
        samples.add(round.elapsed().as_secs_f64());
    }
    samples
}
