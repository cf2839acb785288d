//! Tasks that are refused, because the machine has no room for them now; those that are here go on.

use tepui_pressure::Launches;
use tepui_types::task::reason;
use tepui_types::wire::agent::TaskLaunch;
use tepui_types::{Reason, TaskId, TaskState};

use super::{Agent, report};

impl Agent {
    /// Whether there is room to record more tasks. Without it new ones are refused; those that are
    /// here go on.
    pub fn on_room(&mut self, has_room: bool) {
        self.is_full = !has_room;
    }

    /// What of its machine may be launched now. What runs goes on.
    pub fn on_may_launch(&mut self, launches: Launches) {
        self.launches = launches;
    }

    /// Why a task that is new cannot be taken now.
    pub(super) fn unfit(&self, launch: &TaskLaunch) -> Option<Reason> {
        if let Some(why) = self.full() {
            return Some(Reason::new(reason::AGENT_FULL, why));
        }
        let is_lent = self.launches == Launches::FirmOnly && !launch.revocable.is_empty();
        is_lent.then(|| {
            let message = "the agent's machine lends nothing that may be taken back now";
            Reason::new(reason::UNDER_PRESSURE, message)
        })
    }

    /// Why a task cannot be taken that is to run after one that was refused, and of which the log may not
    /// have that: who is ahead of it is not known here.
    pub(super) fn refused_ahead(&self, launch: &TaskLaunch) -> Option<Reason> {
        let ahead = launch.after.as_ref();
        let ahead = ahead.filter(|ahead| self.is_refused(ahead))?;
        self.statuses.get(ahead)?.reason.clone()
    }

    /// Why no new task at all is taken now; none while some are.
    pub fn full(&self) -> Option<&'static str> {
        if self.is_full {
            return Some(
                "the disk of the agent's data folder is full: it takes no tasks until there is room",
            );
        }
        (self.launches == Launches::Nothing).then_some(
            "the agent's machine is short of memory, processes or disk: it takes no tasks until \
             there is room",
        )
    }

    /// Nothing is recorded of a refused task, and nothing was done for it: an agent that starts anew
    /// is told to launch it again, if the log does not have the refusal by then.
    pub(super) fn refuse(&mut self, id: &TaskId, why: Reason) {
        self.statuses.set(report(id, TaskState::Dropped, Some(why)));
    }

    /// Whether a task was refused and the log may not have that yet: then it must not run any more.
    pub(super) fn is_refused(&self, id: &TaskId) -> bool {
        self.tasks.get(id).is_none() && self.statuses.get(id).is_some()
    }
}
