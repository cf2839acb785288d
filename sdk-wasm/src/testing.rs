//! A scripted cluster that runs a framework natively, in a unit test.
//!
//! [`Cluster`] has agents that a test adds and nothing else of its own: offers,
//! updates, time and requests come when the test says so, and every call is
//! recorded. What the real host promises holds here too: a turn that panics
//! leaves nothing behind, limits are enforced, a full turn is followed by
//! [`Event::Continued`], and with [`discard_every_turn`] the instance is thrown
//! away after each turn, so that what is missing in the store is missed at once.
//!
//! ```
//! use tepui_sdk::resources::{Bytes, MilliCpus, Resources};
//! use tepui_sdk::testing::Cluster;
//! # use tepui_sdk::{Context, Scheduler, StartReason};
//! # struct Idle;
//! # impl Scheduler for Idle {
//! #     fn start(_: &mut Context<'_>, _: StartReason, _: &str) -> Result<Self, String> {
//! #         Ok(Self)
//! #     }
//! # }
//!
//! let mut cluster = Cluster::<Idle>::deploy("").discard_every_turn();
//! let agent = cluster.agent(Resources {
//!     cpus: MilliCpus(4000),
//!     mem: Bytes::gib(8),
//!     ..Resources::default()
//! });
//! cluster.offer(agent);
//! cluster.turn();
//! assert!(cluster.tasks().is_empty(), "this one never launches anything");
//! ```
//!
//! [`discard_every_turn`]: Cluster::discard_every_turn

mod call;
mod gangs;
mod host;
mod journal;
mod world;

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use tepui_types::{
    AgentId, Demand, Digest, Gang, OfferId, Reason, Resources, Role, TaskState, Timestamp,
};

pub use call::Call;
pub use host::{LogLine, MAX_TURN_BYTES, MAX_TURN_OPERATIONS, RunningTask};

use crate::context::Context;
use crate::http::{Request, Response};
use crate::scheduler::{DroppedOperation, Event, Scheduler, StartReason};
use crate::task::{Task, TaskId, TaskStatus};
use host::ScriptedHost;

/// What a turn did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Turn {
    /// Its calls to the cluster that were not refused, in order.
    pub calls: Vec<Call>,
    /// Whether a call was refused because the turn was full.
    pub full: bool,
}

/// A scheduler and the cluster that it believes in.
pub struct Cluster<S> {
    instance: Option<S>,
    config: String,
    host: ScriptedHost,
    queue: VecDeque<Event>,
    next_agent: u64,
    next_offer: u64,
    discard_every_turn: bool,
    fail_next_commit: bool,
}

impl<S: Scheduler> Cluster<S> {
    /// Deploys the framework.
    ///
    /// # Panics
    /// When `start` refuses; see [`try_deploy`](Self::try_deploy).
    pub fn deploy(config: &str) -> Self {
        match Self::try_deploy(config) {
            Ok(cluster) => cluster,
            Err(error) => panic!("the framework does not start: {error}"),
        }
    }

    /// Deploys the framework, or says why `start` refused.
    pub fn try_deploy(config: &str) -> Result<Self, String> {
        let mut cluster = Self {
            instance: None,
            config: config.into(),
            host: ScriptedHost::default(),
            queue: VecDeque::new(),
            next_agent: 1,
            next_offer: 1,
            discard_every_turn: false,
            fail_next_commit: false,
        };
        cluster.start(StartReason::Deployed)?;
        Ok(cluster)
    }

    /// From now on the instance is thrown away after every turn and started
    /// again with [`StartReason::Recovered`]. Run each test in both modes.
    pub fn discard_every_turn(mut self) -> Self {
        self.discard_every_turn = true;
        self
    }

    /// Throws the instance away and starts it again, as after a failover.
    pub fn restart(&mut self) {
        self.instance = None;
        self.ensure_started();
    }

    /// The next turn runs and is then not committed, as when its master lost
    /// the lead: nothing of it remains and its events come again.
    pub fn fail_next_commit(&mut self) {
        self.fail_next_commit = true;
    }

    /// Adds an agent with these resources.
    pub fn agent(&mut self, total: Resources) -> AgentId {
        let id = AgentId(self.next_agent);
        self.next_agent += 1;
        self.host.state.agents.insert(id, total);
        id
    }

