//! Backups: the whole of a cluster in one archive, and a cluster that begins again from one.
//!
//! The archive is laid out in [`tepui_types::api::backup`]. It is made from a view of the state, so
//! nothing stops meanwhile, and streamed, so no master needs room for it. Tasks of long ago are not
//! in it: what every master keeps for itself outside the state.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use tepui_cluster::State;
use tepui_types::Digest;
use tepui_types::api::backup::{FORMAT, Manifest};
use tokio::fs::File;
use tokio::sync::mpsc;
use tokio_util::io::ReaderStream;

use crate::artifacts::{ArtifactError, Artifacts};

pub mod restore;

/// The archive's files.
const MANIFEST: &str = "tepui-backup.json";
const STATE: &str = "state";
const ARTIFACTS: &str = "artifacts";
/// Chunks that wait for a slow reader.
const CHUNKS: usize = 8;
/// Tar's unit: files begin at multiples of it, and two empty ones are the end.
const BLOCK: usize = 512;

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// No master that can be reached has these bytes.
    #[error("no master that can be reached has artifact {0} now: ask again in a moment")]
    Missing(Digest),
    /// The artifact store refused.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
}

/// The archive of a state, as it is sent. One that cannot be finished ends with an error.
pub async fn archive(
    state: Arc<State>,
    artifacts: &Artifacts,
) -> Result<impl Stream<Item = io::Result<Bytes>> + use<>, BackupError> {
    let mut files = Vec::new();
    for digest in state.artifacts.keys() {
        // Fetched now if need be, so that what is begun can be finished.
        let file = artifacts.open(*digest).await?;
        files.push((*digest, file.ok_or(BackupError::Missing(*digest))?.1));
    }
    let (chunks, receiver) = mpsc::channel(CHUNKS);
    let artifacts = artifacts.clone();
    tokio::spawn(async move {
        let archive = Archive { chunks };
        if let Err(error) = archive.write(&state, &files, &artifacts).await {
            // Nobody may be listening any more.
            archive.chunks.send(Err(error)).await.ok();
        }
    });
    Ok(stream::unfold(receiver, |mut receiver| async {
        let chunk = receiver.recv().await?;
        Some((chunk, receiver))
    }))
}

/// An archive on its way.
struct Archive {
    chunks: mpsc::Sender<io::Result<Bytes>>,
}

impl Archive {
    async fn write(
        &self,
        state: &Arc<State>,
        files: &[(Digest, u64)],
        artifacts: &Artifacts,
    ) -> io::Result<()> {
        let encoded = state.clone();
        let encoded = tokio::task::spawn_blocking(move || encoded.encode()).await?;
        let manifest = Manifest {
            format: FORMAT,
            cluster: state.cluster,
            index: state.index,
            time: state.now,
            release: env!("CARGO_PKG_VERSION").to_owned(),
            state: Digest::of(&encoded),
            artifacts: files.iter().map(|(digest, _)| *digest).collect(),
        };
        self.file(MANIFEST, serde_json::to_vec_pretty(&manifest)?.into())
            .await?;
        self.file(STATE, encoded.into()).await?;
        for (digest, size) in files {
            let name = format!("{ARTIFACTS}/{}", digest.hex());
            let file = artifacts.open(*digest).await.map_err(io::Error::other)?;
            let (file, _) = file.ok_or_else(|| io::Error::other(format!("{name} was removed")))?;
            self.head(&name, *size).await?;
            self.copy(file, *size).await?;
        }
        self.send(vec![0; 2 * BLOCK].into()).await
    }

    async fn file(&self, name: &str, bytes: Bytes) -> io::Result<()> {
        let size = bytes.len() as u64;
        self.head(name, size).await?;
        self.send(bytes).await?;
        self.pad(size).await
    }

    async fn head(&self, name: &str, size: u64) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_path(name)?;
        header.set_size(size);
        header.set_mode(0o600);
        header.set_cksum();
        self.send(Bytes::copy_from_slice(header.as_bytes())).await
    }

    async fn copy(&self, file: File, size: u64) -> io::Result<()> {
        let mut chunks = ReaderStream::new(file);
        let mut sent = 0;
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk?;
            sent += chunk.len() as u64;
            self.send(chunk).await?;
        }
        if sent != size {
            return Err(io::Error::other("an artifact has another size by now"));
        }
        self.pad(size).await
    }

    async fn pad(&self, size: u64) -> io::Result<()> {
        let rest = (size % BLOCK as u64) as usize;
        match rest {
            0 => Ok(()),
            rest => self.send(vec![0; BLOCK - rest].into()).await,
        }
    }

    async fn send(&self, bytes: Bytes) -> io::Result<()> {
        let sent = self.chunks.send(Ok(bytes)).await;
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}
