//! Turns: all that a framework did in one call, as one change.
//!
//! A turn is fenced by (framework, incarnation, number): one of an instance
//! that is no longer the one, or out of its order, changes nothing. Bounds are
//! checked before anything is changed, so a turn commits whole or not at all.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdMap;

use tepui_types::api::event::EventBody;
use tepui_types::setting::Settings;
use tepui_types::{Demand, FrameworkPhase};

use crate::command::{Turn, TurnKind};
use crate::outcome::{Accepted, Outcome, Rejection};
use crate::state::State;
use crate::state::context::Context;
use crate::state::frameworks::{DemandEntry, Framework};
use crate::state::limits;

impl State {
    pub(super) fn take_turn(&mut self, context: &mut Context, turn: &Turn) -> Outcome {
        let framework = self.fence(turn)?;
        let store_bytes = check_bounds(framework, turn)?;
        self.begin(context, turn);
        for (task, sequence) in &turn.acknowledged {
            if let Some(operation) = self.task_ids.get(task).copied() {
                self.acknowledge(context, operation, *sequence);
            }
        }
        self.write(turn, store_bytes);
        self.want(context, turn);
        self.want_gangs(context, turn);
        for operation in &turn.operations {
            self.take_operation(context, turn, operation);
        }
        let answer = match &turn.kind {
            TurnKind::Request(answer) => Some(answer.clone()),
            TurnKind::Start | TurnKind::Handle => None,
        };
        Ok(Accepted::Turn { answer })
    }

    fn fence(&self, turn: &Turn) -> Result<&Framework, Rejection> {
        let Some(framework) = self.frameworks.get(&turn.framework) else {
            return Err(Rejection::NotFound(format!(
                "there is no framework {}",
                turn.framework
            )));
        };
        let (incarnation, number) = match turn.kind {
            TurnKind::Start => (framework.incarnation + 1, 0),
            TurnKind::Handle | TurnKind::Request(_) => (framework.incarnation, framework.turns),
        };
        let is_next = framework.takes_turns()
            && (turn.incarnation, turn.number) == (incarnation, number)
            && turn.first_attempt == framework.next_attempt
            && (turn.kind == TurnKind::Start || framework.phase == FrameworkPhase::Running);
        if is_next {
            return Ok(framework);
        }
        Err(Rejection::Fenced(format!(
            "turn {}/{} of framework {} is not its next ({incarnation}/{number}, {})",
            turn.incarnation,
            turn.number,
            turn.framework,
            framework.phase.as_str()
        )))
    }

    fn begin(&mut self, context: &mut Context, turn: &Turn) {
        let Some(framework) = self.frameworks.get_mut(&turn.framework) else {
            return;
        };
        let framework = Arc::make_mut(framework);
        framework.turns = turn.number + 1;
        if turn.kind == TurnKind::Start {
            framework.incarnation = turn.incarnation;
            framework.phase = FrameworkPhase::Running;
            framework.reason = None;
            framework.started_at = context.now;
            framework.revision = context.index;
            context.event(framework.event());
            context.changes.frameworks.insert(turn.framework);
        }
    }

    fn write(&mut self, turn: &Turn, store_bytes: u64) {
        let Some(framework) = self.frameworks.get_mut(&turn.framework) else {
            return;
        };
        let framework = Arc::make_mut(framework);
        for number in &turn.notices_seen {
            framework.notices.remove(number);
        }
        for (name, due) in &turn.timers_fired {
            // One that was set anew in the meantime stays.
            if framework.timers.get(name.as_str()) == Some(due) {
                framework.timers.remove(name.as_str());
            }
        }
        for (key, value) in &turn.writes {
            match value {
                Some(value) => {
                    framework
                        .store
                        .insert(key.as_str().into(), value.as_slice().into());
                }
                None => {
                    framework.store.remove(key.as_str());
                }
            }
        }
        framework.store_bytes = store_bytes;
        for (name, due) in &turn.timers {
            match due {
                Some(due) => {
                    framework.timers.insert(name.as_str().into(), *due);
                }
                None => {
                    framework.timers.remove(name.as_str());
                }
            }
        }
    }

