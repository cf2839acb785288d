//! What roles below their guarantee take back, while this master leads.
//!
//! The plan is the allocator's, beside its cycles and within a budget; what comes of it is a
//! command, checked again when it is applied and fenced by the leader's term.

use std::time::Duration;

use tepui_cluster::Command;
use tepui_types::Principal;
use tokio::time::{MissedTickBehavior, interval};

use crate::Master;
use crate::proposals::Request;

/// Between two plans: what was planned first has been applied, and what it freed has mostly been
/// offered. A look is free unless a role is below its guarantee and hungry.
const LOOK: Duration = Duration::from_millis(250);

/// Runs while this master leads.
pub async fn keep(master: &Master) {
    let mut tick = interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let plan = master.offers.with(|allocator| {
            // Loaded under the lock, as for a cycle.
            allocator.plan_preemption(&master.view.load())
        });
        let Some(wish) = plan else {
            continue;
        };
        let (role, agents) = (wish.role.clone(), wish.places.len());
        let victims = wish.victims().count();
        let request = Request::new(Principal::Leader, Command::Preempt(wish));
        match master.proposals.submit(request).await {
            Ok(committed) => match committed.outcome {
                Ok(_) => tracing::info!(%role, agents, victims, "tasks end for a guarantee"),
                // The state has moved since; the next look sees how.
                Err(refusal) => tracing::debug!(%role, %refusal, "nothing is taken back"),
            },
            Err(error) => tracing::warn!(%error, "nothing could be taken back yet"),
        }
    }
}
