//! The scripted cluster's side of every call: records it, checks it as the
//! real host would, and keeps what a turn may take back.

use std::collections::BTreeSet;

use tepui_types::api::demand::Explanation;
use tepui_types::ids::is_label;
use tepui_types::resources::{ConversionError, ResourceRequest};
use tepui_types::setting::Settings;
use tepui_types::{
    AgentId, Demand, Digest, FrameworkId, Gang, OfferId, Resources, Role, TaskState, Timestamp,
    Wish, envelope,
};

use super::Turn;
use super::call::Call;
use super::journal::Journaled;
use super::world::State;
use crate::context::{AgentView, FrameworkIdentity, Host, Level, OperationStatus, Pair};
use crate::error::Error;
use crate::task::{GangLaunch, Launch, Successor, Task, TaskId, TaskSpec, TaskStatus};

/// The most operations of a turn; the real host's default.
pub const MAX_TURN_OPERATIONS: usize = 2_000;
/// The most bytes that a turn may write; the real host's default.
pub const MAX_TURN_BYTES: usize = 1024 * 1024;

/// The most tasks in one line; the real host's.
const MAX_LINE: usize = 100;
/// The most bytes of one call.
const MAX_CALL_BYTES: usize = MAX_TURN_BYTES / 2;
/// Bytes of a record beside its strings.
pub(super) const RECORD: usize = 64;
const MAX_KEY: usize = 1_024;
const MAX_VALUE: usize = 256 * 1024;
/// About what a scan answers at most, in bytes.
const MAX_SCAN_BYTES: usize = 1024 * 1024;
/// Where the scripted cluster's time begins: some day in 2023.
const EPOCH_MS: u64 = 1_700_000_000_000;

/// A line that the framework logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// How loud.
    pub level: Level,
    /// The line.
    pub message: String,
}

/// A living task, as it was launched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningTask {
    /// Identity, agent and status.
    pub task: Task,
    /// What it runs.
    pub spec: TaskSpec,
    /// What it has.
    pub resources: Resources,
    /// Its place in its array.
    pub array_index: Option<u32>,
    /// Whether its end was asked for.
    pub kill_requested: bool,
    /// The task for whose place it waits: until then it has nothing.
    pub after: Option<String>,
    /// The task that waits for its place.
    pub next: Option<String>,
    /// When it got what it has.
    pub since: Timestamp,
}

/// The host of [`super::Cluster`].
pub(super) struct ScriptedHost {
    pub state: State,
    pub log: Vec<LogLine>,
    pub calls: Vec<Call>,
    operations: usize,
    bytes: usize,
    full: bool,
}

impl Default for ScriptedHost {
    fn default() -> Self {
        Self {
            state: State {
                now_ms: EPOCH_MS,
                roles: vec![Role::default()],
                ..State::default()
            },
            log: Vec::new(),
            calls: Vec::new(),
            operations: 0,
            bytes: 0,
            full: false,
        }
    }
}

impl ScriptedHost {
    /// Starts a turn. What the test itself has changed stays whatever happens.
    pub fn begin(&mut self) {
        self.calls.clear();
        self.operations = 0;
        self.bytes = 0;
        self.full = false;
        self.state.commit();
    }

    /// Ends a turn as if it had not been; offers are lost with the instance.
    pub fn roll_back(&mut self) {
        self.state.roll_back();
        self.state.offers = Journaled::default();
    }

    /// A timer that is delivered in this turn is not set any more.
    pub fn fire(&mut self, name: &str) {
        if self
            .state
            .timers
            .get(name)
            .is_some_and(|due| *due <= self.state.now_ms)
        {
            self.state.timers.remove(name);
        }
    }

    /// Ends a turn: what accepts left of offers is declined.
    pub fn commit(&mut self) -> Turn {
        let answered = self.state.offers.iter().filter(|(_, open)| open.answered);
        let answered: Vec<OfferId> = answered.map(|(id, _)| *id).collect();
        answered.iter().for_each(|id| self.state.offers.remove(id));
        self.state.commit();
        Turn {
            calls: std::mem::take(&mut self.calls),
            full: self.full,
        }
    }

