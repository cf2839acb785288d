//! Tasks: what is run, and how far it has come.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::check::{Checks, Probe};
use crate::command::{CompanionRole, MAIN};
use crate::container::Network;
use crate::fetch::Fetch;

mod life;
pub mod reason;
mod status;

pub use crate::command::CommandWorkload;
pub use crate::wasm::WasmWorkload;
pub use life::{Chosen, Step};
pub use status::{MemberState, MemberStatus, TaskSigns, TaskStatus, TaskUsage};

/// How far a task has come. The one list of states; `is_terminal` says which
/// are the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum TaskState {
    /// The log knows the launch; the agent may not.
    Staging,
    /// The agent has it and prepares its executor.
    Starting,
    /// It runs.
    Running,
    /// Its end has been asked for.
    Killing,
    /// Its agent has not been heard of for longer than the cluster's window.
    Unreachable,
    /// Nobody can say: its agent's history was lost.
    Unknown,
    /// It ended by itself with success.
    Finished,
    /// It ended by itself without success, or its limits ended it.
    Failed,
    /// It ended because someone asked for that.
    Killed,
    /// It could not be started as it was described.
    Error,
    /// Nothing ran: the launch did not fit when it was committed, or its agent
    /// could not start an executor for it.
    Dropped,
    /// Its agent, or its agent's memory of it, is gone for good.
    Gone,
}

impl TaskState {
    /// Every state, in the order of a task's life.
    pub const ALL: [Self; 12] = [
        Self::Staging,
        Self::Starting,
        Self::Running,
        Self::Killing,
        Self::Unreachable,
        Self::Unknown,
        Self::Finished,
        Self::Failed,
        Self::Killed,
        Self::Error,
        Self::Dropped,
        Self::Gone,
    ];

    /// Whether a task in this state has ended and will never change again.
    pub fn is_terminal(self) -> bool {
        match self {
            Self::Staging
            | Self::Starting
            | Self::Running
            | Self::Killing
            | Self::Unreachable
            | Self::Unknown => false,
            Self::Finished
            | Self::Failed
            | Self::Killed
            | Self::Error
            | Self::Dropped
            | Self::Gone => true,
        }
    }

    /// Whether an agent's word moves a task from `self` to `next`. A word that
    /// comes late, twice or out of order changes nothing.
    pub fn may_become(self, next: Self) -> bool {
        match self {
            state if state.is_terminal() => false,
            Self::Killing => next.is_terminal(),
            Self::Unreachable | Self::Unknown => next != self && next != Self::Staging,
            // The living states are declared in the order of a life.
            _ => next > self,
        }
    }

    /// The name in URLs and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Staging => "staging",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Killing => "killing",
            Self::Unreachable => "unreachable",
            Self::Unknown => "unknown",
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::Killed => "killed",
            Self::Error => "error",
            Self::Dropped => "dropped",
            Self::Gone => "gone",
        }
    }
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for TaskState {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| {
                let known: Vec<_> = Self::ALL.iter().map(|state| state.as_str()).collect();
                format!("`{text}` is not a task state; one of {}", known.join(", "))
            })
    }
}

/// Why something is as it is: a code for programs, a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Reason {
    /// Kebab-case and stable; see [`reason`].
    pub code: String,
    /// For people; may change.
    pub message: String,
}

impl Reason {
    /// The longest message that is kept, in bytes.
    pub const MAX_MESSAGE: usize = 2048;

    /// The longest code, in bytes.
    pub const MAX_CODE: usize = 64;
    /// Stands where a message was cut.
    const CUT: &str = " […]";

    /// Whether it is short enough to be kept, as all are that were made here.
    pub fn is_bounded(&self) -> bool {
        self.code.len() <= Self::MAX_CODE
            && self.message.len() <= Self::MAX_MESSAGE + Self::CUT.len()
    }

    /// A reason; a long message is cut at a character's edge, with a mark.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            code: code.to_owned(),
            message: cut(&message, Self::MAX_MESSAGE).unwrap_or(message),
        }
    }

    /// The same with at most so many bytes of its message, and a mark where it was cut.
    pub fn shortened(&self, most: usize) -> Self {
        Self {
            code: self.code.clone(),
            message: cut(&self.message, most).unwrap_or_else(|| self.message.clone()),
        }
    }
}

/// None where it is short enough.
fn cut(message: &str, most: usize) -> Option<String> {
    let end = message.floor_char_boundary(most);
    (end < message.len()).then(|| format!("{}{}", &message[..end], Reason::CUT))
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}

