//! Deadlines of the state become a command when the leader's clock has come that far.
//!
//! Which they are, and what follows, is the state's affair: drains that have had their time,
//! maintenance windows that begin and end. A new leader finds them all in the state.

use std::time::Duration;

use tepui_cluster::Command;
use tepui_types::Principal;
use tokio::time::{MissedTickBehavior, interval};

use crate::Master;
use crate::proposals::Request;

/// Between two looks: a deadline is met at most so much late. A look costs nothing, for the state
/// keeps its deadlines in order.
const LOOK: Duration = Duration::from_millis(100);

/// Runs while this master leads.
pub async fn keep(master: &Master) {
    let mut tick = interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let due = master.view.load().next_deadline();
        if due.is_none_or(|due| due > master.clock.now()) {
            continue;
        }
        let request = Request::new(Principal::Leader, Command::MeetDeadlines);
        if let Err(error) = master.proposals.submit(request).await {
            tracing::warn!(%error, "a deadline could not be met yet");
        }
    }
}