    /// Counts towards the turn's limits, or refuses.
    pub(super) fn charge(&mut self, operations: usize, bytes: usize) -> Result<(), Error> {
        if bytes > MAX_CALL_BYTES {
            return Err(Error::Invalid(format!(
                "one call of {bytes} bytes, and the most is {MAX_CALL_BYTES}: split it"
            )));
        }
        let too_many = self.operations + operations > MAX_TURN_OPERATIONS;
        if too_many || self.bytes + bytes > MAX_TURN_BYTES {
            self.full = true;
            return Err(Error::TurnFull);
        }
        self.operations += operations;
        self.bytes += bytes;
        Ok(())
    }

    pub(super) fn check_role(&self, role: Option<&Role>) -> Result<(), Error> {
        match role.filter(|role| !self.state.roles.contains(role)) {
            Some(role) => Err(Error::Invalid(format!("it has no role `{role}`"))),
            None => Ok(()),
        }
    }

    /// Lets tasks live that were found to fit.
    pub(super) fn start(
        &mut self,
        agent: AgentId,
        spec: &TaskSpec,
        tasks: &[Launch],
    ) -> Vec<TaskId> {
        let mut ids = Vec::with_capacity(tasks.len());
        for launch in tasks {
            let id = TaskId {
                name: launch.name.clone(),
                attempt: self.state.next_attempt,
            };
            self.state.next_attempt += 1;
            let status = TaskStatus {
                code: TaskState::Staging.to_string(),
                class: TaskState::Staging.into(),
                reason: None,
                exit_code: None,
                signs: Default::default(),
                held_ms: None,
                time: Timestamp(self.state.now_ms),
            };
            let running = RunningTask {
                task: Task {
                    id: id.clone(),
                    agent,
                    status,
                },
                spec: spec.clone(),
                resources: launch.resources.clone(),
                array_index: launch.array_index,
                kill_requested: false,
                after: None,
                next: None,
                since: Timestamp(self.state.now_ms),
            };
            self.state.tasks.insert(launch.name.clone(), running);
            ids.push(id);
        }
        ids
    }

    pub(super) fn check_launches(&self, spec: &TaskSpec, tasks: &[Launch]) -> Result<(), Error> {
        spec.validate().map_err(Error::Invalid)?;
        let mut names = BTreeSet::new();
        for launch in tasks {
            let name = &launch.name;
            if !is_label(name) {
                return Err(Error::Invalid(format!("`{name}` is not a task name")));
            }
            if self.state.tasks.contains_key(name) || !names.insert(name) {
                return Err(Error::Invalid(format!("a task named `{name}` lives")));
            }
        }
        Ok(())
    }
}

impl Host for ScriptedHost {
    fn accept(
        &mut self,
        offer: OfferId,
        spec: &TaskSpec,
        tasks: &[Launch],
    ) -> Result<Vec<TaskId>, Error> {
        self.check_launches(spec, tasks)?;
        let open = self.state.offers.get(&offer).ok_or(Error::OfferUnknown)?;
        let agent = open.offer.agent;
        let mut left = open.left.clone();
        for launch in tasks {
            let granted = left.grant(&launch.resources);
            // What several may have at a time is left for the next.
            let rest = granted.and_then(|granted| left.checked_sub(&granted.exclusive()));
            left = rest.map_err(|error| Error::OfferExceeded(error.to_string()))?;
        }
        let spec_bytes = envelope::encode(1, &tepui_types::TaskSpec::from(spec.clone())).len();
        let size = |launch: &Launch| spec_bytes + launch.name.len() + RECORD;
        self.charge(tasks.len(), tasks.iter().map(size).sum())?;
        self.state.offers.update(&offer, |open| {
            open.left = left;
            open.answered = true;
        });
        let ids = self.start(agent, spec, tasks);
        self.calls.push(Call::Accept {
            offer,
            spec: spec.clone(),
            tasks: tasks.to_vec(),
        });
        Ok(ids)
    }

