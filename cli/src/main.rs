//! `tepui`: the command line of a cluster.
//!
//! This file holds the tree of commands and what comes of their errors; each
//! noun has a file of its own, and `client` speaks to the master. The exit code
//! is 0 for success, 1 for failure, 2 for a command line that cannot be, and
//! for `run` the task's own.

use std::io;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::client::Client;
use crate::output::Format;

mod agent;
mod amounts;
mod artifact;
mod backup;
mod client;
mod dev;
mod download;
mod events;
mod exec;
mod explain;
mod files;
mod forward;
mod framework;
mod job;
mod logs;
mod maintenance;
mod master;
mod output;
mod patience;
mod progress;
mod role;
mod run;
mod setting;
mod status;
mod stdin;
mod task;
mod terminal;
mod top;
mod volume;

/// Run work on a Tepui cluster, and see what it does.
#[derive(Debug, Parser)]
#[command(name = "tepui", version, max_term_width = 100)]
struct Cli {
    /// The master to talk to; of several, divided by commas, any that answers
    #[arg(
        long,
        global = true,
        env = "TEPUI_MASTER",
        default_value = "http://127.0.0.1:5050",
        value_name = "URL"
    )]
    master: String,
    /// Read what the asked master has, also where no majority can be asked; it says how old that is.
    /// Changes, jobs and what agents are asked need a leader all the same
    #[arg(long, global = true)]
    stale: bool,
    /// Who asks, where that is not the operator at this machine
    #[arg(
        long,
        global = true,
        env = "TEPUI_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN"
    )]
    token: Option<String>,
    /// For people or for programs
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value = "table",
        value_name = "FORMAT"
    )]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a cluster on this machine, and stop it with Ctrl-C
    Dev(dev::Options),
    /// Run a WebAssembly program or a command, and wait for its end
    Run(Box<run::Options>),
    /// Jobs of the built-in framework `batch`, or of another of its kind
    Job(job::Options),
    /// Tasks of all frameworks
    #[command(subcommand)]
    Task(task::Command),
    /// What running tasks use of processors, memory and disk, beside what they were given
    Top(top::Options),
    /// Run a command beside a task, in its cgroup and its container
    Exec(exec::ExecOptions),
    /// Speak to a task that reads (`tepui run -i`), and see what it writes
    Attach(exec::AttachOptions),
    /// Let ports of this machine lead to a task's
    PortForward(forward::Options),
    /// Machines
    #[command(subcommand)]
    Agent(agent::Command),
    /// When which machines are worked on
    #[command(subcommand)]
    Maintenance(maintenance::Command),
    /// Those who replicate the cluster's state
    #[command(subcommand)]
    Master(master::Command),
    /// Schedulers
    #[command(subcommand)]
    Framework(framework::Command),
    /// Who counts how much, and what each is promised and may have
    #[command(subcommand)]
    Role(role::Command),
    /// What is decided for the whole cluster
    #[command(subcommand)]
    Setting(setting::Command),
    /// What tasks keep on machines
    #[command(subcommand)]
    Volume(volume::Command),
    /// Stored programs
    #[command(subcommand)]
    Artifact(artifact::Command),
    /// Write the cluster's state and artifacts into one file
    Backup(backup::Backup),
    /// Make an empty folder the first master's of a cluster that begins again from a backup
    Restore(backup::Restore),
    /// The whole cluster at a glance
    Status,
    /// What changes, as it happens
    Events(events::Options),
    /// Why a job, or a framework's demand, waits
    Explain(explain::Options),
    /// Print a completion script for a shell
    Completion {
        /// Which shell
        shell: Shell,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(dispatch(cli));
            // A read of stdin or a file that still hangs must not hold the exit up.
            runtime.shutdown_background();
            result
        }
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(code) => code,
        // Whoever read our output has left; that is their right.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::note(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    let client = Client::new(&cli.master, cli.token)?.stale(cli.stale);
    let format = cli.output;
    match cli.command {
        Command::Dev(options) => dev::run(options).await?,
        Command::Run(options) => {
            let line: Vec<_> = std::env::args_os().collect();
            return run::run(*options, &line, &client, format).await;
        }
        Command::Job(options) => return job::run(options, &client, format).await,
        Command::Task(command) => task::run(command, &client, format).await?,
        Command::Top(options) => top::run(options, &client, format).await?,
        Command::Exec(options) => return exec::exec(options, &client).await,
        Command::Attach(options) => return exec::attach(options, &client).await,
        Command::PortForward(options) => forward::run(options, client).await?,
        Command::Agent(command) => agent::run(command, &client, format).await?,
        Command::Role(command) => role::run(command, &client, format).await?,
        Command::Setting(command) => setting::run(command, &client, format).await?,
        Command::Maintenance(command) => maintenance::run(command, &client, format).await?,
        Command::Master(command) => master::run(command, &client, format).await?,
        Command::Framework(command) => framework::run(command, &client, format).await?,
        Command::Volume(command) => volume::run(command, &client, format).await?,
        Command::Artifact(command) => artifact::run(command, &client, format).await?,
        Command::Backup(options) => backup::backup(options, &client, format).await?,
        Command::Restore(options) => backup::restore(&options)?,
        Command::Status => status::run(&client, format).await?,
        Command::Events(options) => events::run(options, &client, format).await?,
        Command::Explain(options) => explain::run(options, &client, format).await?,
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "tepui", &mut script);
            output::line(String::from_utf8_lossy(&script).trim_end())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_reader_that_left_is_no_error() {
        let error = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(is_broken_pipe(&error.context("failed to write")));
        assert!(!is_broken_pipe(&anyhow::anyhow!("no")));
    }
}
