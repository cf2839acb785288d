//! How a task is, as the log knows it.

use core::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Reason, TaskState, reason};
use crate::check::{CheckRole, CheckState, CheckStatus};
use crate::command::CommandOptions;
use crate::time::Timestamp;

/// What a task used by its end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TaskUsage {
    /// Processor time, in microseconds.
    pub cpu_micros: u64,
    /// The most memory it had at once, in bytes.
    pub mem_peak_bytes: u64,
    /// How often its program was instantiated, if that is WebAssembly: a service's once for each request.
    pub instances: Option<u32>,
}

/// The latest that the log knows of a task.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TaskStatus {
    /// How far it has come.
    pub state: TaskState,
    /// Why, where that is not plain.
    pub reason: Option<Reason>,
    /// The code it exited with, if it exited.
    pub exit_code: Option<i32>,
    /// What it used; at its end.
    pub usage: Option<TaskUsage>,
    /// What it shows while it lives; none where there is nothing.
    #[serde(default)]
    pub signs: Option<Box<TaskSigns>>,
    /// When the log learned of it.
    pub time: Timestamp,
}

/// What a living task shows beside its state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TaskSigns {
    /// By which it is reached, where these are not its agent's.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub addresses: Vec<IpAddr>,
    /// How its checks stand.
    pub checks: Vec<CheckStatus>,
    /// How its commands are, where there are several or one was started again.
    #[serde(default)]
    pub members: Vec<MemberStatus>,
}

/// How a command of a task is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MemberStatus {
    /// Its name in the task.
    pub name: String,
    /// How far it is.
    pub state: MemberState,
    /// How often it was started again.
    pub restarts: u32,
    /// Why it ended the last time; empty before.
    pub message: String,
}

/// How far a command of a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum MemberState {
    /// Others come first.
    Waiting,
    /// It runs.
    Running,
    /// It has ended, and is started again after a pause.
    Pausing,
    /// It has ended for good, with success.
    Finished,
    /// It has ended for good, without.
    Failed,
}

impl MemberState {
    /// The name in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Pausing => "pausing",
            Self::Finished => "finished",
            Self::Failed => "failed",
        }
    }
}

impl TaskSigns {
    /// The most addresses of one task.
    pub const MAX_ADDRESSES: usize = 16;
    /// The most bytes of what a check's last failure, or a command's last end, says.
    pub const MAX_CHECK_MESSAGE: usize = 512;

    /// Whether it says no more than is kept.
    pub fn is_bounded(&self) -> bool {
        let short = |check: &CheckStatus| check.message.len() <= Self::MAX_CHECK_MESSAGE;
        self.addresses.len() <= Self::MAX_ADDRESSES
            && self.checks.len() <= CheckRole::COUNT
            && self.checks.iter().all(short)
            && self.members.len() <= CommandOptions::MAX_COMPANIONS + 1
            && self.members.iter().all(|member| {
                member.name.len() <= 63 && member.message.len() <= Self::MAX_CHECK_MESSAGE
            })
    }

    /// None where nothing is shown.
    pub fn boxed(self) -> Option<Box<Self>> {
        (self != Self::default()).then(|| Box::new(self))
    }

    /// Whether it can be sent work, as far as its checks say.
    pub fn is_ready(&self) -> bool {
        let holds_back = |check: &CheckStatus| {
            check.check != CheckRole::Health && check.state != CheckState::Passing
        };
        !self.checks.iter().any(holds_back)
    }
}

impl TaskStatus {
    /// Whether the task was taken away without a wish of its framework or a fault of its own:
    /// it is to be run again without blame.
    pub fn is_lost(&self) -> bool {
        let code = self.reason.as_ref().map(|reason| reason.code.as_str());
        match self.state {
            TaskState::Dropped | TaskState::Gone => true,
            TaskState::Killed => {
                use reason::{AGENT_DRAINED, PREEMPTED, STOPPED_UNHEARD, UNDER_PRESSURE};
                let losses = [AGENT_DRAINED, PREEMPTED, STOPPED_UNHEARD, UNDER_PRESSURE];
                code.is_some_and(|code| losses.contains(&code))
            }
            _ => false,
        }
    }
}
