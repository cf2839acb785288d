//! What is still open of a framework's demand, when its offers are used as well as may be.
//!
//! A framework that wants one task is not offered the whole cluster: it is
//! offered agents until what it holds could meet what it wants. Each offer
//! keeps what it covers, and gives that back when it ends. When the demand
//! changes, offers first keep what they cover of what is still wanted, and then
//! cover what else fits, the oldest first: so a change never opens what was
//! covered. How few offers could cover all shapes together is a problem of
//! packing, which is not solved; with several shapes a framework may be offered
//! an agent more than the best answer needs.

use std::borrow::Cow;
use std::collections::BTreeMap;

use tepui_types::constraint::Constraints;
use tepui_types::resources::ResourceRequest;
use tepui_types::setting::{GpuAgents, Settings};
use tepui_types::{AgentInfo, Demand, Resources, Role};

use super::agents::has_gpus;
use crate::state::frameworks::Framework;

/// How many of which shapes an offer covers.
pub(super) type Covered = Vec<(usize, u64)>;

/// What an offer is of an agent.
pub struct Offered<'a> {
    pub agent: &'a AgentInfo,
    pub resources: &'a Resources,
    /// Milliseconds within which what is launched on it has to end.
    pub within_ms: Option<u64>,
}

impl Offered<'_> {
    /// Whether a shape may be met with it at all, if it is large enough.
    fn is_for(&self, shape: &Shape) -> bool {
        shape.ends_within(self.within_ms)
            && shape.constraints.hold_of(self.agent)
            && !shape.spares(self.agent)
            && shape.has_volumes(self.resources)
    }
}

/// Of one framework.
#[derive(Debug, Default)]
pub struct Demands {
    /// Each shape once, in the order of the keys that first name it.
    wanted: Vec<Wanted>,
    open: u64,
}

#[derive(Debug)]
struct Wanted {
    shape: Shape,
    open: u64,
}

/// What is wanted, whoever wants it and how often.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Shape {
    pub request: ResourceRequest,
    pub constraints: Constraints,
    /// Whether agents with gpus are not for it.
    pub spares_gpus: bool,
    /// What is offered for it has one of these at least; empty where the request
    /// itself has.
    pub minimum: Vec<ResourceRequest>,
    pub revocable: bool,
    pub volumes: Vec<String>,
    /// How long its tasks run at most.
    pub time_limit_ms: Option<u64>,
}

/// By which rules a framework is offered something in one of its roles.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules<'a> {
    gpu_agents: GpuAgents,
    minimum: &'a [ResourceRequest],
}

impl<'a> Rules<'a> {
    /// Those of the cluster, where the framework has not set its own.
    pub fn of(settings: &'a Settings, framework: &'a Framework, role: &Role) -> Self {
        let own = framework.minimums.get(role);
        Self {
            gpu_agents: settings.gpu_agents,
            minimum: own.unwrap_or(&settings.minimum_offer),
        }
    }

    /// Those of the cluster.
    pub fn of_cluster(settings: &'a Settings) -> Self {
        Self {
            gpu_agents: settings.gpu_agents,
            minimum: &settings.minimum_offer,
        }
    }
}

impl Shape {
    /// What a demand asks for, by these rules.
    pub fn of(demand: &Demand, rules: Rules<'_>) -> Self {
        let request = demand.request.clone();
        let is_enough = has_one_of(rules.minimum, &request);
        Self {
            spares_gpus: rules.gpu_agents == GpuAgents::ForGpus && request.gpus_milli == 0,
            minimum: match is_enough {
                true => Vec::new(),
                false => rules.minimum.to_vec(),
            },
            request,
            constraints: demand.constraints.clone(),
            revocable: demand.revocable,
            volumes: demand.volumes.clone(),
            time_limit_ms: demand.time_limit_ms,
        }
    }

    /// Whether its tasks end within so many milliseconds, if that is asked.
    pub fn ends_within(&self, most_ms: Option<u64>) -> bool {
        most_ms.is_none_or(|most| self.time_limit_ms.is_some_and(|limit| limit <= most))
    }

    /// Whether agents with gpus are not for it, and this is one.
    pub fn spares(&self, agent: &AgentInfo) -> bool {
        self.spares_gpus && has_gpus(agent)
    }

