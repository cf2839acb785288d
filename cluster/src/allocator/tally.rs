//! Agents counted by what keeps a request from them.
//!
//! Someone who asks why a request waits gets counts that are kept from then on:
//! an agent that changes leaves one count and enters another. Only the shapes
//! that were asked for last are kept, so that a change stays cheap.

use std::collections::BTreeMap;
use std::sync::Arc;

use tepui_types::constraint::{Constraint, Constraints};
use tepui_types::resources::{MILLI, ResourceRequest};
use tepui_types::{AgentInfo, Resources};

use super::demands::Shape;

/// The most shapes whose counts are kept: a page of what waits.
const SHAPES: usize = 64;

/// What an agent has of everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Stock {
    pub amounts: ResourceRequest,
    /// Thousandths of each device: half of two is not one.
    devices: BTreeMap<String, u64>,
}

/// An agent as it is counted.
#[derive(Debug)]
pub(super) struct Counted<'a> {
    pub info: &'a Arc<AgentInfo>,
    /// All that it lends to who asks.
    pub total: &'a Resources,
    /// And what it lends to others only, where that is not the same.
    pub all: Option<&'a Resources>,
    /// Whether it could be offered at all.
    pub is_open: bool,
    /// Whether that is for having less than is reserved on it.
    pub is_short: bool,
    /// Whether the cluster's settings let it be.
    pub is_allowed: bool,
    /// What no task has.
    pub unused: &'a Stock,
    /// And no offer holds.
    pub free: &'a Stock,
}

/// Counts for shapes that were asked for.
#[derive(Debug, Default)]
pub(super) struct Tally {
    shapes: BTreeMap<Shape, Asked>,
    asked: u64,
    /// How many open agents have how much of each resource when empty.
    largest: BTreeMap<String, BTreeMap<u64, u64>>,
}

#[derive(Debug)]
struct Asked {
    counts: Counts,
    /// When it was asked for last.
    asked: u64,
}

/// Agents by what keeps a request from them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub agents: u64,
    pub inactive: u64,
    /// With less than is reserved on them.
    pub lacking: u64,
    /// Not among the allowed hosts.
    pub disallowed: u64,
    pub constrained: u64,
    /// On how many of these each constraint does not hold, in their order.
    unmet: Vec<u64>,
    /// Kept for what asks for gpus.
    pub spared: u64,
    /// It would fit, but too little is left for an offer.
    pub slivers: u64,
    /// It would fit but for what is set apart.
    pub reserved: u64,
    /// Too small even when empty, by the place of each resource that is short.
    too_small: Vec<u64>,
    busy: Vec<u64>,
    /// It would fit but for what is offered.
    pub held: u64,
    pub fitting: u64,
}

/// What keeps a request from an agent; resources that are short as bits.
enum Why {
    Inactive,
    Lacking,
    Disallowed,
    Constrained,
    Spared,
    Sliver,
    Reserved,
    TooSmall(u64),
    Busy(u64),
    Held,
    Nothing,
}

impl Stock {
    /// Of these resources.
    pub fn of(resources: &Resources) -> Self {
        Self {
            amounts: ResourceRequest::plain(resources),
            devices: resources.gpus.clone(),
        }
    }

    /// The resources that a request finds too little of, as bits.
    fn short_of(&self, request: &ResourceRequest) -> u64 {
        let free = &self.amounts;
        let mut short = u64::from(free.cpus < request.cpus)
            | u64::from(free.mem < request.mem) << 1
            | u64::from(free.disk < request.disk) << 2
            | u64::from(free.ports < request.ports) << 3
            | u64::from(!has_gpus(&self.devices, request.gpus_milli)) << 4;
        for (place, (name, amount)) in request.custom.iter().enumerate() {
            let have = free.custom.get(name).copied().unwrap_or(0);
            // A request names far fewer than there are bits.
            short |= u64::from(have < *amount) << (5 + place).min(63);
        }
        short
    }
}

fn has_gpus(devices: &BTreeMap<String, u64>, wanted: u64) -> bool {
    if wanted < MILLI {
        return wanted == 0 || devices.values().any(|milli| *milli >= wanted);
    }
    let whole = devices.values().filter(|milli| **milli == MILLI).count();
    whole as u64 >= wanted / MILLI
}

