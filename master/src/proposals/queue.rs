//! The queue before the log: bounded, and fair by lane.
//!
//! A batch is filled from agents first, then operators, then frameworks in turn, one proposal each;
//! a share of it is kept for frameworks, so that a storm of reports delays them and no more. No
//! framework slows another: each has its own lane with its own bound.

use std::collections::{BTreeMap, VecDeque};

use tepui_types::FrameworkId;

use super::{Lane, Proposal, ProposeError};

/// Reports of some thousand agents at once, one each.
pub const AGENT_PROPOSALS: usize = 4_096;
/// People and scripts: some tenths of a second's worth of commits.
pub const OPERATOR_PROPOSALS: usize = 1_024;
/// One framework's: its host pipelines eight turns, and the rest are answers about its instance.
pub const FRAMEWORK_PROPOSALS: usize = 32;
/// Bytes that all waiting proposals take together: turns may take a megabyte each.
pub const QUEUE_BYTES: usize = 64 * 1024 * 1024;
/// Proposals that are committed with one sync. More would not make a commit cheaper, and those
/// who wait see the first only with the last.
pub const BATCH_PROPOSALS: usize = 1_024;
/// Bytes that are committed with one sync; also what a disk writes in some milliseconds.
pub const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// Of a batch, what agents and operators may take while frameworks wait.
const FIRST_PROPOSALS: usize = BATCH_PROPOSALS / 4 * 3;
/// See [`FIRST_PROPOSALS`].
const FIRST_BYTES: usize = BATCH_BYTES / 4 * 3;

/// What waits for the log.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    agents: VecDeque<Queued>,
    operators: VecDeque<Queued>,
    frameworks: BTreeMap<FrameworkId, VecDeque<Queued>>,
    /// Frameworks with something waiting, the next one's turn in front.
    turns: VecDeque<FrameworkId>,
    bytes: usize,
}

#[derive(Debug)]
struct Queued {
    proposal: Proposal,
    bytes: usize,
}

/// What one batch may still take.
struct Room {
    proposals: usize,
    bytes: usize,
}

impl Queue {
    /// Takes a proposal of `bytes` encoded bytes in, unless its lane or the queue is full.
    pub fn push(&mut self, proposal: Proposal, bytes: usize) -> Result<(), ProposeError> {
        // Something larger than the whole queue still fits an empty one.
        if self.bytes > 0 && self.bytes + bytes > QUEUE_BYTES {
            return Err(ProposeError::QueueFull);
        }
        let (lane, most) = match Lane::of(&proposal.request) {
            Lane::Agent => (&mut self.agents, AGENT_PROPOSALS),
            Lane::Operator => (&mut self.operators, OPERATOR_PROPOSALS),
            Lane::Framework(id) => {
                let lane = self.frameworks.entry(id).or_default();
                if lane.is_empty() {
                    self.turns.push_back(id);
                }
                (lane, FRAMEWORK_PROPOSALS)
            }
        };
        if lane.len() >= most {
            return Err(ProposeError::QueueFull);
        }
        lane.push_back(Queued { proposal, bytes });
        self.bytes += bytes;
        Ok(())
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.agents.is_empty() && self.operators.is_empty() && self.turns.is_empty()
    }

    /// The next batch; at least one proposal if any waits.
    pub fn take_batch(&mut self) -> Vec<Proposal> {
        let mut batch = Vec::new();
        let first = match self.turns.is_empty() {
            true => Room {
                proposals: BATCH_PROPOSALS,
                bytes: BATCH_BYTES,
            },
            false => Room {
                proposals: FIRST_PROPOSALS,
                bytes: FIRST_BYTES,
            },
        };
        let mut taken = Room {
            proposals: 0,
            bytes: 0,
        };
        for lane in [&mut self.agents, &mut self.operators] {
            while let Some(queued) = lane.pop_front_if(|queued| taken.leaves(&first, queued)) {
                taken.add(&queued);
                batch.push(queued.proposal);
            }
        }
        let whole = Room {
            proposals: BATCH_PROPOSALS,
            bytes: BATCH_BYTES,
        };
        while let Some(id) = self.turns.front().copied() {
            let Some(lane) = self.frameworks.get_mut(&id) else {
                break;
            };
            let Some(queued) = lane.pop_front_if(|queued| taken.leaves(&whole, queued)) else {
                break;
            };
            taken.add(&queued);
            batch.push(queued.proposal);
            self.turns.pop_front();
            if lane.is_empty() {
                self.frameworks.remove(&id);
            } else {
                self.turns.push_back(id);
            }
        }
        self.bytes -= taken.bytes;
        batch
    }

