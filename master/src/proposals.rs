//! Proposals: how everything else in the master changes the state.
//!
//! [`Proposals::submit`] queues a command for the log and answers with its outcome once it is
//! committed, applied and visible in the view. The queue is bounded and fair: see [`queue`]. What
//! is refused here changed nothing; only [`ProposeError::Unknown`] leaves that open.

use std::sync::Arc;

use tepui_cluster::{Command, Outcome};
use tepui_types::{FrameworkId, NodeId, Principal};
use tokio::sync::oneshot;

use crate::raft::inbox::Inbox;
use crate::view::View;

pub mod queue;

/// Something to be committed. The log's thread adds request id, term and time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Who asks.
    pub principal: Principal,
    /// Named by a caller who may ask again: the second time gets the first answer.
    pub idempotency_key: Option<String>,
    /// The revision that the object must still have.
    pub expected_revision: Option<u64>,
    /// What is asked.
    pub body: Command,
}

impl Request {
    /// A request without key and expectation.
    pub fn new(principal: Principal, body: Command) -> Self {
        Self {
            principal,
            idempotency_key: None,
            expected_revision: None,
            body,
        }
    }
}

/// A command that was committed and applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Its log index.
    pub index: u64,
    /// What became of it.
    pub outcome: Outcome,
}

/// Why a command has no outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Another master leads, or none.
    #[error("this master does not lead the cluster: ask the leader")]
    NotLeader {
        /// Who leads, if that is known.
        leader: Option<NodeId>,
    },
    /// No majority of masters has a leader now.
    #[error(
        "no leader answers for the cluster: a majority of its masters must be up; ask again in a \
         moment{}",
        if *.is_read { ", or read what this one has with `?stale` (tepui --stale)" } else { "" }
    )]
    NoLeader {
        /// Whether what this master has could be read.
        is_read: bool,
    },
    /// Too much is waiting already.
    #[error("the leader's queue is full: try again in a moment")]
    QueueFull,
    /// Leadership was lost, or the master stops: the command may or may not have committed.
    #[error("leadership was lost while this was being committed: ask again with the same key")]
    Unknown,
    /// The master has stopped.
    #[error("this master is stopping: ask another, or again later")]
    Stopped,
}

impl ProposeError {
    /// Whether asking again may succeed. After [`ProposeError::Unknown`] only with the same
    /// idempotency key.
    pub fn retryable(self) -> bool {
        match self {
            Self::NotLeader { .. }
            | Self::NoLeader { .. }
            | Self::QueueFull
            | Self::Unknown
            | Self::Stopped => true,
        }
    }
}

/// Where a command waits. Lanes share the log fairly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Agents' reports and the leader's own deadlines.
    Agent,
    /// People and scripts.
    Operator,
    /// One framework's turns.
    Framework(FrameworkId),
}

impl Lane {
    /// Where a request waits.
    pub fn of(request: &Request) -> Self {
        match (&request.body, &request.principal) {
            // A turn is its framework's, whoever's HTTP request called for it.
            (Command::Turn(turn), _) => Self::Framework(turn.framework),
            (_, Principal::Framework(framework)) => Self::Framework(*framework),
            (_, Principal::Agent(_) | Principal::Leader) => Self::Agent,
            (_, Principal::User(_)) => Self::Operator,
        }
    }
}

/// The way into the log; clones share it.
#[derive(Clone)]
pub struct Proposals {
    inbox: Arc<Inbox>,
    view: View,
}

impl Proposals {
    pub(crate) fn new(inbox: Arc<Inbox>, view: View) -> Self {
        Self { inbox, view }
    }

    /// Commits a command. Its effects are in the view when this answers. A caller that stops
    /// waiting does not take the command back.
    pub async fn submit(&self, request: Request) -> Result<Committed, ProposeError> {
        let (reply, answer) = oneshot::channel();
        self.inbox.propose(Proposal { request, reply })?;
        // Without an answer the log's thread is gone, and with it what it knew.
        answer.await.unwrap_or(Err(ProposeError::Unknown))
    }

    /// A linearizable point to read at: when it answers, everything that was committed before the
    /// call is in the view, up to the index that it gives at least.
    pub async fn read_index(&self) -> Result<u64, ProposeError> {
        let (reply, answer) = oneshot::channel();
        self.inbox.read_index(reply)?;
        let index = answer.await.unwrap_or(Err(ProposeError::Stopped))?;
        self.view.wait_for(index).await;
        Ok(index)
    }
}

/// A request and who waits for its outcome.
#[derive(Debug)]
pub struct Proposal {
    /// What is asked.
    pub request: Request,
    /// Gets the answer.
    pub reply: oneshot::Sender<Result<Committed, ProposeError>>,
}
