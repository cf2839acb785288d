//! The calls a framework can make during a turn.
//!
//! [`Host`] is the line between a framework and whoever runs it: in Wasm its
//! calls are the component's imports, in tests they end in a scripted cluster.
//! Authors use [`Context`], which wraps a host with friendlier signatures.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tepui_types::api::demand::Explanation;
use tepui_types::constraint::Constraints;
use tepui_types::resources::ResourceRequest;
use tepui_types::{
    AgentId, Demand, Digest, Gang, OfferId, Reason, Resources, Role, Timestamp, Wish,
};

use crate::error::Error;
use crate::task::{GangLaunch, Launch, Successor, Task, TaskId, TaskSpec};

/// A key and its value in the store.
pub type Pair = (String, Vec<u8>);

/// How loud a log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Every step.
    Trace,
    /// What helps to find a bug.
    Debug,
    /// What an operator may want to know.
    Info,
    /// Odd, and survived.
    Warn,
    /// Broken.
    Error,
}

/// An agent as every framework may see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentView {
    /// Its number.
    pub id: AgentId,
    /// Its machine, for people.
    pub hostname: String,
    /// Whether it takes tasks now.
    pub active: bool,
    /// All that it lends.
    pub total: Resources,
    /// What its tasks have, of all frameworks.
    pub used: Resources,
    /// What frameworks may choose by: `zone`, `arch`…
    pub attributes: BTreeMap<String, String>,
}

/// A framework as the cluster knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameworkIdentity {
    /// Its id.
    pub id: tepui_types::FrameworkId,
    /// Its name, also the first part of its pages' path.
    pub name: String,
    /// The first of its roles.
    pub role: String,
}

/// What became of an operation on resources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationStatus {
    /// Orders them.
    pub id: String,
    /// The framework's own name for it.
    pub name: String,
    /// On which agent.
    pub agent: AgentId,
    /// `reserve`, `unreserve`, `create`, `destroy`, `grow` or `shrink`.
    pub kind: String,
    /// `finished` or `dropped`.
    pub state: String,
    /// Why it was dropped.
    pub reason: Option<Reason>,
    /// When it was committed.
    pub time: Timestamp,
}

/// Whoever runs a framework; one method for each import of the WIT world. See
/// [`Context`] for what they do.
#[allow(missing_docs)]
pub trait Host {
    fn accept(
        &mut self,
        offer: OfferId,
        spec: &TaskSpec,
        tasks: &[Launch],
    ) -> Result<Vec<TaskId>, Error>;
    fn launch_after(
        &mut self,
        after: &TaskId,
        spec: &TaskSpec,
        tasks: &[Successor],
    ) -> Result<Vec<TaskId>, Error>;
    fn decline(&mut self, offers: &[OfferId], refuse_ms: Option<u64>) -> Result<(), Error>;
    fn demand_gang(&mut self, key: &str, gang: Option<&Gang>) -> Result<(), Error>;
    fn launch_gang(
        &mut self,
        specs: &[TaskSpec],
        launches: &[GangLaunch],
    ) -> Result<Vec<TaskId>, Error>;
    fn kill(&mut self, task: &TaskId, grace_ms: Option<u64>) -> Result<(), Error>;
    fn demand(&mut self, key: &str, demand: &Demand) -> Result<(), Error>;
    fn operate(&mut self, offer: OfferId, name: &str, wish: &Wish) -> Result<(), Error>;
    fn left(&mut self, offer: OfferId) -> Option<Resources>;
    fn operations(&mut self, after: Option<&str>, limit: u32) -> Vec<OperationStatus>;
    fn roles(&mut self) -> Vec<Role>;
    fn suppress(&mut self, role: Option<&Role>) -> Result<(), Error>;
    fn revive(&mut self, role: Option<&Role>) -> Result<(), Error>;
    fn minimum_offer(
        &mut self,
        role: Option<&Role>,
        least: Option<&[ResourceRequest]>,
    ) -> Result<(), Error>;
    fn explain(&mut self, key: &str) -> Option<Explanation>;
    fn agents(&mut self, after: Option<AgentId>, limit: u32) -> Vec<AgentView>;
    fn tasks(&mut self, after: Option<&TaskId>, limit: u32) -> Vec<Task>;
    fn has_artifact(&mut self, digest: &Digest) -> bool;
    fn this_framework(&mut self) -> FrameworkIdentity;
    fn now_ms(&mut self) -> u64;

