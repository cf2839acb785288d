//! `tepui maintenance`: when which machines are worked on.

use std::time::Duration;

use anyhow::Result;
use clap::Subcommand;
use tepui_types::api::maintenance::{WindowRequest, WindowView};
use tepui_types::{AgentId, Timestamp, WindowId};

use crate::amounts;
use crate::client::Client;
use crate::output::{self, Columns, Format};

/// What can be done with maintenance windows.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Plan a window in which agents are empty
    ///
    /// They are drained before it, and used again after it, at once or when they are back.
    Schedule {
        /// When they must be empty: `in 2h`, or a time such as 2026-05-01T22:00:00Z
        #[arg(long, value_name = "WHEN", value_parser = amounts::when)]
        start: Timestamp,
        /// How long, such as 1h
        #[arg(long, value_name = "TIME", value_parser = amounts::duration)]
        duration: Duration,
        /// How long before the start they are drained
        #[arg(long, value_name = "TIME", default_value = "10m", value_parser = amounts::duration)]
        lead: Duration,
        /// What it is for
        #[arg(long, value_name = "TEXT", default_value = "")]
        note: String,
        /// Their ids such as a1
        #[arg(required = true)]
        agents: Vec<AgentId>,
    },
    /// Show the windows that are planned or have begun
    List,
    /// Take a window back, or end one that has begun
    Cancel {
        /// Its id such as w1
        window: WindowId,
    },
}

/// Runs one of the commands.
pub async fn run(command: Command, client: &Client, format: Format) -> Result<()> {
    match command {
        Command::Schedule {
            start,
            duration,
            lead,
            note,
            agents,
        } => {
            let request = WindowRequest {
                agents,
                start,
                duration_ms: millis(duration),
                lead_ms: millis(lead),
                note,
            };
            let window = client.schedule_window(&request).await?;
            show(&[window], format)
        }
        Command::List => show(&client.windows().await?, format),
        Command::Cancel { window } => {
            client.cancel_window(window).await?;
            match format {
                Format::Json => output::json(&serde_json::json!({ "cancelled": window })),
                Format::Table => output::line(&format!("{window} is cancelled")),
            }
        }
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn show(windows: &[WindowView], format: Format) -> Result<()> {
    if format == Format::Json {
        return output::json(&windows);
    }
    let mut table = Columns::new(&["id", "agents", "drains", "start", "end", "begun", "note"]);
    for window in windows {
        let agents: Vec<_> = window.agents.iter().map(AgentId::to_string).collect();
        table.row([
            window.id.to_string(),
            agents.join(" "),
            output::instant(window.drains_at),
            output::instant(window.start),
            output::instant(window.end),
            if window.has_begun { "yes" } else { "no" }.to_owned(),
            window.note.clone(),
        ]);
    }
    table.print("no maintenance is planned")
}
