//! Clients that work on jobs through any master, and note all they do.
//!
//! Each draws from its own dice: it submits a job, asks for the end of one, or looks at one, of all
//! that anyone has ever asked for. A submission without an answer is sent again under its key, until
//! somebody knows.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use reqwest::{Method, StatusCode};
use tepui_types::api::job::{JobState, JobView};
use tepui_types::api::list::Page;
use tepui_types::api::task::TaskView;

use super::{Asked, Outcome, Recorder, Seen, Stage};
use crate::client::{Answer, Client};
use crate::job::Job;
use crate::sim::dice::Dice;

/// How long a client waits for an answer: some elections' time.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two operations of a client, so that the machine has time for the cluster, too.
const PAUSE: Duration = Duration::from_millis(25);
/// Jobs that clients ask about the most.
const LATEST: usize = 8;
/// Of so many submissions one has no name of its own: one that was taken twice would make two jobs.
const NAMELESS: u64 = 4;

/// What all clients share.
#[derive(Debug, Clone)]
pub struct Common {
    /// Where they note what they do.
    pub recorder: Recorder,
    /// A task writes a line into `ran-KEY` here.
    pub folder: PathBuf,
    /// The names that jobs have, or may have.
    jobs: Arc<Mutex<Vec<String>>>,
    /// The latest that somebody was told of to be over.
    over: Arc<Mutex<VecDeque<String>>>,
    stop: Arc<AtomicBool>,
}

impl Common {
    /// Nothing has happened yet.
    pub fn new(folder: PathBuf) -> Self {
        Self {
            recorder: Recorder::start(),
            folder,
            jobs: Arc::default(),
            over: Arc::default(),
            stop: Arc::default(),
        }
    }

    /// Lets all clients come to an end.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn add_job(&self, name: &str) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.push(name.to_owned());
    }

    fn note_over(&self, name: &str) {
        let mut over = self.over.lock().unwrap_or_else(PoisonError::into_inner);
        if over.len() == LATEST {
            over.pop_front();
        }
        over.push_back(name.to_owned());
    }

    fn some_that_is_over(&self, dice: &mut Dice) -> Option<String> {
        let over = self.over.lock().unwrap_or_else(PoisonError::into_inner);
        (!over.is_empty()).then(|| over[dice.place(over.len())].clone())
    }

    /// A job: mostly one of the latest, about which there is something to learn.
    fn some_job(&self, dice: &mut Dice) -> Option<String> {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let latest = jobs.len().min(LATEST);
        match latest {
            0 => None,
            _ if dice.chance(2_000) => Some(jobs[dice.place(jobs.len())].clone()),
            _ => Some(jobs[jobs.len() - 1 - dice.place(latest)].clone()),
        }
    }
}

/// One client.
#[derive(Debug)]
pub struct Worker {
    /// Its number.
    pub number: usize,
    /// Every master.
    pub masters: Vec<Client>,
    /// Its own.
    pub dice: Dice,
    /// What it shares with others.
    pub common: Common,
}

