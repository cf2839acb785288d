//! `cargo xtask bench allocator [--json FILE] [--only PART]`: what a cycle of the allocator costs.
//!
//! The parts are `changes`, `full`, `declines`, `quota` and `reservations`. Needs only the pure crates, so it is built
//! in seconds. The parameters are those of Mesos's allocator benchmarks, whose published figures are
//! the goals of the rounds. A cycle is timed from the change of the state to the offers ready; applying
//! the change itself is not in it.

// It measures time itself, and nothing in it can be paused.
#![allow(clippy::disallowed_methods)]

// Shared with the benchmarks of whole clusters, so that all tables look alike.
#[allow(dead_code, unused_imports)]
#[path = "../../../tests/src/bench/report.rs"]
mod report;
#[allow(dead_code, unused_imports)]
#[path = "../../../tests/src/bench/samples.rs"]
mod samples;

mod changes;
mod memory;
mod rounds;
mod world;

use std::time::Duration;

use changes::Load;
use report::{Report, Row};
use samples::Samples;

#[global_allocator]
static HEAP: memory::Counting = memory::Counting;

/// Cluster sizes over which the slope is taken.
const SIZES: [u64; 4] = [1_000, 5_000, 20_000, 50_000];
/// Frameworks beside them.
const FRAMEWORKS: u64 = 1_000;
/// The most changes that are timed for one row.
const CHANGES: usize = 20_000;
/// The longest that one row's measurements take.
const BUDGET: Duration = Duration::from_secs(20);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (mut json, mut only) = (None, None);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--json" => json = Some(arguments.next().ok_or("--json wants a file")?),
            "--only" => {
                only = Some(
                    arguments
                        .next()
                        .ok_or("--only wants changes, full, declines, quota or reservations")?,
                )
            }
            // Cargo's own.
            "--bench" => {}
            other => return Err(format!("there is no argument `{other}`").into()),
        }
    }
    let mut report = Report {
        bench: "allocator",
        conditions: report::machine(),
        rows: Vec::new(),
    };
    let wanted = |part: &str| only.as_deref().is_none_or(|only| only == part);
    if wanted("changes") {
        sizes(&mut report);
    }
    if wanted("full") {
        full(&mut report);
    }
    if wanted("declines") {
        declines(&mut report);
    }
    if wanted("quota") {
        quota(&mut report);
    }
    if wanted("reservations") {
        reservations(&mut report);
    }
    println!("{}", report.table());
    if let Some(file) = json {
        std::fs::write(file, serde_json::to_vec_pretty(&report)?)?;
    }
    Ok(())
}

/// One change at each size, and at the largest an idle cycle and the memory.
fn sizes(report: &mut Report) {
    let mut medians = Vec::new();
    for size in SIZES {
        eprintln!("{size} agents, {FRAMEWORKS} frameworks: one change");
        let mut load = Load::new(size, FRAMEWORKS);
        // No more changes than half the agents, so that a small cluster stays what it is, too.
        let times = CHANGES.min(size as usize / 2);
        let samples = load.one_change(times, BUDGET);
        medians.push((size, samples.median()));
        if size == SIZES[SIZES.len() - 1] {
            largest(report, load, &samples);
        }
    }
    let note = medians
        .iter()
        .map(|(size, median)| format!("{size}: {median:.1} us"));
    let note = note.collect::<Vec<_>>().join(", ");
    report
        .rows
        .push(Row::new("slope", "", 0.2, slope(&medians), None, &note));
}

