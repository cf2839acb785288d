//! `tepui artifact`: bytes by digest; also how `run` and `deploy` bring theirs.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use sha2::Digest as _;
use tepui_types::{Bytes, Digest};
use tokio::io::AsyncReadExt;

use crate::client::Client;
use crate::download::{self, Download};
use crate::output::{self, Columns, Format};
use crate::progress::Transfer;

/// What can be done with artifacts.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Store a file, and print its digest
    Put {
        /// The file
        file: PathBuf,
    },
    /// Show all that is stored
    List,
    /// Fetch a stored file
    Get {
        /// Its digest, sha256:…
        digest: Digest,
        /// Where to write it; `-` is stdout
        #[arg(short = 'O', long = "to", value_name = "FILE")]
        to: PathBuf,
    },
}

/// Runs one of the commands.
pub async fn run(command: Command, client: &Client, format: Format) -> Result<()> {
    match command {
        Command::Put { file } => {
            let digest = upload(&file, client).await?;
            match format {
                Format::Json => output::json(&serde_json::json!({ "digest": digest })),
                Format::Table => output::line(&digest.to_string()),
            }
        }
        Command::List => list(client, format).await,
        Command::Get { digest, to } => get(&digest, &to, client).await,
    }
}

/// Brings a file to the cluster, unless it is there already.
pub async fn upload(path: &Path, client: &Client) -> Result<Digest> {
    let (digest, size) = digest_of(path).await?;
    if size == 0 {
        bail!("{} is empty", path.display());
    }
    if client.has_artifact(&digest).await? {
        return Ok(digest);
    }
    let name = path.file_name().unwrap_or(path.as_os_str());
    let transfer = Transfer::bytes(&name.to_string_lossy(), size);
    let result = client.put_artifact(&digest, path, size, &transfer).await;
    transfer.clear();
    result?;
    Ok(digest)
}

/// A file's digest and size, without having it in memory at once.
pub async fn digest_of(path: &Path) -> Result<(Digest, u64)> {
    let failed = || format!("failed to read {}", path.display());
    let mut file = tokio::fs::File::open(path).await.with_context(failed)?;
    let mut hasher = sha2::Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    let mut size = 0;
    loop {
        let count = file.read(&mut buffer).await.with_context(failed)?;
        if count == 0 {
            return Ok((Digest(hasher.finalize().into()), size));
        }
        hasher.update(&buffer[..count]);
        size += count as u64;
    }
}

async fn list(client: &Client, format: Format) -> Result<()> {
    let artifacts = client.artifacts().await?;
    if format == Format::Json {
        return output::json(&artifacts);
    }
    let mut table = Columns::new(&["digest", "size", "by", "created"]);
    for artifact in &artifacts {
        table.row([
            artifact.digest.to_string(),
            Bytes(artifact.size).to_string(),
            artifact.created_by.clone(),
            output::instant(artifact.created_at),
        ]);
    }
    table.right(1);
    table.print("no artifacts")
}

async fn get(digest: &Digest, to: &Path, client: &Client) -> Result<()> {
    let bytes = client.get_artifact(digest).await?;
    if to == Path::new("-") {
        return download::print(bytes).await;
    }
    let download = Download::receive(bytes, to).await?;
    if download.digest != *digest {
        download.drop().await;
        bail!("what the master sent does not have the digest {digest}; try again");
    }
    download.keep().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_files_digest_is_that_of_its_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let bytes = vec![7; 600_000];
        std::fs::write(&path, &bytes).unwrap();
        let (digest, size) = digest_of(&path).await.unwrap();
        assert_eq!((digest, size), (Digest::of(&bytes), 600_000));
        let error = digest_of(&folder.path().join("none")).await.unwrap_err();
        assert!(error.to_string().starts_with("failed to read"));
    }
}
