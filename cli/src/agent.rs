//! `tepui agent`: the machines.

use anyhow::Result;
use clap::Subcommand;
use tepui_types::AgentId;

use crate::client::Client;
use crate::output::{self, Columns, Fields, Format};

/// What can be done with agents.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show all agents
    List,
    /// Show all that is known of an agent
    Show {
        /// Its id such as a1
        agent: AgentId,
    },
}

/// Runs one of the commands.
pub async fn run(command: Command, client: &Client, format: Format) -> Result<()> {
    match command {
        Command::List => list(client, format).await,
        Command::Show { agent } => show(agent, client, format).await,
    }
}

async fn list(client: &Client, format: Format) -> Result<()> {
    let agents = client.agents().await?;
    if format == Format::Json {
        return output::json(&agents);
    }
    let mut table = Columns::new(&["id", "hostname", "status", "tasks", "cpus", "mem", "since"]);
    for agent in &agents {
        let (cpus, mem) = output::share(&agent.used, &agent.total);
        let status = match agent.connected {
            true => agent.status.as_str().to_owned(),
            false => format!("{}, away", agent.status.as_str()),
        };
        table.row([
            agent.id.to_string(),
            agent.hostname.clone(),
            status,
            agent.tasks.to_string(),
            cpus,
            mem,
            output::instant(agent.registered_at),
        ]);
    }
    table.right(3);
    table.print("no agents: start one with `tepui-agent --master URL --dir DIR`")
}

async fn show(id: AgentId, client: &Client, format: Format) -> Result<()> {
    let agent = client.agent(id).await?;
    if format == Format::Json {
        return output::json(&agent);
    }
    let mut fields = Fields::new();
    fields
        .add("id", agent.id)
        .add("hostname", &agent.hostname)
        .add("status", agent.status.as_str())
        .add("connected", if agent.connected { "yes" } else { "no" })
        .add("tasks", agent.tasks)
        .add("total", &agent.total)
        .add("used", &agent.used)
        .add("offered", &agent.offered);
    for (name, value) in &agent.attributes {
        fields.add("attribute", format!("{name}={value}"));
    }
    fields
        .add("version", &agent.version)
        .add("registered", output::instant(agent.registered_at))
        .print()
}
