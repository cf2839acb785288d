//! What the master is told of the machine as it changes: what it lends, and whether it takes tasks.

use tepui_pressure::Launches;
use tepui_types::Resources;
use tepui_types::wire::agent::AgentFrame;

use super::EventLoop;

impl EventLoop {
    /// Tells the master what the machine lends now; who connects later is told with the introduction.
    pub(super) fn lend(&mut self, resources: Resources) {
        tracing::info!(%resources, "what is lent has changed");
        self.parts.info.resources = resources;
        self.is_info_due = true;
    }

    pub(super) fn send_info(&mut self) {
        let Some(outbox) = self.outbox.as_ref().filter(|_| self.is_info_due) else {
            return;
        };
        // One that is full is tried again at the next round, a tick away at most.
        let frame = AgentFrame::Machine(Box::new(self.parts.info.clone()));
        self.is_info_due = outbox.try_send(frame).is_err();
    }

    /// Looks whether more tasks can be recorded, and says so when that changes.
    pub(super) fn look_for_room(&mut self) {
        let is_full = !self.parts.journal.has_room();
        if is_full != self.is_full {
            let dir = self.parts.layout.dir().display();
            match is_full {
                true => tracing::warn!(
                    %dir,
                    "the disk is full: new tasks are refused, so that they run elsewhere, until \
                     there is room"
                ),
                false => tracing::info!(%dir, "there is room on the disk again: tasks are taken"),
            }
        }
        self.is_full = is_full;
        self.parts.agent.on_room(!is_full);
        self.tell_whether_full();
    }

    /// What may be launched on the machine has changed.
    pub(super) fn on_may_launch(&mut self, launches: Launches) {
        self.parts.agent.on_may_launch(launches);
        self.tell_whether_full();
    }

    /// Has the master offer nothing of an agent that would refuse it.
    fn tell_whether_full(&mut self) {
        let full = self.parts.agent.full().map(str::to_owned);
        if full != self.parts.info.full {
            self.parts.info.full = full;
            self.is_info_due = true;
        }
    }
}
