//! What an earlier `tepui dev` of a folder left running, when it was killed.
//!
//! The hold on the folder says that no `tepui dev` uses it, and the notes of processes name them so that
//! no other can be meant (`leftovers`). The next one ends masters and agents and starts them anew; tasks
//! go on, and are found again. `--stop` ends all.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tepui_cli::leftovers;
use tepui_folder::FolderError;
use tokio::time::Instant;

use super::folder::{self, Folder};
use crate::output;

/// How long a `tepui dev` may take to stop its cluster: the parts, one kind after another, and tasks
/// have ten seconds each.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(20);

/// Ends the masters and agents that still run, and the tasks of agents beyond so many, which nobody
/// would find again.
pub async fn take_over(folder: &Folder, agents: u16) -> Result<()> {
    let ended = end_parts(folder).await?;
    if !ended.is_empty() {
        output::note(&format!(
            "tepui: an earlier tepui dev of this folder did not stop its cluster: {} ended, to be \
             started anew; tasks go on",
            are(&ended)
        ));
    }
    let kept: Vec<PathBuf> = (1..=agents)
        .map(|number| folder.path().join(folder::agent(number)))
        .collect();
    let mut others = folder.agents();
    others.retain(|agent| !kept.contains(agent));
    leftovers::stop_tasks(&others).await
}

/// Stops the cluster of a folder, whether its `tepui dev` runs or was killed.
pub async fn stop(place: &Path) -> Result<()> {
    let shown = place.display();
    if !place.exists() {
        bail!("there is no cluster in {shown}: name the folder of one with --dir");
    }
    let Some((folder, was_asked)) = take(place).await? else {
        bail!("the tepui dev of {shown} does not end: see what it says, or end it with kill -9");
    };
    let ended = end_parts(&folder).await?;
    let tasks = leftovers::stop_tasks(&folder.agents()).await;
    tasks.with_context(|| format!("some tasks of {shown} may still run"))?;
    output::line(&match (was_asked, ended.is_empty()) {
        (true, _) => format!("the cluster of {shown} is stopped"),
        (false, true) => format!("no part of the cluster of {shown} ran"),
        (false, false) => format!("the cluster of {shown} is stopped: {} ended", are(&ended)),
    })
}

/// Takes the folder, once whoever uses it has stopped as asked; says whether someone did.
async fn take(place: &Path) -> Result<Option<(Folder, bool)>> {
    let deadline = Instant::now() + STOP_TIMEOUT;
    let mut asked = None;
    loop {
        let error = match Folder::open(place) {
            Ok(folder) => return Ok(Some((folder, asked.is_some()))),
            Err(error) => error,
        };
        let Some(FolderError::Locked { pid, .. }) = error.downcast_ref() else {
            return Err(error);
        };
        // The lock is held, so its holder lives; until it has written its number there may be another's.
        if let Ok(pid) = pid.parse::<i32>()
            && asked != Some(pid)
            && is_of_this_program(pid)
        {
            kill(Pid::from_raw(pid), Signal::SIGTERM)
                .with_context(|| format!("tepui dev (pid {pid}) cannot be told to stop"))?;
            asked = Some(pid);
        }
        if Instant::now() > deadline {
            return Ok(None);
        }
        // sleep: whoever holds a lock says nothing when it lets go.
        tokio::time::sleep(LOOK).await;
    }
}

fn is_of_this_program(pid: i32) -> bool {
    let name = |whose: &str| std::fs::read(format!("/proc/{whose}/comm")).ok();
    pid > 1 && name(&pid.to_string()).is_some_and(|other| Some(other) == name("self"))
}

/// Ends the parts that run, agents first, so that nothing new is started; says which.
async fn end_parts(folder: &Folder) -> Result<Vec<String>> {
    let mut ended = Vec::new();
    for part in folder.noted() {
        let file = folder.identity(&part);
        let living = leftovers::living(&file);
        leftovers::end_process(&file).await?;
        ended.extend(living.map(|pid| format!("{part} (pid {pid})")));
    }
    Ok(ended)
}

fn are(parts: &[String]) -> String {
    let verb = if parts.len() == 1 { "is" } else { "are" };
    format!("{} {verb}", parts.join(", "))
}
