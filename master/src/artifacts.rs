//! Artifacts: bytes by digest, under `DIR/artifacts/`.
//!
//! An upload is streamed to a file of its own, bounded and hashed on the way, and takes its name
//! only when it is whole, synced and of the digest that was promised; one that is cut leaves
//! nothing. So a file under a digest's name is that artifact, and equal uploads may meet freely.
//! That the cluster knows an artifact is recorded in the log, by whoever called [`Artifacts::put`].
//! What the log knows and this master lacks is fetched from the others when it is asked for
//! ([`source`]).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use sha2::{Digest as _, Sha256};
use tepui_types::Digest;
use tokio::fs::{self, File};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{OnceCell, Semaphore};

use source::Source;

pub mod source;

/// Uploads at once: each takes a descriptor and some hundred kilobytes.
const UPLOADS: usize = 64;
/// Where uploads are until they are whole.
const UNFINISHED: &str = "unfinished";

/// Why an artifact could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The bytes are others than was said.
    #[error(
        "the bytes have the digest {actual}, not {expected}: the upload was damaged, or the digest is another file's"
    )]
    WrongDigest {
        /// What was said.
        expected: Digest,
        /// What they have.
        actual: Digest,
    },
    /// More bytes than are taken.
    #[error(
        "an artifact has at most {limit} bytes (max_artifact_bytes in the master's configuration)"
    )]
    TooLarge {
        /// The bound.
        limit: u64,
    },
    /// The body ended early or could not be read.
    #[error("the upload was cut after {received} bytes: send it again")]
    Cut {
        /// Bytes that arrived.
        received: u64,
        /// The connection's word.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Too many uploads at once.
    #[error("{UPLOADS} uploads are under way, the most at once: try again in a moment")]
    Busy,
    /// The file is not what its name says any more.
    #[error("the stored artifact {digest} is damaged: delete {path} and upload it again")]
    Damaged {
        /// Which.
        digest: Digest,
        /// Its file.
        path: PathBuf,
    },
    /// The disk.
    #[error("failed to {step} {path}")]
    Io {
        /// What was tried.
        step: &'static str,
        /// With which file.
        path: PathBuf,
        /// The system's word.
        #[source]
        source: io::Error,
    },
}

/// The stored artifacts; clones share them.
#[derive(Clone)]
pub struct Artifacts(Arc<Store>);

struct Store {
    folder: PathBuf,
    max_bytes: u64,
    uploads: Semaphore,
    /// Tells uploads of one digest apart.
    next_upload: AtomicU64,
    /// Where to look for what is not here.
    source: OnceCell<Source>,
}

impl Artifacts {
    /// Opens the folder, making it if there is none, and removes what cut uploads left. Blocks.
    pub fn new(folder: &Path, max_bytes: u64) -> Result<Self, ArtifactError> {
        let unfinished = folder.join(UNFINISHED);
        match std::fs::remove_dir_all(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("clear", &unfinished)(error));
            }
            _ => std::fs::create_dir_all(&unfinished).map_err(failed("make", &unfinished))?,
        }
        Ok(Self(Arc::new(Store {
            folder: folder.to_owned(),
            max_bytes,
            uploads: Semaphore::new(UPLOADS),
            next_upload: AtomicU64::new(0),
            source: OnceCell::new(),
        })))
    }

    /// From now on, what is not here is looked for there.
    pub fn follow(&self, source: Source) {
        // A second source would be the same.
        self.0.source.set(source).ok();
    }

    /// The most bytes of one artifact.
    pub fn max_bytes(&self) -> u64 {
        self.0.max_bytes
    }

    /// Stores the bytes of `body` under their digest and gives their number. When this returns they
    /// are on the disk. What is there already is only checked.
    pub async fn put<E>(
        &self,
        digest: Digest,
        body: impl Stream<Item = Result<Bytes, E>>,
    ) -> Result<u64, ArtifactError>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let _permit = self
            .0
            .uploads
            .try_acquire()
            .map_err(|_| ArtifactError::Busy)?;
        if self.contains(digest) {
            return self.receive(digest, body, None).await;
        }
        let number = self.0.next_upload.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}.{number}", digest.hex());
        let unfinished = Unfinished(self.0.folder.join(UNFINISHED).join(name));
        let path = &unfinished.0;
        // Not tokio's: a caller that goes away now must not leave a file that is made later.
        let file = std::fs::File::create(path).map_err(failed("create", path))?;
        let mut file = File::from_std(file);
        let size = self.receive(digest, body, Some((&mut file, path))).await?;
        file.sync_all().await.map_err(failed("sync", path))?;
        let target = self.path(&digest);
        fs::rename(path, &target)
            .await
            .map_err(failed("name", &target))?;
        sync_folder(&self.0.folder).await?;
        Ok(size)
    }

    /// The artifact's file, to be streamed, and its size; `None` if nobody has it.
    pub async fn open(&self, digest: Digest) -> Result<Option<(File, u64)>, ArtifactError> {
        if !self.contains(digest)
            && let Some(source) = self.0.source.get()
        {
            source.fetch(self, digest).await;
        }
        self.open_here(digest).await
    }

    /// The artifact's file, if it is here.
    pub async fn open_here(&self, digest: Digest) -> Result<Option<(File, u64)>, ArtifactError> {
        let path = self.path(&digest);
        let file = match File::open(&path).await {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("open", &path)(error)),
        };
        let size = file
            .metadata()
            .await
            .map_err(failed("look at", &path))?
            .len();
        Ok(Some((file, size)))
    }

    /// That an artifact's bytes have another digest by now.
    pub fn damaged(&self, digest: Digest) -> ArtifactError {
        let path = self.path(&digest);
        ArtifactError::Damaged { digest, path }
    }

    /// Whether the artifact is here.
    pub fn contains(&self, digest: Digest) -> bool {
        self.path(&digest).is_file()
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.0.folder.join(digest.hex())
    }

    /// Reads a body to its end, into a file if there is one.
    async fn receive<E>(
        &self,
        expected: Digest,
        body: impl Stream<Item = Result<Bytes, E>>,
        mut file: Option<(&mut File, &Path)>,
    ) -> Result<u64, ArtifactError>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut body = std::pin::pin!(body);
        let mut hasher = Sha256::new();
        let mut received: u64 = 0;
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|error| ArtifactError::Cut {
                received,
                source: error.into(),
            })?;
            received += chunk.len() as u64;
            if received > self.0.max_bytes {
                return Err(ArtifactError::TooLarge {
                    limit: self.0.max_bytes,
                });
            }
            hasher.update(&chunk);
            if let Some((file, path)) = &mut file {
                file.write_all(&chunk)
                    .await
                    .map_err(failed("write", path))?;
            }
        }
        let actual = Digest(hasher.finalize().into());
        if actual != expected {
            return Err(ArtifactError::WrongDigest { expected, actual });
        }
        if let Some((file, path)) = file {
            file.flush().await.map_err(failed("write", path))?;
        }
        Ok(received)
    }
}

/// An upload's file, removed unless it took its final name.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        // It is not there when all went well; what stays behind is cleared at the next start.
        std::fs::remove_file(&self.0).ok();
    }
}

async fn sync_folder(folder: &Path) -> Result<(), ArtifactError> {
    let file = File::open(folder).await.map_err(failed("open", folder))?;
    file.sync_all().await.map_err(failed("sync", folder))
}

fn failed(step: &'static str, path: &Path) -> impl Fn(io::Error) -> ArtifactError {
    let path = path.to_owned();
    move |source| ArtifactError::Io {
        step,
        path: path.clone(),
        source,
    }
}
