//! Offers and what frameworks say about wanting them.

use serde::{Deserialize, Serialize};

use crate::agent::Attributes;
use crate::constraint::Constraints;
use crate::gang::GangShare;
use crate::ids::{AgentId, OfferId};
use crate::resources::{ResourceRequest, Resources};
use crate::role::Role;
use crate::time::Timestamp;

/// One agent's free resources, held for one framework until it answers or the
/// offer expires.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Of this leader only.
    pub id: OfferId,
    /// Whose resources.
    pub agent: AgentId,
    /// That agent's name for people.
    pub hostname: String,
    /// All that is offered.
    pub resources: Resources,
    /// That agent's attributes.
    pub attributes: Attributes,
    /// What is launched on it is charged to this role.
    pub role: Role,
    /// What it is of a gang's; offers of one gang come together.
    pub gang: Option<Box<GangShare>>,
    /// Set where a gang starts then: what is launched on it must have a time limit,
    /// and end before.
    pub until: Option<Timestamp>,
}

impl Offer {
    /// Whether a task with this time limit, or none, may be launched on it now.
    pub fn admits(&self, time_limit_ms: Option<u64>, now: Timestamp) -> bool {
        self.until
            .is_none_or(|until| time_limit_ms.is_some_and(|limit| now.after_millis(limit) <= until))
    }

    /// Whether constraints hold of its agent.
    pub fn meets(&self, constraints: &Constraints) -> bool {
        constraints.hold(&self.hostname, &self.attributes)
    }
}

/// How long a declined offer stays away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filters {
    /// Milliseconds for which no subset of what was declined is offered again.
    pub refuse_ms: u64,
}

impl Filters {
    /// Mesos's default, five seconds.
    pub const DEFAULT: Self = Self { refuse_ms: 5_000 };
    /// The longest filter, in milliseconds: a day.
    pub const MAX_REFUSE_MS: u64 = 86_400_000;
}

/// "I want `count` of this shape." Without demand a framework is offered nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demand {
    /// How many; zero takes the demand back.
    pub count: u32,
    /// What each needs.
    pub request: ResourceRequest,
    /// On which agents.
    pub constraints: Constraints,
    /// For which of the framework's roles; the first if none is named.
    pub role: Option<Role>,
    /// Whether it may be met with what can be taken back at any time.
    pub revocable: bool,
    /// Volumes that its agent has to have free for it.
    pub volumes: Vec<String>,
    /// The time limit that its tasks will have, if they have one: they may run
    /// before a gang that waits.
    pub time_limit_ms: Option<u64>,
}

impl Demand {
    /// The most volumes of one task.
    pub const MAX_VOLUMES: usize = 32;

    /// So many of this shape, on any agents.
    pub fn new(count: u32, request: ResourceRequest) -> Self {
        Self {
            count,
            request,
            constraints: Constraints::default(),
            role: None,
            revocable: false,
            volumes: Vec::new(),
            time_limit_ms: None,
        }
    }
}
