//! The agent's one loop: takes what happened, asks the core, does what it says.
//!
//! Events that wait together are handled together: their records go into the
//! journal with one write, their statuses into frames of a thousand. The loop
//! waits for nothing but events, and everything that may block runs beside it.

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use tepui_folder::FolderError;
use tepui_types::agent::AgentInfo;
use tepui_types::wire::agent::{AgentFrame, Hello, MAX_BATCH, MasterFrame};
use tepui_types::wire::executor::ToExecutor;
use tepui_types::wire::stream::StreamRequest;
use tepui_types::{Digest, Reason, TaskId, task::reason};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::agent::{Action, Agent, ExecutorId, Life, Urgency};
use crate::beside::Beside;
use crate::checkpoint::Journal;
use crate::checks::Checker;
use crate::containers::Containers;
use crate::error::AgentError;
use crate::executor::{ExecutorEvent, Supervisor};
use crate::fetcher::Fetcher;
use crate::identity::Identity;
use crate::master::{Dialer, Session};
use crate::metrics::Metrics;
use crate::sandbox::Layout;
use crate::streams::{self, MAX_STREAMS, Means, StreamJob, Subject};
use crate::task_disks::TaskDisks;
use crate::usage::Gauge;
use crate::volumes::Volumes;
use crate::{contact, uptime};

pub use event::{Event, census};
use inputs::Inputs;
use measures::Measures;

mod actions;
mod beside;
mod event;
mod inputs;
mod machine;
mod measures;

/// Events that wait. Whoever sends more waits itself: executors' connections
/// and the master's then fill up, which slows those down and loses nothing.
pub const EVENTS: usize = 1_024;
/// Events that are handled together: bounds the memory of one round, and how
/// long a status waits for the round's end.
const ROUND: usize = 256;
/// How often time passes for the core.
const TICK: Duration = Duration::from_millis(250);
/// How long an end waits for others while its place is in use: several cost the log, too, one write.
const END_DELAY: Duration = Duration::from_millis(5);
/// How long a status that is no end waits for one: a task that ends sooner costs the log and its
/// framework one command and one turn instead of two.
const PROGRESS_DELAY: Duration = Duration::from_millis(10);

/// How long an agent that was stopped waits for executors that it told to end.
const LEAVING: Duration = Duration::from_secs(1);

/// What the loop needs from the start.
#[derive(Debug)]
pub struct Parts {
    /// The core, restored.
    pub agent: Agent,
    /// Its journal, compacted.
    pub journal: Journal,
    /// The boot of the machine.
    pub boot_id: String,
    /// Who the agent is.
    pub identity: Identity,
    /// Drawn by this process.
    pub process: u128,
    /// What it tells of itself.
    pub info: AgentInfo,
    /// Its folder.
    pub layout: Layout,
    /// Its own URL.
    pub address: String,
    /// Its executors.
    pub supervisor: Supervisor,
    /// Its fetcher.
    pub fetcher: Arc<Fetcher>,
    /// What its containers need.
    pub containers: Arc<Containers>,
    /// Its volumes.
    pub volumes: Arc<Volumes>,
    /// The disks of its tasks.
    pub disks: Arc<TaskDisks>,
    /// Commands beside its tasks.
    pub beside: Arc<Beside>,
    /// Its tasks' checks.
    pub checker: Arc<Checker>,
    /// What measures its tasks.
    pub gauge: Gauge,
    /// Its way to the master.
    pub dialer: Arc<Dialer>,
    /// Its counts.
    pub metrics: Arc<Metrics>,
}

