//! A job on its way: its output, or how many of its tasks have ended.
//!
//! The job's own record says when it is over; it is asked for often at first,
//! so that a short task returns at once, and then ever more seldom.

use std::time::Duration;

use anyhow::Result;
use tepui_types::api::job::{JobState, JobView};
use tepui_types::{Reason, TaskId, TaskState};
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use super::verdict;
use crate::client::{Client, ClientError, Jobs, LogStream, TaskFilter};
use crate::exec::{self, Seen};
use crate::job;
use crate::logs::{self, Wanted};
use crate::output;
use crate::progress::Transfer;
use crate::stdin::Stdin;

/// The pauses between two looks at a job.
const SHORTEST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// How long a job may wait before the reason is said.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often tasks are looked for that nobody can reach.
const LOOK: Duration = Duration::from_secs(2);
/// Tasks that are looked at for that: one is enough to say so.
const LOOKED_AT: usize = 100;

/// One watched job.
pub struct Watch<'a> {
    name: &'a str,
    jobs: &'a Jobs<'a>,
    since: Instant,
    pause: Duration,
    said: String,
    /// The last reason of the job that was said, and the whole of it.
    whole: Option<(Reason, Reason)>,
    looked: Instant,
    /// Whether what is typed here goes to the task.
    is_attached: bool,
    /// What is typed, of which each attempt gets what none before has taken.
    stdin: Stdin,
}

impl<'a> Watch<'a> {
    /// Watches the job of this name.
    pub fn new(name: &'a str, jobs: &'a Jobs<'a>, is_attached: bool) -> Self {
        Self {
            name,
            jobs,
            since: Instant::now(),
            pause: SHORTEST_PAUSE,
            said: String::new(),
            whole: None,
            looked: Instant::now(),
            is_attached,
            stdin: Stdin::new(),
        }
    }

    /// Follows a job of one task to its end; copies its output if `copied`. None if whoever typed has
    /// left it.
    pub async fn one(&mut self, mut job: JobView, copied: bool) -> Result<Option<JobView>> {
        let mut shown: Option<TaskId> = None;
        loop {
            let task = job.task.as_ref().map(|task| &task.id);
            let fresh = task.filter(|task| shown.as_ref() != Some(*task)).cloned();
            if let (Some(task), true) = (fresh, copied) {
                if !self.is_attached {
                    self.show(&task, Seen::default()).await?;
                } else if !self.attach(&task).await? {
                    return Ok(None);
                }
                shown = Some(task);
                self.pause = SHORTEST_PAUSE;
            } else if is_over(&job) {
                return Ok(Some(job));
            } else {
                self.say_why(&job).await?;
                self.rest().await;
            }
            job = self.jobs.get(self.name).await?;
        }
    }

    /// Counts the ended tasks of an array to its end.
    pub async fn many(&mut self, mut job: JobView) -> Result<JobView> {
        let bar = Transfer::tasks(self.name, u64::from(job.count));
        while !is_over(&job) {
            let ended = u64::from(job.finished) + u64::from(job.failed) + u64::from(job.killed);
            bar.set(ended, format!("({})", job::counts(&job)));
            self.say_why(&job).await?;
            self.rest().await;
            job = self.jobs.get(self.name).await?;
        }
        bar.clear();
        Ok(job)
    }