    /// Whether such amounts are worth an offer for it.
    pub fn is_worth(&self, amounts: &ResourceRequest) -> bool {
        has_one_of(&self.minimum, amounts)
    }

    /// Whether the sum of what is free says too little: devices and items are whole.
    fn wants_parts(&self) -> bool {
        self.request.gpus_milli > 0 || !self.request.custom.is_empty()
    }

    /// Whether it may be met by this agent, of which these resources are free, of
    /// these amounts if they are plain. With gpus the devices decide, not their sum.
    pub fn fits(&self, agent: &AgentInfo, amounts: &ResourceRequest, free: &Resources) -> bool {
        let fits = match free.pools.is_empty() {
            true => {
                self.volumes.is_empty()
                    && self.request.fits_in(amounts)
                    && (!self.wants_parts() || free.pick(&self.request).is_ok())
                    && self.is_worth(amounts)
            }
            false => {
                let flat = free.flat(self.revocable);
                self.has_volumes(free)
                    && flat.pick(&self.request).is_ok()
                    && self.is_worth(&ResourceRequest::plain(&flat))
            }
        };
        fits && self.constraints.hold_of(agent) && !self.spares(agent)
    }

    fn has_volumes(&self, free: &Resources) -> bool {
        let mut volumes = self.volumes.iter();
        volumes.all(|volume| free.pools.volume(volume).is_some())
    }

    /// How many may be met where a task needs volumes: of those that only one may have, one.
    fn limit(&self, open: u64, resources: &Resources) -> u32 {
        let shared = |volume: &String| {
            let pool = resources.pools.volume(volume);
            pool.is_some_and(|pool| pool.kind.is_shared())
        };
        let most = match self.volumes.iter().all(shared) {
            true => open,
            false => open.min(1),
        };
        u32::try_from(most).unwrap_or(u32::MAX)
    }
}

/// What tasks have left of an offer: of what is firm, and of all if some is revocable.
struct Left<'a> {
    firm: Cow<'a, Resources>,
    all: Option<Cow<'a, Resources>>,
}

impl<'a> Left<'a> {
    fn of(resources: &'a Resources) -> Self {
        let revocable = resources.pools.iter().any(|pool| pool.kind.revocable);
        Self {
            firm: resources.flat(false),
            all: revocable.then(|| resources.flat(true)),
        }
    }

    /// Takes a shape so many times if it fits; answers how often it did.
    fn take(&mut self, shape: &Shape, limit: u32) -> u32 {
        let from = match &self.all {
            Some(all) if shape.revocable => all,
            _ => &self.firm,
        };
        let (met, rest) = from.pick_many(&shape.request, limit);
        match &mut self.all {
            Some(all) if shape.revocable => {
                self.firm = Cow::Owned(self.firm.meet(&rest));
                *all = Cow::Owned(rest);
            }
            Some(all) => {
                let taken = self.firm.saturating_sub(&rest);
                *all = Cow::Owned(all.saturating_sub(&taken));
                self.firm = Cow::Owned(rest);
            }
            None => self.firm = Cow::Owned(rest),
        }
        met
    }
}

/// Whether there is as much as one of these asks for, if there are any.
fn has_one_of(minimum: &[ResourceRequest], amounts: &ResourceRequest) -> bool {
    minimum.is_empty() || minimum.iter().any(|least| least.fits_in(amounts))
}

impl Demands {
    /// All of a framework's demand for one of its roles, with nothing offered;
    /// none of one that wants no offers.
    pub fn of(framework: &Framework, role: &Role, rules: Rules<'_>) -> Self {
        let mut demands = Self::default();
        if !framework.wants_offers(role) {
            return demands;
        }
        let mut known = BTreeMap::new();
        let entries = framework.demands.values();
        for entry in entries.filter(|entry| framework.role_of(&entry.demand) == role) {
            let wanted = &mut demands.wanted;
            let demand = &entry.demand;
            let shape = (
                &demand.request,
                &demand.constraints,
                demand.revocable,
                &demand.volumes,
                demand.time_limit_ms,
            );
            let at = *known.entry(shape).or_insert_with(|| {
                let shape = Shape::of(&entry.demand, rules);
                wanted.push(Wanted { shape, open: 0 });
                wanted.len() - 1
            });
            let count = u64::from(entry.demand.count);
            wanted[at].open += count;
            demands.open += count;
        }
        demands
    }