    /// Gives an agent an attribute, for offers from now on.
    pub fn attribute(&mut self, agent: AgentId, name: &str, value: &str) {
        let attributes = self.host.state.attributes.entry(agent).or_default();
        attributes.insert(name.into(), value.into());
    }

    /// What of an agent is neither used nor in an open offer.
    pub fn free(&self, agent: AgentId) -> Resources {
        self.host.state.free(agent)
    }

    /// The cluster does not store this artifact; it has every other.
    pub fn lacks_artifact(&mut self, digest: Digest) {
        self.host.state.missing_artifacts.insert(digest);
    }

    /// Gives the framework these roles, in place of `*`. What names none of them
    /// is for the first.
    ///
    /// # Panics
    /// When one is no role.
    pub fn roles(&mut self, roles: &[&str]) {
        let roles = roles.iter().map(|role| match role.parse() {
            Ok(role) => role,
            Err(error) => panic!("{error}"),
        });
        self.host.state.roles = roles.collect();
    }

    /// Queues an offer of all that is free on `agent`, wanted or not, for the
    /// framework's first role.
    ///
    /// # Panics
    /// When there is no such agent.
    pub fn offer(&mut self, agent: AgentId) -> OfferId {
        let role = self.host.state.first_role();
        self.offer_for(role, agent)
    }

    /// The same for another role.
    ///
    /// # Panics
    /// When there is no such agent.
    pub fn offer_for(&mut self, role: Role, agent: AgentId) -> OfferId {
        let id = OfferId(self.next_offer);
        self.next_offer += 1;
        let offer = self.host.state.open_offer(id, agent, role);
        match self.queue.back_mut() {
            Some(Event::Offers(offers)) => offers.push(offer),
            _ => self.queue.push_back(Event::Offers(vec![offer])),
        }
        id
    }

    /// Queues an offer of every agent on which some demand fits, as the real
    /// allocator does. Answers how many.
    pub fn offer_all(&mut self) -> usize {
        let wanted = self.host.state.agents_in_demand();
        let count = wanted.len();
        for (agent, role) in wanted {
            self.offer_for(role, agent);
        }
        count
    }

    /// Queues offers of what every gang that fits needs, as the real allocator
    /// does: all of one or none. Answers how many offers.
    pub fn offer_gangs(&mut self) -> usize {
        let keys: Vec<String> = self.host.state.gangs.keys().cloned().collect();
        let mut count = 0;
        for key in keys {
            let role = self
                .host
                .state
                .gangs
                .get(&key)
                .and_then(|gang| gang.role.clone());
            let role = role.unwrap_or_else(|| self.host.state.first_role());
            let plan = self.host.state.plan_gang(&key).unwrap_or_default();
            let mut offers = Vec::new();
            for (agent, resources, share) in plan {
                let id = OfferId(self.next_offer);
                self.next_offer += 1;
                let state = &mut self.host.state;
                offers.push(state.open_offer_of(id, agent, role.clone(), resources, Some(share)));
            }
            count += offers.len();
            if !offers.is_empty() {
                self.queue.push_back(Event::Offers(offers));
            }
        }
        count
    }

    /// Gives a gang up, as when its deadline has come, and queues the news.
    ///
    /// # Panics
    /// When there is no such gang.
    pub fn give_up_gang(&mut self, key: &str) {
        assert!(self.host.state.gangs.contains_key(key), "no gang `{key}`");
        self.host.state.gangs.remove(key);
        self.queue.push_back(Event::Dropped(DroppedOperation {
            operation: "gang".into(),
            subject: key.into(),
            reason: Reason::new("gang-overdue", "it did not fit in time"),
        }));
    }

    /// The gang that is wanted under a key.
    pub fn gang(&self, key: &str) -> Option<&Gang> {
        self.host.state.gangs.get(key)
    }

    /// Takes an open offer back and queues the news.
    pub fn rescind(&mut self, offer: OfferId) {
        self.host.state.offers.remove(&offer);
        self.queue.push_back(Event::Rescinded(vec![offer]));
    }

