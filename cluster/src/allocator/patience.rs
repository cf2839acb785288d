//! How long frameworks hold offers.
//!
//! An offer ends after a while, so nobody holds one for ever; who lets one after
//! another expire is offered the same ever less often, until it answers one.

use tepui_types::Timestamp;
use tepui_types::offer::Filters;
use tepui_types::resources::ResourceRequest;

/// The longest that an agent stays away from who lets its offers expire, in
/// times for which an offer is held: so such a framework holds an agent for less
/// than a tenth of the time.
const MOST: u64 = 10;

/// What a framework holds by offers now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holding {
    /// How many offers it has not answered.
    pub offers: u64,
    /// What they hold.
    pub resources: ResourceRequest,
    /// Since when it holds the oldest.
    pub since: Option<Timestamp>,
    /// How many it let expire under this leader.
    pub expired: u64,
}

/// How a framework has treated its offers under this leader.
#[derive(Debug, Default)]
pub(super) struct Patience {
    expired: u64,
    /// Since it last answered one.
    in_a_row: u32,
}

impl Patience {
    /// It has answered an offer.
    pub fn answered(&mut self) {
        self.in_a_row = 0;
    }

    /// It has let one expire that was held for so long: milliseconds for which the
    /// same stays away.
    pub fn expire(&mut self, held_ms: u64) -> u64 {
        self.expired += 1;
        let doubled = Filters::DEFAULT.refuse_ms << self.in_a_row.min(16);
        self.in_a_row += 1;
        doubled.min(held_ms.saturating_mul(MOST))
    }

    /// How many it let expire.
    pub fn expired(&self) -> u64 {
        self.expired
    }
}
