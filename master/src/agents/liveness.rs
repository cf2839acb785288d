//! Silence becomes a command: an agent that has not been heard of for the
//! window is marked unreachable, once, and its tasks are replaced as they wish.
//!
//! What is decided, and what is not while too many are silent, is in
//! [`departures`](super::departures).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tepui_cluster::{Command, State};
use tepui_types::{AgentId, AgentStatus, Principal};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::departures::{Decisions, Departures, Notice, Rules};
use crate::Master;
use crate::proposals::Request;

/// Between two looks, at most: a task is replaced so much late.
const LOOK: Duration = Duration::from_secs(1);

/// What an operator must know of agents that are silent; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Warning(Arc<Mutex<Option<Notice>>>);

impl Warning {
    /// It in words.
    pub fn text(&self) -> Option<String> {
        let notice = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        notice.map(describe)
    }

    /// Sets it, and logs what is new.
    fn set(&self, notice: Option<Notice>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(notice), true) = (notice, *known != notice) {
            tracing::warn!("{}", describe(notice));
        }
        *known = notice;
    }
}

fn describe(notice: Notice) -> String {
    match notice {
        Notice::Held { silent, reachable } => format!(
            "{silent} of {reachable} agents are silent at once, which looks like a broken link of \
             the leader: none is marked unreachable until fewer are. Give up those that are dead \
             with `tepui agent gone`, or raise --agent-silent-share"
        ),
        Notice::Slowed { waiting } => format!(
            "{waiting} silent agents wait to be marked unreachable: \
             --agent-removals-per-minute bounds how many are"
        ),
    }
}

/// Runs while this master leads. Counts on the leader's monotonic clock, which
/// starts anew at takeover: an agent is never lost for its master's absence.
pub async fn watch(master: &Master) {
    let _over = Clear(&master.silence);
    let config = &master.config;
    let window = Duration::from_millis(config.agent_timeout_ms);
    let rules = Rules {
        window,
        per_minute: config.agent_removals_per_minute,
        silent_share: config.agent_silent_share,
    };
    let mut departures = Departures::new(rules, Instant::now());
    // Four looks a window: a silence is noticed at most a quarter late.
    let mut tick = interval((window / 4).clamp(Duration::from_millis(10), LOOK));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let state = master.view.load();
        master.sessions.hang_up_gone(&state);
        let decisions = look(master, &state, &mut departures);
        master.silence.set(decisions.notice);
        for agent in decisions.mark {
            // It may have come back while the ones before it were marked.
            if master.sessions.is_silent(agent, window) {
                mark(master, agent).await;
            }
        }
        for (agent, unreachable_ms) in decisions.replace {
            let command = Command::ReplaceTasks {
                agent,
                unreachable_ms,
            };
            tracing::warn!(%agent, unreachable_ms, "tasks are replaced");
            let request = Request::new(Principal::Leader, command);
            if let Err(error) = master.proposals.submit(request).await {
                tracing::warn!(%agent, %error, "its tasks could not be replaced yet");
                departures.replace_again(agent, unreachable_ms);
            }
        }
    }
}

fn look(master: &Master, state: &State, departures: &mut Departures) -> Decisions {
    let now = Instant::now();
    let unreachable = state
        .agents
        .values()
        .filter(|agent| agent.status == AgentStatus::Unreachable)
        .map(|agent| agent.id);
    departures.see_unreachable(now, unreachable, |agent| {
        let agent = state.agent(agent);
        agent.map_or_else(Vec::new, |agent| state.replacement_times(agent))
    });
    departures.look(now, &master.sessions.silences(state))
}

async fn mark(master: &Master, agent: AgentId) {
    let window_ms = master.config.agent_timeout_ms;
    tracing::warn!(%agent, window_ms, "agent is silent");
    let command = Command::MarkAgentUnreachable { agent };
    let request = Request::new(Principal::Leader, command);
    match master.proposals.submit(request).await {
        Ok(_) => master.sessions.hang_up(agent),
        Err(error) => {
            tracing::warn!(%agent, %error, "the agent could not be marked unreachable");
        }
    }
}

/// A master that leads no longer knows nothing of silence.
struct Clear<'a>(&'a Warning);

impl Drop for Clear<'_> {
    fn drop(&mut self) {
        self.0.set(None);
    }
}
