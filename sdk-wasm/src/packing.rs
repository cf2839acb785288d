//! Where a task goes: packed so that little is left that nothing can use, or
//! spread so that a machine that is lost takes few of them.
//!
//! [`Packer`] looks at fragmentation as Weng et al. do ("Beware of
//! Fragmentation", USENIX ATC 2023): the gpu that is free on an agent, and that
//! the expected tasks cannot use for want of cpus, memory or a whole device.
//! They take the place where it grows least; here it is the one where the least
//! part of what was free is unusable afterwards, which packs tighter. The
//! framework says what it expects; its own past is a good guess.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use tepui_types::constraint::Constraints;
use tepui_types::resources::{MILLI, ResourceRequest};
use tepui_types::{Offer, Resources};

/// The most states of agents whose fragmentation is kept, so that memory stays
/// bounded; some hundred bytes each.
const KEPT: usize = 200_000;

/// Packs tasks by what is expected to follow.
#[derive(Debug, Clone, Default)]
pub struct Packer {
    expected: Vec<(ResourceRequest, u64)>,
    known: BTreeMap<State, u128>,
}

/// A place for a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Which of the offers.
    pub offer: usize,
    /// What the task takes of it.
    pub resources: Resources,
}

/// What matters of an agent for fragmentation. Which device is which does not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    cpus: u64,
    mem: u64,
    /// Thousandths that are free of each device, ascending.
    devices: Vec<u64>,
}

impl Packer {
    /// For tasks of these shapes, each so often as its weight says.
    pub fn new(expected: impl IntoIterator<Item = (ResourceRequest, u64)>) -> Self {
        Self {
            expected: expected.into_iter().collect(),
            known: BTreeMap::new(),
        }
    }

    /// The place after which the least part of an agent's free gpu cannot be
    /// used by what is expected; of equal ones the smallest.
    pub fn place(&mut self, offers: &[&Resources], request: &ResourceRequest) -> Option<Place> {
        let mut best: Option<((u128, u64, u64), Place)> = None;
        for (offer, free) in offers.iter().enumerate() {
            for resources in choices(free, request) {
                let left = free.saturating_sub(&resources);
                let unusable = self.unusable(State::of(&left.flat(false)));
                let part = unusable * 1_000_000 / u128::from(free.gpu_milli().max(1));
                let rank = (part, left.gpu_milli(), left.cpus.0);
                if best.as_ref().is_none_or(|(least, _)| rank < *least) {
                    best = Some((rank, Place { offer, resources }));
                }
            }
        }
        best.map(|(_, place)| place)
    }

    /// Thousandths of gpu that expected tasks cannot use, weighted and summed.
    fn unusable(&mut self, state: State) -> u128 {
        if let Some(known) = self.known.get(&state) {
            return *known;
        }
        let expected = self.expected.iter();
        let parts = expected
            .map(|(request, weight)| u128::from(state.unusable_by(request)) * u128::from(*weight));
        let unusable = parts.sum();
        if self.known.len() >= KEPT {
            self.known.clear();
        }
        self.known.insert(state, unusable);
        unusable
    }
}

impl State {
    fn of(resources: &Resources) -> Self {
        let mut devices: Vec<u64> = resources.gpus.values().copied().collect();
        devices.sort_unstable();
        Self {
            cpus: resources.cpus.0,
            mem: resources.mem.0,
            devices,
        }
    }

    /// Thousandths of gpu that a task of this shape cannot use here.
    fn unusable_by(&self, request: &ResourceRequest) -> u64 {
        let all = self.devices.iter().sum();
        let each = request.gpus_milli.min(MILLI);
        let enough = |milli: &&u64| **milli >= each;
        let usable = self.devices.iter().filter(enough).count() as u64;
        let fits = request.cpus.0 <= self.cpus
            && request.mem.0 <= self.mem
            && usable >= request.gpus_milli.div_ceil(MILLI);
        if request.gpus_milli == 0 || !fits {
            return all;
        }
        self.devices.iter().filter(|milli| **milli < each).sum()
    }
}