    /// Everything, to be refused.
    pub fn take_all(&mut self) -> Vec<Proposal> {
        let Self {
            agents,
            operators,
            frameworks,
            ..
        } = std::mem::take(self);
        let frameworks = frameworks.into_values().flatten();
        agents
            .into_iter()
            .chain(operators)
            .chain(frameworks)
            .map(|queued| queued.proposal)
            .collect()
    }
}

impl Room {
    /// Whether there is room for one more, when so much is taken already. The first always fits.
    fn leaves(&self, whole: &Self, queued: &Queued) -> bool {
        self.proposals == 0
            || (self.proposals < whole.proposals && self.bytes + queued.bytes <= whole.bytes)
    }

    fn add(&mut self, queued: &Queued) {
        self.proposals += 1;
        self.bytes += queued.bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proposals::Request;
    use tepui_cluster::Command;
    use tepui_types::{AgentId, Principal};

    fn proposal(principal: Principal) -> Proposal {
        let body = Command::MarkAgentUnreachable { agent: AgentId(1) };
        let (reply, _) = tokio::sync::oneshot::channel();
        Proposal {
            request: Request::new(principal, body),
            reply,
        }
    }

    fn framework(id: u64) -> Principal {
        Principal::Framework(FrameworkId(id))
    }

    fn principals(batch: Vec<Proposal>) -> Vec<Principal> {
        batch
            .into_iter()
            .map(|proposal| proposal.request.principal)
            .collect()
    }

    #[test]
    fn agents_and_operators_go_first_and_frameworks_in_turn() {
        let mut queue = Queue::default();
        for id in [1, 1, 1, 2, 3, 3] {
            queue.push(proposal(framework(id)), 1).unwrap();
        }
        queue
            .push(proposal(Principal::loopback_operator()), 1)
            .unwrap();
        queue
            .push(proposal(Principal::Agent(AgentId(1))), 1)
            .unwrap();
        queue.push(proposal(Principal::Leader), 1).unwrap();
        let first = [
            Principal::Agent(AgentId(1)),
            Principal::Leader,
            Principal::loopback_operator(),
        ];
        let turns = [1, 2, 3, 1, 3, 1].map(framework);
        assert_eq!(
            principals(queue.take_batch()),
            [first.as_slice(), &turns].concat()
        );
        assert!(queue.is_empty() && queue.bytes == 0);
    }

    #[test]
    fn a_storm_of_reports_leaves_a_share_to_frameworks() {
        let mut queue = Queue::default();
        for _ in 0..AGENT_PROPOSALS {
            queue.push(proposal(Principal::Leader), 1).unwrap();
        }
        for _ in 0..FRAMEWORK_PROPOSALS {
            queue.push(proposal(framework(1)), 1).unwrap();
        }
        let batch = principals(queue.take_batch());
        let turns = batch
            .iter()
            .filter(|principal| **principal == framework(1))
            .count();
        assert_eq!(
            (batch.len(), turns),
            (FIRST_PROPOSALS + FRAMEWORK_PROPOSALS, FRAMEWORK_PROPOSALS)
        );
    }

    #[test]
    fn a_full_lane_is_refused_and_disturbs_no_other() {
        let mut queue = Queue::default();
        for _ in 0..FRAMEWORK_PROPOSALS {
            queue.push(proposal(framework(1)), 1).unwrap();
        }
        assert_eq!(
            queue.push(proposal(framework(1)), 1),
            Err(ProposeError::QueueFull)
        );
        queue.push(proposal(framework(2)), 1).unwrap();
        queue
            .push(proposal(Principal::loopback_operator()), 1)
            .unwrap();
    }

    #[test]
    fn bytes_are_bounded_but_the_first_always_fits() {
        let mut queue = Queue::default();
        queue
            .push(proposal(Principal::Leader), 2 * QUEUE_BYTES)
            .unwrap();
        assert_eq!(
            queue.push(proposal(Principal::Leader), 1),
            Err(ProposeError::QueueFull)
        );
        assert_eq!(queue.take_batch().len(), 1);
        for _ in 0..3 {
            queue
                .push(proposal(Principal::Leader), BATCH_BYTES / 2)
                .unwrap();
        }
        assert_eq!(queue.take_batch().len(), 2);
        assert_eq!(queue.take_all().len(), 1);
    }
}
