//! Tasks as a framework sees them: what to run, and what became of it.

use std::collections::BTreeMap;

use tepui_types::task::{CommandWorkload, TaskSigns, WasmWorkload, default_kill_grace_ms};
use tepui_types::{
    AgentId, Checks, Digest, Fetch, OfferId, PartitionPolicy, Reason, Resources, TaskState,
    Timestamp, Workload,
};

/// What tasks run; one serves all the tasks of an array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskSpec {
    /// The program.
    pub workload: Workload,
    /// Milliseconds between the polite end and the forced one; 5,000 unless set.
    pub kill_grace_ms: u64,
    /// On whose behalf; tasks of different users never share a process. Often
    /// the [`principal`](crate::http::Request::principal) of the request.
    pub user: String,
    /// Free text for people and tools.
    pub labels: BTreeMap<String, String>,
    /// What becomes of it while its agent is not heard of; it is waited for unless set.
    pub partition: PartitionPolicy,
    /// What is taken back for a role below its guarantee has the lowest first; 0
    /// unless set.
    pub priority: i32,
    /// Milliseconds from its launch after which it is ended; none unless set.
    pub time_limit_ms: Option<u64>,
    /// How its life is looked at; not at all unless set.
    pub checks: Option<Box<Checks>>,
    /// What its sandbox holds before it starts; nothing unless set.
    pub fetch: Vec<Fetch>,
}

impl TaskSpec {
    /// A WebAssembly program: the digest of an artifact that was uploaded before.
    pub fn wasm(artifact: Digest) -> Self {
        Self::new(Workload::Wasm(WasmWorkload::new(artifact)))
    }

    /// A command of the agent's machine: the program and its arguments.
    pub fn command<I>(argv: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        Self::new(Workload::Command(CommandWorkload::new(
            argv.into_iter().map(Into::into).collect(),
        )))
    }

    /// Any workload.
    pub fn new(workload: Workload) -> Self {
        Self {
            workload,
            kill_grace_ms: default_kill_grace_ms(),
            user: String::new(),
            labels: BTreeMap::new(),
            partition: PartitionPolicy::Wait,
            priority: 0,
            time_limit_ms: None,
            checks: None,
            fetch: Vec::new(),
        }
    }

    /// One more argument.
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        match &mut self.workload {
            Workload::Wasm(wasm) => wasm.args.push(arg.into()),
            Workload::Command(command) => command.argv.push(arg.into()),
        }
        self
    }

    /// One more environment variable.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let env = match &mut self.workload {
            Workload::Wasm(wasm) => &mut wasm.env,
            Workload::Command(command) => &mut command.env,
        };
        env.insert(name.into(), value.into());
        self
    }

    /// One more label.
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(name.into(), value.into());
        self
    }

    /// On whose behalf it runs.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = user.into();
        self
    }

    /// Milliseconds between the polite end and the forced one.
    pub fn kill_grace_ms(mut self, millis: u64) -> Self {
        self.kill_grace_ms = millis;
        self
    }

    /// From -1000 to 1000; the lowest is taken back first.
    pub fn priority(mut self, priority: i32) -> Self {
        self.priority = priority;
        self
    }

    /// Milliseconds from its launch after which it is ended.
    pub fn time_limit_ms(mut self, millis: u64) -> Self {
        self.time_limit_ms = Some(millis);
        self
    }

    /// What is wrong with it in itself, as the host would say it.
    pub fn validate(&self) -> Result<(), String> {
        tepui_types::TaskSpec::from(self.clone()).validate()
    }
}

impl From<TaskSpec> for tepui_types::TaskSpec {
    fn from(spec: TaskSpec) -> Self {
        let TaskSpec {
            workload,
            kill_grace_ms,
            user,
            labels,
            partition,
            priority,
            time_limit_ms,
            checks,
            fetch,
        } = spec;
        Self {
            workload,
            kill_grace_ms,
            user,
            labels,
            partition,
            priority,
            time_limit_ms,
            checks,
            fetch,
        }
    }
}

