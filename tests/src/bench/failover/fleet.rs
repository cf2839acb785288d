//! Simulated agents: each the connection of a real one, on which tasks end as soon as they are
//! launched.
//!
//! They dial, register, beat and come back as agents do, since that is the agent's own code; only
//! the machine behind it is not there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use tepui_agent::event_loop::Event;
use tepui_agent::master::{self, Dialer};
use tepui_agent::masters::Masters;
use tepui_types::wire::agent::{
    AgentEffect, AgentFrame, Hello, MAX_BATCH, MasterFrame, StatusReport,
};
use tepui_types::{AgentId, AgentInfo, Bytes, ClusterId, MilliCpus, Resources, TaskId, TaskState};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// What waits for one of them: it has little to do.
const EVENTS: usize = 64;
/// How long a connection may take to come up, as of agents.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Agents that run until they are dropped.
pub struct Fleet {
    seen: Arc<Seen>,
    _tasks: JoinSet<()>,
}

/// What all of them together have seen.
#[derive(Debug, Default)]
struct Seen {
    connected: AtomicUsize,
    launches: AtomicUsize,
}

impl Fleet {
    /// So many, each with one processor, which find the leader through any of these masters.
    pub fn start(agents: usize, masters: &[String]) -> Result<Self> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .build()?;
        let seen = Arc::new(Seen::default());
        let mut tasks = JoinSet::new();
        for number in 0..agents {
            // Not all begin with the same one.
            let mut given = masters.to_vec();
            given.rotate_left(number % masters.len());
            let dialer = Dialer::new(client.clone(), Arc::new(Masters::new(given)));
            let (events, inbox) = mpsc::channel(EVENTS);
            tasks.spawn(async move { master::run(&dialer, &events).await });
            tasks.spawn(Agent::new(number, seen.clone()).run(inbox));
        }
        Ok(Self {
            seen,
            _tasks: tasks,
        })
    }

    /// How many have a session with a leader.
    pub fn connected(&self) -> usize {
        self.seen.connected.load(Ordering::Relaxed)
    }

    /// How many tasks have been launched on them.
    pub fn launches(&self) -> usize {
        self.seen.launches.load(Ordering::Relaxed)
    }
}

/// One agent.
struct Agent {
    number: usize,
    seen: Arc<Seen>,
    member: Option<(ClusterId, AgentId)>,
    outbox: Option<mpsc::Sender<AgentFrame>>,
    /// What the log may not have yet.
    reports: BTreeMap<TaskId, StatusReport>,
}

impl Agent {
    fn new(number: usize, seen: Arc<Seen>) -> Self {
        Self {
            number,
            seen,
            member: None,
            outbox: None,
            reports: BTreeMap::new(),
        }
    }

    async fn run(mut self, mut inbox: mpsc::Receiver<Event>) {
        while let Some(event) = inbox.recv().await {
            match event {
                Event::HelloWanted(reply) => {
                    // Whoever asked may have lost the connection again.
                    reply.send(self.hello()).ok();
                }
                Event::Registered(session) => {
                    self.member = Some((session.welcome.cluster, session.welcome.agent));
                    self.outbox = Some(session.outbox);
                    self.seen.connected.fetch_add(1, Ordering::Relaxed);
                }
                Event::MasterLost => self.hang_up(),
                Event::Master(frames) => {
                    for frame in frames {
                        self.on_frame(frame).await;
                    }
                }
                // It runs nothing.
                _ => {}
            }
        }
    }

    fn hang_up(&mut self) {
        if self.outbox.take().is_some() {
            self.seen.connected.fetch_sub(1, Ordering::Relaxed);
        }
    }

    async fn on_frame(&mut self, frame: MasterFrame) {
        match frame {
            MasterFrame::Effects { effects, .. } => {
                for effect in effects {
                    let (task, state) = match effect {
                        AgentEffect::Launch(launch) => (launch.task, TaskState::Finished),
                        AgentEffect::Kill { task, .. } => (task, TaskState::Killed),
                        AgentEffect::Volumes(_) => continue,
                    };
                    if !self.reports.contains_key(&task) && state == TaskState::Finished {
                        self.seen.launches.fetch_add(1, Ordering::Relaxed);
                    }
                    let report = ended(task.clone(), state);
                    self.reports.entry(task).or_insert(report);
                }
                self.report().await;
            }
            MasterFrame::Recorded(tasks) => {
                for (task, _) in tasks {
                    self.reports.remove(&task);
                }
            }
            MasterFrame::Welcome(_)
            | MasterFrame::Refused { .. }
            | MasterFrame::OpenStream { .. }
            | MasterFrame::Heartbeat
            | MasterFrame::Masters(_)
            | MasterFrame::Heard(_) => {}
        }
    }

    /// Sends what the log may not have; whoever has no session says it with the next `Hello`.
    async fn report(&mut self) {
        let Some(outbox) = &self.outbox else { return };
        let reports: Vec<_> = self.reports.values().take(MAX_BATCH).cloned().collect();
        outbox.send(AgentFrame::Statuses(reports)).await.ok();
    }

    fn hello(&self) -> Hello {
        // Not 0, which is nobody's.
        let nonce = self.number as u128 + 1;
        Hello {
            cluster: self.member.map(|(cluster, _)| cluster),
            agent: self.member.map(|(_, agent)| agent),
            nonce,
            process: nonce,
            boot: 1,
            info: AgentInfo {
                address: None,
                hostname: format!("simulated-{}", self.number),
                resources: Resources {
                    cpus: MilliCpus(1_000),
                    mem: Bytes::mib(1_024),
                    ..Resources::default()
                },
                attributes: Default::default(),
                version: env!("CARGO_PKG_VERSION").into(),
                full: None,
            },
            tasks: self.reports.values().cloned().collect(),
        }
    }
}

fn ended(task: TaskId, state: TaskState) -> StatusReport {
    StatusReport {
        task,
        state,
        reason: None,
        exit_code: (state == TaskState::Finished).then_some(0),
        usage: None,
        signs: None,
    }
}