    fn launch_after(
        &mut self,
        after: &TaskId,
        spec: &TaskSpec,
        tasks: &[Successor],
    ) -> Result<Vec<TaskId>, Error> {
        let before = self.state.tasks.get(&after.name);
        let Some(before) = before.filter(|before| before.task.id == *after) else {
            return Ok(Vec::new());
        };
        let (agent, resources) = (before.task.agent, before.resources.clone());
        if tasks.len() > MAX_LINE {
            return Err(Error::Invalid(format!("a line has at most {MAX_LINE}")));
        }
        let launches = tasks.iter().map(|task| Launch {
            array_index: task.array_index,
            ..Launch::new(&task.name, resources.clone())
        });
        let launches: Vec<Launch> = launches.collect();
        self.check_launches(spec, &launches)?;
        let spec_bytes = envelope::encode(1, &tepui_types::TaskSpec::from(spec.clone())).len();
        let sizes = launches.iter().map(|launch| launch.name.len() + RECORD);
        self.charge(launches.len(), spec_bytes + sizes.sum::<usize>())?;
        let ids = self.start(agent, spec, &launches);
        for id in &ids {
            self.state.wait_in_line(&id.name, &after.name);
        }
        self.calls.push(Call::LaunchAfter {
            after: after.clone(),
            spec: spec.clone(),
            tasks: tasks.to_vec(),
        });
        Ok(ids)
    }

    fn operate(&mut self, offer: OfferId, name: &str, wish: &Wish) -> Result<(), Error> {
        let open = self.state.offers.get(&offer).ok_or(Error::OfferUnknown)?;
        let exceeded = |error: ConversionError| Error::OfferExceeded(error.to_string());
        let conversion = wish.conversion(&open.left, "framework");
        let conversion = conversion.map_err(Error::OfferExceeded)?;
        let exchange = conversion.exchange(&open.left).map_err(exceeded)?;
        let left = exchange.apply(&open.left).map_err(exceeded)?;
        let agent = open.offer.agent;
        self.charge(
            1,
            name.len() + envelope::encode(1, &conversion).len() + RECORD,
        )?;
        self.state.offers.update(&offer, |open| {
            open.left = left;
            open.answered = true;
        });
        let id = self.state.operations.len();
        let status = OperationStatus {
            id: format!("{id}.0"),
            name: name.into(),
            agent,
            kind: conversion.name().into(),
            state: "finished".into(),
            reason: None,
            time: Timestamp(self.state.now_ms),
        };
        self.state.exchanges.insert(id, (agent, exchange));
        self.state.operations.insert(id, status);
        let (name, wish) = (name.to_owned(), wish.clone());
        self.calls.push(Call::Operate { offer, name, wish });
        Ok(())
    }

    fn left(&mut self, offer: OfferId) -> Option<Resources> {
        self.state.offers.get(&offer).map(|open| open.left.clone())
    }

    fn operations(&mut self, after: Option<&str>, limit: u32) -> Vec<OperationStatus> {
        let number = |id: &str| id.split('.').next()?.parse::<usize>().ok();
        let after = after.map(|after| number(after).unwrap_or(usize::MAX));
        let all = self.state.operations.values();
        let later = all.filter(|status| after.is_none_or(|after| number(&status.id) > Some(after)));
        later.take(limit as usize).cloned().collect()
    }

    fn decline(&mut self, offers: &[OfferId], refuse_ms: Option<u64>) -> Result<(), Error> {
        if offers
            .iter()
            .any(|offer| !self.state.offers.contains_key(offer))
        {
            return Err(Error::OfferUnknown);
        }
        for offer in offers {
            self.state.offers.update(offer, |open| {
                open.left = Resources::default();
                open.answered = true;
            });
        }
        self.calls.push(Call::Decline {
            offers: offers.to_vec(),
            refuse_ms,
        });
        Ok(())
    }

