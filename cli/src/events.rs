//! `tepui events`: what changes, as it happens, until Ctrl-C.

use anyhow::Result;
use clap::Args;
use tepui_types::api::event::{Event, EventBody, Sequence};

use crate::client::Client;
use crate::output::{self, Format};

/// Which events.
#[derive(Debug, Args)]
pub struct Options {
    /// Begin after this event, such as 1204.0
    #[arg(long, value_name = "SEQUENCE")]
    after: Option<Sequence>,
}

/// Prints events as long as they come.
pub async fn run(options: Options, client: &Client, format: Format) -> Result<()> {
    let mut events = client.events(options.after);
    loop {
        let event = events.next().await?;
        match format {
            Format::Json => output::json_line(&event)?,
            Format::Table => output::line(&text(&event))?,
        }
    }
}

fn text(event: &Event) -> String {
    let what = match &event.body {
        EventBody::Task {
            task,
            state,
            agent,
            reason,
            exit_code,
            in_line,
        } => {
            let line = if *in_line { " in line" } else { "" };
            let mut text = format!("task {task} is {state}{line} on {agent}");
            if let Some(code) = exit_code {
                text.push_str(&format!(", exit code {code}"));
            }
            with_reason(text, reason.as_ref())
        }
        EventBody::Agent { agent, status } => format!("agent {agent} is {}", status.as_str()),
        EventBody::Framework {
            framework,
            name,
            phase,
            reason,
        } => {
            let phase = phase.map_or("removed", |phase| phase.as_str());
            let text = format!("framework {name} ({framework}) is {phase}");
            with_reason(text, reason.as_ref())
        }
        EventBody::Demand {
            framework,
            key,
            count,
        } => format!("framework {framework} wants {count} of {key}"),
        EventBody::Artifact { digest } => format!("artifact {digest} is stored"),
        EventBody::Master {
            master,
            present: true,
        } => format!("master {master} is a member"),
        EventBody::Master {
            master,
            present: false,
        } => format!("master {master} has left"),
        EventBody::Role { role, is_set: true } => format!("role {role} is set"),
        EventBody::Role {
            role,
            is_set: false,
        } => format!("role {role} is set no more"),
        EventBody::GangOverdue { framework, key } => {
            format!("framework {framework} gives up the gang {key}")
        }
        EventBody::Settings {} => "the cluster's settings have changed".into(),
    };
    format!("{} {} {what}", output::instant(event.time), event.sequence)
}

fn with_reason(text: String, reason: Option<&tepui_types::Reason>) -> String {
    match reason {
        Some(reason) => format!("{text}: {reason}"),
        None => text,
    }
}
