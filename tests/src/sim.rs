//! A whole cluster on one thread, under one seed: the same seed gives the same run.
//!
//! What runs is real: the state and the allocator of `tepui-cluster`, the member of the group with
//! its queue, log and images of `tepui-master`, the core of `tepui-agent`. What is around them is
//! simulated: [network], [disks](storage), clocks, [executors], and small frameworks and
//! clients. Messages are lost, doubled and overtaken, links are cut one way and both, processes and
//! machines die at any step, disks are slow and lose what was not synced, clocks jump, frameworks
//! trap. [`checks`] says what must hold all the while. In the end everything is mended, and all work
//! must come to its end.
//!
//! `cargo xtask sim --seeds N [--from S]` runs many; a seed that fails prints the line that repeats
//! it.

use std::panic::{AssertUnwindSafe, catch_unwind};

mod agents;
mod checks;
mod connections;
pub mod dice;
mod executors;
mod faults;
mod leader;
mod machine;
mod masters;
mod membership;
mod messages;
mod network;
mod operators;
mod scheduler;
mod sessions;
mod storage;
mod workload;
mod world;

use checks::Violation;
use world::World;

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// All chance follows from it.
    pub seed: u64,
    /// The longest time, in simulated seconds, in which things break.
    pub war_s: u64,
    /// Simulated seconds after the last fault in which all work must be done.
    pub patience_s: u64,
    /// Something that is broken on purpose, so that the checks have something to find.
    pub sabotage: Option<Sabotage>,
    /// Whether to print what happens.
    pub is_loud: bool,
}

impl Options {
    /// The usual run of a seed.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            war_s: 120,
            patience_s: 240,
            sabotage: None,
            is_loud: false,
        }
    }
}

/// Something that is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// Disks say that they have synced, and have not.
    SyncNothing,
    /// The first master gets other commands than the others.
    ChangeEntries,
    /// Agents forget what they have launched when they start.
    ForgetJournal,
    /// Agents end nothing because masters say nothing.
    StopNothing,
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The first thing that was wrong.
    pub violation: Option<Violation>,
    /// Tells two runs apart.
    pub trace: [u8; 32],
    /// Simulated microseconds.
    pub time_us: u64,
    /// Things that happened.
    pub steps: u64,
    /// Tasks that were started.
    pub tasks: usize,
    /// Tasks that got the place of another.
    pub succeeded: usize,
    /// Tasks of which their agent was told ahead.
    pub promised: usize,
    /// Of these, those behind one that waited itself.
    pub deep: usize,
    /// Tasks that count as gone because their agent was not heard of.
    pub replaced: usize,
}

/// Runs one seed to its end.
pub fn run(options: Options) -> Report {
    let mut world = match World::new(options) {
        Ok(world) => world,
        Err(violation) => {
            return Report {
                violation: Some(violation),
                trace: [0; 32],
                time_us: 0,
                steps: 0,
                tasks: 0,
                succeeded: 0,
                promised: 0,
                deep: 0,
                replaced: 0,
            };
        }
    };
    let result = catch_unwind(AssertUnwindSafe(|| world.run()));
    let violation = match result {
        Ok(result) => result.err(),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).into()));
            Some(format!("it panicked: {}", text.unwrap_or_default()))
        }
    };
    Report {
        violation,
        time_us: world.now,
        steps: world.steps,
        tasks: world.checks.tasks().0,
        succeeded: world.checks.succeeded(),
        promised: world.checks.promised(),
        deep: world.checks.deep(),
        replaced: world.checks.replaced(),
        trace: world.trace(),
    }
}
