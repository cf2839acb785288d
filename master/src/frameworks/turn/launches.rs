//! What is to be launched, while it is checked: nothing of the turn changes before all of it fits.

use std::collections::{BTreeMap, BTreeSet};

use tepui_cluster::state::limits as quota;
use tepui_types::operation::{Launch, Operation};
use tepui_types::resources::Pools;
use tepui_types::task::Chosen;
use tepui_types::{OfferId, Resources, TaskId, TaskName, TaskSpec};

use super::{CallError, OpenTurn, RECORD, TaskLaunch};

/// Launches of one call.
#[derive(Default)]
pub(super) struct Draft {
    pub specs: Vec<TaskSpec>,
    pub launches: Vec<Launch>,
    /// What they leave of their offers.
    pub left: BTreeMap<OfferId, Resources>,
    pub bytes: usize,
    names: BTreeSet<TaskName>,
}

impl Draft {
    /// None yet, of these specifications.
    pub fn new(specs: Vec<TaskSpec>) -> Result<Self, CallError> {
        let mut bytes = 0;
        for spec in &specs {
            spec.validate().map_err(CallError::Invalid)?;
            bytes += tepui_types::envelope::encode(1, spec).len();
        }
        Ok(Self {
            specs,
            bytes,
            ..Self::default()
        })
    }

    /// Tasks on an offer of this turn.
    pub fn add(
        &mut self,
        turn: &OpenTurn,
        offer: OfferId,
        spec: u32,
        tasks: Vec<TaskLaunch>,
    ) -> Result<(), CallError> {
        let invalid = |why: String| Err(CallError::Invalid(why));
        let (held, left) = turn.offers.left(offer).ok_or(CallError::OfferUnknown)?;
        if spec as usize >= self.specs.len() {
            return invalid(format!("there is no specification {spec} in this call"));
        }
        let limit = self.specs[spec as usize].time_limit_ms;
        if !held.admits(limit, turn.now) {
            let until = held.until.map_or(0, |until| until.millis_since(turn.now));
            return invalid(format!(
                "a gang starts on this agent in {until} ms: launch only what has a time limit, and \
                 ends before"
            ));
        }
        if self.launches.len() + tasks.len() > quota::TURN_OPERATIONS {
            return invalid(format!(
                "{} tasks in one call, and a turn has at most {} operations: split it",
                self.launches.len() + tasks.len(),
                quota::TURN_OPERATIONS
            ));
        }
        let mut left = self.left.remove(&offer).unwrap_or_else(|| left.clone());
        let role = Some(held.role.clone());
        let role = role.filter(|role| role != turn.framework.info.roles.first());
        for task in tasks {
            let name = self.name(task.name)?;
            let mut wanted = task.resources;
            let special = task.special.pools(&left);
            let special = special.map_err(CallError::OfferExceeded)?;
            if !special.is_empty() {
                let pools = Pools::try_from(special).map_err(CallError::Invalid)?;
                wanted.pools = pools;
            }
            let revocable = wanted.pools.iter().map(|pool| &pool.amounts);
            if std::iter::once(&wanted)
                .chain(revocable)
                .all(|one| one.cpus.0 == 0 && one.mem.0 == 0)
            {
                return invalid(format!("task `{name}` needs some cpus or memory"));
            }
            let granted = left.grant(&wanted);
            let (resources, rest) = granted
                // What several may have at a time is left for the next.
                .and_then(|granted| Ok((granted.clone(), left.checked_sub(&granted.exclusive())?)))
                .map_err(|short| {
                    CallError::OfferExceeded(format!(
                        "task `{name}` asks for {wanted}, and the offer has {left} left: {short}"
                    ))
                })?;
            left = rest;
            self.bytes += name.as_str().len() + resource_bytes(&resources) + RECORD;
            self.bytes += role.as_ref().map_or(0, |role| role.as_str().len());
            self.launches.push(Launch {
                agent: held.agent,
                name,
                resources,
                spec,
                array_index: task.array_index,
                role: role.clone(),
                chosen: Some(Chosen {
                    offer,
                    among: turn.at_hand,
                }),
                after: None,
            });
        }
        self.left.insert(offer, left);
        Ok(())
    }

    /// Tasks that run one after another in the place of one that was launched so; the first has this
    /// attempt.
    pub fn add_after(
        &mut self,
        after: &TaskId,
        before: &Launch,
        first_attempt: u64,
        tasks: Vec<(String, Option<u32>)>,
    ) -> Result<(), CallError> {
        let mut after = after.clone();
        for (attempt, (name, array_index)) in (first_attempt..).zip(tasks) {
            let name = self.name(name)?;
            let names = name.as_str().len() + after.name.as_str().len();
            self.bytes += names + resource_bytes(&before.resources) + RECORD;
            self.bytes += before.role.as_ref().map_or(0, |role| role.as_str().len());
            let next = TaskId {
                name: name.clone(),
                attempt,
                ..after
            };
            self.launches.push(Launch {
                name,
                spec: 0,
                array_index,
                chosen: None,
                after: Some(std::mem::replace(&mut after, next)),
                ..before.clone()
            });
        }
        Ok(())
    }

    /// Another task's name.
    fn name(&mut self, name: String) -> Result<TaskName, CallError> {
        let name = TaskName::new(name).map_err(|e| CallError::Invalid(e.to_string()))?;
        match self.names.insert(name.clone()) {
            true => Ok(name),
            false => Err(CallError::Invalid(format!("two tasks are named `{name}`"))),
        }
    }
}

impl OpenTurn {
    /// How a task of this turn, or of an earlier one, was launched.
    pub(super) fn launch_of(&self, task: &TaskId) -> Option<Launch> {
        if let Some(known) = self.state.task(task) {
            let role = Some(known.role.clone());
            return Some(Launch {
                agent: known.agent,
                name: known.id.name.clone(),
                resources: known.resources.clone(),
                spec: 0,
                array_index: known.array_index,
                role: role.filter(|role| role != self.framework.info.roles.first()),
                chosen: None,
                after: None,
            });
        }
        let place = task.attempt.checked_sub(self.framework.next_attempt)?;
        let mut launches = self.operations.iter().flat_map(Operation::launches);
        let launch = launches.nth(usize::try_from(place).ok()?);
        launch.filter(|launch| launch.name == task.name).cloned()
    }
}

/// Bytes of concrete resources in the log.
fn resource_bytes(resources: &Resources) -> usize {
    let names = resources.gpus.keys().chain(resources.custom.keys());
    let plain =
        names.map(|name| name.len() + 10).sum::<usize>() + resources.ports.ranges().len() * 6;
    if resources.pools.is_empty() && resources.items.is_empty() {
        return plain;
    }
    tepui_types::envelope::encode(1, resources).len()
}
