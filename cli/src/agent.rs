//! `tepui agent`: the machines, and what operators do with them.

use std::time::Duration;

use anyhow::{Result, bail};
use clap::Subcommand;
use tepui_types::api::agent::{AgentView, DrainRequest};
use tepui_types::api::reservation::OperationView;
use tepui_types::resources::Amounts;
use tepui_types::wish::{ReserveRequest, UnreserveRequest};
use tepui_types::{AgentId, AgentStatus, Role};

use crate::amounts;
use crate::client::Client;
use crate::output::{self, Columns, Fields, Format};
use crate::progress::Transfer;

/// Between two looks at an agent that is being drained.
const LOOK: Duration = Duration::from_millis(200);

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
    /// Place nothing more on an agent; its tasks go on
    Deactivate {
        /// Its id such as a1
        agent: AgentId,
    },
    /// Use an agent again; takes back `deactivate` and `drain`
    Reactivate {
        /// Its id such as a1
        agent: AgentId,
    },
    /// Place nothing more on an agent, and end its tasks
    ///
    /// Frameworks are told that their tasks were drained, and run them elsewhere.
    Drain {
        /// Its id such as a1
        agent: AgentId,
        /// After this time what is left is ended without grace, such as 10m
        #[arg(long, value_name = "TIME", value_parser = amounts::duration)]
        deadline: Option<Duration>,
        /// Grace of each task in place of its own, such as 30s
        #[arg(long, value_name = "TIME", value_parser = amounts::duration)]
        grace: Option<Duration>,
        /// Give the agent up for good at the end
        #[arg(long)]
        mark_gone: bool,
        /// Wait until it is empty
        #[arg(long)]
        wait: bool,
    },
    /// Set resources of an agent aside for a role and those below it
    Reserve {
        /// Its id such as a1
        agent: AgentId,
        /// For whom, such as eng/web
        role: Role,
        /// How much, such as cpus=4,mem=8GiB; with --disk all of it when absent
        #[arg(value_name = "AMOUNTS")]
        amounts: Option<Amounts>,
        /// The role above that has it reserved now
        #[arg(long, value_name = "ROLE")]
        from: Option<Role>,
        /// The agent's disk by its id, in place of the root disk
        #[arg(long, value_name = "ID")]
        disk: Option<String>,
        /// Keeps reservations of one role apart
        #[arg(long, value_name = "NAME=VALUE", value_parser = amounts::setting)]
        label: Vec<(String, String)>,
    },
    /// Take back what is reserved for a role on an agent, and not in use
    Unreserve {
        /// Its id such as a1
        agent: AgentId,
        /// Whose, such as eng/web
        role: Role,
        /// How much, such as cpus=4; all that is free of it when absent
        #[arg(value_name = "AMOUNTS")]
        amounts: Option<Amounts>,
        /// The agent's disk by its id, in place of the root disk
        #[arg(long, value_name = "ID")]
        disk: Option<String>,
    },
    /// What became of operations on resources, by frameworks and operators
    Operations,
    /// End what an agent still runs of a time that a restored backup does not know
    EndHeld {
        /// Its id such as a1
        agent: AgentId,
    },
    /// Give up an agent for good, because its machine never comes back
    ///
    /// Its tasks end as `gone`. If it comes back all the same, it ends what it runs and is refused.
    Gone {
        /// Its id such as a1
        agent: AgentId,
    },
}