    async fn rest(&mut self) {
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 3 / 2).min(LONGEST_PAUSE);
    }

    /// Says why nothing of the job goes on, once for each reason.
    async fn say_why(&mut self, job: &JobView) -> Result<()> {
        if job.active > 0 && self.looked.elapsed() > LOOK {
            return self.say_unreachable().await;
        }
        if job.active > 0 || job.waiting == 0 || self.since.elapsed() < PATIENCE {
            return Ok(());
        }
        let demands = self.jobs.client().demands().await?;
        let framework = self.jobs.framework();
        let explained = demands
            .into_iter()
            .find(|demand| demand.framework_name == framework && demand.key == self.name)
            .map(|demand| demand.explanation.summary);
        let explained = explained.filter(|why| !why.is_empty());
        let why = match (explained, &job.reason) {
            (Some(why), _) => why,
            (None, Some(why)) => {
                let why = self.whole(job, why).await;
                format!("to run again what ended: {}", why.message)
            }
            (None, None) => return Ok(()),
        };
        self.say(format!("tepui: job {} waits: {why}", self.name));
        Ok(())
    }

    /// A job's reason as its task has it, asked for once.
    async fn whole(&mut self, job: &JobView, why: &Reason) -> Reason {
        match &self.whole {
            Some((known, whole)) if known == why => whole.clone(),
            _ => {
                let whole = verdict::whole(job, why, self.jobs).await;
                self.whole = Some((why.clone(), whole.clone()));
                whole
            }
        }
    }

    /// Says that a task is out of reach, which no patience of this program ends.
    async fn say_unreachable(&mut self) -> Result<()> {
        self.looked = Instant::now();
        let filter = TaskFilter {
            states: vec![TaskState::Unreachable],
            framework: Some(self.jobs.framework().into()),
            search: Some(self.name.into()),
            ..TaskFilter::default()
        };
        let (tasks, _) = self.jobs.client().tasks(&filter, LOOKED_AT).await?;
        let prefix = format!("{}-", self.name);
        let is_ours = |name: &str| name == self.name || name.starts_with(&prefix);
        if let Some(task) = tasks.iter().find(|task| is_ours(task.id.name.as_str())) {
            let reason = task.status.reason.as_ref();
            let why = reason.map_or("", |reason| &reason.message);
            self.say(format!(
                "tepui: task {} is out of reach: {why}. It goes on, or is found ended, when the \
                 agent is back; Ctrl-C twice stops waiting",
                task.id
            ));
        }
        Ok(())
    }

    fn say(&mut self, what: String) {
        if what != self.said {
            output::note(&what);
            self.said = what;
        }
    }

    /// Joins this process's input and output with the task's, once that runs; false if it was left.
    /// What no task before has taken of the input is this one's.
    async fn attach(&mut self, task: &TaskId) -> Result<bool> {
        let client = self.jobs.client();
        let mut seen = Seen::default();
        self.stdin.on_task();
        loop {
            let state = client.task(task).await?.status.state;
            if state == TaskState::Running {
                match exec::attach_to(task, client, &mut self.stdin, &mut seen).await {
                    // It has ended since.
                    Err(error) if exec::is_ended(&error) => {}
                    attached => return attached,
                }
            }
            if state.is_terminal() {
                self.show(task, seen).await?;
                return Ok(true);
            }
            self.rest().await;
        }
    }

    /// Copies a task's outputs, but for what was seen, until it has ended, or nobody reads them, and
    /// says meanwhile if it is out of reach: its outputs may then just be silent.
    async fn show(&mut self, task: &TaskId, seen: Seen) -> Result<()> {
        let client = self.jobs.client();
        let wanted = |stream, offset| Wanted {
            task,
            stream,
            member: None,
            offset,
            follow: true,
        };
        let stdout = wanted(LogStream::Stdout, seen.stdout);
        let stderr = wanted(LogStream::Stderr, seen.stderr);
        let copying = async {
            tokio::try_join!(
                copy_or_say(client, stdout, tokio::io::stdout()),
                copy_or_say(client, stderr, tokio::io::stderr()),
            )
        };
        tokio::pin!(copying);
        loop {
            tokio::select! {
                copied = &mut copying => return copied.map(drop),
                () = tokio::time::sleep(LOOK) => self.say_unreachable().await?,
            }
        }
    }
}

/// An output that cannot be had is said, and does not change how the task ends.
async fn copy_or_say(
    client: &Client,
    wanted: Wanted<'_>,
    to: impl AsyncWrite + Unpin,
) -> Result<()> {
    match logs::copy(client, wanted, to).await {
        Err(error) if error.downcast_ref::<ClientError>().is_some() => {
            let (name, task) = (wanted.stream.as_str(), wanted.task);
            output::note(&format!(
                "tepui: the {name} of {task} cannot be read: {error:#}"
            ));
            Ok(())
        }
        result => result,
    }
}

/// Whether nothing of a job runs, or will.
fn is_over(job: &JobView) -> bool {
    match job.state {
        JobState::Waiting | JobState::Running | JobState::Killing => false,
        JobState::Finished | JobState::Failed | JobState::Killed => true,
    }
}