/// What a task runs. One specification serves all the tasks of an array.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TaskSpec {
    /// The program.
    pub workload: Workload,
    /// Milliseconds between the polite end and the forced one.
    #[serde(default = "default_kill_grace_ms")]
    pub kill_grace_ms: u64,
    /// On whose behalf the framework runs it; part of the trust domain.
    #[serde(default)]
    pub user: String,
    /// Free text for people and tools.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What becomes of it while its agent is not heard of.
    #[serde(default)]
    pub partition: PartitionPolicy,
    /// What is taken back for a role below its guarantee has the lowest first;
    /// from -1000 to 1000.
    #[serde(default)]
    pub priority: i32,
    /// Milliseconds from its launch after which it is ended; what is known to end
    /// may run before a gang that waits.
    #[serde(default)]
    pub time_limit_ms: Option<u64>,
    /// How its life is looked at.
    #[serde(default)]
    pub checks: Option<Box<Checks>>,
    /// What its sandbox holds before it starts; at most [`Fetch::MOST`].
    #[serde(default)]
    pub fetch: Vec<Fetch>,
}

/// What becomes of a task while its agent is not heard of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum PartitionPolicy {
    /// It is waited for, however long.
    #[default]
    Wait,
    /// So many milliseconds after its agent became unreachable it counts as gone, and may be run
    /// elsewhere. It may then run twice, until its agent is back and ends it.
    #[serde(rename = "replace-after-ms")]
    ReplaceAfter(u64),
    /// Its agent ends it before so many milliseconds have passed without a word from the masters,
    /// and it does not count as gone sooner: it runs at most once, as long as its agent's process
    /// lives.
    #[serde(rename = "stop-after-ms")]
    StopAfter(u64),
}

impl PartitionPolicy {
    /// The shortest time after which agents may end tasks: five heartbeats as they are unless
    /// configured, so that a lost packet ends nothing.
    pub const MIN_STOP_MS: u64 = 5_000;
    /// The longest time, in milliseconds: 30 days.
    pub const MAX_MS: u64 = 30 * 24 * 60 * 60 * 1000;

    /// How long after its agent became unreachable a task counts as gone.
    pub fn replaces_after_ms(self) -> Option<u64> {
        match self {
            Self::Wait => None,
            Self::ReplaceAfter(millis) | Self::StopAfter(millis) => Some(millis),
        }
    }

    /// As it stands in the WIT package: the name of an extension of a task's specification, and
    /// its value.
    pub fn extension(self) -> Option<(&'static str, u64)> {
        match self {
            Self::Wait => None,
            Self::ReplaceAfter(millis) => Some(("replace-after-ms", millis)),
            Self::StopAfter(millis) => Some(("stop-after-ms", millis)),
        }
    }

    /// What an extension of this name makes of its milliseconds, if there is one.
    pub fn named(extension: &str) -> Option<fn(u64) -> Self> {
        match extension {
            "replace-after-ms" => Some(Self::ReplaceAfter),
            "stop-after-ms" => Some(Self::StopAfter),
            _ => None,
        }
    }

    /// What is wrong with it in itself.
    pub fn validate(self) -> Result<(), String> {
        match self {
            Self::ReplaceAfter(millis) | Self::StopAfter(millis) if millis > Self::MAX_MS => Err(
                format!("a partition policy waits {} ms at most", Self::MAX_MS),
            ),
            Self::StopAfter(millis) if millis < Self::MIN_STOP_MS => Err(format!(
                "stop-after-ms is {millis}: {} is the least, or a lost packet ends tasks",
                Self::MIN_STOP_MS
            )),
            Self::Wait | Self::ReplaceAfter(_) | Self::StopAfter(_) => Ok(()),
        }
    }
}

/// Five seconds, as Mesos's executors give.
pub fn default_kill_grace_ms() -> u64 {
    5_000
}

/// The kinds of program.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Workload {
    /// A `wasi:cli/command` component, a `wasi:http/proxy` component (a service) or a WASI preview 1
    /// core module.
    Wasm(WasmWorkload),
    /// A command of the agent's machine.
    Command(CommandWorkload),
}

