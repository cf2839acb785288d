//! What the scripted cluster knows, and what a failed turn must not have changed.

use std::collections::{BTreeMap, BTreeSet};

use tepui_types::constraint::Constraints;
use tepui_types::resources::{Exchange, ResourceRequest};
use tepui_types::{
    AgentId, AgentInfo, Attributes, Demand, Digest, Gang, GangShare, Offer, OfferId, Resources,
    Role, Timestamp,
};

use super::host::RunningTask;
use super::journal::Journaled;
use crate::context::OperationStatus;

/// An offer that was not answered in an earlier turn.
#[derive(Debug, Clone)]
pub(super) struct OpenOffer {
    pub offer: Offer,
    pub left: Resources,
    /// Accepted from or declined in this turn.
    pub answered: bool,
}

/// What the cluster knows. A failed turn must not have changed it.
#[derive(Debug, Default)]
pub(super) struct State {
    pub now_ms: u64,
    pub agents: BTreeMap<AgentId, Resources>,
    pub attributes: BTreeMap<AgentId, BTreeMap<String, String>>,
    pub offers: Journaled<OfferId, OpenOffer>,
    pub tasks: Journaled<String, RunningTask>,
    pub demands: Journaled<String, Demand>,
    pub gangs: Journaled<String, Gang>,
    pub store: Journaled<String, Vec<u8>>,
    /// Operations on resources, and what each has taken and given on which agent.
    pub operations: Journaled<usize, OperationStatus>,
    pub exchanges: Journaled<usize, (AgentId, Exchange)>,
    /// Name and time at which it is due.
    pub timers: Journaled<String, u64>,
    /// The framework's; `*` if a test gives it none.
    pub roles: Vec<Role>,
    pub suppressed: BTreeSet<Role>,
    /// Every other artifact is stored.
    pub missing_artifacts: BTreeSet<Digest>,
    pub next_attempt: u64,
    /// The two before this turn.
    pub before: (BTreeSet<Role>, u64),
}

impl State {
    pub fn commit(&mut self) {
        self.offers.commit();
        self.tasks.commit();
        self.demands.commit();
        self.gangs.commit();
        self.store.commit();
        self.operations.commit();
        self.exchanges.commit();
        self.timers.commit();
        self.before = (self.suppressed.clone(), self.next_attempt);
    }

    pub fn roll_back(&mut self) {
        self.offers.roll_back();
        self.tasks.roll_back();
        self.demands.roll_back();
        self.gangs.roll_back();
        self.store.roll_back();
        self.operations.roll_back();
        self.exchanges.roll_back();
        self.timers.roll_back();
        (self.suppressed, self.next_attempt) = self.before.clone();
    }

    pub fn free(&self, agent: AgentId) -> Resources {
        let total = self.agents.get(&agent).cloned().unwrap_or_default();
        let exchanges = self.exchanges.values().filter(|(on, _)| *on == agent);
        let total = exchanges.fold(total, |total, (_, exchange)| {
            exchange.apply(&total).unwrap_or(total)
        });
        let tasks = self
            .tasks
            .values()
            .filter(|running| running.task.agent == agent && running.after.is_none());
        let offers = self
            .offers
            .values()
            .filter(|open| open.offer.agent == agent);
        let held = tasks
            .map(|running| &running.resources)
            .chain(offers.map(|open| &open.left));
        held.fold(total, |free, held| free.saturating_sub(held))
    }

    /// Puts a task at the end of the line after another.
    pub fn wait_in_line(&mut self, name: &str, after: &str) {
        let mut last = after.to_owned();
        while let Some(next) = self.tasks.get(&last).and_then(|task| task.next.clone()) {
            last = next;
        }
        self.tasks
            .update(&last, |task| task.next = Some(name.to_owned()));
        self.tasks.update(name, |task| task.after = Some(last));
    }

    /// Takes a task away; who waited for it has its place, or waits for whom it waited for.
    pub fn end(&mut self, name: &str) {
        let ended = self.tasks.get(name);
        let (before, next) =
            ended.map_or((None, None), |task| (task.after.clone(), task.next.clone()));
        self.tasks.remove(name);
        if let Some(before) = &before {
            self.tasks.update(before, |task| task.next = next.clone());
        }
        let since = Timestamp(self.now_ms);
        if let Some(next) = &next {
            self.tasks.update(next, |task| {
                task.since = since;
                task.after = before;
            });
        }
    }