    fn want(&mut self, context: &mut Context, turn: &Turn) {
        let Some(framework) = self.frameworks.get_mut(&turn.framework) else {
            return;
        };
        let framework = Arc::make_mut(framework);
        for (key, demand) in &turn.demands {
            let key: Arc<str> = key.as_str().into();
            let before = framework.demands.get(&key);
            let wants_more = before.is_none_or(|before| {
                let is_of_count = |count| {
                    Demand {
                        count,
                        ..demand.clone()
                    } == before.demand
                };
                before.demand.count < demand.count || !is_of_count(before.demand.count)
            }) && demand.count > 0;
            if wants_more && let Some(role) = framework.info.roles.get(demand.role.as_ref()) {
                let revived = (turn.framework, role.clone());
                context.changes.revived.insert(revived);
            }
            let since = before.map_or(context.now, |before| before.since);
            context.event(EventBody::Demand {
                framework: turn.framework,
                key: key.to_string(),
                count: demand.count,
            });
            if demand.count == 0 {
                framework.demands.remove(&key);
            } else {
                framework.demands.insert(
                    key,
                    DemandEntry {
                        demand: demand.clone(),
                        since,
                    },
                );
            }
        }
        for (role, suppressed) in &turn.suppressed {
            if *suppressed {
                framework.suppressed.insert(role.clone());
            } else {
                framework.suppressed.remove(role);
                let revived = (turn.framework, role.clone());
                context.changes.revived.insert(revived);
            }
        }
        for (role, minimum) in &turn.minimums {
            match minimum {
                Some(minimum) => framework.minimums.insert(role.clone(), minimum.clone()),
                None => framework.minimums.remove(role),
            };
        }
        let is_same = turn.demands.is_empty() && turn.minimums.is_empty();
        if !is_same || !turn.suppressed.is_empty() {
            context.changes.frameworks.insert(turn.framework);
        }
        if !turn.timers.is_empty() {
            context.changes.inboxes.insert(turn.framework);
        }
    }
}

/// Refuses a turn that would pass a bound of the state; answers the bytes that
/// the store has after it.
fn check_bounds(framework: &Framework, turn: &Turn) -> Result<u64, Rejection> {
    let limit = |text: String| Err(Rejection::Limit(text));
    let operations = turn.operations.iter();
    let operations = operations.map(|operation| operation.launches().len().max(1));
    if operations.sum::<usize>() > limits::TURN_OPERATIONS {
        return limit(format!(
            "a turn has at most {} operations",
            limits::TURN_OPERATIONS
        ));
    }
    if !turn.names_its_specs() {
        return limit("a launch names a specification that the turn does not have".into());
    }
    check_unseen(framework, turn)?;
    check_roles(framework, turn)?;
    let (mut keys, mut bytes) = (framework.store.len() as u64, framework.store_bytes);
    let mut latest = BTreeMap::new();
    for (key, value) in &turn.writes {
        let size = |value: &[u8]| (key.len() + value.len()) as u64;
        if key.is_empty() || key.len() > limits::STORE_KEY_BYTES {
            return limit(format!("a key has 1 to {} bytes", limits::STORE_KEY_BYTES));
        }
        if value
            .as_ref()
            .is_some_and(|value| value.len() > limits::STORE_VALUE_BYTES)
        {
            return limit(format!(
                "a value has at most {} bytes",
                limits::STORE_VALUE_BYTES
            ));
        }
        let stored = framework.store.get(key.as_str()).map(|value| &value[..]);
        let before = latest.insert(key, value.as_deref()).unwrap_or(stored);
        if let Some(before) = before {
            keys -= 1;
            bytes -= size(before);
        }
        if let Some(value) = value {
            keys += 1;
            bytes += size(value);
        }
    }
    if keys > limits::STORE_KEYS as u64 || bytes > limits::STORE_BYTES {
        return limit(format!(
            "the store would have {keys} keys and {bytes} bytes; the most are {} and {}",
            limits::STORE_KEYS,
            limits::STORE_BYTES
        ));
    }
    let timers = turn
        .timers
        .iter()
        .map(|(name, due)| (name.as_str(), due.is_some()));
    if count_after(&framework.timers, timers) > limits::TIMERS {
        return limit(format!("a framework has at most {} timers", limits::TIMERS));
    }
    let demands = turn
        .demands
        .iter()
        .map(|(key, demand)| (key.as_str(), demand.count > 0));
    if count_after(&framework.demands, demands) > limits::DEMANDS {
        return limit(format!(
            "a framework has at most {} demands",
            limits::DEMANDS
        ));
    }
    let gangs = turn.gangs.iter();
    let gangs = gangs.map(|(key, gang)| (key.as_str(), gang.is_some()));
    if count_after(&framework.gangs, gangs) > limits::GANGS {
        return limit(format!("a framework has at most {} gangs", limits::GANGS));
    }
    for gang in turn.gangs.iter().filter_map(|(_, gang)| gang.as_ref()) {
        gang.validate().map_err(Rejection::Limit)?;
    }
    Ok(bytes)
}

