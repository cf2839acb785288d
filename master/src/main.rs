//! `tepui-master`: parses its flags and runs a master until it is told to stop, or does one thing for
//! such a master: a compilation, a restore.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use tepui_master::config::{Args, Command, Config};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let args = Args::parse();
    match &args.command {
        Some(Command::CompileComponent(compilation)) => return ended(compilation.run()),
        Some(Command::Restore(restore)) => {
            return ended(restore.run().map(|()| ExitCode::SUCCESS));
        }
        None => {}
    }
    let filter = EnvFilter::try_from_env("TEPUI_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let result = Config::load(&args).context("the configuration cannot be used");
    ended(
        result
            .and_then(tepui_master::run)
            .map(|()| ExitCode::SUCCESS),
    )
}

fn ended(result: anyhow::Result<ExitCode>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tepui-master: {error:#}");
            ExitCode::FAILURE
        }
    }
}
