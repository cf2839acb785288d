//! `tepui volume`: what tasks keep on agents.

use anyhow::Result;
use clap::Subcommand;
use tepui_types::api::reservation::{ResizeRequest, VolumeView};
use tepui_types::wish::VolumeRequest;
use tepui_types::{AgentId, Bytes, Role};

use crate::agent::resources;
use crate::client::Client;
use crate::output::{self, Columns, Format};

/// What can be done with volumes.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show all volumes
    List,
    /// Make a volume of disk that is reserved for a role
    Create {
        /// Its agent such as a1
        agent: AgentId,
        /// Its name, unique on the agent
        volume: String,
        /// For whom the disk is reserved
        #[arg(long, value_name = "ROLE")]
        role: Role,
        /// How large, such as 10GiB; all of a whole disk when absent
        #[arg(long, value_name = "SIZE")]
        size: Option<Bytes>,
        /// Where tasks find it below their sandbox; its name when absent
        #[arg(long, value_name = "PATH")]
        path: Option<String>,
        /// The agent's disk by its id, in place of the root disk
        #[arg(long, value_name = "ID")]
        disk: Option<String>,
        /// Let several tasks use it at a time
        #[arg(long)]
        shared: bool,
    },
    /// End a volume and all that is stored in it; its disk stays reserved
    Destroy {
        /// Its agent such as a1
        agent: AgentId,
        /// Its name
        volume: String,
    },
    /// Give a volume more of the disk that is reserved beside it
    Grow {
        /// Its agent such as a1
        agent: AgentId,
        /// Its name
        volume: String,
        /// By how much, such as 5GiB
        by: Bytes,
    },
    /// Take some of a volume's disk back; it stays reserved
    Shrink {
        /// Its agent such as a1
        agent: AgentId,
        /// Its name
        volume: String,
        /// By how much, such as 5GiB
        by: Bytes,
    },
}

/// Runs one of the commands.
pub async fn run(command: Command, client: &Client, format: Format) -> Result<()> {
    match command {
        Command::List => list(&client.volumes().await?, format),
        Command::Create {
            agent,
            volume,
            role,
            size,
            path,
            disk,
            shared,
        } => {
            let request = VolumeRequest {
                path: path.unwrap_or_else(|| volume.clone()),
                id: volume,
                role,
                size_bytes: size,
                disk,
                shared,
            };
            resources(&client.create_volume(agent, &request).await?, format)
        }
        Command::Destroy { agent, volume } => {
            resources(&client.destroy_volume(agent, &volume).await?, format)
        }
        Command::Grow { agent, volume, by } => {
            resize(client, agent, &volume, "grow", by, format).await
        }
        Command::Shrink { agent, volume, by } => {
            resize(client, agent, &volume, "shrink", by, format).await
        }
    }
}

async fn resize(
    client: &Client,
    agent: AgentId,
    volume: &str,
    how: &str,
    by_bytes: Bytes,
    format: Format,
) -> Result<()> {
    let request = ResizeRequest { by_bytes };
    let view = client.resize_volume(agent, volume, how, &request).await?;
    resources(&view, format)
}

fn list(volumes: &[VolumeView], format: Format) -> Result<()> {
    if format == Format::Json {
        return output::json(&volumes);
    }
    let mut table = Columns::new(&["agent", "volume", "role", "size", "path", "disk", "used by"]);
    for volume in volumes {
        let shared = if volume.shared { " (shared)" } else { "" };
        let user = volume.used_by.as_ref();
        table.row([
            volume.agent.to_string(),
            format!("{}{shared}", volume.id),
            volume.role.to_string(),
            volume.size_bytes.to_string(),
            volume.path.clone(),
            volume
                .disk
                .as_ref()
                .map_or("root", |disk| disk.id())
                .to_owned(),
            user.map_or_else(|| "-".to_owned(), ToString::to_string),
        ]);
    }
    table.right(3);
    table.print("no volumes: make one with `tepui volume create`")
}