/// The ways in which a request can be taken: for a share of a device one for
/// each amount that is free of a device, else one.
fn choices(free: &Resources, request: &ResourceRequest) -> Vec<Resources> {
    let flat = free.flat(false);
    let choices = choices_of_sum(&flat, request).into_iter();
    choices
        .filter_map(|choice| free.carve(&choice, false))
        .collect()
}

fn choices_of_sum(free: &Resources, request: &ResourceRequest) -> Vec<Resources> {
    let shares = 0 < request.gpus_milli && request.gpus_milli < MILLI;
    let Ok(picked) = free.pick(request) else {
        return Vec::new();
    };
    if !shares {
        return vec![picked];
    }
    let fitting = free
        .gpus
        .iter()
        .filter(|(_, milli)| **milli >= request.gpus_milli);
    let by_amount: BTreeMap<u64, &String> = fitting.map(|(name, milli)| (*milli, name)).collect();
    let choice = |device: &&String| Resources {
        gpus: BTreeMap::from([((*device).clone(), request.gpus_milli)]),
        ..picked.clone()
    };
    by_amount.values().map(choice).collect()
}

/// The place on the agent that has the least left: gpus first, then cpus.
pub fn best_fit(offers: &[&Resources], request: &ResourceRequest) -> Option<Place> {
    let fitting = places(offers, request);
    fitting.min_by_key(|place| {
        let left = offers[place.offer].saturating_sub(&place.resources);
        (left.gpu_milli(), left.cpus.0, left.mem.0, place.offer)
    })
}

/// The place on the agent with the most left: tasks are spread.
pub fn spread(offers: &[&Resources], request: &ResourceRequest) -> Option<Place> {
    let fitting = places(offers, request);
    fitting.max_by_key(|place| {
        let left = offers[place.offer].saturating_sub(&place.resources);
        (left.cpus.0, left.mem.0, Reverse(place.offer))
    })
}

/// The place where the fewest tasks are that have a value of an attribute in
/// common, such as `zone` or `hostname`: `counts` says how many each value has.
/// Agents without the attribute come last, and of equal ones the agent with the
/// most left.
pub fn spread_over(
    offers: &[&Offer],
    attribute: &str,
    counts: &BTreeMap<String, u64>,
    request: &ResourceRequest,
) -> Option<Place> {
    let resources: Vec<_> = offers.iter().map(|offer| &offer.resources).collect();
    places(&resources, request).min_by_key(|place| {
        let offer = offers[place.offer];
        let value = match attribute {
            Constraints::HOSTNAME => Some(&offer.hostname),
            name => offer.attributes.get(name),
        };
        let count = value.map(|value| counts.get(value).copied().unwrap_or(0));
        let left = offer.resources.saturating_sub(&place.resources);
        (
            count.is_none(),
            count,
            Reverse((left.cpus, left.mem)),
            place.offer,
        )
    })
}

fn places<'a>(
    offers: &'a [&Resources],
    request: &'a ResourceRequest,
) -> impl Iterator<Item = Place> + 'a {
    let offers = offers.iter().enumerate();
    offers.filter_map(|(offer, free)| {
        let resources = free.pick(request).ok()?;
        Some(Place { offer, resources })
    })
}

#[cfg(test)]
mod tests {
    use tepui_types::{AgentId, Bytes, MilliCpus, OfferId, Role};

    use super::*;

    fn machine(cpus: u64, gpus: &[u64]) -> Resources {
        let gpus = gpus.iter().enumerate();
        Resources {
            cpus: MilliCpus(cpus),
            mem: Bytes::gib(64),
            gpus: gpus.map(|(n, milli)| (format!("g{n}"), *milli)).collect(),
            ..Resources::default()
        }
    }