fn largest(report: &mut Report, mut load: Load, samples: &Samples) {
    let note = "30 % of frameworks have filters, 10 % of roles a quota, half constraints, reasons are counted for 9 shapes; 60 % task ends, 20 % declines, 10 % demands, 10 % \
                agents";
    let row = Row::median("one_change_50k_x_1k_us", "us", 1_000.0, samples, note);
    report.rows.push(row);
    let worst = samples.p99();
    let name = "one_change_50k_x_1k_p99_us";
    report.rows.push(Row::new(
        name,
        "us",
        10_000.0,
        worst,
        None,
        "the same changes",
    ));
    let idle = load.idle(10_000, BUDGET);
    let note = "nothing has changed since the last cycle";
    report
        .rows
        .push(Row::median("idle_cycle_us", "us", 10.0, &idle, note));
    let agents = load.world.state.agents.len();
    let offers = load.world.held.len();
    let allocator = std::mem::take(&mut load.world.allocator);
    let bytes = memory::freed_by_drop(allocator) as f64 / agents as f64;
    let note = format!("the allocator's heap at 50,000 agents, with {offers} offers");
    report.rows.push(Row::new(
        "bytes_per_agent",
        "B",
        2_048.0,
        bytes,
        None,
        &note,
    ));
}

/// Full cycles.
fn full(report: &mut Report) {
    eprintln!("10000 agents, 1000 frameworks: full cycles");
    let mut world = rounds::open(10_000, 1_000);
    let samples = rounds::full(&mut world, 20, 1e3);
    let note = "from an allocator that knows nothing; 10,000 offers";
    let row = Row::median("full_cycle_10k_x_1k_ms", "ms", 50.0, &samples, note);
    report.rows.push(row);
}

/// Rounds of declines.
fn declines(report: &mut Report) {
    eprintln!("10000 agents, 1000 frameworks: rounds of declines");
    let mut world = rounds::open(10_000, 1_000);
    rounds::full(&mut world, 1, 1e3);
    let samples = rounds::decline(&mut world, 20);
    let note = "all declined for long, all offered to others; the goal is Mesos's figure";
    let row = Row::median("decline_round_10k_x_1k_s", "s", 1.06, &samples, note);
    report.rows.push(row);
    eprintln!("20000 agents, 2000 frameworks: rounds of declines");
    let mut world = rounds::open(20_000, 2_000);
    rounds::full(&mut world, 1, 1e3);
    let samples = rounds::decline(&mut world, 20);
    let row = Row::median("decline_round_20k_x_2k_s", "s", 3.8, &samples, note);
    report.rows.push(row);
}

/// A full cycle by quota.
fn quota(report: &mut Report) {
    eprintln!("3000 agents, roles and frameworks: quota");
    let mut world = rounds::quota(3_000);
    let samples = rounds::full(&mut world, 20, 1.0);
    let one = rounds::decline_one(&mut world, 500);
    let note = format!(
        "all that there is is guaranteed; the goal is Mesos's figure; a cycle after one decline: {:.0} us \
         (p99 {:.0})",
        one.median(),
        one.p99()
    );
    let row = Row::median("quota_3k_s", "s", 15.4, &samples, &note);
    report.rows.push(row);
}

/// Operations on an agent with many reservations, each of its own labels.
fn reservations(report: &mut Report) {
    eprintln!("6400 reservations on one agent: 20 operations");
    let samples = rounds::update_reservations(6_400, 20, 10);
    let note = "20 times reserve or unreserve on one agent with 6,400 reservations of different labels, \
                applied, and a cycle after each; the goal is Mesos's figure";
    let row = Row::median("update_6400_reservations_s", "s", 90.0, &samples, note);
    report.rows.push(row);
}

/// Of the line through the logarithms, by least squares.
fn slope(points: &[(u64, f64)]) -> f64 {
    let points: Vec<_> = points
        .iter()
        .map(|(x, y)| ((*x as f64).ln(), y.ln()))
        .collect();
    let count = points.len() as f64;
    let mean_x = points.iter().map(|(x, _)| x).sum::<f64>() / count;
    let mean_y = points.iter().map(|(_, y)| y).sum::<f64>() / count;
    let covariance: f64 = points
        .iter()
        .map(|(x, y)| (x - mean_x) * (y - mean_y))
        .sum();
    let variance: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    covariance / variance
}
