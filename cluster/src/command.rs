//! All that may enter the log.
//!
//! Shape is checked where a request comes in; preconditions are checked when
//! the command is applied, for the state may have moved since.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tepui_types::operation::{Kill, Operation};
use tepui_types::resources::ResourceRequest;
use tepui_types::role::RoleSettings;
use tepui_types::setting::Settings;
use tepui_types::wire::agent::{Hello, StatusReport};
use tepui_types::{
    AgentId, AgentInfo, Demand, Digest, FrameworkId, FrameworkInfo, Gang, NodeId, Reason, Role,
    TaskId, TaskSpec, Timestamp, WindowId, Wish,
};

use crate::outcome::HttpAnswer;
use crate::state::maintenance::WindowPlan;
use crate::state::preemption::Preemption;

/// A wish to change the state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Bytes with this digest are stored.
    RecordArtifact {
        /// Their digest.
        digest: Digest,
        /// How many bytes.
        size: u64,
    },
    /// Run a component as a framework.
    DeployFramework(FrameworkInfo),
    /// End a framework's tasks, then forget it.
    RemoveFramework {
        /// Which.
        framework: FrameworkId,
    },
    /// Start a framework anew, whatever its phase.
    RestartFramework {
        /// Which.
        framework: FrameworkId,
    },
    /// A framework's instance trapped, ran past its deadline or failed to start.
    StopFramework {
        /// Which.
        framework: FrameworkId,
        /// The incarnation that ended, or would have begun.
        incarnation: u64,
        /// Why.
        reason: Reason,
    },
    /// End a task, by a user's wish.
    KillTask(Kill),
    /// An agent introduces itself and names every task it holds.
    RegisterAgent {
        /// Drawn once with its data folder.
        nonce: u128,
        /// The boot of its machine.
        boot: u128,
        /// The id it was given earlier.
        agent: Option<AgentId>,
        /// Its machine.
        info: AgentInfo,
        /// What it runs.
        tasks: Vec<StatusReport>,
    },
    /// An agent tells of its tasks.
    ReportTasks {
        /// Which agent.
        agent: AgentId,
        /// One for each task that moved.
        reports: Vec<StatusReport>,
    },
    /// An agent has been silent for longer than the window.
    MarkAgentUnreachable {
        /// Which.
        agent: AgentId,
    },
    /// One turn of a framework, whole.
    Turn(Turn),
    /// A master comes in, or has moved.
    AddMaster {
        /// Which.
        master: NodeId,
        /// Where it is reached.
        url: String,
    },
    /// A master leaves for good.
    RemoveMaster {
        /// Which.
        master: NodeId,
    },
    /// A master that was to leave has left the group.
    ForgetMaster {
        /// Which.
        master: NodeId,
    },
    /// Offer nothing of an agent; its tasks go on.
    DeactivateAgent {
        /// Which.
        agent: AgentId,
    },
    /// Offer an agent again; takes a drain back.
    ReactivateAgent {
        /// Which.
        agent: AgentId,
    },
    /// Offer nothing of an agent, and end its tasks.
    DrainAgent {
        /// Which.
        agent: AgentId,
        /// Milliseconds from now after which no task gets grace.
        deadline_ms: Option<u64>,
        /// Milliseconds of grace in place of the tasks' own.
        grace_ms: Option<u64>,
        /// Whether the agent is gone at the end.
        mark_gone: bool,
    },
    /// End what an agent still runs of a time that a restore has lost.
    EndHeld {
        /// Which.
        agent: AgentId,
    },
    /// An agent never comes back.
    MarkAgentGone {
        /// Which.
        agent: AgentId,
    },
    /// Empty agents for some time.
    ScheduleMaintenance(WindowPlan),
    /// Take a maintenance window back, or end it.
    CancelMaintenance {
        /// Which.
        window: WindowId,
    },
    /// A deadline of the state has come.
    MeetDeadlines,
    /// An agent has been unreachable for so long: tasks whose policy waits no longer are gone.
    ReplaceTasks {
        /// Which.
        agent: AgentId,
        /// Milliseconds since then, by the leader's monotonic clock.
        unreachable_ms: u64,
    },
    /// Set a role's weight and quota, whole.
    SetRole {
        /// Which.
        role: Role,
        /// What it counts, is promised and may have.
        settings: RoleSettings,
        /// Also where the cluster has less than is guaranteed, or the role more than its limit.
        force: bool,
    },
    /// Forget what was set of a role.
    RemoveRole {
        /// Which.
        role: Role,
    },
    /// End tasks for a role that is below its guarantee.
    Preempt(Preemption),
    /// Set the cluster's settings, whole.
    SetSettings(Settings),
    /// Reserve, unreserve, or do something with a volume, by an operator's wish.
    Operate {
        /// Of which agent.
        agent: AgentId,
        /// What.
        wish: Wish,
    },
    /// An agent's machine has changed while it is connected.
    RefreshAgent {
        /// Which agent.
        agent: AgentId,
        /// Its machine.
        info: AgentInfo,
    },
}

