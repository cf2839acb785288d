//! Who waits for which entry.
//!
//! Raft appends a leader's proposals in order, so those who wait stand in the order of their
//! indexes. An entry of another term at a waiter's index means that the waiter's own was
//! overwritten.

use std::collections::VecDeque;

use tepui_cluster::Outcome;
use tokio::sync::oneshot;

use crate::proposals::{Committed, ProposeError};

/// Those who wait.
#[derive(Default)]
pub(super) struct Waiters(VecDeque<Waiter>);

struct Waiter {
    index: u64,
    term: u64,
    reply: oneshot::Sender<Result<Committed, ProposeError>>,
}

/// An outcome on its way to the one who waits for it.
pub(super) struct Answer {
    reply: oneshot::Sender<Result<Committed, ProposeError>>,
    result: Result<Committed, ProposeError>,
}

impl Answer {
    /// Sends it; whoever gave up waiting misses nothing.
    pub fn send(self) {
        self.reply.send(self.result).ok();
    }
}

impl Waiters {
    /// Waits for the entry that was just appended.
    pub fn push(
        &mut self,
        index: u64,
        term: u64,
        reply: oneshot::Sender<Result<Committed, ProposeError>>,
    ) {
        assert!(
            self.0.back().is_none_or(|last| last.index < index),
            "entries are appended in order"
        );
        self.0.push_back(Waiter { index, term, reply });
    }

    /// The answers that an applied entry gives.
    pub fn resolve(&mut self, index: u64, term: u64, outcome: Outcome) -> Vec<Answer> {
        let mut answers = Vec::new();
        while let Some(waiter) = self.0.pop_front_if(|waiter| waiter.index < index) {
            answers.push(Answer {
                reply: waiter.reply,
                result: Err(ProposeError::Unknown),
            });
        }
        if let Some(waiter) = self.0.pop_front_if(|waiter| waiter.index == index) {
            let result = match waiter.term == term {
                true => Ok(Committed { index, outcome }),
                false => Err(ProposeError::Unknown),
            };
            answers.push(Answer {
                reply: waiter.reply,
                result,
            });
        }
        answers
    }

    /// Nobody will learn what becomes of the rest.
    pub fn give_up(&mut self) {
        for waiter in self.0.drain(..) {
            waiter.reply.send(Err(ProposeError::Unknown)).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tepui_cluster::Accepted;

    #[test]
    fn overwritten_entries_leave_their_proposals_unknown() {
        let mut waiters = Waiters::default();
        let mut answers = Vec::new();
        for index in [3, 4, 6, 7] {
            let (reply, answer) = oneshot::channel();
            waiters.push(index, 2, reply);
            answers.push(answer);
        }
        let mut apply = |index, term| {
            waiters
                .resolve(index, term, Ok(Accepted::Done))
                .into_iter()
                .for_each(Answer::send);
        };
        apply(3, 2);
        apply(4, 3);
        apply(5, 3);
        apply(7, 3);
        let mut results = answers.iter_mut().map(|answer| answer.try_recv().unwrap());
        assert_eq!(
            results.next(),
            Some(Ok(Committed {
                index: 3,
                outcome: Ok(Accepted::Done)
            }))
        );
        assert!(results.all(|result| result == Err(ProposeError::Unknown)));
    }
}