/// Runs one of the commands.
pub async fn run(command: Command, client: &Client, format: Format) -> Result<()> {
    match command {
        Command::List => list(client, format).await,
        Command::Show { agent } => show(&client.agent(agent).await?, format),
        Command::Deactivate { agent } => {
            changed(&client.change_agent(agent, "deactivate").await?, format)
        }
        Command::Reactivate { agent } => {
            changed(&client.change_agent(agent, "reactivate").await?, format)
        }
        Command::EndHeld { agent } => {
            changed(&client.change_agent(agent, "end-held").await?, format)
        }
        Command::Gone { agent } => changed(&client.change_agent(agent, "gone").await?, format),
        Command::Reserve {
            agent,
            role,
            amounts,
            from,
            disk,
            label,
        } => {
            let request = ReserveRequest {
                role,
                amounts: amounts.as_ref().map(Amounts::request).unwrap_or_default(),
                from,
                disk,
                labels: label.into_iter().collect(),
            };
            resources(&client.reserve(agent, &request).await?, format)
        }
        Command::Unreserve {
            agent,
            role,
            amounts,
            disk,
        } => {
            let request = UnreserveRequest {
                role,
                amounts: amounts.as_ref().map(Amounts::request).unwrap_or_default(),
                disk,
            };
            resources(&client.unreserve(agent, &request).await?, format)
        }
        Command::Operations => operations(&client.operations().await?, format),
        Command::Drain {
            agent,
            deadline,
            grace,
            mark_gone,
            wait,
        } => {
            let request = DrainRequest {
                deadline_ms: deadline.map(millis),
                grace_ms: grace.map(millis),
                mark_gone,
            };
            let mut view = client.drain_agent(agent, &request).await?;
            if wait {
                view = drained(client, view).await?;
            }
            changed(&view, format)
        }
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Waits until an agent is empty, or is being drained no more.
async fn drained(client: &Client, mut agent: AgentView) -> Result<AgentView> {
    let before = agent.tasks;
    let bar = Transfer::tasks(&format!("draining {}", agent.id), before);
    while agent.drain.is_some() && agent.tasks > 0 && agent.gone_since.is_none() {
        bar.set(before.saturating_sub(agent.tasks), left(&agent));
        tokio::time::sleep(LOOK).await;
        agent = client.agent(agent.id).await?;
    }
    bar.clear();
    if agent.drain.is_none() && agent.gone_since.is_none() {
        bail!("the drain of {} was taken back meanwhile", agent.id);
    }
    Ok(agent)
}

/// Shows what an agent has after an operation.
pub fn resources(agent: &AgentView, format: Format) -> Result<()> {
    match format {
        Format::Json => output::json(agent),
        Format::Table => output::line(&format!("{} has {}", agent.id, agent.total)),
    }
}

fn operations(operations: &[OperationView], format: Format) -> Result<()> {
    if format == Format::Json {
        return output::json(&operations);
    }
    let mut table = Columns::new(&["id", "agent", "operation", "by", "state", "when", "why"]);
    for operation in operations {
        let reason = operation.reason.as_ref();
        table.row([
            operation.id.clone(),
            operation.agent.to_string(),
            format!("{} {}", operation.kind, operation.name),
            operation.by.clone(),
            operation.state.as_str().to_owned(),
            output::instant(operation.time),
            reason.map_or_else(String::new, |reason| reason.message.clone()),
        ]);
    }
    table.print("no operation is remembered")
}

fn changed(agent: &AgentView, format: Format) -> Result<()> {
    match format {
        Format::Json => output::json(agent),
        Format::Table => output::line(&format!(
            "{} ({}) is {}",
            agent.id,
            agent.hostname,
            standing(agent)
        )),
    }
}

/// An agent's status with what belongs to it.
fn standing(agent: &AgentView) -> String {
    let status = agent.status.as_str();
    match agent.status {
        AgentStatus::Draining => format!("{status}, {}", left(agent)),
        // Both are of interest: nobody is there to end the tasks.
        AgentStatus::Unreachable if agent.drain.is_some() && agent.tasks > 0 => {
            format!("{status}, draining, {}", left(agent))
        }
        AgentStatus::Unreachable | AgentStatus::Gone => status.to_owned(),
        _ if agent.held > 0 => format!("{status}, holds {} unknown", agent.held),
        _ if agent.connected => status.to_owned(),
        _ => format!("{status}, away"),
    }
}

fn left(agent: &AgentView) -> String {
    match agent.tasks {
        1 => "1 task left".into(),
        tasks => format!("{tasks} tasks left"),
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
        table.row([
            agent.id.to_string(),
            agent.hostname.clone(),
            standing(agent),
            agent.tasks.to_string(),
            cpus,
            mem,
            output::instant(agent.registered_at),
        ]);
    }
    table.right(3);
    table.print("no agents: start one with `tepui-agent --master URL --dir DIR`")
}

fn lacking(short: &str) -> String {
    format!("it has less than is reserved on it: {short}")
}

fn show(agent: &AgentView, format: Format) -> Result<()> {
    if format == Format::Json {
        return output::json(agent);
    }
    let mut fields = Fields::new();
    fields
        .add("id", agent.id)
        .add("hostname", &agent.hostname)
        .add("status", standing(agent))
        .add("connected", if agent.connected { "yes" } else { "no" })
        .maybe(
            "unreachable since",
            agent.unreachable_since.map(output::instant),
        )
        .maybe("gone since", agent.gone_since.map(output::instant))
        .maybe("offers nothing", agent.short.as_deref().map(lacking))
        .maybe("takes nothing", agent.full.as_ref())
        .add("tasks", agent.tasks);
    for task in &agent.held_tasks {
        fields.add("holds", task);
    }
    let more = agent.held.saturating_sub(agent.held_tasks.len() as u64);
    if more > 0 {
        fields.add("holds", format!("{more} more"));
    }
    if let Some(drain) = &agent.drain {
        fields
            .add("drain began", output::instant(drain.since))
            .maybe("drain deadline", drain.deadline.map(output::instant))
            .maybe("maintenance", drain.window);
        if drain.mark_gone {
            fields.add("afterwards", "gone for good");
        }
    }
    fields
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
