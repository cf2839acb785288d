//! The control loop: the agent's frames, the guests' updates, signals, idleness.
//!
//! It alone keeps the table of tasks and writes exit records: an end is in the
//! file before it is said. Guests never wait for the agent, and the agent never
//! waits for a guest.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::FutureExt;
use tepui_executor::exits::ExitLog;
use tepui_executor::spawn::SOCKET_FILE;
use tepui_executor::startup::Startup;
use tepui_executor::usage::UsageLog;
use tepui_types::task::{TaskUsage, reason};
use tepui_types::wire::executor::{
    ExecutorLaunch, FromExecutor, TaskMeasure, TaskUpdate, ToExecutor, UsageRecord,
};
use tepui_types::{Reason, TaskId, TaskSpec, TaskState};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::agent::{Agent, attach};
use crate::host::Host;
use crate::kill::Kill;
use crate::meter::Meter;
use crate::task::{self, plain};
use crate::throttle::Throttle;

/// How long it stays without an agent when nothing runs: enough for an agent to
/// restart and ask again.
const IDLE_EXIT: Duration = Duration::from_secs(60);
/// Updates on their way from guests: above it guests wait for this loop, which
/// waits for nobody.
const UPDATE_BOUND: usize = 4_096;
/// Tasks that are not forgotten: all of them with their reasons fit into one
/// frame of `Attached`. Agents give 2,000 to a process.
const MAX_TASKS: usize = 8_000;
/// What services finish when this process is told to end: who tells it waits little longer.
const TERMINATION_GRACE: Duration = Duration::from_secs(2);
/// Connections that have not proven themselves.
const MAX_STRANGERS: usize = 8;
/// How long after a task has used something it is noted what all have used since: what is lost of it
/// when this process is killed.
const NOTING: Duration = Duration::from_secs(1);

struct Server {
    startup: Startup,
    host: Arc<Host>,
    guests: Handle,
    exits: ExitLog,
    usage: UsageLog,
    /// When it is noted what tasks have used, if any has used something since it was.
    note_at: Option<Instant>,
    tasks: HashMap<TaskId, Entry>,
    /// How many of them have not ended.
    living: usize,
    agent: Option<Agent>,
    retiring: bool,
    terminating: bool,
    /// Since when there is neither an agent nor a living task.
    idle_since: Instant,
}

struct Entry {
    update: TaskUpdate,
    kill: Kill,
    throttle: Throttle,
    meter: Meter,
    /// What it had used when that was last noted.
    noted: TaskUsage,
}

impl Entry {
    /// What it has used, if it is to be noted: with all that run, or because there is more to note.
    fn to_note(&self, is_with_all: bool) -> Option<TaskUsage> {
        let (usage, _) = self.meter.read()?;
        let is_due = match is_with_all {
            true => usage != TaskUsage::default() && !self.update.state.is_terminal(),
            false => usage != self.noted,
        };
        is_due.then_some(usage)
    }
}

/// Serves until there is nothing left to do.
pub async fn serve(startup: Startup, guests: Handle) -> anyhow::Result<()> {
    startup
        .listener
        .set_nonblocking(true)
        .context("failed to prepare the socket")?;
    let listener = startup
        .listener
        .try_clone()
        .context("failed to prepare the socket")?;
    let listener = UnixListener::from_std(listener).context("failed to prepare the socket")?;
    let mut terminate = signal(SignalKind::terminate()).context("failed to watch signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to watch signals")?;
    let (sender, mut updates) = mpsc::channel(UPDATE_BOUND);
    let mut server = Server::new(startup, guests, sender)?;
    let mut strangers = JoinSet::new();
    let mut batch = Vec::new();
    while !server.is_done() {
        let idle_exit = server.idle_since + IDLE_EXIT;
        tokio::select! {
            _ = updates.recv_many(&mut batch, UPDATE_BOUND) => server.on_updates(batch.drain(..)),
            ready = ready(&server.agent) => match ready {
                Ok(()) => server.on_agent(),
                Err(_) => server.agent = None,
            },
            Some(attached) = strangers.join_next() => server.on_stranger(attached),
            Ok((stream, _)) = listener.accept(), if strangers.len() < MAX_STRANGERS => {
                strangers.spawn(attach(stream, server.startup.token));
            }
            _ = terminate.recv() => server.on_terminate(),
            _ = interrupt.recv() => server.on_terminate(),
            () = sleep_until(idle_exit), if server.is_idle() => {}
            () = server.host.stir.stirred(), if server.note_at.is_none() => {
                server.note_at = Some(Instant::now() + NOTING);
            }
            () = at(server.note_at) => server.note_usage(),
        }
    }
    if !server.terminating {
        // Tells the agent that nothing was left behind: a task that it was about
        // to hand over can go to another executor.
        let _ = std::fs::remove_file(server.startup.dir.join(SOCKET_FILE));
    }
    if let Some(group) = server.startup.cgroup.take() {
        // Left to the agent when it fails; nothing runs in it any more.
        let _ = group.leave();
    }
    Ok(())
}

