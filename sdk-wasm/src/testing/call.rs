//! What a framework has called.

use tepui_types::resources::ResourceRequest;
use tepui_types::{Demand, Gang, OfferId, Role, Wish};

use crate::task::{GangLaunch, Launch, Successor, TaskId, TaskSpec};

/// A call to the cluster that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Call {
    Accept {
        offer: OfferId,
        spec: TaskSpec,
        tasks: Vec<Launch>,
    },
    LaunchAfter {
        after: TaskId,
        spec: TaskSpec,
        tasks: Vec<Successor>,
    },
    Decline {
        offers: Vec<OfferId>,
        refuse_ms: Option<u64>,
    },
    Kill {
        task: TaskId,
        grace_ms: Option<u64>,
    },
    Demand {
        key: String,
        demand: Demand,
    },
    Operate {
        offer: OfferId,
        name: String,
        wish: Wish,
    },
    DemandGang {
        key: String,
        gang: Option<Gang>,
    },
    LaunchGang {
        specs: Vec<TaskSpec>,
        launches: Vec<GangLaunch>,
    },
    Suppress {
        role: Option<Role>,
    },
    Revive {
        role: Option<Role>,
    },
    /// The scripted cluster has no minimum of its own, and offers what is there.
    MinimumOffer {
        role: Option<Role>,
        least: Option<Vec<ResourceRequest>>,
    },
}