    fn get(&mut self, key: &str) -> Option<Vec<u8>>;
    fn set(&mut self, key: &str, value: &[u8]) -> Result<(), Error>;
    fn delete(&mut self, key: &str) -> Result<(), Error>;
    fn scan(&mut self, prefix: &str, after: Option<&str>, limit: u32) -> Vec<Pair>;

    fn set_timer(&mut self, name: &str, delay_ms: u64) -> Result<(), Error>;
    fn cancel_timer(&mut self, name: &str) -> Result<(), Error>;

    fn log(&mut self, level: Level, message: &str);
}

/// A turn's way to the cluster, the store, the timers and the log.
pub struct Context<'a> {
    host: &'a mut dyn Host,
}

impl<'a> Context<'a> {
    /// The most pairs, agents or tasks that one call answers.
    pub const MAX_LIMIT: u32 = 1_000;

    /// For those who run frameworks: [`crate::testing`] and the guest.
    pub fn new(host: &'a mut dyn Host) -> Self {
        Self { host }
    }

    /// Launches tasks of one specification on an offer; all or none. May be
    /// called again for the same offer. Answers their identities, in order. One
    /// call takes half a turn's bytes at most (512 KiB), and each task costs
    /// its specification, its name and some more: split large arrays.
    pub fn accept(
        &mut self,
        offer: OfferId,
        spec: &TaskSpec,
        tasks: &[Launch],
    ) -> Result<Vec<TaskId>, Error> {
        self.host.accept(offer, spec, tasks)
    }

    /// Launches tasks to run after one of this framework's, one after another, each in the place of the
    /// one before: on its agent, with its resources and role, and without an offer in between. For short
    /// tasks. Until they begin they are staging and hold nothing. One whose place others want when it
    /// comes free, or whose agent takes no more tasks, is dropped: launch it from an offer. Answers their
    /// identities, in order; none, and nothing is launched, where others want what its agent has, that takes
    /// no more tasks, or `after` is not known any more.
    pub fn launch_after(
        &mut self,
        after: &TaskId,
        spec: &TaskSpec,
        tasks: &[Successor],
    ) -> Result<Vec<TaskId>, Error> {
        self.host.launch_after(after, spec, tasks)
    }

    /// Gives offers back, or what accepts have left of them. Nothing of it is
    /// offered again to this framework for `refuse` (5 s if none is given).
    pub fn decline(&mut self, offers: &[OfferId], refuse: Option<Duration>) -> Result<(), Error> {
        if offers.is_empty() {
            return Ok(());
        }
        self.host.decline(offers, refuse.map(millis))
    }

    /// Asks for a task's end, with its own grace unless one is given. Its
    /// update follows.
    pub fn kill(&mut self, task: &TaskId, grace: Option<Duration>) -> Result<(), Error> {
        self.host.kill(task, grace.map(millis))
    }

    /// "I want `count` tasks of this shape", in place of what was said under
    /// this key before; zero takes it back. Without demand there are no offers.
    /// Launches do not lower it by themselves.
    pub fn demand(
        &mut self,
        key: &str,
        count: u32,
        request: &ResourceRequest,
    ) -> Result<(), Error> {
        let demand = Demand::new(count, request.clone());
        self.host.demand(key, &demand)
    }

    /// [`demand`](Self::demand) that only agents can meet of which these
    /// constraints hold: others are not offered for it. An offer is for all of
    /// a framework's demand, so one that has several looks at the offer's
    /// attributes before it launches.
    pub fn demand_where(
        &mut self,
        key: &str,
        count: u32,
        request: &ResourceRequest,
        constraints: &Constraints,
    ) -> Result<(), Error> {
        let demand = Demand {
            constraints: constraints.clone(),
            ..Demand::new(count, request.clone())
        };
        self.host.demand(key, &demand)
    }

    /// [`demand`](Self::demand) with all that may be said of it, such as the
    /// role that it is for. With a time limit it may be met by offers that
    /// [admit](tepui_types::Offer::admits) only tasks that end in time, for a gang
    /// waits for them. An offer is for all of a framework's demand for its
    /// role, and what is launched on it is charged to that role.
    pub fn demand_with(&mut self, key: &str, demand: &Demand) -> Result<(), Error> {
        self.host.demand(key, demand)
    }

