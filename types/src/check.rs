//! Checks: what a task's specification says of how its life is looked at, and what was found.
//!
//! Three roles, as in Kubernetes: a start-up check says when a task has come up, and the others
//! begin after it; readiness is only told; a task that fails its health check is ended, to be run
//! again where its framework wants that. Agents run checks (`tepui-network`, `checks.rs`).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::is_label;

/// The checks of a task, one of each role at most.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Checks {
    /// Whether it has come up; the others begin when it has. A task that does not is ended.
    #[serde(default)]
    pub startup: Option<Check>,
    /// Whether it can be sent work; only told.
    #[serde(default)]
    pub readiness: Option<Check>,
    /// Whether it is well; a task that is not is ended.
    #[serde(default)]
    pub health: Option<Check>,
}

/// One check: a probe that is repeated, and what is concluded from its outcomes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Check {
    /// What is tried.
    pub probe: Probe,
    /// Milliseconds before the first probe.
    #[serde(default)]
    pub delay_ms: u64,
    /// Milliseconds from the end of a probe to the next.
    #[serde(default = "default_interval_ms")]
    pub interval_ms: u64,
    /// Milliseconds that a probe may take; then it has failed.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
    /// So many probes in a row have to fail for the check to fail.
    #[serde(default = "default_failures")]
    pub failures: u32,
    /// So many in a row have to succeed for it to pass.
    #[serde(default = "default_successes")]
    pub successes: u32,
    /// Failures do not count for so many milliseconds from its beginning, or until the first
    /// success.
    #[serde(default = "default_grace_ms")]
    pub grace_ms: u64,
}

/// What is tried to see how a task is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Probe {
    /// A command beside the task, which exits with 0.
    Command(CommandProbe),
    /// A GET, which is answered with a status from 200 to 399.
    Http(HttpProbe),
    /// A connection, which is accepted.
    Tcp(TcpProbe),
}

/// A command that is run where the task runs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CommandProbe {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Beside which of the task's commands, by name; its own when absent.
    #[serde(default)]
    pub member: Option<String>,
}

/// An HTTP request to the task.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HttpProbe {
    /// Where the task listens; 0, or nothing, stands for the first of its ports.
    #[serde(default)]
    pub port: u16,
    /// With its query, if it has one.
    #[serde(default = "default_path")]
    pub path: String,
}

/// A TCP connection to the task.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TcpProbe {
    /// Where the task listens; 0, or nothing, stands for the first of its ports.
    #[serde(default)]
    pub port: u16,
}

/// Which of a task's checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum CheckRole {
    /// Whether it has come up.
    Startup,
    /// Whether it can be sent work.
    Readiness,
    /// Whether it is well.
    Health,
}

/// What a check has found so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum CheckState {
    /// Nothing that counts.
    Pending,
    /// Enough successes in a row.
    Passing,
    /// Enough failures in a row.
    Failing,
}

/// How a check stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CheckStatus {
    /// Which check.
    pub check: CheckRole,
    /// What it has found.
    pub state: CheckState,
    /// Failures in a row that count; never more than the check needs to fail.
    pub consecutive_failures: u32,
    /// Why the last of them failed; empty if there is none.
    pub message: String,
}

impl CheckRole {
    /// How many there are.
    pub const COUNT: usize = 3;
}

impl Checks {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self == &Self::default()
    }

    /// Those that there are, in the order of their roles.
    pub fn all(&self) -> impl Iterator<Item = (CheckRole, &Check)> {
        let all = [
            (CheckRole::Startup, &self.startup),
            (CheckRole::Readiness, &self.readiness),
            (CheckRole::Health, &self.health),
        ];
        all.into_iter()
            .filter_map(|(role, check)| Some((role, check.as_ref()?)))
    }

    /// What is wrong with them in themselves.
    pub fn validate(&self) -> Result<(), String> {
        self.all().try_for_each(|(role, check)| {
            let named = |what| format!("the {role} check: {what}");
            check.validate().map_err(named)
        })
    }
}

impl Check {
    /// The longest time of any kind, in milliseconds: a day. What is looked at more seldom is no
    /// check.
    pub const MAX_MS: u64 = 24 * 60 * 60 * 1000;
    /// The shortest interval, in milliseconds: checks must not cost more than the task.
    pub const MIN_INTERVAL_MS: u64 = 100;
    /// The most failures, and successes, in a row.
    pub const MAX_COUNT: u32 = 1000;

    /// A check with nothing said but its probe.
    pub fn new(probe: Probe) -> Self {
        Self {
            probe,
            delay_ms: 0,
            interval_ms: default_interval_ms(),
            timeout_ms: default_timeout_ms(),
            failures: default_failures(),
            successes: default_successes(),
            grace_ms: default_grace_ms(),
        }
    }

    /// What is wrong with it in itself.
    pub fn validate(&self) -> Result<(), String> {
        let times = [
            ("delay_ms", self.delay_ms, 0),
            ("interval_ms", self.interval_ms, Self::MIN_INTERVAL_MS),
            ("timeout_ms", self.timeout_ms, 1),
            ("grace_ms", self.grace_ms, 0),
        ];
        for (name, millis, least) in times {
            if !(least..=Self::MAX_MS).contains(&millis) {
                return Err(format!(
                    "{name} is {millis}: choose from {least} to {}",
                    Self::MAX_MS
                ));
            }
        }
        for (name, count) in [("failures", self.failures), ("successes", self.successes)] {
            if !(1..=Self::MAX_COUNT).contains(&count) {
                return Err(format!(
                    "{name} is {count}: choose from 1 to {}",
                    Self::MAX_COUNT
                ));
            }
        }
        self.probe.validate()
    }
}

