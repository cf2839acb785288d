//! Frames between an agent and the leading master, version 1.
//!
//! The agent dials `GET /v1/agents/connect` with `Upgrade: tepui-agent/1` and
//! sends [`AgentFrame::Hello`]; the master answers [`MasterFrame::Welcome`] or
//! [`MasterFrame::Refused`]. Effects go down, statuses and heartbeats go up. A
//! status is sent again after every new connection until the log has it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::agent::AgentInfo;
use crate::ids::{AgentId, ClusterId, OperationId, TaskId};
use crate::resources::{Bytes, Resources};
use crate::role::Role;
use crate::task::{Reason, TaskSigns, TaskSpec, TaskState, TaskUsage};
use crate::wire::stream::StreamRequest;

/// The version of every frame here.
pub const VERSION: u8 = 1;
/// The token of the HTTP upgrade (RFC 9110, section 7.8).
pub const UPGRADE: &str = "tepui-agent/1";
/// Where agents connect.
pub const CONNECT_PATH: &str = "/v1/agents/connect";
/// The header in which a master that does not lead names the one that does, by its URL.
pub const LEADER_HEADER: &str = "tepui-leader";
/// The most statuses or effects that a sender puts into one frame.
pub const MAX_BATCH: usize = 1_000;

/// The most bytes of effects in one frame, far below the frame's own limit: each
/// launch carries its whole specification.
const MAX_EFFECT_BYTES: usize = 4 * 1024 * 1024;

/// Effects in portions that each fit into a frame, in order.
pub fn effect_batches(effects: Vec<AgentEffect>) -> Vec<Vec<AgentEffect>> {
    let mut batches: Vec<Vec<AgentEffect>> = Vec::new();
    let mut bytes = 0;
    for effect in effects {
        let size = crate::envelope::encode(VERSION, &effect).len();
        match batches.last_mut() {
            Some(batch) if batch.len() < MAX_BATCH && bytes + size <= MAX_EFFECT_BYTES => {
                batch.push(effect);
                bytes += size;
            }
            _ => {
                batches.push(vec![effect]);
                bytes = size;
            }
        }
    }
    batches
}

/// From the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    clippy::large_enum_variant,
    reason = "a session has one `Hello`, and few frames wait at a time"
)]
pub enum AgentFrame {
    /// Who it is and what it runs; first on every connection.
    Hello(Hello),
    /// Statuses that the log may not have yet, at most [`MAX_BATCH`].
    Statuses(Vec<StatusReport>),
    /// It lives. Carries the time of the agent's own clock at which it was sent, which the master
    /// sends back.
    Heartbeat(u64),
    /// It cannot serve this stream.
    StreamRefused {
        /// Which.
        stream: u128,
        /// Why.
        reason: Reason,
    },
    /// Its machine as it is now, where that has changed since its introduction: what it lends beyond
    /// what is firm goes up and down with what its tasks use.
    Machine(Box<AgentInfo>),
}

/// An agent's introduction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The cluster it belongs to; none on its first day.
    pub cluster: Option<ClusterId>,
    /// The id it was given; none on its first day.
    pub agent: Option<AgentId>,
    /// Drawn once with its data folder: a registration that is sent twice
    /// makes one agent.
    pub nonce: u128,
    /// Drawn once by each process: two that live at the same time are two
    /// agents on copies of one folder.
    pub process: u128,
    /// The boot of its machine: after another one nothing of before is alive.
    pub boot: u128,
    /// Its machine.
    pub info: AgentInfo,
    /// Every task it holds that has not ended, or whose end the log may not
    /// have: the log's view is compared with it.
    pub tasks: Vec<StatusReport>,
}

/// What an agent says of one task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    /// Which task.
    pub task: TaskId,
    /// Its state.
    pub state: TaskState,
    /// Why.
    pub reason: Option<Reason>,
    /// The code it exited with.
    pub exit_code: Option<i32>,
    /// What it used; at its end.
    pub usage: Option<TaskUsage>,
    /// What it shows while it lives.
    pub signs: Option<Box<TaskSigns>>,
}

impl StatusReport {
    /// Whether it says no more than is kept.
    pub fn is_bounded(&self) -> bool {
        self.reason.as_ref().is_none_or(Reason::is_bounded)
            && self.signs.as_ref().is_none_or(|signs| signs.is_bounded())
    }
}

