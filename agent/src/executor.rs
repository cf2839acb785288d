//! An executor process as the agent sees it: start, find again, talk, end.
//!
//! Each process has a tokio task here that starts or finds it, keeps the
//! connection up and turns what it says into events. Messages queue in bounded
//! channels; when one overflows or breaks, the connection is made anew, and the
//! core says again all that matters. A process is gone when nobody listens on
//! its socket any more: the kernel knows that better than any process number.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::{AccessFlags, access};
use tepui_executor::identity;
use tepui_executor::privileges::Privileges;
use tepui_executor::runtime::Runtime;
use tepui_executor::spawn::{self, Spawn};
use tepui_types::task::reason;
use tepui_types::wire::executor::{
    FromExecutor, ProcessIdentity, TaskMeasure, TaskUpdate, ToExecutor, VERSION,
};
use tepui_types::{AgentId, Bytes, Reason};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, Semaphore, mpsc};

use crate::agent::{Death, ExecutorId, ExecutorKind, token};
use crate::beside::{NotRan, Ran};
use crate::error::AgentError;
use crate::event_loop::Event;
use crate::frames::{FrameError, FrameReader, write_frames};
use crate::gpus::Guard;
use crate::sandbox::Layout;

pub use remains::read_exits;

use hang_ups::{BRIEF, End, HangUps, Verdict};
use messages::{Door, Message, admit, write_messages};

mod hang_ups;
mod messages;
mod remains;

/// The executors' binaries.
const NATIVE_PROGRAM: &str = "tepui-executor-task";
const WASM_PROGRAM: &str = "tepui-executor-wasm";
/// Messages that wait for one process: launch and end of every task that it may
/// hold. A process that is further behind is connected to anew.
const QUEUE: usize = 4_096;
/// Messages that go out in one write.
const WRITE_BATCH: usize = 256;
/// Processes that are started at the same time: each forks, and the machine
/// has other things to do.
const STARTS: usize = 8;
/// How long a process may take to answer `Attach` before it is asked again.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(10);
/// Why a command does not run beside another.
const NOT_NOW: &str = "the task's command does not run now: it has not begun, or pauses before it is \
                       started again; try again";
/// The shortest and the longest pause before a process is connected to again.
const RETRY: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(2));

/// What a process, or its absence, tells.
#[derive(Debug)]
pub enum ExecutorEvent {
    /// It answered, and has these tasks.
    Attached {
        /// Its process.
        identity: ProcessIdentity,
        /// Its tasks.
        tasks: Vec<TaskUpdate>,
    },
    /// Its tasks have moved.
    Updates(Vec<TaskUpdate>),
    /// A command beside a task has ended, or could not be run.
    Ran(u64, Ran),
    /// What this caller sent to a task's input was taken, or was not.
    Took(u128, bool),
    /// What some of its tasks use, in answer to the question of this number.
    Measured(u64, Vec<TaskMeasure>),
    /// The connection broke; it may live.
    Detached,
    /// It lives, and hangs up again and again: why, and whether it is given up.
    Unfit(Reason, bool),
    /// It is dead.
    Lost(Death),
    /// It could not be started.
    Failed(Reason),
}

/// How executors are started.
#[derive(Debug, Clone)]
pub struct Template {
    /// The folder of their binaries.
    pub programs: PathBuf,
    /// How much of each output of a task is kept.
    pub output_limit: Bytes,
    /// What they and their tasks may do.
    pub privileges: Privileges,
    /// Who makes containers.
    pub runtime: Runtime,
    /// Who keeps native tasks from devices.
    pub guard: Option<Arc<Guard>>,
}

/// All processes of this agent.
#[derive(Debug)]
pub struct Supervisor {
    layout: Layout,
    template: Template,
    nonce: u128,
    events: mpsc::Sender<Event>,
    starts: Arc<Semaphore>,
    links: HashMap<ExecutorId, Link>,
}

#[derive(Debug)]
struct Link {
    messages: mpsc::Sender<Message>,
    reset: Arc<Notify>,
}

impl Supervisor {
    /// All that it starts is started like that.
    pub fn new(
        layout: Layout,
        template: Template,
        nonce: u128,
        events: mpsc::Sender<Event>,
    ) -> Self {
        let starts = Arc::new(Semaphore::new(STARTS));
        Self {
            layout,
            template,
            nonce,
            events,
            starts,
            links: HashMap::new(),
        }
    }

