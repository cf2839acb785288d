//! `tepui job`: what the built-in framework `batch`, or another of its kind, was given to run.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use tepui_types::api::job::{JobState, JobView};

use crate::client::{BATCH, Client, Jobs};
use crate::output::{self, Columns, Fields, Format};
use crate::run::follow;

mod document;

/// Whose jobs, and what is done with them.
#[derive(Debug, Args)]
pub struct Options {
    /// Of this framework, which takes jobs as batch does
    #[arg(long, global = true, default_value = BATCH, value_name = "FRAMEWORK")]
    framework: String,
    #[command(subcommand)]
    command: Command,
}

/// What can be done with jobs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Hand over a job that is written down, and print its name
    Submit {
        /// A JSON document as `POST /frameworks/batch/jobs` takes it (`JobRequest` in
        /// /v1/openapi.json); - for standard input
        file: PathBuf,
        /// Wait for its end as `tepui run` does, and exit with its task's code
        #[arg(long)]
        wait: bool,
    },
    /// Show all jobs that the framework remembers
    List,
    /// Show all that is known of a job
    Show {
        /// Its name
        job: String,
    },
    /// End a job's tasks
    Kill {
        /// Its name
        job: String,
    },
}

/// Runs one of the commands.
pub async fn run(options: Options, client: &Client, format: Format) -> Result<ExitCode> {
    let jobs = client.jobs_of(&options.framework);
    match options.command {
        Command::Submit { file, wait } => return submit(&file, wait, &jobs, format).await,
        Command::List => list(&jobs, format).await,
        Command::Show { job } => {
            let view = jobs.get(&job).await?;
            match format {
                Format::Json => output::json(&view),
                Format::Table => show(&view),
            }
        }
        Command::Kill { job } => {
            let view = jobs.kill(&job).await?;
            match format {
                Format::Json => output::json(&view),
                Format::Table => {
                    output::line(&format!("job {} is {}", view.name, state(view.state)))
                }
            }
        }
    }?;
    Ok(ExitCode::SUCCESS)
}

async fn submit(file: &Path, waits: bool, jobs: &Jobs<'_>, format: Format) -> Result<ExitCode> {
    let request = document::read(file)?;
    let job = jobs.submit(&request).await;
    let job = job.context("the job was not accepted")?;
    if waits {
        output::note(&format!("tepui: job {} is submitted", job.name));
        return follow::to_the_end(job, jobs, format, false).await;
    }
    match format {
        Format::Json => output::json(&job)?,
        Format::Table => output::line(&job.name)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A job's state in a word.
pub fn state(state: JobState) -> &'static str {
    match state {
        JobState::Waiting => "waiting",
        JobState::Running => "running",
        JobState::Killing => "killing",
        JobState::Finished => "finished",
        JobState::Failed => "failed",
        JobState::Killed => "killed",
    }
}

/// How many of a job's tasks are how far, in words.
pub fn counts(job: &JobView) -> String {
    let counts = [
        (job.waiting, "waiting"),
        (job.active, "running"),
        (job.finished, "finished"),
        (job.failed, "failed"),
        (job.killed, "killed"),
    ];
    let parts: Vec<_> = counts
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
    parts.join(", ")
}

async fn list(jobs: &Jobs<'_>, format: Format) -> Result<()> {
    let mut jobs = jobs.list().await?;
    if format == Format::Json {
        return output::json(&jobs);
    }
    // As people count: job-2 before job-10.
    jobs.sort_by_cached_key(|job| natural(&job.name));
    let mut table = Columns::new(&["name", "state", "tasks", "each", "priority", "reason"]);
    for job in &jobs {
        table.row([
            job.name.clone(),
            state(job.state).to_owned(),
            counts(job),
            output::request(&job.resources),
            job.priority.to_string(),
            job.reason
                .as_ref()
                .map(|reason| reason.code.clone())
                .unwrap_or_default(),
        ]);
    }
    table.right(4);
    table.print("no jobs: run one with `tepui run -- echo hello`")
}

/// A name without the number at its end, and the number.
fn natural(name: &str) -> (String, u64) {
    let stem = name.trim_end_matches(|last: char| last.is_ascii_digit());
    let number = name[stem.len()..].parse().unwrap_or(0);
    (stem.to_owned(), number)
}

fn listed(names: &[String]) -> Option<String> {
    (!names.is_empty()).then(|| names.join(", "))
}

fn show(job: &JobView) -> Result<()> {
    let mut fields = Fields::new();
    fields
        .add("name", &job.name)
        .add("state", state(job.state))
        .maybe("reason", job.reason.as_ref())
        .add("tasks", format!("{} in all: {}", job.count, counts(job)))
        .add("each", output::request(&job.resources))
        .add("restarts", job.restarts)
        .add("priority", job.priority)
        .add("for", &job.user)
        .maybe("role", job.role.as_ref())
        .maybe(
            "where",
            Some(&job.constraints).filter(|place| !place.is_empty()),
        )
        .maybe("volumes", listed(&job.volumes))
        .maybe("revocable", job.revocable.then_some("may take it"))
        .maybe("gang", job.gang.then_some("all start together"))
        .maybe("time limit", job.time_limit_ms.map(output::span));
    if let Some(task) = &job.task {
        fields
            .add("task", format!("{} is {}", task.id, task.state))
            .maybe("exit code", task.exit_code);
    }
    fields.print()
}