/// From the master.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MasterFrame {
    /// The agent is registered.
    Welcome(Welcome),
    /// It is not, and the connection ends.
    Refused {
        /// Why.
        reason: Reason,
        /// Whether trying again later makes sense.
        retry: bool,
    },
    /// Do these, each once: an operation id that was done before is skipped.
    Effects {
        /// The leader's term; older ones are refused.
        term: u64,
        /// At most [`MAX_BATCH`].
        effects: Vec<AgentEffect>,
    },
    /// The log has these states; they need not be sent again.
    Recorded(Vec<(TaskId, TaskState)>),
    /// Open a data connection for this.
    OpenStream {
        /// Names the data connection.
        stream: u128,
        /// What to send on it.
        request: StreamRequest,
    },
    /// It lives.
    Heartbeat,
    /// URLs of all masters, after they have changed.
    Masters(Vec<String>),
    /// The leader has heard the heartbeat that was sent at this time of the agent's clock.
    Heard(u64),
}

/// The master's answer to a good [`Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The cluster.
    pub cluster: ClusterId,
    /// The agent's id.
    pub agent: AgentId,
    /// The leader's term.
    pub term: u64,
    /// Milliseconds between heartbeats, both ways.
    pub heartbeat_ms: u64,
    /// Milliseconds of silence after which either side hangs up.
    pub timeout_ms: u64,
    /// URLs of all masters: any of them tells who leads.
    pub masters: Vec<String>,
}

/// Something an agent is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AgentEffect {
    /// Run a task.
    Launch(Box<TaskLaunch>),
    /// End a task, now or after its grace.
    Kill {
        /// Which.
        task: TaskId,
        /// Milliseconds between the polite end and the forced one.
        grace_ms: u64,
    },
    /// These are the agent's volumes; of all others it removes what is stored.
    Volumes(VolumeList),
}

/// All volumes of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeList {
    /// The operations that made them.
    pub kept: Vec<OperationId>,
    /// What was made before this entry of the log is of a time that a restore may have lost, and
    /// stays as it is.
    pub from: u64,
    /// What was made after this entry is newer than the list, and stays, too.
    pub to: u64,
}

/// A volume as a task uses it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskVolume {
    /// The operation that made it: a later one of its name is another.
    pub made_by: OperationId,
    /// On which disk of the agent; the one with its data folder when none is named.
    pub disk: Option<String>,
    /// Where the task finds it, below its sandbox.
    pub path: String,
    /// Its size; none where it has a whole disk.
    pub bytes: Option<Bytes>,
}

/// All that is needed to run a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskLaunch {
    /// The operation that launched it.
    pub operation: OperationId,
    /// Which task.
    pub task: TaskId,
    /// Its framework's name, for `TEPUI_FRAMEWORK`.
    pub framework_name: String,
    /// The role that is charged; part of the trust domain.
    pub role: Role,
    /// What it runs.
    pub spec: Arc<TaskSpec>,
    /// What it may use, as one sum.
    pub resources: Resources,
    /// What of it may be taken back at any time; nothing for most.
    pub revocable: Resources,
    /// Its persistent volumes.
    pub volumes: Vec<TaskVolume>,
    /// Its place in its array.
    pub array_index: Option<u32>,
    /// It begins when this one has ended, in whose place. Of one that ended in line itself, the one before it
    /// is meant; after one that the agent refused it is refused; where the agent knows of nobody ahead that
    /// lives it begins at once.
    pub after: Option<TaskId>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{CommandWorkload, Workload};

    #[test]
    fn effects_fit_into_frames_however_large_they_are() {
        let launch = |index: u32| {
            AgentEffect::Launch(Box::new(TaskLaunch {
                operation: OperationId {
                    index: 1,
                    ordinal: index,
                },
                task: format!("f1.t{index}.{index}").parse().unwrap(),
                framework_name: "f".into(),
                role: Role::default(),
                spec: Arc::new(TaskSpec {
                    kill_grace_ms: 0,
                    ..TaskSpec::new(Workload::Command(CommandWorkload::new(vec![
                        "x".repeat(60_000),
                    ])))
                }),
                resources: Resources::default(),
                revocable: Resources::default(),
                volumes: Vec::new(),
                array_index: None,
                after: None,
            }))
        };
        let effects: Vec<_> = (0..1_000).map(launch).collect();
        let batches = effect_batches(effects.clone());
        for batch in &batches {
            let frame = MasterFrame::Effects {
                term: 1,
                effects: batch.clone(),
            };
            assert!(crate::wire::frame(VERSION, &frame).is_ok());
        }
        assert_eq!(
            batches.concat(),
            effects,
            "none is lost, and the order stays"
        );
        assert!(effect_batches(Vec::new()).is_empty());
    }
}
