//! The latest status of each task, until the log has it.
//!
//! One record a task, never a queue: a newer status takes the place of an older
//! one that was not sent yet. Everything that is not recorded is sent again
//! after each new connection.

use std::collections::{HashMap, VecDeque};

use tepui_types::wire::agent::StatusReport;
use tepui_types::{TaskId, TaskState};

/// Statuses that the log may not have.
#[derive(Debug, Clone, Default)]
pub struct StatusUpdates {
    latest: HashMap<TaskId, Latest>,
    // Those whose `queued` is set, once each, and some that were removed since.
    queue: VecDeque<TaskId>,
}

#[derive(Debug, Clone)]
struct Latest {
    report: StatusReport,
    recorded: bool,
    queued: bool,
}

impl StatusUpdates {
    /// Takes a task's new status; false if it says nothing new.
    pub fn set(&mut self, report: StatusReport) -> bool {
        let task = report.task.clone();
        match self.latest.get_mut(&task) {
            Some(latest) if !latest.report.state.may_become(report.state) => return false,
            Some(latest) => {
                latest.report = report;
                latest.recorded = false;
                if !latest.queued {
                    latest.queued = true;
                    self.queue.push_back(task);
                }
            }
            None => {
                let latest = Latest {
                    report,
                    recorded: false,
                    queued: true,
                };
                self.latest.insert(task.clone(), latest);
                self.queue.push_back(task);
            }
        }
        true
    }

    /// The latest of a task.
    pub fn get(&self, task: &TaskId) -> Option<&StatusReport> {
        self.latest.get(task).map(|latest| &latest.report)
    }

    /// Whether something waits to be sent.
    pub fn is_pending(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Up to `most` statuses to send now, oldest change first.
    pub fn take(&mut self, most: usize) -> Vec<StatusReport> {
        let mut reports = Vec::with_capacity(self.queue.len().min(most));
        while reports.len() < most
            && let Some(task) = self.queue.pop_front()
        {
            if let Some(latest) = self.latest.get_mut(&task) {
                latest.queued = false;
                reports.push(latest.report.clone());
            }
        }
        reports
    }

    /// The log has this state. True if it is the latest that is known here.
    pub fn record(&mut self, task: &TaskId, state: TaskState) -> bool {
        match self.latest.get_mut(task) {
            Some(latest) if latest.report.state == state => {
                latest.recorded = true;
                true
            }
            _ => false,
        }
    }

    /// A new connection: all that is not recorded is to be sent again.
    pub fn resend(&mut self) {
        let mut tasks: Vec<&TaskId> = Vec::new();
        for (task, latest) in &mut self.latest {
            if !latest.recorded && !latest.queued {
                latest.queued = true;
                tasks.push(task);
            }
        }
        // The map's order is arbitrary; a fixed one is easier to follow.
        tasks.sort_unstable();
        self.queue.extend(tasks.into_iter().cloned());
    }

    /// Drops what is known of a task.
    pub fn remove(&mut self, task: &TaskId) {
        self.latest.remove(task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(name: &str, state: TaskState) -> StatusReport {
        let task = format!("f1.{name}.0").parse().unwrap();
        StatusReport {
            task,
            state,
            reason: None,
            exit_code: None,
            usage: None,
        }
    }

    #[test]
    fn newer_status_takes_the_place_of_one_not_sent() {
        let mut updates = StatusUpdates::default();
        assert!(updates.set(report("a", TaskState::Starting)));
        assert!(updates.set(report("b", TaskState::Running)));
        assert!(updates.set(report("a", TaskState::Running)));
        assert!(
            !updates.set(report("a", TaskState::Starting)),
            "late words change nothing"
        );
        let sent: Vec<_> = updates
            .take(10)
            .into_iter()
            .map(|r| (r.task.to_string(), r.state))
            .collect();
        assert_eq!(
            sent,
            [
                ("f1.a.0".to_owned(), TaskState::Running),
                ("f1.b.0".to_owned(), TaskState::Running)
            ]
        );
        assert!(!updates.is_pending());
    }

    #[test]
    fn statuses_are_sent_again_until_that_state_is_recorded() {
        let mut updates = StatusUpdates::default();
        let running = report("a", TaskState::Running);
        updates.set(running.clone());
        assert_eq!(updates.take(1), std::slice::from_ref(&running));
        updates.resend();
        updates.resend();
        assert_eq!(updates.take(10), std::slice::from_ref(&running));
        assert!(
            !updates.record(&running.task, TaskState::Starting),
            "another state"
        );
        updates.resend();
        assert_eq!(updates.take(10).len(), 1);
        assert!(updates.record(&running.task, TaskState::Running));
        updates.resend();
        assert!(!updates.is_pending());
        updates.set(report("a", TaskState::Finished));
        assert!(
            !updates.record(&running.task, TaskState::Running),
            "a late answer"
        );
        assert_eq!(updates.take(10).len(), 1);
    }

    #[test]
    fn batches_are_bounded_and_removed_tasks_are_not_sent() {
        let mut updates = StatusUpdates::default();
        for name in ["a", "b", "c"] {
            updates.set(report(name, TaskState::Running));
        }
        updates.remove(&report("b", TaskState::Running).task);
        assert_eq!(updates.take(1).len(), 1);
        assert_eq!(updates.take(9).len(), 1);
        assert!(!updates.is_pending());
    }
}
