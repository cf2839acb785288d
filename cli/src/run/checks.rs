//! How the life of a job's tasks is looked at, as flags say it.

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use tepui_types::check::{Check, Checks, CommandProbe, HttpProbe, Probe, TcpProbe};
use tepui_types::command::MAIN;

use super::companions::CompanionOptions;
use crate::amounts;

/// The checks of each task.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Checks")]
pub struct CheckOptions {
    /// End a task, as failed, that is not well: `http:PORT/PATH`, `tcp:PORT` (without PORT, the first
    /// of its ports), `cmd:COMMAND LINE`, or `cmd@NAME:COMMAND LINE` beside a companion
    #[arg(long, value_parser = probe, value_name = "PROBE")]
    health: Option<Probe>,
    /// Show whether a task can be sent work
    #[arg(long, value_parser = probe, value_name = "PROBE")]
    ready: Option<Probe>,
    /// Begin with the others when this has passed; end a task that does not come up
    #[arg(long, value_parser = probe, value_name = "PROBE")]
    startup: Option<Probe>,
    /// From one probe to the next [default: 10s]
    #[arg(long, value_parser = amounts::duration, value_name = "SPAN")]
    check_interval: Option<Duration>,
    /// How long a probe may take [default: 5s]
    #[arg(long, value_parser = amounts::duration, value_name = "SPAN")]
    check_timeout: Option<Duration>,
    /// How many probes in a row have to fail [default: 3]
    #[arg(long, value_name = "N")]
    check_failures: Option<u32>,
    /// For how long failures do not count at the beginning [default: 10s]
    #[arg(long, value_parser = amounts::duration, value_name = "SPAN")]
    check_grace: Option<Duration>,
}

impl CheckOptions {
    /// None where none was asked for.
    pub fn checks(&self) -> Option<Box<Checks>> {
        let check = |probe: &Option<Probe>| probe.clone().map(|probe| self.check(probe));
        let checks = Checks {
            startup: check(&self.startup),
            readiness: check(&self.ready),
            health: check(&self.health),
        };
        (!checks.is_empty()).then(|| Box::new(checks))
    }

    /// Refuses a check beside a companion that there is not.
    ///
    /// # Errors
    /// Names it and its flag.
    pub fn refuse_beside_nobody(&self, companions: &CompanionOptions) -> Result<()> {
        let probes = [
            ("--startup", &self.startup),
            ("--ready", &self.ready),
            ("--health", &self.health),
        ];
        for (flag, probe) in probes {
            let Some(Probe::Command(CommandProbe {
                member: Some(member),
                ..
            })) = probe
            else {
                continue;
            };
            let is_there = member == MAIN || companions.all().any(|one| one.name == *member);
            anyhow::ensure!(
                is_there,
                "{flag} is beside `{member}`, which is no companion of this task: add it \
                 (--sidecar {member}=IMAGE), or leave out `@{member}`"
            );
        }
        Ok(())
    }

    fn check(&self, probe: Probe) -> Check {
        let usual = Check::new(probe);
        let or = |span: Option<Duration>, usual| span.map_or(usual, super::millis);
        Check {
            interval_ms: or(self.check_interval, usual.interval_ms),
            timeout_ms: or(self.check_timeout, usual.timeout_ms),
            failures: self.check_failures.unwrap_or(usual.failures),
            grace_ms: or(self.check_grace, usual.grace_ms),
            ..usual
        }
    }
}

fn probe(text: &str) -> Result<Probe, String> {
    let hint = "write http:PORT/PATH, tcp:PORT, cmd:COMMAND LINE or cmd@COMPANION:COMMAND LINE";
    let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
    let (kind, member) = match kind.split_once('@') {
        Some((kind, member)) => (kind, Some(member)),
        None => (kind, None),
    };
    if member.is_some_and(|member| kind != "cmd" || member.is_empty()) {
        return Err(format!(
            "only a command runs beside a companion, and companions share their ports: {hint}"
        ));
    }
    let port = |text: &str| match text {
        "" => Ok(0),
        text => text
            .parse()
            .map_err(|_| format!("`{text}` is no port: {hint}")),
    };
    match kind {
        "http" => {
            let (before, path) = rest
                .find('/')
                .map_or((rest, "/"), |slash| rest.split_at(slash));
            Ok(Probe::Http(HttpProbe {
                port: port(before)?,
                path: path.to_owned(),
            }))
        }
        "tcp" => Ok(Probe::Tcp(TcpProbe { port: port(rest)? })),
        "cmd" if !rest.trim().is_empty() => Ok(Probe::Command(CommandProbe {
            argv: ["sh", "-c", rest].map(str::to_owned).to_vec(),
            member: member.map(str::to_owned),
        })),
        _ => Err(hint.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_are_written_in_one_word() {
        let json = |text| serde_json::to_value(probe(text).unwrap()).unwrap();
        assert_eq!(
            json("http:80/up?x=1"),
            serde_json::json!({"http": {"port": 80, "path": "/up?x=1"}})
        );
        assert_eq!(
            json("http"),
            serde_json::json!({"http": {"port": 0, "path": "/"}})
        );
        assert_eq!(json("tcp:5432"), serde_json::json!({"tcp": {"port": 5432}}));
        assert_eq!(json("cmd:test -e x")["command"]["argv"][2], "test -e x");
        assert_eq!(
            json("cmd@proxy:test -e x")["command"],
            serde_json::json!({"argv": ["sh", "-c", "test -e x"], "member": "proxy"})
        );
        let error = probe("tcp@proxy:80").unwrap_err();
        assert!(error.contains("share their ports"), "{error}");
        for bad in [
            "",
            "udp:1",
            "tcp:x",
            "http:x/",
            "cmd:",
            "cmd@:x",
            "cmd@a:",
            "http@a:1/",
        ] {
            assert!(probe(bad).unwrap_err().contains("http:PORT/PATH"), "{bad}");
        }
    }
}
