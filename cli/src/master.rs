//! `tepui master`: those who replicate the cluster's state.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use tepui_types::NodeId;
use tepui_types::api::master::{MasterRole, MasterView};
use tokio::time::Instant;

use crate::client::Client;
use crate::output::{self, Columns, Format};

/// How long a change of members or of the lead may take before the command gives up on seeing it.
const PATIENCE: Duration = Duration::from_secs(15);
/// Between two looks at the list.
const LOOK: Duration = Duration::from_millis(50);

/// What can be done with masters.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show all masters
    ///
    /// Those who replicate the cluster's state, and how far they are.
    List,
    /// Add a master that waits for it
    ///
    /// Start it first, with an empty folder: `tepui-master --await-invitation --dir DIR …`. It takes
    /// over the state, and votes once it has caught up. (One that is started with `--join URL` comes
    /// by itself.)
    Add {
        /// Where it is reached, such as 10.0.0.4:5050
        address: String,
    },
    /// Remove a master for good: it leaves the group and ends
    Remove {
        /// Its id, as `tepui master list` shows it
        id: NodeId,
    },
    /// Let a master lead
    Lead {
        /// Its id, as `tepui master list` shows it
        id: NodeId,
    },
}

/// Runs one of the commands.
pub async fn run(command: Command, client: &Client, format: Format) -> Result<()> {
    match command {
        Command::List => list(client, format).await,
        Command::Add { address } => {
            let id = client.invite_master(&address).await?.id;
            let votes = |known: &MasterView| {
                known.id == id && known.role == MasterRole::Voter && known.active
            };
            see(client, format, |masters| masters.iter().any(votes)).await
        }
        Command::Remove { id } => {
            client.remove_master(id).await?;
            let gone = |masters: &[MasterView]| masters.iter().all(|known| known.id != id);
            see(client, format, gone).await
        }
        Command::Lead { id } => {
            client.lead_master(id).await?;
            let leads = |known: &MasterView| known.id == id && known.role == MasterRole::Leader;
            see(client, format, |masters| masters.iter().any(leads)).await
        }
    }
}

async fn list(client: &Client, format: Format) -> Result<()> {
    show(&client.masters().await?, format)
}

/// Shows the list once it is as it was asked for.
async fn see(
    client: &Client,
    format: Format,
    is_done: impl Fn(&[MasterView]) -> bool,
) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        // While the lead moves, a list may fail.
        let masters = client.masters().await;
        match masters {
            Ok(masters) if is_done(&masters) => return show(&masters, format),
            result if Instant::now() > deadline => {
                result.context("the change was asked for, but cannot be seen")?;
                bail!(
                    "the change was asked for and has not happened yet: look again with `tepui \
                     master list`"
                );
            }
            _ => tokio::time::sleep(LOOK).await,
        }
    }
}

fn show(masters: &[MasterView], format: Format) -> Result<()> {
    if format == Format::Json {
        return output::json(&masters);
    }
    let mut table = Columns::new(&["id", "url", "role", "behind", "clock", "state", "release"]);
    for master in masters {
        let mut role = master.role.as_str().to_owned();
        if !master.active {
            role.push_str(", away");
        }
        if master.has_bad_clock() {
            role.push_str(", clock off");
        }
        table.row([
            master.id.to_string(),
            master.url.clone(),
            role,
            master.behind.to_string(),
            known(master.clock_ahead_ms.map(|ahead| format!("{ahead:+} ms"))),
            known(master.state_agrees.map(agreement)),
            known(master.version.clone()),
        ]);
    }
    table.right(3);
    table.right(4);
    table.print("no masters are listed")
}

/// What the leader's comparison of states came to.
fn agreement(agrees: bool) -> String {
    match agrees {
        true => "agrees".into(),
        false => "differs".into(),
    }
}

fn known(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".into())
}
