//! Frameworks: deployments, and all that their turns have made durable.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};
use tepui_types::api::event::EventBody;
use tepui_types::resources::ResourceRequest;
use tepui_types::{
    Demand, FrameworkId, FrameworkInfo, FrameworkPhase, Gang, OperationId, Reason, Role, Timestamp,
};

use crate::charge::Charge;
use crate::outcome::{Accepted, Outcome, Rejection};
use crate::state::State;
use crate::state::context::Context;
use crate::state::limits;

/// One framework.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Framework {
    /// Its id.
    pub id: FrameworkId,
    /// What was deployed.
    pub info: Arc<FrameworkInfo>,
    /// How far it is.
    pub phase: FrameworkPhase,
    /// Why it waits or failed.
    pub reason: Option<Reason>,
    /// Counts its instances: a start turn begins the next. 0 before the first.
    pub incarnation: u64,
    /// Committed turns of this incarnation, the start included.
    pub turns: u64,
    /// Stops in a row without a good while in between.
    pub failures: u32,
    /// When this incarnation's start was committed.
    pub started_at: Timestamp,
    /// When it may be started again, in backoff.
    pub restart_at: Timestamp,
    /// Durable keys and values.
    pub store: OrdMap<Arc<str>, Arc<[u8]>>,
    /// Bytes of keys and values together.
    pub store_bytes: u64,
    /// Timers by name: when each is due.
    pub timers: OrdMap<Arc<str>, Timestamp>,
    /// What it wants, by its own keys.
    pub demands: OrdMap<Arc<str>, DemandEntry>,
    /// Gangs that it wants, by its own keys.
    pub gangs: OrdMap<Arc<str>, GangEntry>,
    /// The roles for which it asked for no offers.
    pub suppressed: BTreeSet<Role>,
    /// Its launch counter: the next task's attempt.
    pub next_attempt: u64,
    /// The least offers that it has set for some of its roles, in place of the
    /// cluster's.
    pub minimums: BTreeMap<Role, Vec<ResourceRequest>>,
    /// What its living tasks have, by the place of their role among its roles.
    pub used: Vec<Charge>,
    /// Its living tasks, oldest first.
    pub tasks: OrdSet<OperationId>,
    /// Tasks whose latest status it has yet to see.
    pub pending: OrdSet<OperationId>,
    /// How many of `pending` have ended. Follows from the tasks: not stored.
    #[serde(skip)]
    pub unseen_ends: usize,
    /// Operations that were dropped, by number, until it has seen them.
    pub notices: OrdMap<u64, Notice>,
    /// The next notice's number.
    pub next_notice: u64,
    /// When it was deployed.
    pub deployed_at: Timestamp,
    /// Log index of its last change by an operator or of its phase.
    pub revision: u64,
}

/// Demand under one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DemandEntry {
    /// What is wanted.
    pub demand: Demand,
    /// Since when something has been wanted under this key.
    pub since: Timestamp,
}

/// A gang under one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GangEntry {
    /// What is wanted.
    pub gang: Arc<Gang>,
    /// Since when; another gang under the key begins anew.
    pub since: Timestamp,
    /// When it is given up.
    pub deadline: Option<Timestamp>,
}

/// An operation that did not fit when it was committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// `kill`, an operation on resources, or `gang` for one that was given up.
    pub operation: String,
    /// The task that it was about, or the name that the framework gave it.
    pub subject: String,
    /// Why it was dropped.
    pub reason: Reason,
}

impl Framework {
    /// Whether it may still take turns.
    pub fn takes_turns(&self) -> bool {
        self.phase != FrameworkPhase::Removing
    }

    /// Whether it is to be offered anything for one of its roles.
    pub fn wants_offers(&self, role: &Role) -> bool {
        self.phase == FrameworkPhase::Running && !self.suppressed.contains(role)
    }

    /// Whether it is this framework, and has no other role than this one.
    pub(super) fn roles_are_only(&self, framework: FrameworkId, role: &Role) -> bool {
        self.id == framework && self.info.roles.iter().all(|of| of == role)
    }

    /// What its living tasks have in all its roles.
    pub fn used_in_all(&self) -> ResourceRequest {
        let mut sum = ResourceRequest::default();
        self.used.iter().for_each(|used| sum.add(&used.total()));
        sum
    }

