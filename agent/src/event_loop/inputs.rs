//! What is said to tasks' own inputs: sent to whoever has the task, and answered as that says.
//!
//! Of each caller one piece is under way at most, so that what a task does not read takes up nothing
//! here. Where nobody can answer any more the caller hears that, too.

use std::collections::HashMap;

use tepui_types::wire::executor::{TaskInput, ToExecutor};
use tokio::sync::oneshot;

use super::EventLoop;
use crate::agent::ExecutorId;
use crate::streams::{Speech, Words};

/// Callers whose pieces are under way.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    waiting: HashMap<u128, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    executor: ExecutorId,
    heard: oneshot::Sender<()>,
}

impl Inputs {
    /// What this caller sent was taken, or was not.
    pub(super) fn on_took(&mut self, caller: u128, is_taken: bool) {
        let waiting = self.waiting.remove(&caller);
        if let Some(waiting) = waiting.filter(|_| is_taken) {
            // Whoever spoke may have gone.
            let _ = waiting.heard.send(());
        }
    }

    /// A process answers no more for what it was sent; tells whose that was.
    pub(super) fn on_lost(&mut self, executor: ExecutorId) -> Vec<u128> {
        let lost = self.waiting.extract_if(|_, one| one.executor == executor);
        lost.map(|(caller, _)| caller).collect()
    }
}

impl EventLoop {
    /// Someone speaks to a task's own input; not answered where nobody hears it.
    pub(super) fn on_speech(&mut self, speech: Speech) {
        let Speech { task, words, heard } = speech;
        let Some(executor) = self.parts.agent.executor_of(&task) else {
            return;
        };
        match words {
            Words::Input(piece) => {
                let caller = piece.caller;
                let input = TaskInput {
                    task,
                    bytes: piece.bytes,
                    caller,
                    source: piece.source,
                    at: piece.at,
                };
                if self
                    .parts
                    .supervisor
                    .send(executor, ToExecutor::Input(input))
                {
                    self.inputs
                        .waiting
                        .insert(caller, Waiting { executor, heard });
                }
            }
            Words::Resize(size) => {
                let frame = ToExecutor::Resize { task, size };
                if self.parts.supervisor.send(executor, frame) {
                    // Whoever spoke may have gone.
                    let _ = heard.send(());
                }
            }
        }
    }

    /// A caller has gone: its executor need not keep what it sent.
    pub(super) fn on_caller_left(&mut self, caller: u128) {
        if let Some(waiting) = self.inputs.waiting.remove(&caller) {
            let frame = ToExecutor::CallerLeft(caller);
            self.parts.supervisor.send(waiting.executor, frame);
        }
    }
}