impl Worker {
    /// Works until it is told to stop. An answer that nobody expects is an error.
    pub async fn work(mut self) -> Result<()> {
        let mut submitted = 0;
        while !self.common.is_stopped() {
            match self.dice.below(10) {
                0..4 => {
                    submitted += 1;
                    let key = format!("k{}-{submitted}", self.number);
                    self.submit(&key).await?;
                }
                4 => self.kill().await?,
                5 => self.look_at_tasks().await?,
                _ => self.read().await?,
            }
            // sleep: clients ask at a rate, not as fast as they can.
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    async fn submit(&mut self, key: &str) -> Result<()> {
        let ran = self.common.folder.join(format!("ran-{key}"));
        let mut job = Job::shell(&format!("echo ran >> {}", ran.display()));
        let has_name = !self.dice.chance(10_000 / NAMELESS);
        if has_name {
            job = job.name(key);
            // Others may look for it from now on.
            self.common.add_job(key);
        }
        loop {
            let began = self.common.recorder.now();
            let request = self
                .some_master()
                .request(Method::POST, "/frameworks/batch/jobs")
                .header("Idempotency-Key", key)
                .json(job.request());
            let outcome = match self.answer(request).await {
                Some(answer) if answer.status.is_success() => {
                    let view: JobView = answer.json()?;
                    Outcome::Done(view.name)
                }
                Some(answer) if answer.status.is_client_error() => {
                    bail!("{key}: {}: {}", answer.status, answer.text())
                }
                _ => Outcome::Unknown,
            };
            let key = key.to_owned();
            let done = match &outcome {
                Outcome::Done(name) => Some(name.clone()),
                Outcome::Refused | Outcome::Unknown => None,
            };
            self.note(began, Asked::Submit { key, outcome });
            match done {
                Some(name) => {
                    if !has_name {
                        self.common.add_job(&name);
                    }
                    return Ok(());
                }
                None if self.common.is_stopped() => return Ok(()),
                // sleep: see above.
                None => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    async fn kill(&mut self) -> Result<()> {
        let Some(job) = self.common.some_job(&mut self.dice) else {
            return Ok(());
        };
        let began = self.common.recorder.now();
        let path = format!("/frameworks/batch/jobs/{job}");
        let request = self.some_master().request(Method::DELETE, &path);
        let outcome = match self.answer(request).await {
            Some(answer) if answer.status.is_success() => Outcome::Done(()),
            // There is no such job yet.
            Some(answer) if answer.status == StatusCode::NOT_FOUND => Outcome::Refused,
            Some(answer) if answer.status.is_client_error() => {
                bail!("killing {job}: {}: {}", answer.status, answer.text())
            }
            _ => Outcome::Unknown,
        };
        self.note(began, Asked::Kill { job, outcome });
        Ok(())
    }

    async fn read(&mut self) -> Result<()> {
        let Some(job) = self.common.some_job(&mut self.dice) else {
            return Ok(());
        };
        let began = self.common.recorder.now();
        let path = format!("/frameworks/batch/jobs/{job}");
        let request = self.some_master().request(Method::GET, &path);
        let seen = match self.answer(request).await {
            Some(answer) if answer.status.is_success() => seen(&answer.json()?),
            Some(answer) if answer.status == StatusCode::NOT_FOUND => absent(&answer)?,
            Some(answer) if answer.status.is_client_error() => {
                bail!("reading {job}: {}: {}", answer.status, answer.text())
            }
            _ => return Ok(()),
        };
        self.note(
            began,
            Asked::Read {
                job: job.clone(),
                seen,
            },
        );
        if seen.stage == Stage::Ended {
            self.common.note_over(&job);
        }
        Ok(())
    }

    /// Looks at the tasks of a job that is known to be over. What a framework has is its master's, the
    /// leader's; tasks are shown by whichever master is asked, which must not lag behind what anybody was
    /// told before.
    async fn look_at_tasks(&mut self) -> Result<()> {
        let Some(job) = self.common.some_that_is_over(&mut self.dice) else {
            return Ok(());
        };
        let path = format!("/v1/tasks?search={job}");
        let request = self.some_master().request(Method::GET, &path);
        let answer = self.answer(request).await;
        let Some(answer) = answer.filter(|answer| !answer.status.is_server_error()) else {
            return Ok(());
        };
        let tasks: Page<TaskView> = answer.json()?;
        let living = tasks.items.iter().find(|task| {
            let name = task.id.name.as_str();
            let is_its = name.rsplit_once('-').is_some_and(|(of, _)| of == job) || name == job;
            is_its && !task.status.state.is_terminal()
        });
        ensure!(living.is_none(), "{job} is over, but not {living:?}");
        Ok(())
    }

    fn some_master(&mut self) -> Client {
        self.masters[self.dice.place(self.masters.len())].clone()
    }

    async fn answer(&self, request: reqwest::RequestBuilder) -> Option<Answer> {
        self.masters[0].send(request.timeout(PATIENCE)).await.ok()
    }

    fn note(&self, began: u64, asked: Asked) {
        self.common.recorder.note(self.number, began, asked);
    }
}

/// What a job's page says.
pub fn seen(job: &JobView) -> Seen {
    let stage = match job.state {
        JobState::Waiting | JobState::Running => Stage::Living,
        JobState::Killing => Stage::Killing,
        JobState::Finished | JobState::Failed | JobState::Killed => Stage::Ended,
    };
    Seen {
        stage,
        is_killed: matches!(job.state, JobState::Killing | JobState::Killed),
    }
}

/// That there is no such job: and not that there is no such framework.
fn absent(answer: &Answer) -> Result<Seen> {
    let text = answer.text();
    if !text.contains("job-unknown") {
        bail!("{text}");
    }
    Ok(Seen {
        stage: Stage::Absent,
        is_killed: false,
    })
}
