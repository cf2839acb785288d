//! What is still open of a framework's demand, when its offers are used as well as may be.
//!
//! A framework that wants one task is not offered the whole cluster: it is
//! offered agents until what it holds could meet what it wants. Each offer
//! keeps what it covers, and gives that back when it ends.

use std::collections::BTreeMap;

use tepui_types::Resources;
use tepui_types::resources::ResourceRequest;

use crate::state::frameworks::Framework;

/// How many of which shapes an offer covers.
pub(super) type Covered = Vec<(usize, u64)>;

/// Of one framework.
#[derive(Debug, Default)]
pub struct Demands {
    /// Each shape once, in the order of the keys that first name it.
    shapes: Vec<Shape>,
    open: u64,
}

#[derive(Debug)]
struct Shape {
    request: ResourceRequest,
    open: u64,
}

impl Demands {
    /// All of a framework's demand, with nothing offered; none of one that wants no offers.
    pub fn of(framework: &Framework) -> Self {
        let mut demands = Self::default();
        if !framework.wants_offers() {
            return demands;
        }
        let mut known = BTreeMap::new();
        for entry in framework.demands.values() {
            let request = &entry.demand.request;
            let shapes = &mut demands.shapes;
            let at = *known.entry(request).or_insert_with(|| {
                shapes.push(Shape {
                    request: request.clone(),
                    open: 0,
                });
                shapes.len() - 1
            });
            let count = u64::from(entry.demand.count);
            demands.shapes[at].open += count;
            demands.open += count;
        }
        demands
    }

    /// Whether anything is open.
    pub fn is_hungry(&self) -> bool {
        self.open > 0
    }

    /// Shapes that are open.
    pub fn open(&self) -> impl Iterator<Item = &ResourceRequest> {
        let open = self.shapes.iter().filter(|shape| shape.open > 0);
        open.map(|shape| &shape.request)
    }

    /// Whether something open fits into these resources, of these amounts. With
    /// gpus the devices decide, not their sum.
    pub fn fits(&self, amounts: &ResourceRequest, resources: &Resources) -> bool {
        let mut fitting = self.open().filter(|request| request.fits_in(amounts));
        fitting.any(|request| request.gpus_milli == 0 || resources.pick(request).is_ok())
    }

    /// Lowers the open demand by what fits into an offer.
    pub fn cover(&mut self, resources: &Resources) -> Covered {
        let mut left = None;
        let mut covered = Covered::new();
        for (at, shape) in self.shapes.iter_mut().enumerate() {
            if shape.open == 0 {
                continue;
            }
            let limit = u32::try_from(shape.open).unwrap_or(u32::MAX);
            let (met, rest) = left
                .as_ref()
                .unwrap_or(resources)
                .pick_many(&shape.request, limit);
            left = Some(rest);
            if met > 0 {
                shape.open -= u64::from(met);
                self.open -= u64::from(met);
                covered.push((at, u64::from(met)));
            }
        }
        covered
    }

    /// Opens again what an offer covered.
    pub fn uncover(&mut self, covered: &Covered) {
        for (at, count) in covered {
            if let Some(shape) = self.shapes.get_mut(*at) {
                shape.open += count;
                self.open += count;
            }
        }
    }
}
