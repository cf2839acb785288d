//! What a task has been through, beside what it is now.
//!
//! Most tasks are launched, run and end, of which the task's times tell. Only what goes beyond that
//! is kept here, so that an ordinary task costs an empty list.

use serde::{Deserialize, Serialize};
use tepui_types::task::Step;
use tepui_types::{TaskState, TaskStatus, Timestamp};

use crate::state::tasks::Task;

/// Steps that are kept of one task; of one whose agent comes and goes, the newest.
pub const STEPS: usize = 16;
/// Bytes of a message that is kept of a step.
const MESSAGE: usize = 256;

/// States that a task has left.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    left: Vec<Step>,
    /// How many older ones are not kept.
    forgotten: u32,
}

impl Life {
    /// Another status takes the place of this one.
    pub(super) fn leave(&mut self, status: &TaskStatus, started_at: Option<Timestamp>) {
        let is_plain = status.reason.is_none();
        let is_told = match status.state {
            TaskState::Staging => is_plain,
            TaskState::Running => is_plain && started_at == Some(status.time),
            _ => false,
        };
        if is_told {
            return;
        }
        if self.left.len() == STEPS {
            self.left.remove(0);
            self.forgotten = self.forgotten.saturating_add(1);
        }
        let reason = status.reason.as_ref();
        self.left.push(Step {
            state: status.state,
            reason: reason.map(|reason| reason.shortened(MESSAGE)),
            time: status.time,
        });
    }

    /// How many steps were forgotten.
    pub fn forgotten(&self) -> u32 {
        self.forgotten
    }
}

impl Task {
    /// The states that it came to, in their order, the latest last.
    pub fn steps(&self) -> Vec<Step> {
        let plain = |state, time| Step {
            state,
            reason: None,
            time,
        };
        // One that did not fit was never staged.
        let was_staged = self.is_living() || self.revision != self.operation.index;
        let staged = was_staged.then(|| plain(TaskState::Staging, self.launched_at));
        let mut steps: Vec<Step> = staged.into_iter().collect();
        steps.extend(self.life.left.iter().cloned());
        if self.status.state != TaskState::Staging {
            steps.push(Step {
                state: self.status.state,
                reason: self.status.reason.clone(),
                time: self.status.time,
            });
        }
        let started =
            |at: Timestamp| move |step: &Step| step.state == TaskState::Running && step.time == at;
        if let Some(at) = self.started_at
            && !steps.iter().any(started(at))
        {
            // Several commands may have one time.
            let is_before = |step: &Step| match step.state {
                TaskState::Staging | TaskState::Starting => step.time <= at,
                _ => step.time < at,
            };
            let place = steps.partition_point(is_before);
            steps.insert(place, plain(TaskState::Running, at));
        }
        steps
    }
}