    /// Queues a living task's move to `state`.
    ///
    /// # Panics
    /// When no task of this name lives.
    pub fn update(&mut self, name: &str, state: TaskState) {
        self.update_with(name, state, None, None);
    }

    /// Queues a living task's failure with an exit code.
    ///
    /// # Panics
    /// When no task of this name lives.
    pub fn fail(&mut self, name: &str, exit_code: i32) {
        let reason = Reason::new("exit-code", format!("exited with code {exit_code}"));
        self.update_with(name, TaskState::Failed, Some(reason), Some(exit_code));
    }

    /// Queues a living task's move, with all that a status says.
    ///
    /// # Panics
    /// When no task of this name lives.
    pub fn update_with(
        &mut self,
        name: &str,
        state: TaskState,
        reason: Option<Reason>,
        exit_code: Option<i32>,
    ) {
        let time = Timestamp(self.host.state.now_ms);
        let Some(running) = self.host.state.tasks.get(name) else {
            panic!("no task `{name}` lives");
        };
        let mut task = running.task.clone();
        task.status = TaskStatus {
            code: state.to_string(),
            class: state.into(),
            reason,
            exit_code,
            signs: Default::default(),
            held_ms: state
                .is_terminal()
                .then(|| time.millis_since(running.since)),
            time,
        };
        if state.is_terminal() {
            self.host.state.end(name);
        } else {
            let status = task.status.clone();
            self.host
                .state
                .tasks
                .update(name, |running| running.task.status = status);
        }
        self.queue.push_back(Event::Update(task));
    }

    /// Queues an update about any task, for what the real host never sends.
    pub fn send_update(&mut self, task: Task) {
        self.queue.push_back(Event::Update(task));
    }

    /// Lets time pass; timers that come due are queued, in the order of their
    /// times.
    pub fn advance(&mut self, time: Duration) {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let state = &mut self.host.state;
        state.now_ms = state.now_ms.saturating_add(millis);
        let now = state.now_ms;
        let due = |(_, due): &(&String, &u64)| **due <= now;
        let mut names: Vec<(u64, String)> = state
            .timers
            .iter()
            .filter(due)
            .map(|(name, due)| (*due, name.clone()))
            .collect();
        names.sort();
        for (_, name) in names {
            // It stays set until the turn that saw it commits.
            let queued = |event: &Event| matches!(event, Event::Timer(other) if *other == name);
            if !self.queue.iter().any(queued) {
                self.queue.push_back(Event::Timer(name));
            }
        }
    }

    /// One turn with all the events that are queued; none if there is none.
    ///
    /// # Panics
    /// When the scheduler does; see [`try_turn`](Self::try_turn).
    pub fn turn(&mut self) -> Turn {
        match self.try_turn() {
            Ok(turn) => turn,
            Err(message) => panic!("the scheduler panicked: {message}"),
        }
    }

    /// One turn with all the events that are queued, or the message of the
    /// panic that ended it. Then nothing of the turn remains, its updates and
    /// timers come again, its offers are lost, and the instance starts anew.
    pub fn try_turn(&mut self) -> Result<Turn, String> {
        if self.queue.is_empty() {
            return Ok(Turn::default());
        }
        let events: Vec<Event> = self.queue.drain(..).collect();
        let fired: Vec<String> = events
            .iter()
            .filter_map(|event| match event {
                Event::Timer(name) => Some(name.clone()),
                _ => None,
            })
            .collect();
        let delivered = events.clone();
        let (_, turn) = self.run(
            |scheduler, cx| scheduler.handle(cx, delivered),
            |host| fired.iter().for_each(|name| host.fire(name)),
            events,
        )?;
        Ok(turn)
    }

    /// Turns until nothing is queued; answers how many.
    ///
    /// # Panics
    /// When the scheduler panics, or after 10,000 turns.
    pub fn settle(&mut self) -> usize {
        let mut turns = 0;
        while !self.queue.is_empty() {
            self.turn();
            turns += 1;
            assert!(turns < 10_000, "the scheduler finds no end");
        }
        turns
    }