impl Counts {
    /// Over these agents.
    pub(super) fn over<'a>(shape: &Shape, agents: impl Iterator<Item = Counted<'a>>) -> Self {
        let mut counts = Self::default();
        agents.for_each(|agent| counts.count(shape, &agent, 1));
        counts
    }

    /// Takes an agent in, or out.
    pub(super) fn count(&mut self, shape: &Shape, agent: &Counted<'_>, by: i64) {
        let add = |count: &mut u64| *count = count.saturating_add_signed(by);
        add(&mut self.agents);
        match why(shape, agent) {
            Why::Inactive => add(&mut self.inactive),
            Why::Lacking => add(&mut self.lacking),
            Why::Disallowed => add(&mut self.disallowed),
            Why::Constrained => {
                add(&mut self.constrained);
                let constraints = shape.constraints.each().enumerate();
                for (place, _) in constraints.filter(|(_, it)| !it.holds_of(agent.info)) {
                    add(at(&mut self.unmet, place));
                }
            }
            Why::Spared => add(&mut self.spared),
            Why::Sliver => add(&mut self.slivers),
            Why::Reserved => add(&mut self.reserved),
            Why::TooSmall(short) => each(&mut self.too_small, short, add),
            Why::Busy(short) => each(&mut self.busy, short, add),
            Why::Held => add(&mut self.held),
            Why::Nothing => add(&mut self.fitting),
        }
    }

    /// On how many of the agents that constraints rule out each does not hold.
    pub fn unmet<'a>(
        &self,
        constraints: &'a Constraints,
    ) -> impl Iterator<Item = (&'a Constraint, u64)> {
        let counts = constraints.each().zip(self.unmet.iter().copied());
        counts.filter(|(_, count)| *count > 0)
    }

    /// Agents too small for a request, by resource.
    pub fn too_small(&self, request: &ResourceRequest) -> BTreeMap<String, u64> {
        named(&self.too_small, request)
    }

    /// Agents that tasks leave too little of, by resource.
    pub fn busy(&self, request: &ResourceRequest) -> BTreeMap<String, u64> {
        named(&self.busy, request)
    }
}

fn why(shape: &Shape, agent: &Counted<'_>) -> Why {
    let request = &shape.request;
    if !agent.is_allowed {
        return Why::Disallowed;
    }
    if !agent.is_open {
        return match agent.is_short {
            true => Why::Lacking,
            false => Why::Inactive,
        };
    }
    if !shape.constraints.hold_of(agent.info) {
        return Why::Constrained;
    }
    if shape.spares(agent.info) {
        return Why::Spared;
    }
    if agent.free.short_of(request) == 0 && shape.is_worth(&agent.free.amounts) {
        return Why::Nothing;
    }
    match agent.unused.short_of(request) {
        0 if shape.is_worth(&agent.unused.amounts) => Why::Held,
        0 => Why::Sliver,
        busy => match Stock::of(agent.total).short_of(request) {
            0 => Why::Busy(busy),
            short => match agent
                .all
                .map_or(short, |all| Stock::of(all).short_of(request))
            {
                0 => Why::Reserved,
                short => Why::TooSmall(short),
            },
        },
    }
}

fn each(counts: &mut Vec<u64>, mut bits: u64, add: impl Fn(&mut u64)) {
    while bits != 0 {
        add(at(counts, bits.trailing_zeros() as usize));
        bits &= bits - 1;
    }
}

/// The count at a place, which there is from now on.
fn at(counts: &mut Vec<u64>, place: usize) -> &mut u64 {
    if counts.len() <= place {
        counts.resize(place + 1, 0);
    }
    &mut counts[place]
}

fn named(counts: &[u64], request: &ResourceRequest) -> BTreeMap<String, u64> {
    let names = ["cpus", "mem", "disk", "ports", "gpus"].into_iter();
    let names = names.chain(request.custom.keys().map(String::as_str));
    let counts = names.zip(counts).filter(|(_, count)| **count > 0);
    counts
        .map(|(name, count)| (name.to_owned(), *count))
        .collect()
}

impl Tally {
    /// Counts an agent in (1) or out (-1).
    pub fn count(&mut self, agent: &Counted<'_>, by: i64) {
        for (shape, entry) in &mut self.shapes {
            entry.counts.count(shape, agent, by);
        }
    }

    /// Notes what an agent that can be offered has when empty, or that it has it no more.
    pub fn size(&mut self, total: &Resources, by: i64) {
        let amounts = ResourceRequest::plain(&total.flat(true));
        for (name, amount) in amounts.entries() {
            let sizes = match self.largest.get_mut(name) {
                Some(sizes) => sizes,
                None => self.largest.entry(name.to_owned()).or_default(),
            };
            let count = sizes.entry(amount).or_default();
            *count = count.saturating_add_signed(by);
            if *count == 0 {
                sizes.remove(&amount);
            }
        }
    }

    /// The most of a resource that an agent has when empty.
    pub fn largest(&self, name: &str) -> u64 {
        let sizes = self.largest.get(name);
        let most = sizes.and_then(|sizes| sizes.last_key_value());
        most.map_or(0, |(amount, _)| *amount)
    }

    /// The counts for a request, kept from now on.
    pub fn ask<'a>(&mut self, shape: &Shape, agents: impl Iterator<Item = Counted<'a>>) -> Counts {
        self.asked += 1;
        let asked = self.asked;
        if let Some(entry) = self.shapes.get_mut(shape) {
            entry.asked = asked;
            return entry.counts.clone();
        }
        if self.shapes.len() >= SHAPES {
            let longest_ago = self.shapes.iter().min_by_key(|(_, entry)| entry.asked);
            if let Some(shape) = longest_ago.map(|(shape, _)| shape.clone()) {
                self.shapes.remove(&shape);
            }
        }
        let counts = Counts::over(shape, agents);
        let entry = Asked {
            counts: counts.clone(),
            asked,
        };
        self.shapes.insert(shape.clone(), entry);
        counts
    }
}