    /// How many are open.
    pub fn count(&self) -> u64 {
        self.open
    }

    /// Whether anything is open.
    pub fn is_hungry(&self) -> bool {
        self.open > 0
    }

    /// Shapes that are open.
    pub fn open(&self) -> impl Iterator<Item = &Shape> {
        let open = self.wanted.iter().filter(|wanted| wanted.open > 0);
        open.map(|wanted| &wanted.shape)
    }

    /// Whether something open may be met by this agent, of which these
    /// resources, of these amounts, are free.
    pub fn fits(&self, agent: &AgentInfo, amounts: &ResourceRequest, free: &Resources) -> bool {
        self.open().any(|shape| shape.fits(agent, amounts, free))
    }

    /// Whether something open may be met with what can be taken back.
    pub fn takes_revocable(&self) -> bool {
        self.open().any(|shape| shape.revocable)
    }

    /// Lowers the open demand by what fits into an offer.
    pub fn cover(&mut self, offered: &Offered<'_>) -> Covered {
        let all = 0..self.wanted.len();
        let mut left = Left::of(offered.resources);
        let covered = all.map(|at| (at, self.take(at, u64::MAX, offered, &mut left)));
        covered.filter(|(_, count)| *count > 0).collect()
    }

    /// Lowers the open demand by what an offer has covered, as far as that is still wanted and fits.
    pub fn keep(
        &mut self,
        offered: &Offered<'_>,
        covered: impl Iterator<Item = (usize, u64)>,
    ) -> Covered {
        let mut left = Left::of(offered.resources);
        let covered = covered.map(|(at, count)| (at, self.take(at, count, offered, &mut left)));
        covered.filter(|(_, count)| *count > 0).collect()
    }

    /// Lowers the open demand by what fits into an offer beside what it covers already.
    pub fn cover_more(&mut self, offered: &Offered<'_>, covered: &mut Covered) {
        let kept = std::mem::take(covered);
        // Counted already, and now once more: what is taken first is what it has.
        self.uncover(&kept);
        let mut left = Left::of(offered.resources);
        for (at, count) in &kept {
            covered.push((*at, self.take(*at, *count, offered, &mut left)));
        }
        for at in 0..self.wanted.len() {
            let known = covered.iter().position(|(known, _)| *known == at);
            // Of what needs volumes it has no more.
            if known.is_some() && !self.wanted[at].shape.volumes.is_empty() {
                continue;
            }
            let count = self.take(at, u64::MAX, offered, &mut left);
            match known {
                Some(known) => covered[known].1 += count,
                None if count > 0 => covered.push((at, count)),
                None => {}
            }
        }
    }

    /// Takes at most so many of one shape out of an offer; answers how many.
    fn take(&mut self, at: usize, most: u64, offered: &Offered<'_>, left: &mut Left<'_>) -> u64 {
        let Some(wanted) = self.wanted.get_mut(at) else {
            return 0;
        };
        let shape = &wanted.shape;
        let most = wanted.open.min(most);
        if most == 0 || !offered.is_for(shape) {
            return 0;
        }
        let met = left.take(shape, shape.limit(most, offered.resources));
        wanted.open -= u64::from(met);
        self.open -= u64::from(met);
        u64::from(met)
    }

    /// Where the shapes of earlier demands stand in these, by their places.
    pub fn places_of(&self, before: &Self) -> Vec<Option<usize>> {
        let places = self.wanted.iter().enumerate();
        let places: BTreeMap<&Shape, usize> =
            places.map(|(at, wanted)| (&wanted.shape, at)).collect();
        let before = before.wanted.iter();
        before
            .map(|wanted| places.get(&wanted.shape).copied())
            .collect()
    }

    /// Opens again what an offer covered.
    pub fn uncover(&mut self, covered: &Covered) {
        for (at, count) in covered {
            if let Some(wanted) = self.wanted.get_mut(*at) {
                wanted.open += count;
                self.open += count;
            }
        }
    }
}
