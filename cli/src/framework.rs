//! `tepui framework`: the schedulers that the master runs.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Subcommand;
use futures::StreamExt;
use tepui_types::Role;
use tepui_types::api::framework::{DeployRequest, FrameworkView, LogLine};

use crate::artifact;
use crate::client::Client;
use crate::output::{self, Columns, Fields, Format};

/// The longest line of a framework's log that is read; the host cuts them well before.
const MAX_LINE: usize = 1024 * 1024;

/// What can be done with frameworks.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Deploy a WebAssembly file as a framework
    Deploy {
        /// Its name, of a-z, 0-9 and `-`
        name: String,
        /// The component or module
        file: PathBuf,
        /// What its tasks are charged to, such as eng/web; several times for
        /// several roles, of which the first is meant where none is named
        #[arg(long, default_value = "*", value_name = "ROLE")]
        role: Vec<Role>,
        /// Handed to its `start`; @FILE reads it from a file
        #[arg(long, default_value = "", value_name = "TEXT|@FILE")]
        config: String,
    },
    /// Show all frameworks
    List,
    /// Show all that is known of a framework
    Show {
        /// Its name or id
        framework: String,
    },
    /// End a framework's tasks, and remove it
    Remove {
        /// Its name or id
        framework: String,
    },
    /// Start a framework anew from its store
    Restart {
        /// Its name or id
        framework: String,
    },
    /// Print what a framework logged
    Logs {
        /// Its name or id
        framework: String,
        /// Go on with what it logs from now on
        #[arg(short, long)]
        follow: bool,
    },
}

/// Runs one of the commands.
pub async fn run(command: Command, client: &Client, format: Format) -> Result<()> {
    match command {
        Command::Deploy {
            name,
            file,
            role,
            config,
        } => {
            let config = read_config(config)?;
            let artifact = artifact::upload(&file, client).await?;
            let request = DeployRequest {
                name,
                artifact,
                role: None,
                roles: role,
                config,
            };
            told(&client.deploy(&request).await?, format)
        }
        Command::List => list(client, format).await,
        Command::Show { framework } => {
            let view = client.framework(&framework).await?;
            match format {
                Format::Json => output::json(&view),
                Format::Table => show(&view),
            }
        }
        Command::Remove { framework } => {
            let view = client.remove_framework(&framework).await?;
            match format {
                Format::Json => output::json(&view),
                Format::Table => output::line(&removed(&view)),
            }
        }
        Command::Restart { framework } => {
            told(&client.restart_framework(&framework).await?, format)
        }
        Command::Logs { framework, follow } => logs(&framework, follow, client, format).await,
    }
}

fn read_config(config: String) -> Result<String> {
    match config.strip_prefix('@') {
        Some(path) => {
            std::fs::read_to_string(path).with_context(|| format!("failed to read {path}"))
        }
        None => Ok(config),
    }
}

fn told(framework: &FrameworkView, format: Format) -> Result<()> {
    if format == Format::Json {
        return output::json(framework);
    }
    output::line(&format!(
        "framework {} ({}) is {}",
        framework.name,
        framework.id,
        framework.phase.as_str()
    ))
}

/// The answer shows a framework as it was last; one without tasks is gone by now.
fn removed(framework: &FrameworkView) -> String {
    let FrameworkView {
        name, id, tasks, ..
    } = framework;
    match tasks {
        0 => format!("framework {name} ({id}) is removed"),
        1 => format!("framework {name} ({id}) is being removed: its task is ended first"),
        _ => format!("framework {name} ({id}) is being removed: its {tasks} tasks are ended first"),
    }
}

async fn list(client: &Client, format: Format) -> Result<()> {
    let frameworks = client.frameworks().await?;
    if format == Format::Json {
        return output::json(&frameworks);
    }
    let mut table = Columns::new(&[
        "name", "id", "phase", "role", "tasks", "waiting", "cpus", "mem", "reason",
    ]);
    for framework in &frameworks {
        table.row([
            framework.name.clone(),
            framework.id.to_string(),
            framework.phase.as_str().to_owned(),
            framework.show_roles(),
            framework.tasks.to_string(),
            framework.waiting.to_string(),
            framework.used.cpus.to_string(),
            framework.used.mem.to_string(),
            framework
                .reason
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
        ]);
    }
    table.right(4);
    table.right(5);
    table.print("no frameworks: deploy one with `tepui framework deploy NAME FILE.wasm`")
}

fn show(framework: &FrameworkView) -> Result<()> {
    let mut fields = Fields::new();
    fields
        .add("name", &framework.name)
        .add("id", framework.id)
        .add("phase", framework.phase.as_str())
        .maybe("reason", framework.reason.as_ref())
        .add("role", framework.show_roles())
        .add("artifact", framework.artifact)
        .add("tasks", framework.tasks)
        .add("waiting", framework.waiting)
        .add("used", output::request(&framework.used))
        .add("offers", offers(framework))
        .add("incarnation", framework.incarnation)
        .add("turns", framework.turns)
        .add(
            "store",
            format!(
                "{} keys, {}",
                framework.store_keys,
                tepui_types::Bytes(framework.store_bytes)
            ),
        )
        .add("deployed", output::instant(framework.deployed_at))
        .print()
}

/// What it holds by offers, and whether it answers them.
fn offers(framework: &FrameworkView) -> String {
    let mut text = match framework.offered_since {
        Some(since) => format!(
            "{} of {}, the oldest for {}",
            framework.offers,
            output::request(&framework.offered),
            output::age(since)
        ),
        None => "none".to_owned(),
    };
    if framework.offers_expired > 0 {
        text.push_str(&format!(
            "; {} expired unanswered",
            framework.offers_expired
        ));
    }
    text
}

async fn logs(name: &str, follow: bool, client: &Client, format: Format) -> Result<()> {
    let mut bytes = client.framework_logs(name, follow).await?;
    let mut pending: Vec<u8> = Vec::new();
    while let Some(chunk) = bytes.next().await {
        for &byte in &chunk? {
            if byte != b'\n' {
                if pending.len() < MAX_LINE {
                    pending.push(byte);
                }
                continue;
            }
            print_line(&std::mem::take(&mut pending), format)?;
        }
    }
    print_line(&pending, format)
}

fn print_line(bytes: &[u8], format: Format) -> Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let line: LogLine =
        serde_json::from_slice(bytes).context("the master sent a log line that cannot be read")?;
    match format {
        Format::Json => output::json_line(&line),
        Format::Table => output::line(&format!(
            "{} {:5} {}",
            output::instant(line.time),
            line.level,
            line.message
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_may_come_from_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        std::fs::write(&path, "size = 3\n").unwrap();
        assert_eq!(
            read_config(format!("@{}", path.display())).unwrap(),
            "size = 3\n"
        );
        assert_eq!(read_config("size = 3".into()).unwrap(), "size = 3");
        assert!(read_config("@/nowhere/at-all".into()).is_err());
    }
}