impl From<tepui_types::TaskSpec> for TaskSpec {
    fn from(spec: tepui_types::TaskSpec) -> Self {
        let tepui_types::TaskSpec {
            workload,
            kill_grace_ms,
            user,
            labels,
            partition,
            priority,
            time_limit_ms,
            checks,
            fetch,
        } = spec;
        Self {
            workload,
            kill_grace_ms,
            user,
            labels,
            partition,
            priority,
            time_limit_ms,
            checks,
            fetch,
        }
    }
}

/// One task to launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// A DNS label (1 to 63 of `a-z`, `0-9` and `-`), unique among the
    /// framework's living tasks.
    pub name: String,
    /// Taken out of the offer; see [`Resources::pick`].
    pub resources: Resources,
    /// Its place in its array, for `TEPUI_ARRAY_INDEX`.
    pub array_index: Option<u32>,
}

impl Launch {
    /// A task that is of no array.
    pub fn new(name: impl Into<String>, resources: Resources) -> Self {
        Self {
            name: name.into(),
            resources,
            array_index: None,
        }
    }
}

/// Tasks of a gang on one offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GangLaunch {
    /// Which.
    pub offer: OfferId,
    /// What they run: a place in the list of specifications.
    pub spec: usize,
    /// They.
    pub tasks: Vec<Launch>,
}

/// A task's identity within its framework. An attempt is never reused.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId {
    /// The name it was launched with.
    pub name: String,
    /// Minted by the host: the how-manieth launch of the framework it is.
    pub attempt: u64,
}

impl std::fmt::Display for TaskId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.name, self.attempt)
    }
}

/// One task to launch in the place of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Successor {
    /// A DNS label, unique among the framework's living tasks.
    pub name: String,
    /// Place in its array, if it is of one.
    pub array_index: Option<u32>,
}

/// A task of this framework.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Its identity.
    pub id: TaskId,
    /// Where it runs or ran.
    pub agent: AgentId,
    /// How far it has come.
    pub status: TaskStatus,
}

/// How far a task has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskStatus {
    /// The state's name. May be one that this SDK does not know: decide by
    /// `class`, show `code`.
    pub code: String,
    /// What the state means; never grows.
    pub class: TaskClass,
    /// Why, where that is not plain.
    pub reason: Option<Reason>,
    /// The code it exited with, if it exited.
    pub exit_code: Option<i32>,
    /// What it shows while it lives: addresses of its own, how its checks stand.
    pub signs: TaskSigns,
    /// For how many milliseconds a task that has ended had its resources.
    pub held_ms: Option<u64>,
    /// When the log learned of it.
    pub time: Timestamp,
}

impl TaskStatus {
    /// The state, if this SDK knows it.
    pub fn state(&self) -> Option<TaskState> {
        self.code.parse().ok()
    }
}

/// The place of a state in a task's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TaskClass {
    /// Not ended.
    Living,
    /// Ended with success.
    Succeeded,
    /// Ended without success; its own doing, or its limits'.
    Failed,
    /// Ended because someone asked for it.
    Killed,
    /// Never ran, or its machine was lost: run it again without blame.
    Lost,
}

impl TaskClass {
    /// Whether the task has ended, for good.
    pub fn is_end(self) -> bool {
        self != Self::Living
    }
}

impl From<TaskState> for TaskClass {
    fn from(state: TaskState) -> Self {
        match state {
            TaskState::Staging
            | TaskState::Starting
            | TaskState::Running
            | TaskState::Killing
            | TaskState::Unreachable
            | TaskState::Unknown => Self::Living,
            TaskState::Finished => Self::Succeeded,
            TaskState::Failed | TaskState::Error => Self::Failed,
            TaskState::Killed => Self::Killed,
            TaskState::Dropped | TaskState::Gone => Self::Lost,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_terminal_state_ends_and_no_other_does() {
        for state in TaskState::ALL {
            assert_eq!(
                TaskClass::from(state).is_end(),
                state.is_terminal(),
                "{state}"
            );
        }
    }

    #[test]
    fn builders_fill_the_workload() {
        let spec = TaskSpec::command(["echo"])
            .arg("hi")
            .env("A", "1")
            .user("ann");
        let Workload::Command(command) = &spec.workload else {
            panic!("a command")
        };
        assert_eq!(command.argv, ["echo", "hi"]);
        assert_eq!(command.env["A"], "1");
        assert!(spec.validate().is_ok());
        assert!(TaskSpec::command([""; 0]).validate().is_err());
    }
}