/// An agent's introduction, as it enters the log.
impl From<Hello> for Command {
    fn from(hello: Hello) -> Self {
        Self::RegisterAgent {
            nonce: hello.nonce,
            boot: hello.boot,
            agent: hello.agent,
            info: hello.info,
            tasks: hello.tasks,
        }
    }
}

/// What called for a turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TurnKind {
    /// `start`; begins an incarnation, one above the state's.
    Start,
    /// `handle`.
    Handle,
    /// `on-request`, with its answer.
    Request(HttpAnswer),
}

/// All that a framework did in one call; commits together or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// Whose.
    pub framework: FrameworkId,
    /// Of which instance; fences those before it.
    pub incarnation: u64,
    /// Counted from 0 (the start) in its incarnation.
    pub number: u64,
    /// What called for it.
    pub kind: TurnKind,
    /// Task updates that the framework has seen: task and sequence.
    pub acknowledged: Vec<(TaskId, u64)>,
    /// Notices that it has seen, by number.
    pub notices_seen: Vec<u64>,
    /// Timers that it has seen fire: name and when they were due.
    pub timers_fired: Vec<(String, Timestamp)>,
    /// Store writes; none deletes.
    pub writes: Vec<(String, Option<Vec<u8>>)>,
    /// Timers set to a time, or cancelled.
    pub timers: Vec<(String, Option<Timestamp>)>,
    /// Demand, replaced key by key.
    pub demands: Vec<(String, Demand)>,
    /// Gangs, replaced key by key; none takes one back.
    pub gangs: Vec<(String, Option<Gang>)>,
    /// Roles that are suppressed (true) or revived.
    pub suppressed: Vec<(Role, bool)>,
    /// Least offers that it sets for roles, or leaves to the cluster again.
    pub minimums: Vec<(Role, Option<Vec<ResourceRequest>>)>,
    /// The value of the framework's launch counter that the host promised to
    /// the guest: attempts follow from it.
    pub first_attempt: u64,
    /// What the launches run; one for all the tasks of an array.
    pub specs: Vec<Arc<TaskSpec>>,
    /// Launches and kills, in order.
    pub operations: Vec<Operation>,
}

impl Turn {
    /// A turn in which nothing has happened yet.
    pub fn new(framework: FrameworkId, incarnation: u64, number: u64, kind: TurnKind) -> Self {
        Self {
            framework,
            incarnation,
            number,
            kind,
            acknowledged: Vec::new(),
            notices_seen: Vec::new(),
            timers_fired: Vec::new(),
            writes: Vec::new(),
            timers: Vec::new(),
            demands: Vec::new(),
            gangs: Vec::new(),
            suppressed: Vec::new(),
            minimums: Vec::new(),
            first_attempt: 0,
            specs: Vec::new(),
            operations: Vec::new(),
        }
    }

    /// Whether every launch names a specification that is there.
    pub fn names_its_specs(&self) -> bool {
        let launches = self.operations.iter().flat_map(Operation::launches);
        let mut specs = launches.map(|launch| launch.spec as usize);
        specs.all(|spec| spec < self.specs.len())
    }

    /// Whether committing it would change anything durable. One that would not
    /// need not be proposed.
    pub fn is_durable(&self) -> bool {
        self.kind == TurnKind::Start
            || !self.acknowledged.is_empty()
            || !self.notices_seen.is_empty()
            || !self.timers_fired.is_empty()
            || !self.writes.is_empty()
            || !self.timers.is_empty()
            || !self.demands.is_empty()
            || !self.gangs.is_empty()
            || !self.suppressed.is_empty()
            || !self.minimums.is_empty()
            || !self.operations.is_empty()
    }
}
