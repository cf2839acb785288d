//! Maintenance windows: agents that are empty while their machines are worked on.
//!
//! Some time before its start the agents of a window are drained, with the start as the deadline;
//! at its end they are open again, at once or when they come back. A window that is over, or was
//! cancelled, is forgotten.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tepui_types::{AgentId, Timestamp, WindowId};

use crate::outcome::{Accepted, Outcome, Rejection};
use crate::state::State;
use crate::state::context::Context;
use crate::state::deadlines::Deadline;
use crate::state::drains::{Drain, Mode};
use crate::state::limits;

/// A window as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowPlan {
    /// Which agents.
    pub agents: Vec<AgentId>,
    /// When the machines must be empty.
    pub start: Timestamp,
    /// Milliseconds until they are open again.
    pub duration_ms: u64,
    /// Milliseconds before the start at which they are drained.
    pub lead_ms: u64,
    /// For people.
    pub note: String,
}

/// One window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Its id.
    pub id: WindowId,
    /// What was asked for.
    pub plan: WindowPlan,
    /// Whether its agents have been drained.
    pub has_begun: bool,
    /// Log index of its last change.
    pub revision: u64,
}

impl Window {
    /// When its agents are drained.
    pub fn drains_at(&self) -> Timestamp {
        Timestamp(self.plan.start.0.saturating_sub(self.plan.lead_ms))
    }

    /// When they are open again.
    pub fn ends_at(&self) -> Timestamp {
        self.plan.start.after_millis(self.plan.duration_ms)
    }

    /// What is due of it next.
    pub(super) fn deadline(&self) -> (Timestamp, Deadline) {
        match self.has_begun {
            true => (self.ends_at(), Deadline::WindowEnds(self.id)),
            false => (self.drains_at(), Deadline::WindowBegins(self.id)),
        }
    }
}

impl State {
    pub(super) fn schedule_maintenance(
        &mut self,
        context: &mut Context,
        plan: &WindowPlan,
    ) -> Outcome {
        if self.windows.len() >= limits::WINDOWS {
            return Err(Rejection::Limit(format!(
                "{} maintenance windows are planned, the most: cancel one first",
                limits::WINDOWS
            )));
        }
        let unknown = plan.agents.iter().find(|id| !self.agents.contains_key(*id));
        if let Some(id) = unknown {
            return Err(Rejection::NotFound(format!("there is no agent {id}")));
        }
        let id = WindowId(self.next_window);
        let window = Window {
            id,
            plan: plan.clone(),
            has_begun: false,
            revision: context.index,
        };
        if window.ends_at() <= context.now {
            return Err(Rejection::Conflict(
                "the window would be over already: let it end later".into(),
            ));
        }
        self.next_window += 1;
        self.deadlines.insert(window.deadline());
        self.windows.insert(id, Arc::new(window));
        Ok(Accepted::Window {
            window: id,
            revision: context.index,
        })
    }

    pub(super) fn cancel_maintenance(
        &mut self,
        context: &mut Context,
        id: WindowId,
        expected: Option<u64>,
    ) -> Outcome {
        let Some(window) = self.windows.get(&id) else {
            let why = format!("there is no maintenance window {id}: it is over or was cancelled");
            return Err(Rejection::NotFound(why));
        };
        context.check_revision(expected, window.revision)?;
        self.end_window(context, id);
        Ok(Accepted::Window {
            window: id,
            revision: context.index,
        })
    }

    pub(super) fn begin_window(&mut self, context: &mut Context, id: WindowId) {
        let Some(window) = self.windows.get_mut(&id) else {
            return;
        };
        self.deadlines.remove(&window.deadline());
        let window = Arc::make_mut(window);
        window.has_begun = true;
        window.revision = context.index;
        self.deadlines.insert(window.deadline());
        let plan = window.plan.clone();
        for agent in plan.agents {
            let mode = self.agents.get(&agent).map(|agent| &agent.mode);
            let was_deactivated = match mode {
                Some(Mode::Open) => false,
                Some(Mode::Deactivated) => true,
                // Whoever drains it already says what becomes of it.
                Some(Mode::Draining(_) | Mode::Drained(_)) | None => continue,
            };
            let drain = Drain {
                since: context.now,
                deadline: Some(plan.start),
                is_overdue: false,
                grace_ms: None,
                mark_gone: false,
                window: Some(id),
                was_deactivated,
            };
            self.begin_drain(context, agent, drain);
        }
    }

    /// Opens the agents that were drained for this window, and forgets it.
    pub(super) fn end_window(&mut self, context: &mut Context, id: WindowId) {
        let Some(window) = self.windows.remove(&id) else {
            return;
        };
        self.deadlines.remove(&window.deadline());
        for agent in &window.plan.agents {
            let mode = self.agents.get(agent).map(|agent| agent.mode.clone());
            let Some(mode) = mode else { continue };
            let Some(drain) = mode.drain().filter(|drain| drain.window == Some(id)) else {
                continue;
            };
            let after = match (self.running_window_of(*agent), drain.was_deactivated) {
                (Some(other), _) => handed_to(&mode, other),
                (None, true) => Mode::Deactivated,
                (None, false) => Mode::Open,
            };
            self.set_mode(context, *agent, after);
        }
    }

    /// A window that has begun and wants this agent.
    fn running_window_of(&self, agent: AgentId) -> Option<WindowId> {
        let mut windows = self.windows.values();
        let window = windows.find(|window| window.has_begun && window.plan.agents.contains(&agent));
        window.map(|window| window.id)
    }
}

fn handed_to(mode: &Mode, window: WindowId) -> Mode {
    let hand = |drain: &Drain| Drain {
        window: Some(window),
        ..drain.clone()
    };
    match mode {
        Mode::Draining(drain) => Mode::Draining(hand(drain)),
        Mode::Drained(drain) => Mode::Drained(hand(drain)),
        Mode::Open | Mode::Deactivated => mode.clone(),
    }
}
