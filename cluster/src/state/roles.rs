//! Roles: what each counts, is promised and may have, and what its tasks have.
//!
//! A role is a path, and exists as soon as somebody uses it; only what an operator has set of one is
//! stored. What a role has is charged to every role above it. Quotas of a path fit into each other:
//! what children are guaranteed together is guaranteed to their parent, and no limit is above one
//! further up.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tepui_types::api::event::EventBody;
use tepui_types::resources::ResourceRequest;
use tepui_types::role::RoleSettings;
use tepui_types::{Reason, Resources, Role, task::reason};

use crate::charge::{self, Charge};
use crate::outcome::{Accepted, Outcome, Rejection};
use crate::state::State;
use crate::state::agents::Agent;
use crate::state::context::Context;
use crate::state::limits;
use crate::state::reservations;
use crate::state::sums;
use crate::state::tasks::Task;

/// What an operator has set of a role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleRecord {
    /// Which.
    pub role: Role,
    /// Its weight and quota.
    pub settings: RoleSettings,
    /// Log index of its last change.
    pub revision: u64,
}

/// What is reserved for a role and those below it, and what their living tasks have beyond. Follows
/// from agents and tasks: not stored.
pub(super) type RoleUse = imbl::OrdMap<Role, Arc<ResourceRequest>>;

/// What roles have of these agents and tasks.
pub(super) fn derive<'a>(
    agents: impl Iterator<Item = &'a Arc<Agent>>,
    tasks: impl Iterator<Item = &'a Arc<Task>>,
) -> RoleUse {
    let mut charged = RoleUse::new();
    for agent in agents {
        for (owner, part) in charge::reserved(agent.total()) {
            reservations::charge(&mut charged, &owner, &part);
        }
    }
    for task in tasks.filter(|task| task.has_place()) {
        charge(&mut charged, &task.role, &Charge::of(&task.resources));
    }
    charged
}

/// What roles have of these tasks that are being ended.
pub(super) fn derive_ending<'a>(tasks: impl Iterator<Item = &'a Arc<Task>>) -> RoleUse {
    let mut ending = RoleUse::new();
    for task in tasks.filter(|task| task.has_place() && task.kill.is_some()) {
        charge(&mut ending, &task.role, &Charge::of(&task.resources));
    }
    ending
}

fn discharge(charged: &mut RoleUse, role: &Role, what: &Charge) {
    for role in role.upwards() {
        let Some(used) = charged.get_mut(&role) else {
            continue;
        };
        let used = Arc::make_mut(used);
        *used = used.saturating_sub(&what.at(&role));
        if used.is_empty() {
            charged.remove(&role);
        }
    }
}

fn charge(charged: &mut RoleUse, role: &Role, what: &Charge) {
    for role in role.upwards() {
        let part = what.at(&role);
        if !part.is_empty() {
            Arc::make_mut(charged.entry(role).or_default()).add(&part);
        }
    }
}

impl State {
    /// The settings of a role; the usual ones of one that nobody has set.
    pub fn role_settings(&self, role: &Role) -> RoleSettings {
        let record = self.roles.get(role);
        record.map_or_else(RoleSettings::default, |record| record.settings.clone())
    }

    /// What is reserved for a role and those below it, and what their tasks have beyond.
    pub fn role_use(&self, role: &Role) -> ResourceRequest {
        let used = self.role_use.get(role);
        used.map_or_else(ResourceRequest::default, |used| (**used).clone())
    }

    /// Roles that are set, have tasks, or have frameworks, and those above them.
    pub fn known_roles(&self) -> std::collections::BTreeSet<Role> {
        let frameworks = self.frameworks.values();
        let mut roles: std::collections::BTreeSet<Role> = frameworks
            .flat_map(|framework| framework.info.roles.iter().flat_map(Role::upwards))
            .collect();
        roles.extend(self.roles.keys().flat_map(Role::upwards));
        roles.extend(self.role_use.keys().cloned());
        roles
    }

