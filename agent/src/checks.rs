//! Making the checks of tasks: one job a task drives the pure [`TaskChecks`], makes the probes that it
//! wants, and tells the loop what they found.
//!
//! What is known of a task's checks is kept in a file until the task ends, so that another agent
//! process goes on with it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tepui_network::{Action, Event as CheckEvent, Place, ProbeId, Prober, TaskChecks};
use tepui_types::check::{Checks, Probe};
use tepui_types::task::reason;
use tepui_types::wire::agent::TaskLaunch;
use tepui_types::wire::executor::{LocalNetwork, RunBeside, RunIo};
use tepui_types::{Reason, TaskId, envelope};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::beside::{Beside, NotRan, Ran, Run};
use crate::event_loop::Event;
use crate::sandbox::Layout;
use crate::uptime;

/// The version of the file of a task's checks.
const VERSION: u8 = 1;
/// Where nothing is due, it is looked again after so long.
const IDLE: Duration = Duration::from_secs(3600);

/// The checks of this agent's tasks.
#[derive(Debug)]
pub struct Checker {
    prober: Prober,
    layout: Layout,
    events: mpsc::Sender<Event>,
    jobs: Mutex<HashMap<TaskId, CancellationToken>>,
    beside: Arc<Beside>,
}

impl Checker {
    /// One that checks nothing yet.
    pub fn new(layout: Layout, events: mpsc::Sender<Event>, beside: Arc<Beside>) -> Arc<Self> {
        Arc::new(Self {
            prober: Prober::default(),
            layout,
            events,
            jobs: Mutex::default(),
            beside,
        })
    }

    /// Checks a task from now on, unless that has begun.
    pub fn begin(self: &Arc<Self>, launch: Arc<TaskLaunch>, network: Option<Arc<LocalNetwork>>) {
        let cancelled = CancellationToken::new();
        let mut jobs = lock(&self.jobs);
        if jobs.contains_key(&launch.task) {
            return;
        }
        jobs.insert(launch.task.clone(), cancelled.clone());
        drop(jobs);
        let this = self.clone();
        let job = async move {
            match checks_of(&launch) {
                Ok(checks) => {
                    this.drive(&launch.task, checks, place(network.as_deref()))
                        .await
                }
                Err(why) => {
                    let why = Reason::new(reason::HEALTH_CHECK_FAILED, why);
                    // The loop is gone only when the agent ends.
                    let _ = this
                        .events
                        .send(Event::Unwell(launch.task.clone(), why))
                        .await;
                }
            }
        };
        tokio::spawn(cancelled.run_until_cancelled_owned(job));
    }

    /// A task has ended.
    pub fn end(&self, task: &TaskId) {
        if let Some(job) = lock(&self.jobs).remove(task) {
            job.cancel();
        }
        // Most have none; it may be of an earlier process, of a task that ended while there was none.
        let _ = std::fs::remove_file(self.layout.checks_of(task));
    }

    /// Goes on until the task ends.
    async fn drive(self: &Arc<Self>, task: &TaskId, checks: Checks, place: Place) {
        let path = self.layout.checks_of(task);
        let now_ms = uptime::now_ms();
        let (mut state, mut actions) = match read(&path) {
            Some(mut state) => {
                let actions = state.on_event(now_ms, CheckEvent::Resumed);
                self.tell(task, &state).await;
                (state, actions)
            }
            None => TaskChecks::start(checks, now_ms),
        };
        let mut probes = JoinSet::new();
        let mut handles: HashMap<ProbeId, AbortHandle> = HashMap::new();
        loop {
            let mut has_news = false;
            for action in actions.drain(..) {
                match action {
                    Action::Run {
                        id,
                        probe,
                        timeout_ms,
                        ..
                    } => {
                        let probe =
                            self.clone()
                                .probe(task.clone(), id, probe, place.clone(), timeout_ms);
                        handles.insert(id, probes.spawn(probe));
                    }
                    Action::Cancel(id) => {
                        if let Some(handle) = handles.remove(&id) {
                            handle.abort();
                        }
                    }
                    Action::Report(_) => has_news = true,
                    Action::Kill(why) => {
                        write(&path, &state);
                        // The loop is gone only when the agent ends.
                        let _ = self.events.send(Event::Unwell(task.clone(), why)).await;
                    }
                }
            }
            if has_news {
                write(&path, &state);
                self.tell(task, &state).await;
            }
            let now_ms = uptime::now_ms();
            let due = state
                .wake_at()
                .map(|at| Duration::from_millis(at.saturating_sub(now_ms)));
            let event = tokio::select! {
                Some(ended) = probes.join_next() => match ended {
                    Ok((id, event)) => {
                        handles.remove(&id);
                        event
                    }
                    // It was given up.
                    Err(_) => CheckEvent::Time,
                },
                () = tokio::time::sleep(due.unwrap_or(IDLE)) => CheckEvent::Time,
            };
            actions = state.on_event(uptime::now_ms(), event);
        }
    }