/// Refuses a turn that could leave more for the framework to see than the state
/// holds for it. A launch may end, a kill may find nothing; nothing else adds.
fn check_unseen(framework: &Framework, turn: &Turn) -> Result<(), Rejection> {
    let operations = turn.operations.iter();
    let launches: usize = operations
        .clone()
        .map(|operation| operation.launches().len())
        .sum();
    let kills = operations.filter(|operation| operation.launches().is_empty());
    let kills = kills.count();
    // A gang may come to be overdue.
    let gangs = turn.gangs.iter().filter(|(_, gang)| gang.is_some()).count();
    let overdue = framework.gangs.len() + gangs;
    if launches > 0 && framework.held_tasks() + launches > limits::FRAMEWORK_TASKS {
        return Err(Rejection::Limit(format!(
            "a framework has at most {} tasks that live or whose end it has not seen",
            limits::FRAMEWORK_TASKS
        )));
    }
    let is_more = kills + gangs > 0;
    if is_more && framework.notices.len() + kills + overdue > limits::NOTICES {
        return Err(Rejection::Limit(format!(
            "{} dropped operations wait for the framework, and at most {} may: it has to handle \
             its events",
            framework.notices.len(),
            limits::NOTICES
        )));
    }
    Ok(())
}

/// Refuses a turn that wants something for a role that its framework has not.
fn check_roles(framework: &Framework, turn: &Turn) -> Result<(), Rejection> {
    let demands = turn.demands.iter();
    let wanted = demands.filter_map(|(_, demand)| demand.role.as_ref());
    let minimums = turn.minimums.iter();
    for minimum in minimums.clone().filter_map(|(_, minimum)| minimum.as_ref()) {
        Settings::validate_minimum(minimum).map_err(Rejection::Limit)?;
    }
    let gangs = turn.gangs.iter().filter_map(|(_, gang)| gang.as_ref());
    let wanted = wanted.chain(gangs.filter_map(|gang| gang.role.as_ref()));
    let wanted = wanted.chain(turn.suppressed.iter().map(|(role, _)| role));
    let mut named = wanted.chain(minimums.map(|(role, _)| role));
    match named.find(|role| framework.info.roles.place(Some(role)).is_none()) {
        Some(role) => Err(Rejection::Limit(format!(
            "the framework has no role `{role}`"
        ))),
        None => Ok(()),
    }
}

/// How many entries a table has once these are set or removed, in order.
fn count_after<'a, T>(
    table: &OrdMap<Arc<str>, T>,
    changes: impl Iterator<Item = (&'a str, bool)>,
) -> usize {
    let latest: BTreeMap<&str, bool> = changes.collect();
    let is_there = |name: &str| table.contains_key(name);
    let added = latest
        .iter()
        .filter(|(name, set)| **set && !is_there(name))
        .count();
    let removed = latest
        .iter()
        .filter(|(name, set)| !**set && is_there(name))
        .count();
    table.len() + added - removed
}
