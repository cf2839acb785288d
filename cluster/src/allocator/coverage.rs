//! How much of a framework's demand its outstanding offers can meet.
//!
//! A framework that wants one task is not offered the whole cluster: it is
//! offered agents until what it holds could meet what it wants.

use tepui_types::Resources;
use tepui_types::resources::ResourceRequest;

use crate::state::frameworks::Framework;

/// Demand that is left when outstanding offers are used as well as may be.
#[derive(Debug)]
pub struct Coverage {
    open: Vec<(ResourceRequest, u32)>,
}

impl Coverage {
    /// All of a framework's demand, with nothing offered.
    pub fn of(framework: &Framework) -> Self {
        let demands = framework.demands.values();
        let open = demands.map(|entry| (entry.demand.request.clone(), entry.demand.count));
        Self {
            open: open.collect(),
        }
    }

    /// Lowers the open demand by what fits into an offer, in the order of keys.
    pub fn offer(&mut self, resources: &Resources) {
        let mut left = resources.clone();
        for (request, count) in &mut self.open {
            let (met, rest) = left.pick_many(request, *count);
            left = rest;
            *count -= met;
        }
        self.open.retain(|(_, count)| *count > 0);
    }

    /// Whether something still open fits into these resources.
    pub fn fits(&self, resources: &Resources) -> bool {
        self.open
            .iter()
            .any(|(request, _)| resources.pick(request).is_ok())
    }
}
