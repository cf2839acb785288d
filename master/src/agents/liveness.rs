//! Silence becomes a command: an agent that has not been heard of for the
//! window is marked unreachable, once.

use std::time::Duration;

use tepui_cluster::Command;
use tepui_types::Principal;
use tokio::time::{MissedTickBehavior, interval};

use crate::Master;
use crate::proposals::Request;

/// Runs while this master leads. Counts on the leader's monotonic clock, which
/// starts anew at takeover: an agent is never lost for its master's absence.
pub async fn watch(master: &Master) {
    let window = Duration::from_millis(master.config.agent_timeout_ms);
    // Four looks a window: a silence is noticed at most a quarter late.
    let mut tick = interval((window / 4).max(Duration::from_millis(10)));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let state = master.view.load();
        master.sessions.hang_up_gone(&state);
        for agent in master.sessions.silent(&state, window) {
            // It may have come back while the ones before it were marked.
            if !master.sessions.is_silent(agent, window) {
                continue;
            }
            tracing::warn!(%agent, window_ms = window.as_millis(), "agent is silent");
            let command = Command::MarkAgentUnreachable { agent };
            match master
                .proposals
                .submit(Request::new(Principal::Leader, command))
                .await
            {
                Ok(_) => master.sessions.hang_up(agent),
                Err(error) => {
                    tracing::warn!(%agent, %error, "the agent could not be marked unreachable");
                }
            }
        }
    }
}