    fn task(cpus: u64, gpus_milli: u64) -> ResourceRequest {
        ResourceRequest {
            cpus: MilliCpus(cpus),
            gpus_milli,
            ..ResourceRequest::default()
        }
    }

    fn placed(packer: &mut Packer, offers: &[Resources], request: &ResourceRequest) -> Place {
        let offers: Vec<_> = offers.iter().collect();
        packer.place(&offers, request).unwrap()
    }

    #[test]
    fn a_share_goes_where_the_rest_can_still_be_used() {
        let mut packer = Packer::new([(task(1000, 400), 1), (task(1000, 600), 1)]);
        let offers = [machine(9000, &[1000]), machine(9000, &[400, 900])];
        let place = placed(&mut packer, &offers, &task(1000, 400));
        assert_eq!(place.offer, 0, "600 are left for the other, and not 500");
        let place = placed(&mut packer, &offers[1..], &task(1000, 400));
        assert_eq!(place.resources.gpus.keys().collect::<Vec<_>>(), ["g0"]);
    }

    #[test]
    fn cpus_are_left_to_the_gpus_that_need_them() {
        let mut packer = Packer::new([(task(4000, 1000), 1)]);
        let offers = [machine(8000, &[1000, 1000]), machine(16000, &[1000, 1000])];
        assert_eq!(placed(&mut packer, &offers, &task(8000, 0)).offer, 1);
        let offers = [machine(8000, &[1000]), machine(8000, &[])];
        assert_eq!(placed(&mut packer, &offers, &task(4000, 0)).offer, 1);
    }

    #[test]
    fn what_fits_nowhere_has_no_place() {
        let free = machine(4000, &[500, 500]);
        let whole = task(1000, 1000);
        assert_eq!(Packer::default().place(&[&free], &whole), None);
        assert_eq!(best_fit(&[&free], &whole), None);
        assert_eq!(spread(&[&free], &whole), None);
    }

    #[test]
    fn tasks_are_spread_over_the_values_of_an_attribute() {
        let offer = |number: u64, zone: Option<&str>, cpus| Offer {
            id: OfferId(number),
            agent: AgentId(number),
            hostname: format!("host-{number}"),
            resources: machine(cpus, &[]),
            attributes: zone
                .map(|zone| BTreeMap::from([("zone".to_owned(), zone.to_owned())]).into())
                .unwrap_or_default(),
            role: Role::default(),
            gang: None,
            until: None,
        };
        let offers = [
            offer(0, None, 9000),
            offer(1, Some("a"), 8000),
            offer(2, Some("b"), 2000),
            offer(3, Some("b"), 4000),
        ];
        let offers: Vec<_> = offers.iter().collect();
        let request = task(1000, 0);
        let counts = |a, b| BTreeMap::from([("a".to_owned(), a), ("b".to_owned(), b)]);
        for (counts, wanted) in [(counts(2, 1), 3), (counts(1, 2), 1), (BTreeMap::new(), 1)] {
            let place = spread_over(&offers, "zone", &counts, &request).unwrap();
            assert_eq!(place.offer, wanted, "{counts:?}");
        }
        let hosts = BTreeMap::from([("host-0".to_owned(), 1), ("host-1".to_owned(), 1)]);
        let place = spread_over(&offers, "hostname", &hosts, &request).unwrap();
        assert_eq!(place.offer, 3);
        assert_eq!(
            spread_over(&offers[..1], "rack", &hosts, &request)
                .unwrap()
                .offer,
            0
        );
    }

    #[test]
    fn best_fit_fills_and_spread_levels() {
        let (small, large) = (machine(2000, &[]), machine(8000, &[]));
        let offers = [&large, &small];
        let request = task(1000, 0);
        assert_eq!(best_fit(&offers, &request).unwrap().offer, 1);
        assert_eq!(spread(&offers, &request).unwrap().offer, 0);
    }
}