    /// What its living tasks of a role have.
    pub(super) fn used_in(&mut self, role: &Role) -> Option<&mut Charge> {
        let place = self.info.roles.place(Some(role))?;
        self.used.get_mut(place)
    }

    /// Tasks that it wants and has not got.
    pub fn waiting(&self) -> u64 {
        self.demands
            .values()
            .map(|entry| u64::from(entry.demand.count))
            .chain(
                self.gangs
                    .values()
                    .map(|entry| u64::from(entry.gang.count())),
            )
            .sum()
    }

    /// The role that a demand is for.
    pub fn role_of(&self, demand: &Demand) -> &Role {
        let roles = &self.info.roles;
        // A turn that names another role is refused whole.
        roles
            .get(demand.role.as_ref())
            .unwrap_or_else(|| roles.first())
    }

    /// Those of them that it wants for one of its roles.
    pub fn waiting_for(&self, role: &Role) -> u64 {
        let demands = self.demands.values().map(|entry| &entry.demand);
        let demands = demands.filter(|demand| self.role_of(demand) == role);
        let gangs = self.gangs.values().map(|entry| &entry.gang);
        let gangs = gangs.filter(|gang| self.role_of_gang(gang) == role);
        demands
            .map(|demand| u64::from(demand.count))
            .chain(gangs.map(|gang| u64::from(gang.count())))
            .sum()
    }

    /// The role that a gang is for.
    pub fn role_of_gang(&self, gang: &Gang) -> &Role {
        let roles = &self.info.roles;
        let role = roles.get(gang.role.as_ref());
        role.unwrap_or_else(|| roles.first())
    }

    /// The tasks that the state holds for it: those that live, and those whose
    /// end it has yet to see. Only a launch makes them more.
    pub fn held_tasks(&self) -> usize {
        self.tasks.len() + self.unseen_ends
    }

    fn new(id: FrameworkId, info: &FrameworkInfo, first_attempt: u64, context: &Context) -> Self {
        Self {
            id,
            info: Arc::new(info.clone()),
            phase: FrameworkPhase::Starting,
            reason: None,
            incarnation: 0,
            turns: 0,
            failures: 0,
            started_at: context.now,
            restart_at: context.now,
            store: OrdMap::new(),
            store_bytes: 0,
            timers: OrdMap::new(),
            demands: OrdMap::new(),
            gangs: OrdMap::new(),
            suppressed: BTreeSet::new(),
            minimums: BTreeMap::new(),
            next_attempt: first_attempt,
            used: info.roles.iter().map(|_| Charge::default()).collect(),
            tasks: OrdSet::new(),
            pending: OrdSet::new(),
            unseen_ends: 0,
            notices: OrdMap::new(),
            next_notice: 0,
            deployed_at: context.now,
            revision: context.index,
        }
    }

    pub(super) fn event(&self) -> EventBody {
        EventBody::Framework {
            framework: self.id,
            name: self.info.name.clone(),
            phase: Some(self.phase),
            reason: self.reason.clone(),
        }
    }
}

impl State {
    pub(super) fn deploy_framework(
        &mut self,
        context: &mut Context,
        info: &FrameworkInfo,
    ) -> Outcome {
        if let Some(id) = self.names.get(&info.name) {
            return Err(Rejection::Conflict(format!(
                "a framework named `{}` is deployed already ({id}): remove it first, or choose \
                 another name",
                info.name
            )));
        }
        if !self.artifacts.contains_key(&info.artifact) {
            let digest = info.artifact;
            return Err(Rejection::NotFound(format!(
                "artifact {digest} is not known: upload it first"
            )));
        }
        if self.frameworks.len() >= limits::FRAMEWORKS {
            return Err(Rejection::Limit(format!(
                "the cluster has {} frameworks, its most",
                limits::FRAMEWORKS
            )));
        }
        let id = FrameworkId(self.next_framework);
        self.next_framework += 1;
        let framework = Framework::new(id, info, self.first_attempt(), context);
        context.event(framework.event());
        context.changes.frameworks.insert(id);
        self.names.insert(info.name.clone(), id);
        self.frameworks.insert(id, Arc::new(framework));
        Ok(Accepted::Framework {
            framework: id,
            revision: context.index,
        })
    }

