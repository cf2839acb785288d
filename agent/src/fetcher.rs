//! Artifacts by digest: from the master into `DIR/artifacts/<hex>`.
//!
//! Bytes are streamed into a temporary file, hashed on the way, and renamed
//! only when they are on disk and match: what lies under a digest is that
//! digest's. The core asks for each digest once at a time.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::StatusCode;
use tepui_transfer::{Pace, Sink};
use tepui_types::task::reason;
use tepui_types::{Digest, Reason};
use tokio::sync::Semaphore;
use tokio::time::{timeout, timeout_at};

use crate::masters::Masters;
use crate::metrics::Metrics;
use crate::sandbox::Layout;

/// Fetches at once: enough to hide latency, few enough to leave the network to
/// the tasks.
const PARALLEL: usize = 4;
/// Tries until the artifact counts as unavailable, with the pauses between them
/// doubling from the first: about half a minute, which outlasts a change of leader.
const TRIES: u32 = 8;
/// The pause after the first try.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// A master that sends nearly nothing for this long is taken for gone.
const STALL: Duration = Duration::from_secs(20);

/// The extension of a file that is not complete.
const DRAFT: &str = "part";

/// Why one try failed.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("the master does not know {0}")]
    Unknown(Digest),
    #[error("failed to ask the master for {0}")]
    Request(Digest, #[source] reqwest::Error),
    #[error("the master answered {status} for {digest}")]
    Status { digest: Digest, status: StatusCode },
    #[error("the master stopped sending {0}")]
    Stalled(Digest),
    #[error("the bytes sent for {wanted} are of {found}")]
    Mismatch { wanted: Digest, found: Digest },
    #[error("failed to write {path}")]
    Write {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// Removes what fetches of an earlier process left unfinished. Blocks.
pub fn clear_drafts(layout: &Layout) {
    let entries = std::fs::read_dir(layout.artifacts()).into_iter().flatten();
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.extension().is_some_and(|extension| extension == DRAFT)
            && let Err(error) = std::fs::remove_file(&path)
        {
            tracing::warn!(path = %path.display(), %error, "an unfinished fetch stays");
        }
    }
}

/// Fetches artifacts.
#[derive(Debug)]
pub struct Fetcher {
    client: reqwest::Client,
    masters: Arc<Masters>,
    layout: Layout,
    metrics: Arc<Metrics>,
    permits: Semaphore,
}

impl Fetcher {
    /// From the current one of these.
    pub fn new(
        client: reqwest::Client,
        masters: Arc<Masters>,
        layout: Layout,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            client,
            masters,
            layout,
            metrics,
            permits: Semaphore::new(PARALLEL),
        }
    }

    /// Sees to it that the artifact is here.
    ///
    /// # Errors
    /// `artifact-unknown` when the master has none, `artifact-unavailable` when
    /// it could not be had in about half a minute.
    pub async fn fetch(&self, digest: Digest) -> Result<(), Reason> {
        let path = self.layout.artifact(&digest);
        if tokio::fs::try_exists(&path).await.unwrap_or(false) {
            return Ok(());
        }
        let mut pause = FIRST_PAUSE;
        let mut tries = 1;
        loop {
            // Not held while this one waits for its next try: others may have more luck.
            let permit = self.permits.acquire().await;
            let tried = self.try_fetch(digest, &path).await;
            drop(permit);
            let error = match tried {
                Ok(()) => {
                    self.metrics.fetched("ok");
                    tracing::info!(%digest, "artifact fetched");
                    return Ok(());
                }
                Err(error) => error,
            };
            let code = match error {
                FetchError::Unknown(_) => reason::ARTIFACT_UNKNOWN,
                _ => reason::ARTIFACT_UNAVAILABLE,
            };
            let message = format!("{:#}", anyhow::Error::from(error));
            tracing::warn!(%digest, tries, "artifact not fetched: {message}");
            if code == reason::ARTIFACT_UNKNOWN || tries == TRIES {
                self.metrics.fetched(code);
                return Err(Reason::new(code, message));
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
            tries += 1;
        }
    }

    async fn try_fetch(&self, digest: Digest, path: &Path) -> Result<(), FetchError> {
        let url = format!("{}/v1/artifacts/{digest}", self.masters.current());
        let response = self.client.get(url).send();
        let response = timeout(STALL, response)
            .await
            .map_err(|_| FetchError::Stalled(digest))?
            .map_err(|error| FetchError::Request(digest, error))?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Err(FetchError::Unknown(digest)),
            status => return Err(FetchError::Status { digest, status }),
        }
        let draft = path.with_extension(DRAFT);
        let received = self.receive(response, digest, &draft).await;
        if received.is_err() {
            // What is left of it is of no use, and may be why the disk is full.
            let _ = tokio::fs::remove_file(&draft).await;
        }
        received?;
        let renamed = tokio::fs::rename(&draft, path).await;
        renamed.map_err(|source| FetchError::Write {
            path: path.to_owned(),
            source,
        })
    }

    async fn receive(
        &self,
        mut response: reqwest::Response,
        digest: Digest,
        draft: &Path,
    ) -> Result<(), FetchError> {
        let failed = |source| FetchError::Write {
            path: draft.to_owned(),
            source,
        };
        let file = tokio::fs::File::create(draft).await.map_err(failed)?;
        let mut sink = Sink::new(file.into_std().await);
        let mut pace = Pace::begin(STALL);
        loop {
            let next = timeout_at(pace.deadline(), response.chunk()).await;
            let next = next.map_err(|_| FetchError::Stalled(digest))?;
            let Some(chunk) = next.map_err(|error| FetchError::Request(digest, error))? else {
                break;
            };
            pace.add(chunk.len() as u64);
            sink.take(&chunk).await.map_err(failed)?;
        }
        let found = sink.finish().await.map_err(failed)?;
        if found != digest {
            return Err(FetchError::Mismatch {
                wanted: digest,
                found,
            });
        }
        // Renamed before it is on disk, it could be empty after a power cut.
        sink.sync().await.map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfinished_fetches_go_and_artifacts_stay() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().to_owned());
        layout.create().unwrap();
        let path = layout.artifact(&Digest::of(b"program"));
        std::fs::write(&path, "program").unwrap();
        std::fs::write(path.with_extension(DRAFT), "pro").unwrap();
        clear_drafts(&layout);
        assert!(path.exists());
        assert!(!path.with_extension(DRAFT).exists());
    }
}