    /// Sets a role's weight and quota, whole. `force` takes guarantees above what the cluster has,
    /// and a limit below what the role has.
    pub(super) fn set_role(
        &mut self,
        context: &mut Context,
        role: &Role,
        settings: &RoleSettings,
        force: bool,
        expected: Option<u64>,
    ) -> Outcome {
        let known = self.roles.get(role);
        context.check_revision(expected, known.map_or(0, |known| known.revision))?;
        if known.is_none() && self.roles.len() >= limits::ROLES {
            return Err(Rejection::Limit(format!(
                "{} roles are set, the most: remove some first",
                limits::ROLES
            )));
        }
        settings.validate().map_err(Rejection::Conflict)?;
        self.check_family(role, settings)
            .map_err(Rejection::Conflict)?;
        if !force {
            self.check_cluster(role, settings)
                .map_err(Rejection::Conflict)?;
        }
        let record = RoleRecord {
            role: role.clone(),
            settings: settings.clone(),
            revision: context.index,
        };
        self.roles.insert(role.clone(), Arc::new(record));
        self.note_role(context, role, true);
        Ok(Accepted::Role {
            role: role.clone(),
            revision: context.index,
        })
    }

    /// Forgets what was set of a role.
    pub(super) fn remove_role(
        &mut self,
        context: &mut Context,
        role: &Role,
        expected: Option<u64>,
    ) -> Outcome {
        let Some(known) = self.roles.get(role) else {
            return Err(Rejection::NotFound(format!(
                "nothing is set of role `{role}`"
            )));
        };
        context.check_revision(expected, known.revision)?;
        self.check_children(role, &RoleSettings::default())
            .map_err(Rejection::Conflict)?;
        self.roles.remove(role);
        self.note_role(context, role, false);
        Ok(Accepted::Role {
            role: role.clone(),
            revision: context.index,
        })
    }

    fn note_role(&self, context: &mut Context, role: &Role, is_set: bool) {
        context.changes.roles.insert(role.clone());
        let role = role.clone();
        context.event(EventBody::Role { role, is_set });
    }

    /// Charges a task that has come to live to its role and those above.
    pub(super) fn charge_role(&mut self, context: &mut Context, task: &Task) {
        charge(&mut self.role_use, &task.role, &Charge::of(&task.resources));
        context.changes.charged.insert(task.id.framework);
    }

    /// Notes that a task's end was asked for, the first time.
    pub(super) fn note_ending(&mut self, role: &Role, resources: &Resources) {
        charge(&mut self.ending_use, role, &Charge::of(resources));
    }

    /// What tasks of a role and those below it have that are being ended.
    pub fn ending_use(&self, role: &Role) -> ResourceRequest {
        let used = self.ending_use.get(role);
        used.map_or_else(ResourceRequest::default, |used| (**used).clone())
    }

    /// Gives back what an ended task had.
    pub(super) fn discharge_role(&mut self, context: &mut Context, task: &Task) {
        let what = Charge::of(&task.resources);
        discharge(&mut self.role_use, &task.role, &what);
        if task.kill.is_some() {
            discharge(&mut self.ending_use, &task.role, &what);
        }
        context.changes.charged.insert(task.id.framework);
    }

    /// Why a role may not have this as well.
    pub(super) fn quota_refusal(&self, role: &Role, charge: &Charge) -> Option<Reason> {
        if let Some(why) = self.uncountable(role, charge) {
            return Some(why);
        }
        let limited = role.upwards().filter_map(|role| self.roles.get(&role));
        for record in limited.filter(|record| !record.settings.limit.is_empty()) {
            let mut wanted = self.role_use(&record.role);
            let had = wanted.clone();
            wanted.add(&charge.at(&record.role));
            let limit = record.settings.limit.entries();
            // What the task takes nothing of stays as it is, even above the limit.
            let passed = limit
                .filter(|(name, most)| wanted.amount(name) > *most)
                .find(|(name, _)| wanted.amount(name) > had.amount(name));
            if let Some((name, most)) = passed {
                let why = format!(
                    "role `{}` would have {} {name}, and its limit is {}",
                    record.role,
                    wanted.show(name),
                    ResourceRequest::show_amount(name, most)
                );
                return Some(Reason::new(reason::QUOTA_REACHED, why));
            }
        }
        None
    }

    /// Quotas of one path fit into each other.
    fn check_family(&self, role: &Role, settings: &RoleSettings) -> Result<(), String> {
        self.check_children(role, settings)?;
        self.check_together(role, settings)?;
        if let Some(parent) = role.parent() {
            let promised = self.role_settings(&parent).guarantee;
            let together = self.children_guarantees(&parent, Some((role, settings)))?;
            if let Some(name) = together.exceeds(&promised) {
                return Err(format!(
                    "the children of role `{parent}` would be guaranteed {} {name} together, and it is \
                     guaranteed {}: raise the guarantee of `{parent}` first",
                    together.show(name),
                    promised.show(name)
                ));
            }
        }
        for above in role.upwards().skip(1) {
            let most = self.role_settings(&above).limit;
            let passed = settings.limit.entries().find(|(name, limit)| {
                let most = most.of(name);
                most.is_some_and(|most| *limit > most)
            });
            if let Some((name, limit)) = passed {
                return Err(format!(
                    "a limit of {} {name} is above that of role `{above}`: raise that one first, or \
                     leave this one out",
                    ResourceRequest::show_amount(name, limit)
                ));
            }
        }
        Ok(())
    }

