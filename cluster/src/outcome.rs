//! What became of a command: accepted, or rejected and why.
//!
//! A rejection is an ordinary, deterministic outcome: every master finds the same.

use serde::{Deserialize, Serialize};
use tepui_types::{AgentId, Digest, FrameworkId, NodeId, OperationId, Role, TaskId, WindowId};

/// Of one command.
pub type Outcome = Result<Accepted, Rejection>;

/// What came of an accepted command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Accepted {
    /// Nothing more to say.
    Done,
    /// The artifact is recorded.
    Artifact {
        /// Which.
        digest: Digest,
        /// Whether it was before.
        known: bool,
    },
    /// The framework is deployed, restarted or being removed.
    Framework {
        /// Which.
        framework: FrameworkId,
        /// Its revision now.
        revision: u64,
    },
    /// The task is being ended.
    Task {
        /// Which.
        task: TaskId,
        /// Its revision now.
        revision: u64,
    },
    /// The agent is registered.
    Agent {
        /// Under this id.
        agent: AgentId,
    },
    /// The master is a member, or is none any more.
    Master {
        /// Which.
        master: NodeId,
        /// Its revision now.
        revision: u64,
    },
    /// The turn is committed; with an answer if it was a request's.
    Turn {
        /// What the framework answered.
        answer: Option<HttpAnswer>,
    },
    /// The agent is as was asked for.
    AgentChanged {
        /// Which.
        agent: AgentId,
        /// Its revision now.
        revision: u64,
    },
    /// The maintenance window is planned, or over.
    Window {
        /// Which.
        window: WindowId,
        /// Its revision now.
        revision: u64,
    },
    /// The cluster's settings are as was asked for.
    Settings {
        /// Their revision now.
        revision: u64,
    },
    /// The role is set, or no longer.
    Role {
        /// Which.
        role: Role,
        /// Its revision now.
        revision: u64,
    },
    /// The agent's resources are as was asked for.
    Converted {
        /// Which agent.
        agent: AgentId,
        /// The operation's id.
        operation: OperationId,
    },
}

/// An answer of a framework to an HTTP request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpAnswer {
    /// The status code.
    pub status: u16,
    /// Names and values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// Why a command changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Rejection {
    /// What is named does not exist.
    #[error("{0}")]
    NotFound(String),
    /// It cannot be done to what exists.
    #[error("{0}")]
    Conflict(String),
    /// The object has changed since the caller saw it.
    #[error("the object is at revision {actual}, not {expected}: read it again")]
    Revision {
        /// What the caller expected.
        expected: u64,
        /// What it is.
        actual: u64,
    },
    /// It was proposed by a leader, or for an instance, that is no longer the one.
    #[error("{0}")]
    Fenced(String),
    /// A bound of the state is reached.
    #[error("{0}")]
    Limit(String),
    /// The idempotency key was used for something else.
    #[error("this idempotency key was used for another request: draw a new one")]
    KeyReused,
    /// The one who asks is not known here.
    #[error("{0}")]
    Foreign(String),
    /// It was given up for good.
    #[error("{0}")]
    Gone(String),
}
