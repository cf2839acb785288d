//! A submitted job, to its end: shown on the way, ended by Ctrl-C, and left by a second one.

use std::cell::Cell;
use std::process::ExitCode;

use anyhow::Result;
use tepui_types::api::job::JobView;
use tokio::signal::unix::{SignalKind, signal};

use super::verdict;
use super::watch::Watch;
use crate::client::Jobs;
use crate::output::{self, Format};

/// What a shell says of a program that SIGINT (Ctrl-C) ended: 128 and the signal's number.
const INTERRUPTED: u8 = 130;
/// The same of SIGTERM.
const TERMINATED: u8 = 143;

/// Waits for the job's end; gives its task's code.
pub async fn to_the_end(
    job: JobView,
    jobs: &Jobs<'_>,
    format: Format,
    is_attached: bool,
) -> Result<ExitCode> {
    let name = job.name.clone();
    let interrupted = Cell::new(None);
    let ended = tokio::select! {
        ended = wait(&name, job, jobs, format, is_attached) => ended,
        left = interrupts(&name, jobs, &interrupted) => {
            return Ok(ExitCode::from(left?));
        }
    };
    let job = match ended {
        Ok(Some(job)) => job,
        // Whoever left it has seen what there was to see.
        Ok(None) => return Ok(ExitCode::SUCCESS),
        Err(error) => {
            // Nobody reads what it writes: as with any program in a pipe, that ends it.
            if crate::is_broken_pipe(&error) {
                jobs.kill(&name).await?;
            }
            return Err(error);
        }
    };
    if format == Format::Json {
        output::json(&job)?;
    }
    let verdict = verdict::say(&job, jobs).await;
    Ok(interrupted.get().map_or(verdict, ExitCode::from))
}

/// Waits for the job's end, and shows on the way what there is to see; none if it was left before.
async fn wait(
    name: &str,
    job: JobView,
    jobs: &Jobs<'_>,
    format: Format,
    is_attached: bool,
) -> Result<Option<JobView>> {
    let mut watch = Watch::new(name, jobs, is_attached);
    match job.count {
        1 => watch.one(job, format == Format::Table).await,
        _ => watch.many(job).await.map(Some),
    }
}

/// Ends with the second Ctrl-C, with the code to exit with; the first asks for the job's end.
async fn interrupts(name: &str, jobs: &Jobs<'_>, code: &Cell<Option<u8>>) -> Result<u8> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    loop {
        let signal = tokio::select! {
            _ = interrupt.recv() => INTERRUPTED,
            _ = terminate.recv() => TERMINATED,
        };
        if code.replace(Some(signal)).is_some() {
            return Ok(signal);
        }
        output::note(&format!(
            "tepui: ending job {name}; Ctrl-C again leaves it to end by itself"
        ));
        if let Err(error) = jobs.kill(name).await {
            output::note(&format!("tepui: job {name} could not be ended: {error}"));
        }
    }
}