    /// All that is guaranteed can be counted.
    fn check_together(&self, role: &Role, settings: &RoleSettings) -> Result<(), String> {
        let is_top = |role: &Role| role.parent().is_none();
        let changed = is_top(role).then_some((role, settings));
        let promised = self.sum_guarantees(is_top, changed)?;
        match sums::too_much(&ResourceRequest::default(), &promised) {
            Some(name) => Err(format!(
                "all roles together would be guaranteed {} {name}, and {} is the most that is counted",
                promised.show(name),
                sums::most(name)
            )),
            None => Ok(()),
        }
    }

    /// Those below a role still fit when it has these settings.
    fn check_children(&self, role: &Role, settings: &RoleSettings) -> Result<(), String> {
        let together = self.children_guarantees(role, None)?;
        if let Some(name) = together.exceeds(&settings.guarantee) {
            return Err(format!(
                "the children of role `{role}` are guaranteed {} {name} together, and it would be \
                 guaranteed {}: lower theirs first",
                together.show(name),
                settings.guarantee.show(name)
            ));
        }
        let below = self.roles.values();
        let below = below.filter(|below| below.role != *role && below.role.is_within(role));
        for below in below {
            let passed = settings.limit.entries().find(|(name, most)| {
                let limit = below.settings.limit.of(name);
                limit.is_some_and(|limit| limit > *most)
            });
            if let Some((name, most)) = passed {
                return Err(format!(
                    "a limit of {} {name} is below that of role `{}`: lower that one first",
                    ResourceRequest::show_amount(name, most),
                    below.role
                ));
            }
        }
        Ok(())
    }

    /// What the children of a role are guaranteed together, one of them as it would be.
    fn children_guarantees(
        &self,
        parent: &Role,
        changed: Option<(&Role, &RoleSettings)>,
    ) -> Result<ResourceRequest, String> {
        let is_child = |role: &Role| role.parent().as_ref() == Some(parent);
        self.sum_guarantees(is_child, changed)
    }

    fn sum_guarantees(
        &self,
        is_one: impl Fn(&Role) -> bool,
        changed: Option<(&Role, &RoleSettings)>,
    ) -> Result<ResourceRequest, String> {
        let others = self.roles.values().filter(|record| is_one(&record.role));
        let others = others.filter(|record| changed.is_none_or(|(role, _)| record.role != *role));
        let guarantees = others.map(|record| &record.settings.guarantee);
        let changed = changed.map(|(_, settings)| &settings.guarantee);
        guarantees
            .chain(changed)
            .try_fold(ResourceRequest::default(), |sum, guarantee| {
                sum.checked_add(guarantee)
            })
            .map_err(|name| {
                format!("the guarantees of {name} together are more than can be counted")
            })
    }

    /// The cluster has what is guaranteed, and the role has no more than it may.
    fn check_cluster(&self, role: &Role, settings: &RoleSettings) -> Result<(), String> {
        let used = self.role_use(role);
        if let Some((name, most)) = settings.limit.passed_by(&used) {
            return Err(format!(
                "role `{role}` has {} {name} now, and the limit would be {}: end some of its tasks \
                 first, or force it",
                used.show(name),
                ResourceRequest::show_amount(name, most)
            ));
        }
        let before = self.role_settings(role).guarantee;
        if settings.guarantee.exceeds(&before).is_none() {
            return Ok(());
        }
        let is_top = |role: &Role| role.parent().is_none();
        let changed = is_top(role).then_some((role, settings));
        let promised = self.sum_guarantees(is_top, changed)?;
        let total = &self.lent;
        match promised.exceeds(total) {
            Some(name) => Err(format!(
                "all roles together would be guaranteed {} {name}, and the cluster's agents have {}: \
                 lower a guarantee, add agents, or force it",
                promised.show(name),
                total.show(name)
            )),
            None => Ok(()),
        }
    }
}