    pub(super) fn remove_framework(
        &mut self,
        context: &mut Context,
        id: FrameworkId,
        expected: Option<u64>,
    ) -> Outcome {
        let mut gangs = OrdMap::new();
        self.change_framework(context, id, expected, |framework| {
            framework.phase = FrameworkPhase::Removing;
            framework.reason = None;
            framework.demands = OrdMap::new();
            gangs = std::mem::take(&mut framework.gangs);
            framework.timers = OrdMap::new();
        })?;
        for (key, entry) in &gangs {
            self.forget_gang_deadline(id, entry);
            self.end_gang_claims(context, id, key);
        }
        let pending = self
            .frameworks
            .get(&id)
            .map(|framework| framework.pending.clone());
        for operation in pending.into_iter().flatten() {
            if let Some(sequence) = self.tasks.get(&operation).map(|task| task.sequence) {
                self.acknowledge(context, operation, sequence);
            }
        }
        self.kill_all(context, id);
        self.forget_if_removed(context, id);
        Ok(Accepted::Framework {
            framework: id,
            revision: context.index,
        })
    }

    /// The last task's end takes the framework with it.
    pub(super) fn forget_if_removed(&mut self, context: &mut Context, id: FrameworkId) {
        let Some(framework) = self.frameworks.get(&id) else {
            return;
        };
        if framework.takes_turns() || !framework.tasks.is_empty() {
            return;
        }
        let name = framework.info.name.clone();
        self.names.remove(&name);
        self.frameworks.remove(&id);
        context.changes.frameworks.insert(id);
        context.event(EventBody::Framework {
            framework: id,
            name,
            phase: None,
            reason: None,
        });
    }

    pub(super) fn restart_framework(
        &mut self,
        context: &mut Context,
        id: FrameworkId,
        expected: Option<u64>,
    ) -> Outcome {
        if self
            .frameworks
            .get(&id)
            .is_some_and(|framework| !framework.takes_turns())
        {
            return Err(Rejection::Conflict(format!(
                "framework {id} is being removed"
            )));
        }
        let now = context.now;
        self.change_framework(context, id, expected, |framework| {
            framework.phase = FrameworkPhase::Starting;
            framework.reason = None;
            framework.failures = 0;
            framework.restart_at = now;
            // Fences the instance that runs now: its next turn is refused.
            framework.incarnation += 1;
        })?;
        Ok(Accepted::Framework {
            framework: id,
            revision: context.index,
        })
    }

    pub(super) fn stop_framework(
        &mut self,
        context: &mut Context,
        id: FrameworkId,
        incarnation: u64,
        reason: &Reason,
    ) -> Outcome {
        let Some(framework) = self.frameworks.get(&id) else {
            return Err(Rejection::NotFound(format!("there is no framework {id}")));
        };
        // A start that failed would have begun the next incarnation.
        let is_current = incarnation == framework.incarnation
            || incarnation == framework.incarnation.saturating_add(1);
        if !is_current || !framework.takes_turns() {
            return Err(Rejection::Fenced(format!(
                "incarnation {incarnation} of framework {id} is over"
            )));
        }
        let now = context.now;
        self.change_framework(context, id, None, |framework| {
            let was_good = framework.phase == FrameworkPhase::Running
                && now.millis_since(framework.started_at) >= limits::GOOD_WHILE_MS;
            framework.failures = if was_good { 1 } else { framework.failures + 1 };
            framework.reason = Some(reason.clone());
            if framework.failures > limits::RESTARTS {
                framework.phase = FrameworkPhase::Failed;
            } else {
                framework.phase = FrameworkPhase::Backoff;
                let wait = limits::RESTART_BACKOFF_MS << (framework.failures - 1);
                framework.restart_at = now.after_millis(wait);
            }
        })?;
        Ok(Accepted::Framework {
            framework: id,
            revision: context.index,
        })
    }

    fn change_framework(
        &mut self,
        context: &mut Context,
        id: FrameworkId,
        expected: Option<u64>,
        change: impl FnOnce(&mut Framework),
    ) -> Result<(), Rejection> {
        let Some(framework) = self.frameworks.get_mut(&id) else {
            return Err(Rejection::NotFound(format!("there is no framework {id}")));
        };
        context.check_revision(expected, framework.revision)?;
        let framework = Arc::make_mut(framework);
        change(framework);
        framework.revision = context.index;
        context.event(framework.event());
        context.changes.frameworks.insert(id);
        context.changes.inboxes.insert(id);
        Ok(())
    }
}