    async fn tell(&self, task: &TaskId, state: &TaskChecks) {
        let statuses = state.statuses().collect();
        // The loop is gone only when the agent ends.
        let _ = self
            .events
            .send(Event::Checked(task.clone(), statuses))
            .await;
    }

    async fn probe(
        self: Arc<Self>,
        task: TaskId,
        id: ProbeId,
        probe: Probe,
        place: Place,
        timeout_ms: u64,
    ) -> (ProbeId, CheckEvent) {
        let timeout = Duration::from_millis(timeout_ms);
        let member = match &probe {
            Probe::Command(command) => command.member.clone(),
            Probe::Http(_) | Probe::Tcp(_) => None,
        };
        let is_command = matches!(probe, Probe::Command(_));
        let (asked, begun) = (task.clone(), Instant::now());
        let is_skipped = AtomicBool::new(false);
        let command = async |argv| match self.run(task, member, argv, timeout_ms).await {
            Ok(code) => Ok(code),
            Err(why) => {
                let is_not_now = matches!(why, NotRan::NotNow(_));
                is_skipped.store(is_not_now, Ordering::Relaxed);
                Err(why.to_string())
            }
        };
        let outcome = self.prober.probe(&probe, &place, timeout, command).await;
        // Whoever was to answer may pause, or may have done so meanwhile. A command's executor says so
        // itself.
        if outcome.is_err() && !is_command {
            let for_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            let looked = self.beside.look(asked, None, for_ms).await;
            let is_not_now = matches!(looked, Err(NotRan::NotNow(_)));
            is_skipped.store(is_not_now, Ordering::Relaxed);
        }
        match is_skipped.into_inner() {
            true => (id, CheckEvent::Skipped(id)),
            false => (id, CheckEvent::Probed(id, outcome)),
        }
    }

    async fn run(
        &self,
        task: TaskId,
        member: Option<String>,
        argv: Vec<String>,
        timeout_ms: u64,
    ) -> Ran {
        let command = RunBeside {
            id: 0,
            task,
            member,
            argv,
            env: Vec::new(),
            timeout_ms: Some(timeout_ms),
            io: RunIo::Nothing,
        };
        let files = Vec::new();
        self.beside.run(Run { command, files }).await
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A task's checks, with the port that is its first where none is named.
fn checks_of(launch: &TaskLaunch) -> Result<Checks, String> {
    let mut checks = launch.spec.checks.as_deref().cloned().unwrap_or_default();
    let first = launch.resources.ports.iter().next();
    let all = [
        &mut checks.startup,
        &mut checks.readiness,
        &mut checks.health,
    ];
    for check in all.into_iter().flatten() {
        let port = match &mut check.probe {
            Probe::Http(http) => &mut http.port,
            Probe::Tcp(tcp) => &mut tcp.port,
            Probe::Command(_) => continue,
        };
        if *port == 0 {
            *port = first.ok_or(
                "a check names no port, and the task has none of its own: name one, or ask for one \
                 (`--ports 1`)",
            )?;
        }
    }
    Ok(checks)
}

/// Where a task is reached.
pub fn place(network: Option<&LocalNetwork>) -> Place {
    let Some(network) = network else {
        return Place::default();
    };
    let usual = Place::default();
    Place {
        netns: Some(network.namespace.clone().into()),
        address: network.addresses.first().copied().unwrap_or(usual.address),
    }
}

/// None where nothing was kept, or what was cannot be understood: the checks begin again then.
fn read(path: &Path) -> Option<TaskChecks> {
    let bytes = std::fs::read(path).ok()?;
    envelope::decode(VERSION, &bytes).ok()
}

/// One that cannot be kept begins again after a restart of the agent.
fn write(path: &Path, state: &TaskChecks) {
    let bytes = envelope::encode(VERSION, state);
    if let Err(error) = tepui_folder::replace(path, &bytes, 0o600) {
        let error = anyhow::Error::from(error);
        tracing::warn!("what is known of a task's checks is not kept: {error:#}");
    }
}
