//! `tepui-bench NAME`: runs a benchmark, prints a table, writes JSON if asked.
//!
//! `cargo xtask bench NAME` builds everything first and then calls this.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use tepui_tests::bench::path;

/// Measure Tepui on this machine.
#[derive(Debug, Parser)]
#[command(name = "tepui-bench")]
struct Cli {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// From a request to its exit counted, and what an idle cluster costs
    Path {
        /// Write what was found as JSON, too
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// How long to measure the idle cluster, and single tasks
        #[arg(long, default_value_t = 10, value_name = "N")]
        seconds: u64,
    },
}

#[tokio::main]
async fn main() -> Result<()> {
    let Bench::Path { json, seconds } = Cli::parse().bench;
    let report = path::run(seconds.max(1)).await?;
    if let Some(file) = json {
        let text = serde_json::to_string_pretty(&report)? + "\n";
        std::fs::write(&file, text)
            .with_context(|| format!("failed to write {}", file.display()))?;
    }
    // Last, since who reads it may leave early.
    writeln!(std::io::stdout(), "{}", report.table())?;
    Ok(())
}