    /// Starts a process.
    pub fn start(&mut self, id: ExecutorId, kind: &ExecutorKind, agent: AgentId) {
        let program = self.template.programs.join(match kind {
            ExecutorKind::Native(_) | ExecutorKind::Container(_) => NATIVE_PROGRAM,
            ExecutorKind::Wasm(_) => WASM_PROGRAM,
        });
        let start = Start {
            program,
            agent,
            output_limit: self.template.output_limit,
            privileges: self.template.privileges,
            code_cache: self.layout.code_cache(),
            packs: self.layout.packs(),
            runtime: match kind {
                ExecutorKind::Container(_) => Some(self.template.runtime.clone()),
                ExecutorKind::Native(_) | ExecutorKind::Wasm(_) => None,
            },
        };
        self.supervise(id, Some(start));
    }

    /// Looks for a process of an earlier agent.
    pub fn find(&mut self, id: ExecutorId) {
        self.supervise(id, None);
    }

    fn supervise(&mut self, id: ExecutorId, start: Option<Start>) {
        let (messages, queue) = mpsc::channel(QUEUE);
        let reset = Arc::new(Notify::new());
        let connection = Connection {
            id,
            dir: self.layout.executor(id),
            cgroup: self.layout.executor_cgroup(id),
            task_cgroup: self.layout.task_cgroup(id),
            cgroups: self.layout.cgroups_of(id).collect(),
            door: self
                .template
                .guard
                .clone()
                .zip(self.layout.outer_task_cgroup(id)),
            token: token(self.nonce, id),
            events: self.events.clone(),
            queue,
            reset: reset.clone(),
            is_silent: false,
        };
        self.links.insert(id, Link { messages, reset });
        tokio::spawn(connection.run(start, self.starts.clone()));
    }

    /// Says something to a process; false if it is too far behind, and is connected to anew.
    pub fn send(&self, id: ExecutorId, frame: ToExecutor) -> bool {
        self.send_with(id, frame, Vec::new())
    }

    /// Says something to a process, and gives it these open files.
    pub fn send_with(&self, id: ExecutorId, frame: ToExecutor, files: Vec<OwnedFd>) -> bool {
        let Some(link) = self.links.get(&id) else {
            return false;
        };
        let is_queued = link.messages.try_send(Message { frame, files }).is_ok();
        if !is_queued {
            // The core says everything again on the next connection.
            link.reset.notify_one();
        }
        is_queued
    }

    /// Ends a process by force, with all that is in its cgroups.
    pub fn end(&self, id: ExecutorId) {
        let layout = self.layout.clone();
        tokio::task::spawn_blocking(move || kill(&layout, id));
    }

    /// A process is gone, or never was: removes its folder.
    pub fn clear(&mut self, id: ExecutorId) {
        self.links.remove(&id);
        let (dir, cgroups) = (self.layout.executor(id), self.layout.cgroups_of(id));
        tokio::task::spawn_blocking(move || {
            crate::cgroups::clear(cgroups);
            if let Err(error) = std::fs::remove_dir_all(&dir)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(executor = %id, %error, "an executor's folder stays");
            }
        });
    }
}

/// Refuses a folder without the executors' binaries: an agent that can start
/// nothing would take every task of the cluster and fail it.
pub fn check_programs(folder: &Path) -> Result<(), AgentError> {
    for name in [NATIVE_PROGRAM, WASM_PROGRAM] {
        let program = folder.join(name);
        let is_program = access(&program, AccessFlags::X_OK).is_ok() && program.is_file();
        if !is_program {
            return Err(AgentError::Config(format!(
                "{} is not there or is no program: executors are installed beside tepui-agent, or \
                 in the folder that --executors names",
                program.display()
            )));
        }
    }
    Ok(())
}

/// Ends and removes processes that the journal does not know: those of a folder
/// whose journal was lost. Blocks.
pub fn clear_strangers(layout: &Layout, is_known: impl Fn(ExecutorId) -> bool) {
    for id in found(layout).into_iter().filter(|id| !is_known(*id)) {
        tracing::warn!(executor = %id, "an executor that the journal does not know is ended");
        end(layout, id);
    }
}

/// Ends and removes every process of this folder. Blocks.
pub fn end_all(layout: &Layout) {
    for id in found(layout) {
        tracing::warn!(executor = %id, "an executor is ended together with its agent");
        end(layout, id);
    }
}

