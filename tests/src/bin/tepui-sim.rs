//! `tepui-sim --seeds N [--from S]`: runs seeds of the simulation, and stops at the first that fails.
//!
//! `cargo xtask sim` builds everything first and then calls this.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tepui_tests::sim::{self, Options};
use tokio::time::Instant;

/// Run whole clusters on one thread, a seed each.
#[derive(Debug, Parser)]
#[command(name = "tepui-sim")]
struct Cli {
    /// How many seeds
    #[arg(long, default_value_t = 100, value_name = "N")]
    seeds: u64,
    /// The first
    #[arg(long, default_value_t = 1, value_name = "S")]
    from: u64,
    /// Go on after a seed that fails
    #[arg(long)]
    keep_going: bool,
    /// Print all that happens
    #[arg(long)]
    trace: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let begun = Instant::now();
    let (mut simulated, mut failures) = (Duration::ZERO, 0_u64);
    let (mut run, mut tasks, mut steps) = (0, 0, 0);
    let (mut succeeded, mut promised, mut replaced) = (0, 0, 0);
    for seed in (cli.from..).take(usize::try_from(cli.seeds).unwrap_or(usize::MAX)) {
        let report = sim::run(Options {
            is_loud: cli.trace,
            ..Options::new(seed)
        });
        run += 1;
        show(&format!("{run} of {} seeds, {failures} failed", cli.seeds));
        tasks += report.tasks;
        succeeded += report.succeeded;
        promised += report.promised;
        replaced += report.replaced;
        steps += report.steps;
        simulated += Duration::from_micros(report.time_us);
        if cli.seeds == 1 {
            // Two runs of one seed say the same.
            let hash: String = report.trace[..8]
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            say(&format!("seed {seed}: trace {hash}"));
        }
        if let Some(violation) = report.violation {
            failures += 1;
            say(&format!(
                "seed {seed} failed after {:.1} s: {violation}\n  cargo xtask sim --seeds 1 --from \
                 {seed}",
                Duration::from_micros(report.time_us).as_secs_f64()
            ));
            if !cli.keep_going {
                break;
            }
        }
    }
    let spent = begun.elapsed();
    say(&format!(
        "{run} seeds, {failures} failed: {steps} steps, {tasks} tasks of which {succeeded} succeeded another, \
         {promised} were told ahead and {replaced} replaced, {:.1} simulated hours in {:.0} s, {:.1} in a minute",
        simulated.as_secs_f64() / 3600.0,
        spent.as_secs_f64(),
        simulated.as_secs_f64() / 60.0 / spent.as_secs_f64()
    ));
    match failures {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// How far it is, for people who watch.
fn show(progress: &str) {
    let mut terminal = std::io::stderr();
    if terminal.is_terminal() {
        write!(terminal, "\r{progress} ").ok();
    }
}

/// A closed pipe is no reason to stop.
fn say(text: &str) {
    writeln!(std::io::stdout(), "{text}").ok();
}