impl Workload {
    /// Refuses checks that cannot be made of it.
    fn check(&self, checks: &Checks) -> Result<(), String> {
        for (_, check) in checks.all() {
            match (&check.probe, self) {
                (Probe::Command(_), Self::Wasm(_)) => {
                    let why =
                        "no command runs beside a WebAssembly program: probe it by http or tcp";
                    return Err(why.into());
                }
                (Probe::Command(probe), Self::Command(command)) => {
                    command.check_beside(probe.member.as_deref().unwrap_or(MAIN))?;
                }
                (Probe::Http(_) | Probe::Tcp(_), Self::Command(command)) if command.is_apart() => {
                    let why =
                        "nobody reaches a task whose network is `none`: check it by a command";
                    return Err(why.into());
                }
                (Probe::Http(_) | Probe::Tcp(_), _) => {}
            }
        }
        Ok(())
    }
}

impl CommandWorkload {
    /// Refuses a check beside one of its commands that is not there, or not while the task runs.
    fn check_beside(&self, name: &str) -> Result<(), String> {
        let companion = self.companions().iter().find(|one| one.name == name);
        match companion.map(|companion| companion.role) {
            Some(CompanionRole::Init) => Err(format!(
                "`{name}` has ended when the task runs: check the command, or a companion beside it"
            )),
            None if name != MAIN => Err(format!(
                "`{name}` is none of the task's commands: name a companion, or leave `member` out"
            )),
            Some(_) | None => Ok(()),
        }
    }

    /// Whether it has a network with nothing but itself.
    fn is_apart(&self) -> bool {
        let container = self.container.as_ref();
        container.is_some_and(|container| container.network == Network::None)
    }
}

impl TaskSpec {
    /// A task of this workload with nothing else said.
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

    /// The largest specification, encoded, in bytes.
    pub const MAX_ENCODED: usize = 64 * 1024;
    /// The longest grace, in milliseconds: an hour.
    pub const MAX_KILL_GRACE_MS: u64 = 3_600_000;
    /// The highest priority; the lowest is as far below 0.
    pub const MAX_PRIORITY: i32 = 1_000;
    /// The longest time limit, in milliseconds: a year.
    pub const MAX_TIME_LIMIT_MS: u64 = 365 * 24 * 3_600_000;

    /// What is wrong with it in itself.
    pub fn validate(&self) -> Result<(), String> {
        let texts: Vec<&String> = match &self.workload {
            Workload::Wasm(wasm) => {
                wasm.validate()?;
                wasm.args.iter().chain(wasm.env.values()).collect()
            }
            Workload::Command(command) => {
                command.validate()?;
                command.texts().collect()
            }
        };
        if texts.iter().any(|text| text.contains('\0')) {
            return Err("arguments and environment may not hold NUL characters".into());
        }
        let bad_name = |name: &&String| name.is_empty() || name.contains(['=', '\0']);
        if let Some(name) = self.env().keys().find(bad_name) {
            return Err(format!("`{name}` cannot name an environment variable"));
        }
        if self.kill_grace_ms > Self::MAX_KILL_GRACE_MS {
            return Err(format!(
                "kill_grace_ms is above {}",
                Self::MAX_KILL_GRACE_MS
            ));
        }
        self.partition.validate()?;
        if let Some(checks) = &self.checks {
            let valid = checks.validate().and_then(|()| self.workload.check(checks));
            valid.map_err(|why| format!("checks: {why}"))?;
        }
        if !(-Self::MAX_PRIORITY..=Self::MAX_PRIORITY).contains(&self.priority) {
            let most = Self::MAX_PRIORITY;
            return Err(format!(
                "priority is {}: it goes from -{most} to {most}",
                self.priority
            ));
        }
        if let Some(millis) = self.time_limit_ms
            && !(1..=Self::MAX_TIME_LIMIT_MS).contains(&millis)
        {
            return Err(format!(
                "time_limit_ms is {millis}: it goes from 1 to {}",
                Self::MAX_TIME_LIMIT_MS
            ));
        }
        Fetch::validate_all(&self.fetch).map_err(|why| format!("fetch: {why}"))?;
        let size = crate::envelope::encode(1, self).len();
        if size > Self::MAX_ENCODED {
            return Err(format!(
                "the task's description takes {size} bytes, and {} is the most: put large input \
                 into an artifact",
                Self::MAX_ENCODED
            ));
        }
        Ok(())
    }

    /// The environment that the task asks for.
    pub fn env(&self) -> &BTreeMap<String, String> {
        match &self.workload {
            Workload::Wasm(wasm) => &wasm.env,
            Workload::Command(command) => &command.env,
        }
    }
}