/// The loop's state.
#[derive(Debug)]
pub struct EventLoop {
    parts: Parts,
    events: mpsc::Sender<Event>,
    outbox: Option<mpsc::Sender<AgentFrame>>,
    announced: bool,
    followed: HashMap<TaskId, CancellationToken>,
    streams: Arc<Semaphore>,
    /// Who waits for its input to be taken.
    inputs: Inputs,
    /// Who waits to hear what tasks use.
    measures: Measures,
    /// When the introduction of the session that is being made was given.
    hello_ms: u64,
    kept_contact: Option<u64>,
    /// When statuses are to be sent that wait for others, by urgency.
    due: [Option<Instant>; 2],
    /// Whether the disk has no room for more tasks, as of the last look.
    is_full: bool,
    /// Whether the master is to be told what the machine has.
    is_info_due: bool,
    out: Vec<Action>,
}

impl EventLoop {
    /// A loop whose helpers send their events to `events`.
    pub fn new(parts: Parts, events: mpsc::Sender<Event>) -> Self {
        Self {
            parts,
            events,
            outbox: None,
            announced: false,
            followed: HashMap::new(),
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            inputs: Inputs::default(),
            measures: Measures::default(),
            hello_ms: 0,
            kept_contact: None,
            due: [None; 2],
            is_full: false,
            is_info_due: false,
            out: Vec::new(),
        }
    }