    pub fn open_offer(&mut self, id: OfferId, agent: AgentId, role: Role) -> Offer {
        let resources = self.free(agent);
        self.open_offer_of(id, agent, role, resources, None)
    }

    /// The same of some of it, for a gang.
    pub fn open_offer_of(
        &mut self,
        id: OfferId,
        agent: AgentId,
        role: Role,
        resources: Resources,
        gang: Option<GangShare>,
    ) -> Offer {
        assert!(
            self.agents.contains_key(&agent),
            "there is no agent {agent}"
        );
        let offer = Offer {
            id,
            agent,
            hostname: format!("host-{}", agent.0),
            resources: resources.clone(),
            attributes: self.attributes_of(agent),
            role,
            gang: gang.map(Box::new),
            until: None,
        };
        let open = OpenOffer {
            offer: offer.clone(),
            left: resources,
            answered: false,
        };
        self.offers.insert(id, open);
        offer
    }

    /// Where a gang would go: on which agents which tasks of it, if it fits.
    pub fn plan_gang(&self, key: &str) -> Option<Vec<(AgentId, Resources, GangShare)>> {
        let gang = self.gangs.get(key)?;
        // What is left, what is taken, and for which parts.
        type Spot = (Resources, Resources, Vec<(u32, u32)>);
        let mut plan: BTreeMap<AgentId, Spot> = BTreeMap::new();
        for (place, part) in (0..).zip(&gang.parts) {
            for _ in 0..part.count {
                let agents = self.agents.keys();
                let mut agents =
                    agents.filter(|agent| part.constraints.hold_of(&self.info(**agent)));
                let (agent, picked) = agents.find_map(|agent| {
                    let free = match plan.get(agent) {
                        Some((left, ..)) => left.clone(),
                        None => self.free(*agent),
                    };
                    Some((*agent, free.pick(&part.request).ok()?))
                })?;
                let spot = plan
                    .entry(agent)
                    .or_insert_with(|| (self.free(agent), Resources::default(), Vec::new()));
                spot.0 = spot.0.saturating_sub(&picked);
                spot.1 = spot.1.checked_add(&picked).ok()?;
                match spot.2.last_mut() {
                    Some((last, count)) if *last == place => *count += 1,
                    _ => spot.2.push((place, 1)),
                }
            }
        }
        let share = |parts| GangShare {
            key: key.to_owned(),
            parts,
        };
        let plan = plan.into_iter();
        Some(
            plan.map(|(agent, (_, taken, parts))| (agent, taken, share(parts)))
                .collect(),
        )
    }

    fn attributes_of(&self, agent: AgentId) -> Attributes {
        let attributes = self.attributes.get(&agent);
        attributes.cloned().unwrap_or_default().into()
    }

    /// What an agent would say of itself.
    pub fn info(&self, agent: AgentId) -> AgentInfo {
        AgentInfo {
            address: None,
            hostname: format!("host-{}", agent.0),
            resources: self.agents.get(&agent).cloned().unwrap_or_default(),
            attributes: self.attributes_of(agent),
            version: String::new(),
            full: None,
        }
    }

    /// The role of what names none.
    pub fn first_role(&self) -> Role {
        self.roles.first().cloned().unwrap_or_default()
    }

    /// Agents on which some demand fits, and the role of the first that does.
    pub fn agents_in_demand(&self) -> Vec<(AgentId, Role)> {
        let first = self.first_role();
        let role = |demand: &Demand| demand.role.as_ref().unwrap_or(&first).clone();
        let shapes: BTreeSet<(Role, &ResourceRequest, &Constraints)> = self
            .demands
            .values()
            .map(|demand| (role(demand), &demand.request, &demand.constraints))
            .filter(|(role, ..)| !self.suppressed.contains(role))
            .collect();
        let fits = |agent: &AgentId| {
            let free = self.free(*agent);
            let info = self.info(*agent);
            let mut shapes = shapes.iter();
            let fitting = shapes.find(|(_, request, constraints)| {
                free.pick(request).is_ok() && constraints.hold_of(&info)
            });
            fitting.map(|(role, ..)| (*agent, role.clone()))
        };
        self.agents.keys().filter_map(fits).collect()
    }
}