    fn demand_gang(&mut self, key: &str, gang: Option<&Gang>) -> Result<(), Error> {
        self.want_gang(key, gang)
    }

    fn launch_gang(
        &mut self,
        specs: &[TaskSpec],
        launches: &[GangLaunch],
    ) -> Result<Vec<TaskId>, Error> {
        self.start_gang(specs, launches)
    }

    fn kill(&mut self, task: &TaskId, grace_ms: Option<u64>) -> Result<(), Error> {
        self.charge(1, task.name.len() + RECORD)?;
        self.state.tasks.update(&task.name, |running| {
            running.kill_requested |= running.task.id == *task;
        });
        self.calls.push(Call::Kill {
            task: task.clone(),
            grace_ms,
        });
        Ok(())
    }

    fn demand(&mut self, key: &str, demand: &Demand) -> Result<(), Error> {
        let known = self.state.demands.get(key);
        if known.map_or(0, |known| known.count) == 0 && demand.count == 0 {
            return Ok(());
        }
        demand.request.validate().map_err(Error::Invalid)?;
        demand.constraints.validate().map_err(Error::Invalid)?;
        self.check_role(demand.role.as_ref())?;
        self.charge(0, key.len() + RECORD)?;
        if demand.count == 0 {
            self.state.demands.remove(key);
        } else {
            self.state.demands.insert(key.into(), demand.clone());
        }
        self.calls.push(Call::Demand {
            key: key.into(),
            demand: demand.clone(),
        });
        Ok(())
    }

    fn roles(&mut self) -> Vec<Role> {
        self.state.roles.clone()
    }

    fn suppress(&mut self, role: Option<&Role>) -> Result<(), Error> {
        self.check_role(role)?;
        let roles = self.state.roles.clone();
        let meant = |known: &Role| role.is_none_or(|role| role == known);
        let roles = roles.into_iter().filter(meant);
        self.state.suppressed.extend(roles);
        self.calls.push(Call::Suppress {
            role: role.cloned(),
        });
        Ok(())
    }

    fn revive(&mut self, role: Option<&Role>) -> Result<(), Error> {
        self.check_role(role)?;
        let suppressed = &mut self.state.suppressed;
        suppressed.retain(|known| role.is_some_and(|role| role != known));
        self.calls.push(Call::Revive {
            role: role.cloned(),
        });
        Ok(())
    }

    fn minimum_offer(
        &mut self,
        role: Option<&Role>,
        least: Option<&[ResourceRequest]>,
    ) -> Result<(), Error> {
        self.check_role(role)?;
        Settings::validate_minimum(least.unwrap_or_default()).map_err(Error::Invalid)?;
        self.calls.push(Call::MinimumOffer {
            role: role.cloned(),
            least: least.map(<[_]>::to_vec),
        });
        Ok(())
    }

    fn explain(&mut self, key: &str) -> Option<Explanation> {
        let Demand {
            request,
            constraints,
            ..
        } = self.state.demands.get(key)?;
        let agents = self.state.agents.len() as u64;
        let mut explanation = Explanation {
            agents,
            ..Explanation::default()
        };
        for (agent, total) in &self.state.agents {
            if !constraints.hold_of(&self.state.info(*agent)) {
                explanation.constrained += 1;
                continue;
            }
            match (self.state.free(*agent).pick(request), total.pick(request)) {
                (Ok(_), _) => explanation.fitting += 1,
                (Err(short), Ok(_)) => {
                    short
                        .into_iter()
                        .for_each(|n| *explanation.busy.entry(n).or_default() += 1);
                }
                (Err(_), Err(short)) => short
                    .into_iter()
                    .for_each(|n| *explanation.too_small.entry(n).or_default() += 1),
            }
        }
        let short = explanation.busy.iter().chain(&explanation.too_small);
        let parts: Vec<String> = short
            .map(|(name, count)| format!("short of {name} on {count} of {agents} agents"))
            .collect();
        explanation.summary = if parts.is_empty() {
            "an offer is on its way".into()
        } else {
            parts.join("; ")
        };
        Some(explanation)
    }

