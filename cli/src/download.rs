//! Bytes from a master on their way into a file, or to standard output.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use sha2::Digest as _;
use tepui_types::Digest;
use tokio::fs::File;
use tokio::io::AsyncWriteExt;

use crate::client::ByteStream;

/// Writes all bytes to standard output.
pub async fn print(mut bytes: ByteStream<'_>) -> Result<()> {
    let mut stdout = tokio::io::stdout();
    while let Some(chunk) = bytes.next().await {
        stdout.write_all(&chunk?).await?;
    }
    Ok(stdout.flush().await?)
}

/// Writes all bytes beside `to`, and gives their digest if they came whole.
pub struct Download {
    beside: PathBuf,
    to: PathBuf,
    /// Their SHA-256.
    pub digest: Digest,
    /// How many.
    pub size: u64,
}

impl Download {
    /// Reads to the end. Of what breaks off nothing is left.
    pub async fn receive(bytes: ByteStream<'_>, to: &Path) -> Result<Self> {
        if to.is_dir() {
            bail!("{} is a folder: name a file in it", to.display());
        }
        // Written beside and renamed, so that a file under this name is always whole.
        let mut beside = to.as_os_str().to_owned();
        beside.push(".part");
        let beside = PathBuf::from(beside);
        let mut options = tokio::fs::OpenOptions::new();
        let file = options.write(true).create_new(true).open(&beside).await;
        let file = file.with_context(|| {
            let beside = beside.display();
            format!("failed to make {beside}: is another download under way? Remove it if not")
        })?;
        let received = Self::write(bytes, file, to, &beside).await;
        if received.is_err() {
            let _ = tokio::fs::remove_file(&beside).await;
        }
        received
    }

    async fn write(
        mut bytes: ByteStream<'_>,
        mut file: File,
        to: &Path,
        beside: &Path,
    ) -> Result<Self> {
        let failed = || format!("failed to write {}", to.display());
        let (mut hasher, mut size) = (sha2::Sha256::new(), 0);
        while let Some(chunk) = bytes.next().await {
            let chunk = chunk?;
            hasher.update(&chunk);
            size += chunk.len() as u64;
            file.write_all(&chunk).await.with_context(failed)?;
        }
        file.sync_all().await.with_context(failed)?;
        Ok(Self {
            beside: beside.to_owned(),
            to: to.to_owned(),
            digest: Digest(hasher.finalize().into()),
            size,
        })
    }

    /// Gives the file its name.
    pub async fn keep(self) -> Result<()> {
        let renamed = tokio::fs::rename(&self.beside, &self.to).await;
        let failed = || format!("failed to write {}", self.to.display());
        if renamed.is_err() {
            let _ = tokio::fs::remove_file(&self.beside).await;
        }
        renamed.with_context(failed)
    }

    /// Removes it: these are not the bytes that were wanted.
    pub async fn drop(self) {
        let _ = tokio::fs::remove_file(&self.beside).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> ByteStream<'static> {
        let chunks =
            ["some ", "bytes"].map(|chunk| Ok(bytes::Bytes::from_static(chunk.as_bytes())));
        futures::stream::iter(chunks).boxed()
    }

    fn names(dir: &Path) -> Vec<std::ffi::OsString> {
        let entries = std::fs::read_dir(dir).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect()
    }

    #[tokio::test]
    async fn a_file_is_there_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("file");
        let download = Download::receive(some(), &to).await.unwrap();
        assert!(!to.exists(), "before it is kept");
        assert_eq!(download.digest, Digest::of(b"some bytes"));
        download.keep().await.unwrap();
        assert_eq!(std::fs::read(&to).unwrap(), b"some bytes");
        assert_eq!(names(dir.path()), ["file"]);
    }

    #[tokio::test]
    async fn nothing_is_left_where_a_folder_has_the_name() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("folder");
        let begun = Download::receive(some(), &to).await.unwrap();
        std::fs::create_dir(&to).unwrap();
        assert!(begun.keep().await.is_err());
        assert_eq!(names(dir.path()), ["folder"]);
        let refused = Download::receive(some(), &to).await.err().unwrap();
        assert!(refused.to_string().contains("name a file in it"));
    }

    #[tokio::test]
    async fn two_do_not_write_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("file");
        let first = Download::receive(some(), &to).await.unwrap();
        let refused = Download::receive(some(), &to).await.err().unwrap();
        assert!(refused.to_string().contains("under way"), "{refused}");
        first.keep().await.unwrap();
        assert_eq!(std::fs::read(&to).unwrap(), b"some bytes");
    }
}
