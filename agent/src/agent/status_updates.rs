//! The latest status of each task, until the log has it.
//!
//! One record a task, never a queue: a newer status takes the place of an older
//! one that was not sent yet. Ends are waited for, by those who want the
//! resources, unless others are in line for these; that a task has begun is not,
//! and is best not sent at all when it ends in the next moment: so there are two
//! queues. Everything that is not recorded is sent again after each new
//! connection. A living task may have news without a new state, too: how its
//! checks stand, how far its image has come.

use std::collections::{HashMap, VecDeque};

use tepui_types::wire::agent::StatusReport;
use tepui_types::{TaskId, TaskState};

/// Statuses that the log may not have.
#[derive(Debug, Clone, Default)]
pub struct StatusUpdates {
    latest: HashMap<TaskId, Latest>,
    queues: [VecDeque<TaskId>; 2],
    is_urgent: bool,
}

/// Which statuses: those that wait to be sent are sent in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// Terminal ones.
    End,
    /// All others.
    Progress,
}

impl Urgency {
    fn of(state: TaskState) -> Self {
        match state.is_terminal() {
            true => Self::End,
            false => Self::Progress,
        }
    }
}

#[derive(Debug, Clone)]
struct Latest {
    report: StatusReport,
    /// How often its state was sent on this connection without an answer: an answer names the state
    /// alone, and the newest is recorded when all are answered.
    unanswered: u32,
    recorded: bool,
    /// The queue that it is taken from; it may stand in the other, too, from before.
    queued: Option<Urgency>,
}

impl StatusUpdates {
    /// Takes a task's new status; false if it says nothing new.
    pub fn set(&mut self, report: StatusReport) -> bool {
        self.is_urgent |= report.state.is_terminal();
        self.set_for_later(report)
    }

    /// Takes a task's new status that nobody waits for, even if it is an end; false if it says nothing new.
    pub fn set_for_later(&mut self, report: StatusReport) -> bool {
        let task = report.task.clone();
        let before = self.latest.get(&task);
        let is_news = |before: &StatusReport| {
            let is_same_state = before.state == report.state && !report.state.is_terminal();
            before.state.may_become(report.state) || is_same_state && *before != report
        };
        if before.is_some_and(|it| !is_news(&it.report)) {
            return false;
        }
        let urgency = Urgency::of(report.state);
        let was_queued = before.and_then(|it| it.queued);
        let same = before.filter(|it| it.report.state == report.state);
        let latest = Latest {
            unanswered: same.map_or(0, |it| it.unanswered),
            report,
            recorded: false,
            queued: Some(urgency),
        };
        self.latest.insert(task.clone(), latest);
        if was_queued != Some(urgency) {
            self.queues[urgency as usize].push_back(task);
        }
        true
    }

    /// Whether somebody waits for an end that waits to be sent.
    pub fn is_urgent(&self) -> bool {
        self.is_urgent && self.is_pending(Urgency::End)
    }

    /// The latest of a task.
    pub fn get(&self, task: &TaskId) -> Option<&StatusReport> {
        self.latest.get(task).map(|latest| &latest.report)
    }

    /// Whether something waits to be sent.
    pub fn is_pending(&self, urgency: Urgency) -> bool {
        !self.queues[urgency as usize].is_empty()
    }

    /// Up to `most` statuses to send now, oldest change first.
    pub fn take(&mut self, urgency: Urgency, most: usize) -> Vec<StatusReport> {
        let queue = &mut self.queues[urgency as usize];
        let mut reports = Vec::with_capacity(queue.len().min(most));
        while reports.len() < most
            && let Some(task) = queue.pop_front()
        {
            let latest = self.latest.get_mut(&task);
            // Removed since, or in the other queue.
            if let Some(latest) = latest.filter(|it| it.queued == Some(urgency)) {
                latest.queued = None;
                latest.unanswered += 1;
                reports.push(latest.report.clone());
            }
        }
        self.is_urgent &= self.is_pending(Urgency::End);
        reports
    }

    /// The log has this state. True if it is the latest that is known here.
    pub fn record(&mut self, task: &TaskId, state: TaskState) -> bool {
        match self.latest.get_mut(task) {
            Some(latest) if latest.report.state == state => {
                latest.unanswered = latest.unanswered.saturating_sub(1);
                latest.recorded = latest.unanswered == 0 && latest.queued.is_none();
                true
            }
            _ => false,
        }
    }

    /// A new connection: all that is not recorded is to be sent again.
    pub fn resend(&mut self) {
        self.is_urgent = true;
        let mut tasks: Vec<(&TaskId, Urgency)> = Vec::new();
        for (task, latest) in &mut self.latest {
            latest.unanswered = 0;
            if !latest.recorded && latest.queued.is_none() {
                let urgency = Urgency::of(latest.report.state);
                latest.queued = Some(urgency);
                tasks.push((task, urgency));
            }
        }
        // The map's order is arbitrary; a fixed one is easier to follow.
        tasks.sort_unstable_by_key(|(task, _)| *task);
        for (task, urgency) in tasks {
            self.queues[urgency as usize].push_back(task.clone());
        }
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
            signs: None,
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
            .take(Urgency::Progress, 10)
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
        assert!(!updates.is_pending(Urgency::Progress));
    }

    #[test]
    fn statuses_are_sent_again_until_that_state_is_recorded() {
        let mut updates = StatusUpdates::default();
        let running = report("a", TaskState::Running);
        updates.set(running.clone());
        assert_eq!(
            updates.take(Urgency::Progress, 1),
            std::slice::from_ref(&running)
        );
        updates.resend();
        updates.resend();
        assert_eq!(
            updates.take(Urgency::Progress, 10),
            std::slice::from_ref(&running)
        );
        assert!(
            !updates.record(&running.task, TaskState::Starting),
            "another state"
        );
        updates.resend();
        assert_eq!(updates.take(Urgency::Progress, 10).len(), 1);
        assert!(updates.record(&running.task, TaskState::Running));
        updates.resend();
        assert!(!updates.is_pending(Urgency::Progress));
        updates.set(report("a", TaskState::Finished));
        assert!(
            !updates.record(&running.task, TaskState::Running),
            "a late answer"
        );
        assert!(!updates.is_pending(Urgency::Progress));
        assert_eq!(updates.take(Urgency::End, 10).len(), 1);
    }

    #[test]
    fn an_end_is_sent_at_once_and_once_though_the_beginning_was_not() {
        let mut updates = StatusUpdates::default();
        updates.set(report("a", TaskState::Running));
        assert!(!updates.is_pending(Urgency::End));
        updates.set(report("a", TaskState::Finished));
        assert_eq!(updates.take(Urgency::End, 10).len(), 1);
        assert!(updates.take(Urgency::Progress, 10).is_empty());
        // Also when it is to be sent again.
        updates.resend();
        assert_eq!(updates.take(Urgency::End, 10).len(), 1);
    }

    #[test]
    fn batches_are_bounded_and_removed_tasks_are_not_sent() {
        let mut updates = StatusUpdates::default();
        for name in ["a", "b", "c"] {
            updates.set(report(name, TaskState::Running));
        }
        updates.remove(&report("b", TaskState::Running).task);
        assert_eq!(updates.take(Urgency::Progress, 1).len(), 1);
        assert_eq!(updates.take(Urgency::Progress, 9).len(), 1);
        assert!(!updates.is_pending(Urgency::Progress));
    }
}
