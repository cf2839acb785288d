//! `cargo xtask bench packing TRACE [--json FILE]`: how much gpu of a production cluster is allocated.
//!
//! Replays the nodes and tasks of the folder `openb` (Alibaba's cluster-trace-gpu-v2023) through the
//! real state and allocator: one framework is offered all that is free, places each task by a policy,
//! and launches it. Tasks come in the list's order, then as draws from it with replacement, and never
//! leave, until what they ask for is 130 % of the cluster's gpus. A task that fits nowhere is gone.

// It measures time itself, and nothing in it can be paused.
#![allow(clippy::disallowed_methods)]

// Shared with other benchmarks, so that all tables look alike and all load comes the same way.
#[allow(dead_code, unused_imports)]
#[path = "../../../tests/src/bench/report.rs"]
mod report;
#[allow(dead_code, unused_imports)]
#[path = "../../../tests/src/bench/samples.rs"]
mod samples;
#[allow(dead_code)]
#[path = "../allocator/world.rs"]
mod world;

mod replay;
mod trace;

use replay::{Found, Policy};
use report::{Report, Row};
use samples::Samples;
use trace::Trace;

/// Seeds of the draws.
const SEEDS: std::ops::RangeInclusive<u64> = 1..=10;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (mut folder, mut json) = (None, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--json" => json = Some(arguments.next().ok_or("--json wants a file")?),
            // Cargo's own.
            "--bench" => {}
            _ => folder = Some(argument),
        }
    }
    let folder = folder.ok_or("name the folder of the trace, with its two lists")?;
    let trace = Trace::read(folder.as_ref())?;
    let mut report = Report {
        bench: "packing",
        conditions: report::machine(),
        rows: Vec::new(),
    };
    let tasks = format!(
        "{} agents, {} tasks in the list",
        trace.machines.len(),
        trace.tasks.len()
    );
    report.conditions.insert("trace".into(), tasks);
    let found = |policy| {
        SEEDS
            .map(|seed| replay::run(&trace, policy, seed))
            .collect::<Vec<_>>()
    };
    let packed = found(Policy::Pack);
    let row = |name, goal, runs: &[Found], value: fn(&Found) -> f64| {
        let mut samples = Samples::default();
        runs.iter().for_each(|run| samples.add(value(run)));
        let mean = runs.iter().map(value).sum::<f64>() / runs.len() as f64;
        let (least, most) = (samples.quantile(0.01), samples.quantile(1.0));
        let note = format!("mean of {} seeds, {least:.2} to {most:.2}", runs.len());
        Row::new(name, "%", goal, mean, None, &note).higher()
    };
    let rows = &mut report.rows;
    rows.push(row("gpu_allocated_percent", 95.4, &packed, |found| {
        found.at_130
    }));
    rows.push(row("gpu_allocated_100_percent", 95.2, &packed, |found| {
        found.at_100
    }));
    rows.push(row(
        "best_fit_percent",
        93.1,
        &found(Policy::BestFit),
        |found| found.at_130,
    ));
    rows.push(row(
        "random_percent",
        87.5,
        &found(Policy::Random),
        |found| found.at_130,
    ));
    let mut speed = Samples::default();
    packed
        .iter()
        .for_each(|found| speed.add(found.decisions_per_s));
    let note = "place, launch, apply and the next offer, by the pack helper";
    let row = Row::median("decisions_per_s", "/s", 1_000.0, &speed, note);
    rows.push(row.higher());
    println!("{}", report.table());
    println!("The goals of best fit and random are the published figures of those policies.");
    if let Some(file) = json {
        std::fs::write(file, serde_json::to_vec_pretty(&report)?)?;
    }
    Ok(())
}
