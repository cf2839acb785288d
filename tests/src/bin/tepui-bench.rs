//! `tepui-bench NAME`: runs a benchmark, prints a table, writes JSON if asked.
//!
//! `cargo xtask bench NAME` builds everything first and then calls this.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use tepui_tests::bench::{agent, failover, path};

/// Measure Tepui on this machine.
#[derive(Debug, Parser)]
#[command(name = "tepui-bench")]
struct Cli {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// How soon an agent's executors run a task, and what they cost
    Agent {
        /// Write what was found as JSON, too
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// From a request to its exit counted, and what an idle cluster costs
    Path {
        /// Write what was found as JSON, too
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// How long to measure the idle cluster, and single tasks
        #[arg(long, default_value_t = 10, value_name = "N")]
        seconds: u64,
    },
    /// How long a group of masters is without a leader, and what it commits
    Failover {
        /// Write what was found as JSON, too
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// How often the leader is killed
        #[arg(long, default_value_t = 50, value_name = "N")]
        kills: usize,
        /// How long to commit as much as can be
        #[arg(long, default_value_t = 30, value_name = "N")]
        seconds: u64,
        /// Measure these rows and no others
        #[arg(long, value_name = "ROW", value_delimiter = ',')]
        only: Vec<String>,
    },
}

#[tokio::main]
async fn main() -> Result<()> {
    let (json, report) = match Cli::parse().bench {
        Bench::Agent { json } => (json, agent::run().await?),
        Bench::Path { json, seconds } => (json, path::run(seconds.max(1)).await?),
        Bench::Failover {
            json,
            kills,
            seconds,
            only,
        } => {
            let options = failover::Options {
                kills: kills.max(1),
                seconds: seconds.max(1),
                only,
            };
            (json, failover::run(options).await?)
        }
    };
    if let Some(file) = json {
        let text = serde_json::to_string_pretty(&report)? + "\n";
        std::fs::write(&file, text)
            .with_context(|| format!("failed to write {}", file.display()))?;
    }
    // Last, since who reads it may leave early.
    writeln!(std::io::stdout(), "{}", report.table())?;
    Ok(())
}
