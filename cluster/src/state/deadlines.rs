//! What happens at a time that the state knows.
//!
//! The leader looks at [`State::next_deadline`] and proposes `Command::MeetDeadlines` once its clock
//! has come that far; applied, it does all that is due by the state's own time. A deadline is met
//! once, whoever leads.

use imbl::{OrdMap, OrdSet};
use tepui_types::{AgentId, Timestamp, WindowId};

use std::sync::Arc;

use crate::outcome::{Accepted, Outcome};
use crate::state::State;
use crate::state::agents::Agent;
use crate::state::context::Context;
use crate::state::drains::drain_deadline;
use crate::state::maintenance::Window;

/// Deadlines that one command meets, so that it stays short; the leader comes again for the rest.
const AT_ONCE: usize = 64;

/// What is due at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deadline {
    /// A drain has had its time.
    Drain(AgentId),
    /// Agents are drained for a maintenance window.
    WindowBegins(WindowId),
    /// A maintenance window is over.
    WindowEnds(WindowId),
}

/// Deadlines, the next first. Follows from agents and windows: not stored.
pub(super) type Deadlines = OrdSet<(Timestamp, Deadline)>;

/// All deadlines of these.
pub(super) fn derive(
    agents: &OrdMap<AgentId, Arc<Agent>>,
    windows: &OrdMap<WindowId, Arc<Window>>,
) -> Deadlines {
    let drains = agents.values().filter_map(|agent| {
        let at = drain_deadline(&agent.mode)?;
        Some((at, Deadline::Drain(agent.id)))
    });
    let windows = windows.values().map(|window| window.deadline());
    drains.chain(windows).collect()
}

impl State {
    /// When something is due next.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.deadlines.get_min().map(|(at, _)| *at)
    }

    pub(super) fn meet_deadlines(&mut self, context: &mut Context) -> Outcome {
        for _ in 0..AT_ONCE {
            let Some(&(at, deadline)) = self.deadlines.get_min() else {
                break;
            };
            if at > context.now {
                break;
            }
            match deadline {
                Deadline::Drain(agent) => self.end_drain(context, agent),
                Deadline::WindowBegins(window) => self.begin_window(context, window),
                Deadline::WindowEnds(window) => self.end_window(context, window),
            }
            // What was done has taken it out or put another in its place.
            self.deadlines.remove(&(at, deadline));
        }
        Ok(Accepted::Done)
    }
}
