//! `cargo xtask up`: from a fresh machine to a running local cluster.
//!
//! Builds everything, then becomes `tepui dev`, which starts the master and the agents, deploys
//! the built-in framework and stops them all on Ctrl-C. Nothing of this process stays between the
//! terminal and the cluster.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;
use crate::{build, process, say, tasks};

const DEFAULT_AGENTS: &str = "3";

/// Installs, builds and starts; returns only when told not to start, or on an error.
pub fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    let options = Options::parse(arguments)?;
    build::everything(workspace, tasks::C::IfCompilerPresent)?;
    if !options.start {
        say::note("everything is built; `cargo xtask up` starts it");
        return Ok(());
    }
    let mut tepui = Command::new(workspace.release().join("tepui"));
    tepui.arg("dev").args(options.dev);
    say::note(&format!("starting the cluster: {}", process::line(&tepui)));
    let error = tepui.exec();
    Err(error).with_context(|| format!("failed to start `{}`", process::line(&tepui)))
}

#[derive(Debug, PartialEq)]
struct Options {
    start: bool,
    /// What `tepui dev` is given.
    dev: Vec<String>,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self> {
        let mut start = true;
        let mut agents = DEFAULT_AGENTS.to_string();
        let mut others = Vec::new();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            if argument == "--no-start" {
                start = false;
                continue;
            }
            let (name, value) = match argument.split_once('=') {
                Some((name, value)) => (name, Some(value.to_string())),
                None => (argument.as_str(), None),
            };
            if !matches!(name, "--agents" | "--dir" | "--port") {
                bail!(
                    "`up` does not know `{argument}`; it takes --agents N, --dir D, --port P and --no-start"
                );
            }
            let value = match value.or_else(|| rest.next().cloned()) {
                Some(value) => value,
                None => bail!("`{name}` wants a value"),
            };
            match name {
                "--agents" => agents = value,
                _ => others.extend([name.to_string(), value]),
            }
        }
        agents
            .parse::<u16>()
            .with_context(|| format!("`--agents` wants a number, but was given `{agents}`"))?;
        let mut dev = vec!["--agents".to_string(), agents];
        dev.extend(others);
        Ok(Self { start, dev })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options> {
        let words: Vec<String> = line.split_whitespace().map(str::to_string).collect();
        Options::parse(&words)
    }

    #[test]
    fn three_agents_unless_told_otherwise() {
        let options = parse("").unwrap();
        assert!(options.start);
        assert_eq!(options.dev, ["--agents", "3"]);
    }

    #[test]
    fn options_reach_tepui_dev() {
        let options = parse("--agents=5 --dir /tmp/t --port 6000 --no-start").unwrap();
        assert!(!options.start);
        assert_eq!(
            options.dev,
            ["--agents", "5", "--dir", "/tmp/t", "--port", "6000"]
        );
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        assert!(parse("--agent 3").is_err());
        assert!(parse("--dir").is_err());
        assert!(parse("--agents many").is_err());
    }
}