impl Probe {
    /// The most arguments of a command.
    pub const MAX_ARGS: usize = 64;
    /// The most bytes of them together, and of a path: a check is no script.
    pub const MAX_TEXT: usize = 4096;

    fn validate(&self) -> Result<(), String> {
        match self {
            Self::Command(command) => {
                if let Some(member) = command.member.as_ref().filter(|name| !is_label(name)) {
                    let shown: String = member.chars().take(80).collect();
                    return Err(format!("`{shown}` names no command of the task"));
                }
                validate_argv(&command.argv)
            }
            Self::Http(http) => validate_path(&http.path),
            Self::Tcp(_) => Ok(()),
        }
    }
}

fn validate_argv(argv: &[String]) -> Result<(), String> {
    if argv.first().is_none_or(String::is_empty) {
        return Err("argv is empty: name the program to run".into());
    }
    let bytes: usize = argv.iter().map(String::len).sum();
    if argv.len() > Probe::MAX_ARGS || bytes > Probe::MAX_TEXT {
        return Err(format!(
            "argv has {} arguments of {bytes} bytes, and {} of {} are the most: put the rest into \
             a script",
            argv.len(),
            Probe::MAX_ARGS,
            Probe::MAX_TEXT
        ));
    }
    if argv.iter().any(|argument| argument.contains('\0')) {
        return Err("arguments may not hold NUL characters".into());
    }
    Ok(())
}

fn validate_path(path: &str) -> Result<(), String> {
    // What may stand in a request's first line as it is.
    let is_visible = path.bytes().all(|byte| byte.is_ascii_graphic());
    if !path.starts_with('/') || !is_visible || path.contains('#') || path.len() > Probe::MAX_TEXT {
        return Err(format!(
            "path is {:?}: begin it with `/`, percent-encode spaces and what is not ASCII, without \
             `#`, {} bytes at most",
            path.chars().take(80).collect::<String>(),
            Probe::MAX_TEXT
        ));
    }
    Ok(())
}

/// Ten seconds, as Kubernetes and Mesos have.
fn default_interval_ms() -> u64 {
    10_000
}

/// Five seconds: one is too short for a loaded machine, and a task is ended for it.
fn default_timeout_ms() -> u64 {
    5_000
}

fn default_failures() -> u32 {
    3
}

fn default_successes() -> u32 {
    1
}

/// Ten seconds, as Mesos gives.
fn default_grace_ms() -> u64 {
    10_000
}

fn default_path() -> String {
    "/".into()
}

impl fmt::Display for CheckStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            check,
            state,
            message,
            ..
        } = self;
        write!(f, "{check}: {state}")?;
        match message.is_empty() {
            true => Ok(()),
            false => write!(f, " ({message})"),
        }
    }
}

impl fmt::Display for CheckState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pending => "pending",
            Self::Passing => "passing",
            Self::Failing => "failing",
        })
    }
}

impl fmt::Display for CheckRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Startup => "start-up",
            Self::Readiness => "readiness",
            Self::Health => "health",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_needs_only_its_probe() {
        let text = r#"{"health": {"probe": {"http": {"port": 80}}}}"#;
        let checks: Checks = serde_json::from_str(text).unwrap();
        let probe = Probe::Http(HttpProbe {
            port: 80,
            path: "/".into(),
        });
        assert_eq!(checks.health, Some(Check::new(probe)));
        assert_eq!(checks.validate(), Ok(()));
        assert!(!checks.is_empty() && Checks::default().is_empty());
        let back = serde_json::to_string(&checks).unwrap();
        assert_eq!(serde_json::from_str::<Checks>(&back).unwrap(), checks);
        let unknown = r#"{"health": {"probe": {"tcp": {"port": 80, "host": "x"}}}}"#;
        assert!(serde_json::from_str::<Checks>(unknown).is_err());
    }

    #[test]
    fn what_is_wrong_is_said_with_its_fix() {
        let tcp = || Check::new(Probe::Tcp(TcpProbe { port: 80 }));
        let http = |path: &str| {
            let path = path.to_owned();
            Check::new(Probe::Http(HttpProbe { port: 80, path }))
        };
        let command = |argv: &[&str]| {
            let argv = argv.iter().map(|&argument| argument.into()).collect();
            Check::new(Probe::Command(CommandProbe { argv, member: None }))
        };
        let cases = [
            (
                Check {
                    interval_ms: 0,
                    ..tcp()
                },
                "interval_ms is 0: choose from 100",
            ),
            (
                Check {
                    timeout_ms: 0,
                    ..tcp()
                },
                "timeout_ms is 0: choose from 1",
            ),
            (
                Check {
                    delay_ms: u64::MAX,
                    ..tcp()
                },
                "delay_ms",
            ),
            (
                Check {
                    failures: 0,
                    ..tcp()
                },
                "failures is 0",
            ),
            (
                Check {
                    successes: 1001,
                    ..tcp()
                },
                "1 to 1000",
            ),
            (http("x"), "begin it with `/`"),
            (http("/a b"), "percent-encode"),
            (http("/\r\nHost: x"), "percent-encode"),
            (command(&[]), "name the program"),
            (command(&["a", "b\0"]), "NUL"),
            (command(&["a"; 65]), "script"),
            (command(&["a", &"b".repeat(5000)]), "script"),
        ];
        for (check, says) in cases {
            let checks = Checks {
                readiness: Some(check),
                ..Checks::default()
            };
            let error = checks.validate().unwrap_err();
            assert!(error.starts_with("the readiness check: "), "{error}");
            assert!(error.contains(says), "{error}");
        }
        assert_eq!(command(&["/bin/true"]).validate(), Ok(()));
        assert_eq!(http("/health?deep=1").validate(), Ok(()));
    }
}
