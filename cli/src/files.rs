//! `tepui task files`, `cat` and `download`: what is in a task's sandbox.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use tepui_types::TaskId;
use tepui_types::api::file::{FileKind, FileList};

use crate::client::Client;
use crate::download::{self, Download};
use crate::output::{self, Columns, Format};

/// Shows a folder's entries.
pub async fn list(id: &TaskId, path: &str, client: &Client, format: Format) -> Result<()> {
    check(path)?;
    let list: FileList = client.task_files(id, path).await?;
    if format == Format::Json {
        return output::json(&list);
    }
    let mut table = Columns::new(&["name", "size", "mode", "changed"]);
    for entry in &list.entries {
        let (name, size) = match entry.kind {
            FileKind::Folder => (format!("{}/", entry.name), String::new()),
            FileKind::File => (
                entry.name.clone(),
                tepui_types::Bytes(entry.size).to_string(),
            ),
            FileKind::Link => (format!("{}@", entry.name), String::new()),
            FileKind::Other => (format!("{}?", entry.name), String::new()),
        };
        let changed = tepui_types::Timestamp(entry.modified_ms);
        table.row([
            name.escape_debug().to_string(),
            size,
            format!("{:o}", entry.mode),
            output::instant(changed),
        ]);
    }
    table.print("nothing is in it")?;
    if list.is_cut {
        output::note("tepui: there are more; download the folder to have them all");
    }
    Ok(())
}

/// Addresses cannot hold `..`: they would name something else.
fn check(path: &str) -> Result<()> {
    match path.split('/').any(|part| part == "..") {
        true => bail!("`{path}` leads out of the sandbox: leave `..` out"),
        false => Ok(()),
    }
}

/// Prints a file.
pub async fn print(id: &TaskId, path: &str, client: &Client) -> Result<()> {
    check(path)?;
    download::print(client.task_file(id, path, "bytes").await?).await
}

/// Writes a file, or a folder as a tar archive; to standard output if `to` is `-`.
pub async fn download(id: &TaskId, path: &str, to: Option<PathBuf>, client: &Client) -> Result<()> {
    check(path)?;
    let name = Path::new(path.trim_end_matches('/')).file_name();
    let name = name.map_or_else(
        || id.to_string(),
        |name| name.to_string_lossy().into_owned(),
    );
    let is_folder =
        path.is_empty() || path.ends_with('/') || client.task_files(id, path).await.is_ok();
    let (form, usual) = match is_folder {
        true => ("tar", format!("{name}.tar")),
        false => ("bytes", name),
    };
    let to = to.unwrap_or_else(|| usual.into());
    if to == Path::new("-") {
        return download::print(client.task_file(id, path, form).await?).await;
    }
    if to.exists() {
        bail!(
            "{} is there already: name another file with --to",
            to.display()
        );
    }
    let bytes = client.task_file(id, path, form).await?;
    let download = Download::receive(bytes, &to).await?;
    let size = tepui_types::Bytes(download.size);
    download.keep().await?;
    output::line(&format!("{} ({size})", to.display()))
}