    /// Runs until `stop` and until executors without a task have ended, or until the agent cannot go
    /// on. `first` are actions
    /// that an earlier process left to be done.
    pub async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Event>,
        stop: CancellationToken,
        first: Vec<Action>,
    ) -> Result<(), AgentError> {
        self.out = first;
        self.perform()?;
        tokio::spawn(tick(self.events.clone()));
        let mut round = Vec::with_capacity(ROUND);
        let mut leaving = None;
        loop {
            let is_behind = self.outbox.is_some() && self.due_statuses().is_some();
            let due = self.due.into_iter().flatten().min();
            let due = due.filter(|_| self.outbox.is_some() && !is_behind);
            tokio::select! {
                biased;
                () = stop.cancelled(), if leaving.is_none() => {
                    self.parts.agent.on_stop(&mut self.out);
                    leaving = Some(Instant::now() + LEAVING);
                }
                () = at(leaving) => break,
                count = inbox.recv_many(&mut round, ROUND) => {
                    assert!(count > 0, "the loop itself holds a sender");
                }
                () = room(&self.outbox), if is_behind => {}
                () = at(due) => {}
            }
            for event in round.drain(..) {
                self.on_event(event)?;
            }
            self.perform()?;
            self.send_statuses();
            self.send_info();
            self.count();
            if leaving.is_some() && !self.parts.agent.any_retiring() {
                break;
            }
        }
        self.tidy_up();
        Ok(())
    }

    /// Without executors nothing of this agent is left to run.
    fn tidy_up(&self) {
        self.parts.disks.close();
        if self.parts.agent.executor_count() == 0 {
            crate::cgroups::clear(self.parts.layout.cgroup().map(str::to_owned));
        }
    }

    fn on_event(&mut self, event: Event) -> Result<(), AgentError> {
        match event {
            Event::HelloWanted(answer) => {
                self.hello_ms = uptime::now_ms();
                drop(answer.send(self.hello()));
            }
            Event::Registered(session) => self.on_registered(session)?,
            Event::Master(frames) => self.on_master(frames),
            Event::MasterLost => self.hang_up(),
            Event::Refused(reason) => return Err(self.refused(reason)),
            Event::Executor(id, event) => self.on_executor(id, event),
            Event::Fetched(digest, result) => {
                self.parts.agent.on_fetched(&mut self.out, digest, result);
            }
            Event::Excess(files, excess) => {
                self.parts.agent.on_excess(&mut self.out, files, excess);
            }
            Event::Removed(digest) => self.parts.agent.on_removed(&mut self.out, digest),
            Event::Preparing(task, progress) => self.parts.agent.on_preparing(&task, progress),
            Event::Prepared(task, result) => {
                self.parts.agent.on_prepared(&mut self.out, &task, result);
            }
            Event::Checked(task, checks) => self.parts.agent.on_checked(&task, checks),
            Event::Unwell(task, why) => self.parts.agent.on_unwell(&mut self.out, task, why),
            Event::RunWanted(run) => self.on_run_wanted(run),
            Event::Abandoned(executor, id) => {
                self.parts
                    .supervisor
                    .send(executor, ToExecutor::Abandon(id));
            }
            Event::LookWanted(look) => self.on_look_wanted(look),
            Event::UsageWanted(question) => self.on_usage_wanted(question),
            Event::Spoken(speech) => self.on_speech(speech),
            Event::CallerLeft(caller) => self.on_caller_left(caller),
            Event::Lends(resources) => self.lend(*resources),
            Event::MayLaunch(launches) => self.on_may_launch(launches),
            Event::Share(percent) => self.parts.agent.on_share(&mut self.out, percent),
            Event::CensusWanted(answer) => drop(answer.send(self.parts.agent.running())),
            Event::HeldWanted(answer) => {
                drop(answer.send(self.parts.agent.held_tasks().cloned().collect()));
            }
            Event::Tick => {
                if self.is_full {
                    self.look_for_room();
                }
                self.parts.agent.on_tick(&mut self.out, uptime::now_ms());
                self.keep_contact();
            }
        }
        Ok(())
    }

    fn hello(&self) -> Hello {
        let Identity {
            cluster,
            agent,
            nonce,
        } = self.parts.identity;
        let tasks = self.parts.agent.hello_tasks();
        Hello {
            cluster,
            agent,
            nonce,
            process: self.parts.process,
            boot: boot_number(&self.parts.boot_id),
            info: self.parts.info.clone(),
            tasks,
        }
    }

    fn on_registered(&mut self, session: Session) -> Result<(), AgentError> {
        let Session { welcome, outbox } = session;
        let path = self.parts.layout.dir().to_owned();
        let identity = &mut self.parts.identity;
        match (identity.cluster, identity.agent) {
            (Some(ours), _) if ours != welcome.cluster => {
                return Err(AgentError::OtherCluster {
                    path,
                    ours,
                    theirs: welcome.cluster,
                });
            }
            (_, Some(ours)) if ours != welcome.agent => {
                return Err(AgentError::OtherAgent {
                    path,
                    ours,
                    theirs: welcome.agent,
                });
            }
            (Some(_), Some(_)) => {}
            _ => {
                identity.cluster = Some(welcome.cluster);
                identity.agent = Some(welcome.agent);
                identity.save(&self.parts.layout)?;
            }
        }
        if let Err(error) = self.parts.agent.on_registered(&mut self.out, welcome.term) {
            // Dropping the outbox ends the session; the next may find the leader.
            tracing::warn!(%error, "the master is no longer the leader");
            return Ok(());
        }
        self.parts.agent.on_contact(self.hello_ms);
        let (agent, term, master) = (welcome.agent, welcome.term, self.parts.dialer.master());
        tracing::info!(%agent, term, master, "registered");
        if !self.announced {
            self.announced = true;
            announce(&self.parts.layout, &self.parts.address)?;
            // Whoever started the agent may be gone, and its end of the pipe too.
            let _ = writeln!(
                std::io::stdout(),
                "tepui-agent {agent} registered with {master}"
            );
        }
        self.outbox = Some(outbox);
        self.parts.metrics.registered.set(1);
        self.parts.metrics.sessions.inc();
        Ok(())
    }

    /// For the agent that starts next, should this one end.
    fn keep_contact(&mut self) {
        let contact = self.parts.agent.kept_contact();
        if contact != self.kept_contact
            && let Some(contact_ms) = contact
        {
            contact::write(&self.parts.layout, &self.parts.boot_id, contact_ms);
        }
        self.kept_contact = contact;
    }

    fn hang_up(&mut self) {
        self.outbox = None;
        self.parts.metrics.registered.set(0);
    }

    fn refused(&self, reason: Reason) -> AgentError {
        if reason.code == reason::AGENT_GONE {
            // What it runs has ended for the cluster, and may run elsewhere already.
            crate::executor::end_all(&self.parts.layout);
            self.parts.containers.detach_all();
            self.parts.disks.close_all();
            crate::cgroups::clear(self.parts.layout.cgroup().map(str::to_owned));
        }
        AgentError::Refused {
            master: self.parts.dialer.master(),
            reason,
        }
    }

    fn on_master(&mut self, frames: Vec<MasterFrame>) {
        for frame in frames {
            match frame {
                MasterFrame::Effects { term, effects } => {
                    self.look_for_room();
                    let agent = &mut self.parts.agent;
                    if let Err(error) = agent.on_effects(&mut self.out, term, effects) {
                        tracing::warn!(%error, "effects of an older leader are refused");
                        self.hang_up();
                    }
                }
                MasterFrame::Recorded(recorded) => {
                    self.parts.agent.on_recorded(&mut self.out, recorded);
                }
                MasterFrame::OpenStream { stream, request } => self.on_stream(stream, request),
                MasterFrame::Welcome(_) | MasterFrame::Refused { .. } => {
                    tracing::warn!("the master greets twice");
                    self.hang_up();
                }
                MasterFrame::Masters(masters) => self.parts.dialer.learn(&masters),
                MasterFrame::Heartbeat => {}
                MasterFrame::Heard(sent_ms) => self.parts.agent.on_contact(sent_ms),
            }
        }
    }

    fn on_executor(&mut self, id: ExecutorId, event: ExecutorEvent) {
        let (agent, out) = (&mut self.parts.agent, &mut self.out);
        match event {
            ExecutorEvent::Attached { identity, tasks } => {
                agent.on_attached(out, id, identity, tasks);
            }
            ExecutorEvent::Updates(updates) => agent.on_updates(out, id, updates),
            ExecutorEvent::Ran(run, result) => self.parts.beside.on_ran(run, result),
            ExecutorEvent::Took(caller, is_taken) => self.inputs.on_took(caller, is_taken),
            ExecutorEvent::Measured(question, tasks) => self.measures.on_measured(question, tasks),
            ExecutorEvent::Detached => {
                self.measures.on_lost(id);
                // Said on the next connection, behind what it may have been sent meanwhile.
                for run in self.parts.beside.on_lost(id) {
                    self.parts.supervisor.send(id, ToExecutor::Abandon(run));
                }
                for caller in self.inputs.on_lost(id) {
                    let left = ToExecutor::CallerLeft(caller);
                    self.parts.supervisor.send(id, left);
                }
                agent.on_detached(id);
            }
            ExecutorEvent::Unfit(why, is_given_up) => agent.on_unfit(out, id, &why, is_given_up),
            ExecutorEvent::Lost(death) => {
                self.parts.beside.on_lost(id);
                self.inputs.on_lost(id);
                self.measures.on_lost(id);
                agent.on_executor_lost(out, id, death);
            }
            ExecutorEvent::Failed(reason) => agent.on_executor_failed(out, id, &reason),
        }
    }

    fn on_stream(&mut self, stream: u128, request: StreamRequest) {
        let Ok(permit) = self.streams.clone().try_acquire_owned() else {
            let reason = Reason::new(
                "too-many-streams",
                format!("the agent serves {MAX_STREAMS} streams already: try again later"),
            );
            if let Some(outbox) = &self.outbox {
                // If that is full too, the master's own deadline answers its caller.
                let _ = outbox.try_send(AgentFrame::StreamRefused { stream, reason });
            }
            return;
        };
        let subject = match streams::task_of(&request) {
            Some(task) => self.subject(task),
            None => Subject::default(),
        };
        let parts = &self.parts;
        let job = StreamJob {
            stream,
            request,
            subject,
        };
        let means = Means {
            dialer: parts.dialer.clone(),
            layout: parts.layout.clone(),
            disks: parts.disks.clone(),
            metrics: parts.metrics.clone(),
            beside: parts.beside.clone(),
            gauge: parts.gauge.clone(),
            events: self.events.clone(),
        };
        tokio::spawn(async move {
            streams::serve(means, job).await;
            drop(permit);
        });
    }

    /// A task as it is now.
    fn subject(&mut self, task: &TaskId) -> Subject {
        let parts = &self.parts;
        let life = match parts.agent.life(task) {
            Life::Unknown if parts.layout.task(task).is_dir() => Life::Ended,
            life => life,
        };
        let ended = match life {
            Life::Living => {
                let followed = self.followed.entry(task.clone());
                Some(followed.or_default().clone())
            }
            Life::Ended | Life::Unknown => None,
        };
        Subject {
            is_known: life != Life::Unknown,
            launch: parts.agent.launch_of(task).cloned(),
            network: parts.agent.network_of(task),
            ended,
        }
    }

    /// Which statuses are to be sent now.
    fn due_statuses(&self) -> Option<Urgency> {
        let now = Instant::now();
        let agent = &self.parts.agent;
        let is_past = |urgency: Urgency| self.due[urgency as usize].is_some_and(|due| due <= now);
        let is_due = |urgency: &Urgency| {
            // Who has begun since an end is told of after it.
            let goes_first = *urgency == Urgency::End
                && (agent.has_urgent_statuses() || is_past(Urgency::Progress));
            goes_first || is_past(*urgency)
        };
        let mut both = [Urgency::End, Urgency::Progress].into_iter();
        both.find(|urgency| agent.has_statuses(*urgency) && is_due(urgency))
    }

    fn send_statuses(&mut self) {
        self.send_due_statuses();
        for (urgency, delay) in [
            (Urgency::End, END_DELAY),
            (Urgency::Progress, PROGRESS_DELAY),
        ] {
            let due = &mut self.due[urgency as usize];
            *due = match self.parts.agent.has_statuses(urgency) {
                true => due.or(Some(Instant::now() + delay)),
                false => None,
            };
        }
    }

    fn send_due_statuses(&mut self) {
        while let Some(urgency) = self.due_statuses() {
            let Some(outbox) = &self.outbox else { return };
            let Ok(permit) = outbox.try_reserve() else {
                return;
            };
            let reports = self.parts.agent.take_statuses(urgency, MAX_BATCH);
            if !reports.is_empty() {
                self.parts
                    .metrics
                    .statuses_sent
                    .inc_by(reports.len() as u64);
                permit.send(AgentFrame::Statuses(reports));
            }
        }
    }

    fn count(&self) {
        let Parts {
            agent,
            journal,
            metrics,
            ..
        } = &self.parts;
        metrics.tasks_living.set(agent.living_tasks() as i64);
        metrics.executors.set(agent.executor_count() as i64);
        metrics.journal_bytes.set(journal.len() as i64);
    }
}

/// Returns when the outbox has room.
async fn room(outbox: &Option<mpsc::Sender<AgentFrame>>) {
    match outbox {
        // A session that has ended says so with an event of its own.
        Some(outbox) => match outbox.reserve().await {
            Ok(_) => {}
            Err(_) => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

async fn tick(events: mpsc::Sender<Event>) {
    loop {
        tokio::time::sleep(TICK).await;
        if events.send(Event::Tick).await.is_err() {
            return;
        }
    }
}

/// Tells scripts where the agent is, and that it is registered.
fn announce(layout: &Layout, address: &str) -> Result<(), AgentError> {
    let path = layout.address();
    tepui_folder::replace(&path, format!("{address}\n").as_bytes(), 0o644)
        .map_err(|source| FolderError::io("write", &path, source).into())
}

/// The boot of the machine as masters compare it.
fn boot_number(boot_id: &str) -> u128 {
    let mut number = [0; 16];
    number.copy_from_slice(&Digest::of(boot_id.as_bytes()).0[..16]);
    u128::from_le_bytes(number)
}
