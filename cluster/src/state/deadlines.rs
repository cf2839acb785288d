//! What happens at a time that the state knows.
//!
//! The leader looks at [`State::next_deadline`] and proposes `Command::MeetDeadlines` once its clock
//! has come that far; applied, it does all that is due by the state's own time. A deadline is met
//! once, whoever leads.

use imbl::{OrdMap, OrdSet};
use tepui_types::{AgentId, FrameworkId, OperationId, Timestamp, WindowId};

use std::sync::Arc;

use crate::outcome::{Accepted, Outcome};
use crate::state::State;
use crate::state::agents::Agent;
use crate::state::context::Context;
use crate::state::drains::drain_deadline;
use crate::state::frameworks::Framework;
use crate::state::maintenance::Window;
use crate::state::tasks::Task;

/// What one command meets, so that it stays short; the leader comes again for the rest.
const AT_ONCE: usize = 1_024;
/// What a deadline takes of that which may be of many tasks.
const LARGE: usize = 16;

/// What is due at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deadline {
    /// A drain has had its time.
    Drain(AgentId),
    /// Agents are drained for a maintenance window.
    WindowBegins(WindowId),
    /// A maintenance window is over.
    WindowEnds(WindowId),
    /// What is claimed on an agent has waited for long enough.
    Claims(AgentId),
    /// A gang of a framework has waited for as long as it may.
    Gangs(FrameworkId),
    /// A task has had its time.
    TimeLimit(OperationId),
}

/// Deadlines, the next first. Follows from agents, windows and tasks: not stored.
pub(super) type Deadlines = OrdSet<(Timestamp, Deadline)>;

/// All deadlines of these.
pub(super) fn derive<'a>(
    agents: &OrdMap<AgentId, Arc<Agent>>,
    windows: &OrdMap<WindowId, Arc<Window>>,
    frameworks: impl Iterator<Item = &'a Arc<Framework>>,
    tasks: impl Iterator<Item = &'a Arc<Task>>,
) -> Deadlines {
    let drains = agents.values().filter_map(|agent| {
        let at = drain_deadline(&agent.mode)?;
        Some((at, Deadline::Drain(agent.id)))
    });
    let claims = agents.values().flat_map(|agent| {
        let claims = agent.claims.iter();
        claims.map(|claim| (claim.until, Deadline::Claims(agent.id)))
    });
    let gangs = frameworks.flat_map(|framework| {
        let gangs = framework.gangs.values();
        gangs.filter_map(|entry| Some((entry.deadline?, Deadline::Gangs(framework.id))))
    });
    let windows = windows.values().map(|window| window.deadline());
    let limited = tasks.filter(|task| task.is_living() && task.kill.is_none());
    let limits = limited.filter_map(|task| {
        let deadline = Deadline::TimeLimit(task.operation);
        Some((task.ends_by?, deadline))
    });
    drains
        .chain(claims)
        .chain(gangs)
        .chain(windows)
        .chain(limits)
        .collect()
}

impl State {
    /// When something is due next.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.deadlines.get_min().map(|(at, _)| *at)
    }

    /// Tasks that end by themselves, the next first, and when.
    pub fn time_limits(&self) -> impl Iterator<Item = (Timestamp, &Arc<Task>)> {
        let limits = self.deadlines.iter();
        limits.filter_map(|(at, deadline)| match deadline {
            Deadline::TimeLimit(task) => Some((*at, self.tasks.get(task)?)),
            _ => None,
        })
    }

    pub(super) fn meet_deadlines(&mut self, context: &mut Context) -> Outcome {
        let mut left = AT_ONCE;
        while left > 0 {
            let Some(&(at, deadline)) = self.deadlines.get_min() else {
                break;
            };
            if at > context.now {
                break;
            }
            match deadline {
                Deadline::Gangs(framework) => self.give_up_gangs(context, framework),
                Deadline::Claims(agent) => self.end_claims(context, agent),
                Deadline::TimeLimit(task) => self.end_overlong(context, task),
                Deadline::Drain(agent) => self.end_drain(context, agent),
                Deadline::WindowBegins(window) => self.begin_window(context, window),
                Deadline::WindowEnds(window) => self.end_window(context, window),
            }
            left = left.saturating_sub(match deadline {
                Deadline::TimeLimit(_) => 1,
                _ => LARGE,
            });
            // What was done has taken it out or put another in its place.
            self.deadlines.remove(&(at, deadline));
        }
        Ok(Accepted::Done)
    }
}
