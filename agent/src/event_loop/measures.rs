//! Questions to executors what their tasks use: sent to those that are connected, and answered as they
//! say. Who asks one that is not, or that is gone before it answers, hears that at once.

use std::collections::HashMap;

use tepui_types::wire::executor::{TaskMeasure, ToExecutor};
use tokio::sync::oneshot;

use super::EventLoop;
use crate::agent::ExecutorId;
use crate::usage::Question;

/// Questions that are not answered.
#[derive(Debug, Default)]
pub(super) struct Measures {
    next: u64,
    waiting: HashMap<u64, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    executor: ExecutorId,
    answer: oneshot::Sender<Vec<TaskMeasure>>,
}

impl Measures {
    /// A process has answered the question of that number.
    pub(super) fn on_measured(&mut self, id: u64, tasks: Vec<TaskMeasure>) {
        if let Some(waiting) = self.waiting.remove(&id) {
            // Whoever asked may have given up.
            let _ = waiting.answer.send(tasks);
        }
    }

    /// A process answers no more.
    pub(super) fn on_lost(&mut self, executor: ExecutorId) {
        self.waiting.retain(|_, one| one.executor != executor);
    }
}

impl EventLoop {
    /// Somebody wants to know what tasks of a process use.
    pub(super) fn on_usage_wanted(&mut self, question: Question) {
        let Question {
            executor,
            tasks,
            answer,
        } = question;
        let measures = &mut self.measures;
        // Of a process that is stopped the answers never come.
        measures.waiting.retain(|_, one| !one.answer.is_closed());
        if !self.parts.agent.is_attached(executor) {
            return;
        }
        let id = measures.next;
        measures.next += 1;
        if self
            .parts
            .supervisor
            .send(executor, ToExecutor::Measure { id, tasks })
        {
            measures.waiting.insert(id, Waiting { executor, answer });
        }
    }
}
