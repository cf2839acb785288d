//! What the loop is told, by everything that runs beside it.

use std::collections::HashSet;

use tepui_pressure::Launches;
use tepui_types::check::CheckStatus;
use tepui_types::wire::agent::{Hello, MasterFrame};
use tepui_types::wire::executor::Look;
use tepui_types::{Digest, Reason, Resources, TaskId};
use tokio::sync::{mpsc, oneshot};

use crate::agent::{ExecutorId, Prepared, Running};
use crate::beside::Run;
use crate::executor::ExecutorEvent;
use crate::master::Session;
use crate::streams::Speech;
use crate::usage::Question;

/// All that can happen to an agent.
#[derive(Debug)]
pub enum Event {
    /// A session is about to begin and needs the agent's introduction.
    HelloWanted(oneshot::Sender<Hello>),
    /// A session has begun.
    Registered(Session),
    /// The master sent these.
    Master(Vec<MasterFrame>),
    /// The session has ended; another is being tried for.
    MasterLost,
    /// The master will not have this agent.
    Refused(Reason),
    /// An executor process said something, or is gone.
    Executor(ExecutorId, ExecutorEvent),
    /// An artifact is here, or cannot be had.
    Fetched(Digest, Result<(), Reason>),
    /// The files of these artifacts take so many bytes more than they may.
    Excess(Vec<(Digest, u64)>, u64),
    /// An artifact's file is gone, or could not be removed.
    Removed(Digest),
    /// What a task's container needs is on its way.
    Preparing(TaskId, Reason),
    /// What a task's container needs is there, or cannot be had.
    Prepared(TaskId, Result<Prepared, Reason>),
    /// How a task's checks stand.
    Checked(TaskId, Vec<CheckStatus>),
    /// A task is to end, for it is not well.
    Unwell(TaskId, Reason),
    /// A command is to be run beside a task.
    RunWanted(Run),
    /// It is to be known whether a command of a task has run all the time.
    LookWanted(Look),
    /// A process is to be asked what some of its tasks use.
    UsageWanted(Question),
    /// Nobody waits for the command of this number any more.
    Abandoned(ExecutorId, u64),
    /// Someone speaks to a task's own input.
    Spoken(Speech),
    /// Who spoke to a task's own input has gone.
    CallerLeft(u128),
    /// All that the machine lends from now on.
    Lends(Box<Resources>),
    /// What may be launched from now on.
    MayLaunch(Launches),
    /// How many percent of what may be taken back tasks get of their processors from now on.
    Share(u8),
    /// Which tasks run, and where?
    CensusWanted(oneshot::Sender<Vec<Running>>),
    /// Which tasks are not forgotten?
    HeldWanted(oneshot::Sender<HashSet<TaskId>>),
    /// Time has passed.
    Tick,
}

/// Which tasks run, and where; none when the loop has ended.
pub async fn census(events: &mpsc::Sender<Event>) -> Option<Vec<Running>> {
    let (sender, census) = oneshot::channel();
    events.send(Event::CensusWanted(sender)).await.ok()?;
    census.await.ok()
}