/// The processes that have a folder.
fn found(layout: &Layout) -> Vec<ExecutorId> {
    let entries = std::fs::read_dir(layout.executors());
    let names = entries.into_iter().flatten().flatten();
    names
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

fn end(layout: &Layout, id: ExecutorId) {
    kill(layout, id);
    let _ = std::fs::remove_dir_all(layout.executor(id));
}

fn kill(layout: &Layout, id: ExecutorId) {
    let dir = layout.executor(id);
    if let Ok(Some(process)) = identity::read(&dir)
        && identity::is_alive(&process)
    {
        let pid = nix::unistd::Pid::from_raw(process.pid);
        // It may have ended meanwhile.
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    }
    crate::cgroups::clear(layout.cgroups_of(id));
}

#[derive(Debug)]
struct Start {
    program: PathBuf,
    agent: AgentId,
    output_limit: Bytes,
    privileges: Privileges,
    runtime: Option<Runtime>,
    code_cache: PathBuf,
    packs: PathBuf,
}

struct Connection {
    id: ExecutorId,
    dir: PathBuf,
    /// Its own.
    cgroup: Option<String>,
    /// Where what its tasks use is counted.
    task_cgroup: Option<String>,
    /// Its tasks' and its own, which are cleared away with it.
    cgroups: Vec<String>,
    door: Option<Door>,
    token: u128,
    events: mpsc::Sender<Event>,
    queue: mpsc::Receiver<Message>,
    reset: Arc<Notify>,
    /// Whether it was said that the process does not answer.
    is_silent: bool,
}

impl Connection {
    async fn run(mut self, start: Option<Start>, starts: Arc<Semaphore>) {
        if let Some(start) = start {
            let _permit = starts.acquire().await;
            if let Err(why) = self.start(start).await {
                return self.tell(ExecutorEvent::Failed(why)).await;
            }
        }
        let clock = tokio::time::Instant::now();
        let (mut pause, mut hang_ups) = (RETRY.0, HangUps::default());
        loop {
            match self.connect().await {
                Ok(stream) => {
                    let begun = clock.elapsed();
                    let end = self.talk(stream).await;
                    let now = clock.elapsed();
                    let lasted = now.saturating_sub(begun);
                    let verdict = hang_ups.on_end(end, lasted, now);
                    if lasted >= BRIEF && end != End::Silent {
                        pause = RETRY.0;
                    }
                    if verdict != Verdict::Fit {
                        let is_given_up = verdict == Verdict::GivenUp;
                        let why = self.unfit(hang_ups.is_news());
                        self.tell(ExecutorEvent::Unfit(why, is_given_up)).await;
                    }
                }
                Err(error) if is_gone(&error) => {
                    // Who leaves in order removes its socket before it goes.
                    let left = error.kind() == io::ErrorKind::NotFound;
                    let remains = self.clear_remains().await;
                    let death = Death { left, ..remains };
                    return self.tell(ExecutorEvent::Lost(death)).await;
                }
                Err(error) => self.note_silence(&error),
            }
            if self.events.is_closed() {
                return;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY.1);
        }
    }

    /// Why a process hangs up again and again; said in the log, too, where it is news.
    fn unfit(&self, is_news: bool) -> Reason {
        let (executor, log) = (self.id, self.dir.join(spawn::LOG_FILE));
        let message = format!(
            "the executor {executor} hangs up on the agent again and again, {} says why: it may be of \
             another release than the agent; install the executors that belong to it, and start the \
             agent again",
            log.display()
        );
        if is_news {
            tracing::warn!(%executor, "{message}");
        }
        Reason::new(reason::EXECUTOR_UNFIT, message)
    }

    /// The first silence is news; that it goes on is none.
    fn note_silence(&mut self, why: &dyn std::fmt::Display) {
        let executor = self.id;
        match std::mem::replace(&mut self.is_silent, true) {
            false => tracing::warn!(
                %executor,
                "the executor does not answer ({why}): its process may be stopped; it is asked again \
                 until it answers"
            ),
            true => tracing::debug!(%executor, "the executor still does not answer: {why}"),
        }
    }

    async fn start(&self, start: Start) -> Result<(), Reason> {
        let (dir, cgroup, token) = (self.dir.clone(), self.cgroup.clone(), self.token);
        let started = tokio::task::spawn_blocking(move || {
            spawn::spawn(&Spawn {
                program: &start.program,
                dir: &dir,
                token,
                agent: start.agent,
                output_limit: start.output_limit,
                privileges: start.privileges,
                runtime: start.runtime.as_ref(),
                code_cache: Some(&start.code_cache),
                packs: Some(&start.packs),
                cgroup: cgroup.as_deref(),
            })
        });
        match started.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                let error = anyhow::Error::from(error);
                tracing::warn!(executor = %self.id, "the executor did not start: {error:#}");
                Err(Reason::new(reason::EXECUTOR_FAILED, format!("{error:#}")))
            }
            Err(error) => Err(Reason::new(reason::EXECUTOR_FAILED, error.to_string())),
        }
    }

    /// Clears away what the dead process left, and tells what that was.
    async fn clear_remains(&self) -> Death {
        let (id, dir) = (self.id, self.dir.clone());
        let (of_tasks, cgroups) = (self.task_cgroup.clone(), self.cgroups.clone());
        let cleared = tokio::task::spawn_blocking(move || {
            remains::clear(id, &dir, of_tasks.as_deref(), cgroups)
        });
        cleared.await.unwrap_or_else(|error| {
            tracing::error!(executor = %id, %error, "reading exit records broke off");
            Default::default()
        })
    }

    async fn connect(&self) -> io::Result<UnixStream> {
        let dir = self.dir.clone();
        let stream = tokio::task::spawn_blocking(move || spawn::connect(&dir)).await;
        let stream = stream.map_err(io::Error::other)??;
        stream.set_nonblocking(true)?;
        UnixStream::from_std(stream)
    }

    /// Attaches and serves one connection until it breaks.
    async fn talk(&mut self, stream: UnixStream) -> End {
        let (read, mut write) = stream.into_split();
        let mut reader = FrameReader::new(read, VERSION);
        let attach = ToExecutor::Attach { token: self.token };
        if let Err(error) = write_frames(&mut write, VERSION, &[attach]).await {
            tracing::debug!(executor = %self.id, %error, "the executor hung up at once");
            return End::HungUp;
        }
        let first = tokio::time::timeout(ATTACH_TIMEOUT, reader.next_batch()).await;
        let mut frames = match first {
            Ok(Ok(Some(frames))) => frames.into_iter(),
            Ok(other) => {
                tracing::debug!(executor = %self.id, ?other, "the executor hung up unattached");
                return End::HungUp;
            }
            Err(_) => {
                self.note_silence(&"it says nothing");
                return End::Silent;
            }
        };
        let Some(FromExecutor::Attached {
            identity,
            version,
            tasks,
        }) = frames.next()
        else {
            tracing::debug!(executor = %self.id, "the executor did not introduce itself");
            return End::HungUp;
        };
        if std::mem::take(&mut self.is_silent) {
            tracing::info!(executor = %self.id, "the executor answers again");
        }
        tracing::debug!(executor = %self.id, pid = identity.pid, version, "attached");
        self.tell(ExecutorEvent::Attached { identity, tasks }).await;
        tell_updates(self.id, &self.events, frames).await;
        let end = self.pump(&mut reader, &mut write).await;
        let end = end.unwrap_or_else(|error| {
            tracing::debug!(executor = %self.id, %error, "the executor's connection broke");
            End::HungUp
        });
        self.tell(ExecutorEvent::Detached).await;
        end
    }

    /// Both ways at once, so that two full sockets never wait for each other.
    async fn pump(
        &mut self,
        reader: &mut FrameReader<OwnedReadHalf, FromExecutor>,
        write: &mut OwnedWriteHalf,
    ) -> Result<End, FrameError> {
        let Self {
            id,
            events,
            queue,
            reset,
            door,
            ..
        } = self;
        let reading = async {
            while let Some(frames) = reader.next_batch().await? {
                tell_updates(*id, events, frames.into_iter()).await;
            }
            Ok(End::HungUp)
        };
        let writing = async {
            let mut messages = Vec::with_capacity(WRITE_BATCH);
            // The queue ends when the core has no more to do with the process.
            while queue.recv_many(&mut messages, WRITE_BATCH).await > 0 {
                if let Some(door) = door {
                    let refused = admit(door, &mut messages).await;
                    let refused = refused.into_iter().map(FromExecutor::Update);
                    tell_updates(*id, events, refused).await;
                }
                write_messages(write, &mut messages).await?;
            }
            Ok(End::Left)
        };
        tokio::select! {
            result = reading => result,
            result = writing => result,
            () = reset.notified() => Ok(End::Left),
        }
    }

    async fn tell(&self, event: ExecutorEvent) {
        // The loop is gone only when the agent ends.
        let _ = self.events.send(Event::Executor(self.id, event)).await;
    }
}

async fn tell_updates(
    id: ExecutorId,
    events: &mpsc::Sender<Event>,
    frames: impl Iterator<Item = FromExecutor>,
) {
    let (mut updates, mut others) = (Vec::new(), Vec::new());
    for frame in frames {
        match frame {
            FromExecutor::Update(update) => updates.push(update),
            FromExecutor::Ran { id, result } => {
                let ran = result.map_err(NotRan::Failed);
                others.push(ExecutorEvent::Ran(id, ran));
            }
            FromExecutor::NotNow(id) => {
                others.push(ExecutorEvent::Ran(id, Err(NotRan::NotNow(NOT_NOW))));
            }
            FromExecutor::Took(caller) => others.push(ExecutorEvent::Took(caller, true)),
            FromExecutor::NotTook(caller) => others.push(ExecutorEvent::Took(caller, false)),
            FromExecutor::Measured { id, tasks } => {
                others.push(ExecutorEvent::Measured(id, tasks));
            }
            FromExecutor::Attached { .. } => {}
        }
    }
    if !updates.is_empty() {
        others.push(ExecutorEvent::Updates(updates));
    }
    for event in others {
        // The loop is gone only when the agent ends.
        let _ = events.send(Event::Executor(id, event)).await;
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
    )
}
