//! `tepui backup` and `tepui restore`: a cluster's state and artifacts in one file, and back.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;
use tepui_types::Bytes;

use crate::client::Client;
use crate::download::Download;
use crate::output::{self, Format};

/// Where to write it.
#[derive(Debug, Args)]
pub struct Backup {
    /// The file; one that is there is replaced
    file: PathBuf,
}

/// What to restore, and where.
#[derive(Debug, Args)]
pub struct Restore {
    /// The file that `tepui backup` wrote
    file: PathBuf,
    /// The new master's data folder; empty, or made
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Where the new master will listen
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:5050")]
    listen: String,
}

/// Takes a backup while the cluster goes on.
pub async fn backup(options: Backup, client: &Client, format: Format) -> Result<()> {
    let download = Download::receive(client.backup().await?, &options.file).await?;
    let size = download.size;
    download.keep().await?;
    let file = options.file.display();
    match format {
        Format::Json => {
            output::json(&serde_json::json!({ "file": file.to_string(), "size": size }))
        }
        Format::Table => output::line(&format!("{file} has the cluster, {}", Bytes(size))),
    }
}

/// Hands over to the master's program, which knows its folder.
pub fn restore(options: &Restore) -> Result<()> {
    let here = std::env::current_exe().context("failed to find this program's own file")?;
    let master = here.with_file_name("tepui-master");
    if !master.is_file() {
        bail!(
            "{} is missing: restore on the machine of the new master, where it is installed",
            master.display()
        );
    }
    let error = Command::new(&master)
        .arg("restore")
        .arg(&options.file)
        .arg("--dir")
        .arg(&options.dir)
        .args(["--listen", &options.listen])
        .exec();
    Err(error).with_context(|| format!("failed to start {}", master.display()))
}