    /// A request of `operator`, in a turn of its own.
    ///
    /// # Panics
    /// When the scheduler does.
    pub fn request(&mut self, method: &str, path: &str, body: &str) -> Response {
        let (path, query) = match path.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (path, None),
        };
        self.send(Request {
            method: method.into(),
            path: path.into(),
            query,
            headers: Vec::new(),
            body: body.into(),
            principal: "operator".into(),
        })
    }

    /// Any request, in a turn of its own.
    ///
    /// # Panics
    /// When the scheduler does.
    pub fn send(&mut self, request: Request) -> Response {
        let asked = |scheduler: &mut S, cx: &mut Context<'_>| scheduler.on_request(cx, request);
        match self.run(asked, |_| (), Vec::new()) {
            Ok((response, _)) => response,
            Err(message) => panic!("the scheduler panicked: {message}"),
        }
    }

    /// Living tasks by name.
    pub fn tasks(&self) -> &BTreeMap<String, RunningTask> {
        &self.host.state.tasks
    }

    /// A living task's identity.
    pub fn task_id(&self, name: &str) -> Option<TaskId> {
        self.host
            .state
            .tasks
            .get(name)
            .map(|running| running.task.id.clone())
    }

    /// What is wanted under a key; 0 without demand.
    pub fn demand(&self, key: &str) -> u32 {
        self.host
            .state
            .demands
            .get(key)
            .map_or(0, |demand| demand.count)
    }

    /// All demand.
    pub fn demands(&self) -> &BTreeMap<String, Demand> {
        &self.host.state.demands
    }

    /// How long until a timer fires; none if it is not set.
    pub fn timer(&self, name: &str) -> Option<Duration> {
        let due = self.host.state.timers.get(name)?;
        Some(Duration::from_millis(
            due.saturating_sub(self.host.state.now_ms),
        ))
    }

    /// What stands in the store.
    pub fn store(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.host.state.store
    }

    /// What was logged, of failed turns too.
    pub fn log(&self) -> &[LogLine] {
        &self.host.log
    }

    /// Events that wait for the next turn.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    fn start(&mut self, reason: StartReason) -> Result<(), String> {
        self.host.begin();
        let config = self.config.clone();
        let host = &mut self.host;
        let started = catch_unwind(AssertUnwindSafe(|| {
            S::start(&mut Context::new(host), reason, &config)
        }));
        match started.unwrap_or_else(|panic| Err(panic_message(panic.as_ref()))) {
            Ok(scheduler) => {
                self.instance = Some(scheduler);
                if self.host.commit().full {
                    self.queue.push_back(Event::Continued);
                }
                Ok(())
            }
            Err(error) => {
                self.host.roll_back();
                Err(error)
            }
        }
    }

    fn ensure_started(&mut self) {
        if self.instance.is_none()
            && let Err(error) = self.start(StartReason::Recovered)
        {
            panic!("the framework does not recover: {error}");
        }
    }

    /// Runs one turn; `events` come again if it does not commit.
    fn run<T>(
        &mut self,
        call: impl FnOnce(&mut S, &mut Context<'_>) -> T,
        prepare: impl FnOnce(&mut ScriptedHost),
        events: Vec<Event>,
    ) -> Result<(T, Turn), String> {
        self.ensure_started();
        self.host.begin();
        prepare(&mut self.host);
        let Some(mut scheduler) = self.instance.take() else {
            return Err("the framework is not started".into());
        };
        let host = &mut self.host;
        let called = catch_unwind(AssertUnwindSafe(|| {
            call(&mut scheduler, &mut Context::new(host))
        }));
        let failed = std::mem::take(&mut self.fail_next_commit);
        match called {
            Ok(answer) if !failed => {
                let turn = self.host.commit();
                if turn.full {
                    self.queue.push_front(Event::Continued);
                }
                if !self.discard_every_turn {
                    self.instance = Some(scheduler);
                }
                Ok((answer, turn))
            }
            result => {
                self.host.roll_back();
                for event in events.into_iter().rev() {
                    if !matches!(event, Event::Offers(_) | Event::Rescinded(_)) {
                        self.queue.push_front(event);
                    }
                }
                match result {
                    Ok(answer) => Ok((answer, Turn::default())),
                    Err(panic) => Err(panic_message(panic.as_ref())),
                }
            }
        }
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic".into())
}

#[cfg(test)]
mod tests;