    fn agents(&mut self, after: Option<AgentId>, limit: u32) -> Vec<AgentView> {
        let agents = self.state.agents.iter();
        let above = agents.filter(|(id, _)| after.is_none_or(|after| **id > after));
        let views = above.map(|(id, total)| AgentView {
            id: *id,
            hostname: format!("host-{}", id.0),
            active: true,
            total: total.clone(),
            used: total.saturating_sub(&self.state.free(*id)),
            attributes: self.state.attributes.get(id).cloned().unwrap_or_default(),
        });
        views.take(limit as usize).collect()
    }

    fn tasks(&mut self, after: Option<&TaskId>, limit: u32) -> Vec<Task> {
        let tasks = self.state.tasks.values().map(|running| &running.task);
        let above = tasks.filter(|task| after.is_none_or(|after| task.id.attempt > after.attempt));
        let mut above: Vec<&Task> = above.collect();
        above.sort_by_key(|task| task.id.attempt);
        above.into_iter().take(limit as usize).cloned().collect()
    }

    fn has_artifact(&mut self, digest: &Digest) -> bool {
        !self.state.missing_artifacts.contains(digest)
    }

    fn this_framework(&mut self) -> FrameworkIdentity {
        FrameworkIdentity {
            id: FrameworkId(1),
            name: "test".into(),
            role: self.state.first_role().to_string(),
        }
    }

    fn now_ms(&mut self) -> u64 {
        self.state.now_ms
    }

    fn get(&mut self, key: &str) -> Option<Vec<u8>> {
        self.state.store.get(key).cloned()
    }

    fn set(&mut self, key: &str, value: &[u8]) -> Result<(), Error> {
        if key.is_empty() || key.len() > MAX_KEY {
            return Err(Error::TooLarge(format!("a key has 1 to {MAX_KEY} bytes")));
        }
        if value.len() > MAX_VALUE {
            return Err(Error::TooLarge(format!(
                "a value has at most {MAX_VALUE} bytes"
            )));
        }
        self.charge(0, key.len() + value.len() + RECORD / 4)?;
        self.state.store.insert(key.into(), value.into());
        Ok(())
    }

    fn delete(&mut self, key: &str) -> Result<(), Error> {
        self.charge(0, key.len() + RECORD / 4)?;
        self.state.store.remove(key);
        Ok(())
    }

    fn scan(&mut self, prefix: &str, after: Option<&str>, limit: u32) -> Vec<Pair> {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        let from = match after {
            Some(after) if after >= prefix => Excluded(after),
            _ => Included(prefix),
        };
        let mut bytes = 0;
        let range = self.state.store.range::<str, _>((from, Unbounded));
        let found = range
            .take_while(|(key, _)| key.starts_with(prefix))
            .take(limit as usize);
        let within = found.take_while(|(key, value)| {
            let first = bytes == 0;
            bytes += key.len() + value.len();
            first || bytes <= MAX_SCAN_BYTES
        });
        within
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }

    fn set_timer(&mut self, name: &str, delay_ms: u64) -> Result<(), Error> {
        if name.is_empty() || name.len() > MAX_KEY {
            return Err(Error::TooLarge(format!(
                "a timer's name has 1 to {MAX_KEY} bytes"
            )));
        }
        self.charge(0, name.len() + RECORD / 2)?;
        let due = self.state.now_ms.saturating_add(delay_ms);
        self.state.timers.insert(name.into(), due);
        Ok(())
    }

    fn cancel_timer(&mut self, name: &str) -> Result<(), Error> {
        self.charge(0, name.len() + RECORD / 2)?;
        self.state.timers.remove(name);
        Ok(())
    }

    fn log(&mut self, level: Level, message: &str) {
        self.log.push(LogLine {
            level,
            message: message.into(),
        });
    }
}