impl fmt::Display for PartitionPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wait => f.write_str("waited for"),
            Self::ReplaceAfter(millis) => write!(f, "replaced after {millis} ms"),
            Self::StopAfter(millis) => write!(f, "stopped and replaced after {millis} ms"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_final() {
        for state in TaskState::ALL
            .into_iter()
            .filter(|state| state.is_terminal())
        {
            assert!(
                TaskState::ALL.iter().all(|next| !state.may_become(*next)),
                "{state}"
            );
        }
    }

    #[test]
    fn every_living_state_may_end() {
        for state in TaskState::ALL
            .into_iter()
            .filter(|state| !state.is_terminal())
        {
            assert!(state.may_become(TaskState::Finished), "{state}");
            assert!(!state.may_become(state), "{state}");
        }
    }

    #[test]
    fn checks_that_cannot_be_made_of_a_task_are_refused() {
        let command = |rest: &str| format!(r#"{{"command": {{"argv": ["true"], {rest}}}}}"#);
        let image = r#""container": {"image": "web:1"}"#;
        let fill = format!(r#"{{"name": "fill", "role": "init", {image}}}"#);
        let side = format!(r#"{{"name": "side", {image}}}"#);
        let companions = format!(r#"{image}, "options": {{"companions": [{fill}, {side}]}}"#);
        let companions = companions.as_str();
        let apart = r#""container": {"image": "web:1", "network": "none"}"#;
        let beside =
            |name: &str| format!(r#"{{"command": {{"argv": ["x"], "member": "{name}"}}}}"#);
        let http = || r#"{"http": {"port": 80}}"#.to_owned();
        for (rest, probe, why) in [
            (companions, beside("side"), ""),
            (companions, beside("main"), ""),
            (companions, http(), ""),
            (companions, beside("fill"), "`fill` has ended"),
            (companions, beside("other"), "`other` is none"),
            (apart, http(), "check it by a command"),
        ] {
            let workload = serde_json::from_str(&command(rest)).unwrap();
            let mut spec = TaskSpec::new(workload);
            let checks = format!(r#"{{"health": {{"probe": {probe}}}}}"#);
            spec.checks = Some(serde_json::from_str(&checks).unwrap());
            match spec.validate() {
                Ok(()) => assert_eq!(why, "", "{probe}"),
                Err(said) => assert!(!why.is_empty() && said.contains(why), "{said}"),
            }
        }
    }

    #[test]
    fn late_words_change_nothing() {
        assert!(!TaskState::Running.may_become(TaskState::Starting));
        assert!(!TaskState::Killing.may_become(TaskState::Running));
        assert!(TaskState::Unreachable.may_become(TaskState::Running));
    }

    #[test]
    fn names_parse_back() {
        for state in TaskState::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
            assert_eq!(
                serde_json::to_string(&state).unwrap(),
                format!("\"{state}\"")
            );
        }
    }

    #[test]
    fn partition_policies_are_bounded_and_have_names_for_people_and_guests() {
        use PartitionPolicy::{ReplaceAfter, StopAfter, Wait};
        for policy in [Wait, ReplaceAfter(0), StopAfter(60_000)] {
            assert_eq!(policy.validate(), Ok(()));
            let text = serde_json::to_string(&policy).unwrap();
            assert_eq!(
                serde_json::from_str::<PartitionPolicy>(&text).unwrap(),
                policy
            );
            let back = policy.extension().map_or(Wait, |(name, millis)| {
                PartitionPolicy::named(name).unwrap()(millis)
            });
            assert_eq!(back, policy);
        }
        assert_eq!(
            serde_json::to_string(&StopAfter(7)).unwrap(),
            r#"{"stop-after-ms":7}"#
        );
        let short = StopAfter(PartitionPolicy::MIN_STOP_MS - 1).validate();
        assert!(short.unwrap_err().contains("5000 is the least"));
        assert!(
            ReplaceAfter(PartitionPolicy::MAX_MS + 1)
                .validate()
                .is_err()
        );
    }

    #[test]
    fn long_messages_are_cut_where_a_character_ends() {
        let reason = Reason::new("x", "é".repeat(2000));
        assert!(reason.message.len() < Reason::MAX_MESSAGE + 10);
        assert!(reason.message.ends_with("[…]"));
        assert!(reason.is_bounded());
        let message = reason.message + "éé";
        assert!(
            !Reason {
                message,
                ..Reason::new("x", "")
            }
            .is_bounded()
        );
    }
}