async fn ready(agent: &Option<Agent>) -> std::io::Result<()> {
    match agent {
        Some(agent) => agent.ready().await,
        None => std::future::pending().await,
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

impl Server {
    fn new(
        startup: Startup,
        guests: Handle,
        updates: mpsc::Sender<TaskUpdate>,
    ) -> anyhow::Result<Self> {
        let exits = ExitLog::open(&startup.dir)?;
        let usage = UsageLog::open(&startup.dir)?;
        let host = Host::new(&startup, updates).context("failed to prepare wasmtime")?;
        Ok(Self {
            startup,
            host: Arc::new(host),
            guests,
            exits,
            usage,
            note_at: None,
            tasks: HashMap::new(),
            living: 0,
            agent: None,
            retiring: false,
            terminating: false,
            idle_since: Instant::now(),
        })
    }

    fn is_idle(&self) -> bool {
        self.agent.is_none() && self.living == 0
    }

    fn is_done(&mut self) -> bool {
        if !self.is_idle() {
            self.idle_since = Instant::now();
        }
        // Tasks that have ended are in the file, where an agent finds them.
        self.idle_since.elapsed() >= IDLE_EXIT
            || (self.retiring && self.tasks.is_empty())
            || (self.terminating && self.living == 0)
    }

    fn on_stranger(
        &mut self,
        attached: Result<anyhow::Result<UnixStream>, tokio::task::JoinError>,
    ) {
        let stream = match attached {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::warn!("refused a connection: {error:#}"),
            Err(error) => return tracing::error!(%error, "a connection was lost"),
        };
        let answer = FromExecutor::Attached {
            identity: self.startup.identity.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            tasks: self
                .tasks
                .values()
                .map(|entry| entry.update.clone())
                .collect(),
        };
        match Agent::new(stream, &answer) {
            // The newest wins: the one before is closed here.
            Ok(agent) => self.agent = Some(agent),
            Err(error) => return tracing::error!(%error, "the tasks cannot be told"),
        }
        self.pump();
    }

    fn on_agent(&mut self) {
        let Some(agent) = &mut self.agent else {
            return;
        };
        if !agent.fill().unwrap_or(false) {
            self.agent = None;
            return;
        }
        loop {
            let Some(agent) = &mut self.agent else {
                return;
            };
            match agent.next_frame() {
                Ok(Some(frame)) => self.on_frame(frame),
                Ok(None) => return self.pump(),
                Err(error) => {
                    tracing::warn!(%error, "hung up on the agent");
                    self.agent = None;
                }
            }
        }
    }

    fn on_frame(&mut self, frame: ToExecutor) {
        match frame {
            // It is attached already.
            ToExecutor::Attach { .. } => self.agent = None,
            ToExecutor::Launch(launch) => self.on_launch(launch),
            ToExecutor::Kill { task, grace_ms } => {
                if let Some(entry) = self.tasks.get(&task) {
                    let grace = Duration::from_millis(grace_ms.min(TaskSpec::MAX_KILL_GRACE_MS));
                    entry.kill.ask(reason::KILL_REQUESTED, grace);
                }
            }
            ToExecutor::Throttle { task, most } => {
                if let Some(entry) = self.tasks.get(&task) {
                    entry.throttle.set(most);
                }
            }
            ToExecutor::Forget(task) => {
                if self
                    .tasks
                    .get(&task)
                    .is_some_and(|entry| entry.update.state.is_terminal())
                {
                    self.tasks.remove(&task);
                }
            }
            ToExecutor::Measure { id, tasks } => self.on_measure(id, &tasks),
            // Nothing runs beside a program here, and none is sent input while it runs or started
            // again: no specification that asks for it is taken.
            ToExecutor::Run(_)
            | ToExecutor::CallerLeft(_)
            | ToExecutor::Look(_)
            | ToExecutor::Abandon(_)
            | ToExecutor::Input(_)
            | ToExecutor::Resize { .. } => {}
            ToExecutor::Retire => self.retiring = true,
        }
    }

    fn on_launch(&mut self, launch: Box<ExecutorLaunch>) {
        let id = launch.launch.task.clone();
        if self.tasks.contains_key(&id) {
            // The same launch, sent again.
            return self.queue(&id);
        }
        let (kill, throttle, meter) = <(Kill, Throttle, Meter)>::default();
        let entry = Entry {
            update: plain(id.clone(), TaskState::Starting),
            kill: kill.clone(),
            throttle: throttle.clone(),
            meter: meter.clone(),
            noted: TaskUsage::default(),
        };
        self.tasks.insert(id.clone(), entry);
        self.living += 1;
        let refusal = match () {
            () if self.retiring => Some("this executor is ending".to_owned()),
            () if self.tasks.len() > MAX_TASKS => Some(format!(
                "this executor holds {MAX_TASKS} tasks, and takes no more"
            )),
            () => None,
        };
        if let Some(message) = refusal {
            let mut update = plain(id, TaskState::Error);
            update.reason = Some(Reason::new(reason::EXECUTOR_FAILED, message));
            return self.on_updates([update].into_iter());
        }
        let host = self.host.clone();
        self.guests.spawn(async move {
            let updates = host.updates.clone();
            let run =
                AssertUnwindSafe(task::run(host, launch, kill, throttle, meter)).catch_unwind();
            let end = run.await.unwrap_or_else(|_| {
                let mut update = plain(id, TaskState::Failed);
                let message = "the executor failed under it; its log says how";
                update.reason = Some(Reason::new(reason::EXECUTOR_FAILED, message));
                update
            });
            // The receiver lives as long as the process.
            let _ = updates.send(end).await;
        });
    }

    /// Ends are kept first and said second.
    fn on_updates(&mut self, updates: impl Iterator<Item = TaskUpdate>) {
        let mut ended = Vec::new();
        for update in updates {
            let Some(entry) = self.tasks.get_mut(&update.task) else {
                continue;
            };
            if !entry.update.state.may_become(update.state) {
                continue;
            }
            if update.state.is_terminal() {
                self.living -= 1;
                entry.meter = Meter::default();
                ended.push(update.clone());
            }
            if let Some(agent) = &mut self.agent {
                agent.queue(&update.task);
            }
            entry.update = update;
        }
        if !ended.is_empty()
            && let Err(error) = self.exits.append(&ended)
        {
            // Said all the same: the agent that hears it keeps it.
            tracing::error!(error = %anyhow::Error::from(error), "exit records are lost");
        }
        if self.exits.has_outgrown() {
            // What is forgotten here, the agent has.
            let known = self.tasks.values().map(|entry| &entry.update);
            let kept = known.filter(|update| update.state.is_terminal());
            if let Err(error) = self.exits.replace(kept) {
                tracing::warn!(error = %anyhow::Error::from(error), "exit records grow");
            }
        }
        self.pump();
    }

    fn on_measure(&mut self, id: u64, tasks: &[TaskId]) {
        let measure = |task: &TaskId| {
            let (usage, mem_bytes) = self.tasks.get(task)?.meter.read()?;
            Some(TaskMeasure {
                task: task.clone(),
                usage,
                mem_bytes,
            })
        };
        let tasks = tasks.iter().take(MAX_TASKS).filter_map(measure).collect();
        let answer = FromExecutor::Measured { id, tasks };
        if let Some(agent) = &mut self.agent
            && let Err(error) = agent.answer(&answer)
        {
            tracing::error!(%error, "what tasks use cannot be told");
        }
    }

    /// Notes what those tasks have used that have used something since they were last noted.
    fn note_usage(&mut self) {
        self.note_at = None;
        // Before it is read: what is used meanwhile is noted the next time.
        self.host.stir.settle();
        let has_outgrown = self.usage.has_outgrown();
        let to_note = |(id, entry): (&TaskId, &Entry)| {
            let usage = entry.to_note(has_outgrown)?;
            Some((id.clone(), usage))
        };
        let used: Vec<_> = self.tasks.iter().filter_map(to_note).collect();
        let written = match has_outgrown {
            true => self.usage.replace([&UsageRecord::Used(used.clone())]),
            false if used.is_empty() => Ok(()),
            false => self.usage.append([&UsageRecord::Used(used.clone())]),
        };
        if let Err(error) = written {
            tracing::warn!(error = %anyhow::Error::from(error), "what tasks have used is not noted");
            // Also if none of them uses anything from now on.
            self.note_at = Some(Instant::now() + NOTING);
            return;
        }
        for (id, usage) in used {
            if let Some(entry) = self.tasks.get_mut(&id) {
                entry.noted = usage;
            }
        }
    }

    /// Someone ends this process politely: the tasks go first.
    fn on_terminate(&mut self) {
        self.retiring = true;
        self.terminating = true;
        for entry in self.tasks.values() {
            entry
                .kill
                .ask(reason::EXECUTOR_TERMINATED, TERMINATION_GRACE);
        }
    }

    fn queue(&mut self, task: &TaskId) {
        if let Some(agent) = &mut self.agent {
            agent.queue(task);
        }
    }

    fn pump(&mut self) {
        let tasks = &self.tasks;
        let Some(agent) = &mut self.agent else {
            return;
        };
        if let Err(error) = agent.pump(|task| tasks.get(task).map(|entry| &entry.update)) {
            tracing::info!(%error, "the agent is gone");
            self.agent = None;
        }
    }
}
