//! How the life of a job's tasks is looked at, as flags say it.

use std::time::Duration;

use clap::Args;
use tepui_types::check::{Check, Checks, CommandProbe, HttpProbe, Probe, TcpProbe};

use crate::amounts;

/// The checks of each task.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Checks")]
pub struct CheckOptions {
    /// End a task, as failed, that is not well: `http:PORT/PATH`, `tcp:PORT` (without PORT, the first
    /// of its ports) or `cmd:COMMAND LINE`
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
    let hint = "write http:PORT/PATH, tcp:PORT or cmd:COMMAND LINE";
    let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
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
            member: None,
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
        for bad in ["", "udp:1", "tcp:x", "http:x/", "cmd:"] {
            assert!(probe(bad).unwrap_err().contains("http:PORT/PATH"), "{bad}");
        }
    }
}