    /// Makes something else of what is left of an offer: reserves, takes back, or
    /// does something with a volume. Accepts that follow in this turn may use
    /// what comes of it; [`left`](Self::left) shows that. It is checked again
    /// when the turn commits, and dropped if it does not fit any more: an
    /// [`Event::Dropped`](crate::Event) says so by this name.
    ///
    /// ```
    /// use tepui_sdk::operations::{ReserveRequest, VolumeRequest, Wish};
    /// use tepui_sdk::resources::{Bytes, ResourceRequest};
    /// use tepui_sdk::{Context, Error, OfferId, Role};
    ///
    /// /// A volume of 10 GiB on the agent of an offer, for a role.
    /// fn volume(cx: &mut Context<'_>, offer: OfferId, role: &Role) -> Result<(), Error> {
    ///     let disk = ResourceRequest { disk: Bytes::gib(10), ..ResourceRequest::default() };
    ///     let reserve = ReserveRequest::new(role.clone(), disk);
    ///     cx.operate(offer, "reserve-data", &Wish::Reserve(reserve))?;
    ///     let create = VolumeRequest::new("data", role.clone(), Bytes::gib(10));
    ///     cx.operate(offer, "create-data", &Wish::Create(create))
    /// }
    /// ```
    pub fn operate(&mut self, offer: OfferId, name: &str, wish: &Wish) -> Result<(), Error> {
        self.host.operate(offer, name, wish)
    }

    /// What this turn has left of an offer; none of one that is not held any more.
    pub fn left(&mut self, offer: OfferId) -> Option<Resources> {
        self.host.left(offer)
    }

    /// This framework's operations that are remembered, oldest first, that come
    /// after this id, at most `limit` (1,000).
    pub fn operations(&mut self, after: Option<&str>, limit: u32) -> Vec<OperationStatus> {
        self.host.operations(after, limit)
    }

    /// "I want all of these at once, or none", in place of the gang under this key.
    /// Its offers come together in one [`Event::Offers`](crate::Event::Offers), each
    /// with its share in [`Offer::gang`](tepui_types::Offer::gang); while it does not
    /// fit it holds nothing. One that is given up comes as a dropped operation
    /// `gang`.
    pub fn demand_gang(&mut self, key: &str, gang: &Gang) -> Result<(), Error> {
        self.host.demand_gang(key, Some(gang))
    }

    /// Takes a gang back.
    pub fn withdraw_gang(&mut self, key: &str) -> Result<(), Error> {
        self.host.demand_gang(key, None)
    }

    /// Launches all of these or none: if one does not fit when the turn is
    /// committed, all are dropped. Launches do not take the gang back by themselves.
    pub fn launch_gang(
        &mut self,
        specs: &[TaskSpec],
        launches: &[GangLaunch],
    ) -> Result<Vec<TaskId>, Error> {
        self.host.launch_gang(specs, launches)
    }

    /// The roles of this framework. What names none of them is for the first.
    pub fn roles(&mut self) -> Vec<Role> {
        self.host.roles()
    }

    /// Stops offers in all roles until [`revive`](Self::revive).
    pub fn suppress(&mut self) -> Result<(), Error> {
        self.host.suppress(None)
    }

    /// Undoes `suppress` in all roles, and offers again what was declined.
    pub fn revive(&mut self) -> Result<(), Error> {
        self.host.revive(None)
    }

    /// Stops offers in one role until [`revive_role`](Self::revive_role).
    pub fn suppress_role(&mut self, role: &Role) -> Result<(), Error> {
        self.host.suppress(Some(role))
    }

    /// Undoes a suppression in one role, and offers again what was declined in it.
    pub fn revive_role(&mut self, role: &Role) -> Result<(), Error> {
        self.host.revive(Some(role))
    }

    /// Lets offers in a role (in the first if none is named) have one of these at
    /// least, in place of the cluster's minimum; without any they may be as small
    /// as what is wanted. `None` leaves it to the cluster again.
    pub fn minimum_offer(
        &mut self,
        role: Option<&Role>,
        least: Option<&[ResourceRequest]>,
    ) -> Result<(), Error> {
        self.host.minimum_offer(role, least)
    }

    /// Why the demand under this key is not met now; none without such demand.
    pub fn explain(&mut self, key: &str) -> Option<Explanation> {
        self.host.explain(key)
    }

    /// Agents above `after`, ascending, at most `limit` (1,000).
    pub fn agents(&mut self, after: Option<AgentId>, limit: u32) -> Vec<AgentView> {
        self.host.agents(after, limit)
    }

    /// This framework's living tasks that were launched after `after`, in the
    /// order of their attempts, at most `limit` (1,000).
    pub fn tasks(&mut self, after: Option<&TaskId>, limit: u32) -> Vec<Task> {
        self.host.tasks(after, limit)
    }

    /// Whether the cluster stores this artifact: a Wasm task whose artifact nobody has fails on its
    /// agent.
    pub fn has_artifact(&mut self, digest: &Digest) -> bool {
        self.host.has_artifact(digest)
    }

    /// The framework that this is.
    pub fn this_framework(&mut self) -> FrameworkIdentity {
        self.host.this_framework()
    }

    /// The cluster's time in this turn. There is no other clock.
    pub fn now(&mut self) -> Timestamp {
        Timestamp(self.host.now_ms())
    }

    /// The value of a key. Reads see the turn's writes.
    pub fn get(&mut self, key: &str) -> Option<Vec<u8>> {
        self.host.get(key)
    }

    /// Sets a key (1 to 1,024 bytes) to a value (at most 256 KiB).
    pub fn set(&mut self, key: &str, value: &[u8]) -> Result<(), Error> {
        self.host.set(key, value)
    }

    /// Deletes a key, if it is there.
    pub fn delete(&mut self, key: &str) -> Result<(), Error> {
        self.host.delete(key)
    }

    /// Pairs whose key starts with `prefix` and is above `after`, ascending, at
    /// most `limit` (1,000) and about 1 MiB.
    pub fn scan(&mut self, prefix: &str, after: Option<&str>, limit: u32) -> Vec<Pair> {
        self.host.scan(prefix, after, limit)
    }

    /// Every pair whose key starts with `prefix`, ascending, in pages.
    pub fn scan_all(&mut self, prefix: &str) -> Vec<Pair> {
        let mut pairs: Vec<Pair> = Vec::new();
        loop {
            let after = pairs.last().map(|(key, _)| key.as_str());
            let page = self.host.scan(prefix, after, Self::MAX_LIMIT);
            // A page may be short of the limit because of its bytes.
            if page.is_empty() {
                return pairs;
            }
            pairs.extend(page);
        }
    }

    /// A value that was set with [`set_as`](Self::set_as).
    pub fn get_as<T: DeserializeOwned>(&mut self, key: &str) -> Result<Option<T>, Error> {
        let Some(bytes) = self.host.get(key) else {
            return Ok(None);
        };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| Error::Malformed {
                key: key.into(),
                message: error.to_string(),
            })
    }

    /// Sets a key to a value as JSON: readable, and a later release of the
    /// framework may add fields (with `#[serde(default)]`).
    pub fn set_as<T: Serialize>(&mut self, key: &str, value: &T) -> Result<(), Error> {
        let bytes = serde_json::to_vec(value)
            .map_err(|error| Error::Invalid(format!("`{key}` does not encode: {error}")))?;
        self.host.set(key, &bytes)
    }

    /// Lets a timer fire once, about `delay` from now; replaces one of this
    /// name. Timers are durable.
    pub fn set_timer(&mut self, name: &str, delay: Duration) -> Result<(), Error> {
        self.host.set_timer(name, millis(delay))
    }

    /// Takes a timer back, if there is one.
    pub fn cancel_timer(&mut self, name: &str) -> Result<(), Error> {
        self.host.cancel_timer(name)
    }

    /// A line for the framework's author (`tepui framework logs`). Lines are
    /// written even when the turn fails.
    pub fn log(&mut self, level: Level, message: &str) {
        self.host.log(level, message);
    }

    /// A line at debug.
    pub fn debug(&mut self, message: &str) {
        self.log(Level::Debug, message);
    }

    /// A line at info.
    pub fn info(&mut self, message: &str) {
        self.log(Level::Info, message);
    }

    /// A line at warn.
    pub fn warn(&mut self, message: &str) {
        self.log(Level::Warn, message);
    }

    /// A line at error.
    pub fn error(&mut self, message: &str) {
        self.log(Level::Error, message);
    }

    /// Ends the instance, and the turn with nothing of it done; the same events
    /// come again to a new instance, after a pause. For what must never be half
    /// done, such as a store write that does not fit beside launches that do.
    ///
    /// # Panics
    /// Always: that is how an instance ends.
    pub fn abort(&mut self, why: &str) -> ! {
        panic!("{why}")
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
