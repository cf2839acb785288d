//! The images of an agent: what the rest of the agent sees of this crate.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tepui_transfer::{Joined, blocking};
use tepui_types::Digest;
use tepui_types::image::{ImageRef, ImageSource, PullPolicy};
use tokio::sync::Semaphore;

use crate::books::{Books, Lease};
use crate::config::ImagesConfig;
use crate::error::ImageError;
use crate::origin::registry::Clients;
use crate::progress::{LayerProgress, Progress};
use crate::pull;
use crate::pulled::Pulled;
use crate::store::{Part, Record, Size, Store};

/// Layers that are fetched at once: enough to hide latency, few enough to leave the network to the
/// tasks.
const FETCHES: usize = 4;
/// Layers that are unpacked at once: decompression takes a core each, and cores are the tasks'.
const UNPACKS: usize = 2;

/// The images that an agent has, in a folder of its own.
#[derive(Debug, Clone)]
pub struct Images {
    inner: Arc<Inner>,
}

/// What all pulls share.
#[derive(Debug)]
pub struct Inner {
    pub store: Store,
    pub books: Arc<Books>,
    pub config: Arc<ImagesConfig>,
    pub clients: Arc<Clients>,
    pub layers: Joined<Part, LayerProgress, Size, ImageError>,
    pub pulls: Joined<PullKey, Progress, Pulled, ImageError>,
    pub fetches: Semaphore,
    pub unpacks: Arc<Semaphore>,
}

/// Pulls of the same are one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PullKey {
    name: String,
    archive: Option<PathBuf>,
}

impl Images {
    /// Opens or makes the folder, and removes what was left unfinished in it. One process has it.
    ///
    /// # Errors
    /// `image-store` or `image-disk-full`.
    pub async fn open(dir: impl Into<PathBuf>, config: ImagesConfig) -> Result<Self, ImageError> {
        let dir = dir.into();
        let (store, found) = blocking::<_, ImageError>(move || {
            let store = Store::open(dir)?;
            let found = store.find()?;
            Ok((store, found))
        })
        .await?;
        Ok(Self {
            inner: Arc::new(Inner {
                store,
                books: Books::new(found),
                config: Arc::new(config),
                clients: Arc::default(),
                layers: Joined::default(),
                pulls: Joined::default(),
                fetches: Semaphore::new(FETCHES),
                unpacks: Arc::new(Semaphore::new(UNPACKS)),
            }),
        })
    }

    /// Sees to it that the image is here. `progress` hears how far that is, as often as something
    /// changes; pulls of the same image are one, and each caller hears of it. Dropping what this
    /// returns ends the pull, unless others wait for it.
    ///
    /// What a reference with a digest names never changes, so `Always` asks nobody when it is here.
    /// An index that has both gives the image for this machine, and its component where there is none.
    ///
    /// # Errors
    /// Why it could not be had; [`ImageError::retryable`] says whether that may pass. An artifact
    /// that was never taken with [`Images::archive`] is `image-not-present`.
    pub async fn pull(
        &self,
        image: &ImageRef,
        policy: PullPolicy,
        progress: impl Fn(Progress),
    ) -> Result<Pulled, ImageError> {
        let pinned = match image.source() {
            ImageSource::Registry(image) => image.digest.is_some(),
            ImageSource::Layout { .. } => false,
            ImageSource::Artifact(_) => true,
        };
        if (pinned || policy != PullPolicy::Always)
            && let Some(pulled) = self.present(image).await?
        {
            progress(Progress::Done);
            return Ok(pulled);
        }
        if policy == PullPolicy::Never {
            return Err(ImageError::NotPresent {
                image: image.to_string(),
            });
        }
        self.join(image, None, progress).await
    }

    /// Sees to it that the image of an archive is here. `path` is where the agent has the archive,
    /// which `image` names; it is read only when the image is not here yet.
    ///
    /// # Errors
    /// As those of [`Images::pull`].
    pub async fn archive(
        &self,
        image: &ImageRef,
        path: &Path,
        progress: impl Fn(Progress),
    ) -> Result<Pulled, ImageError> {
        if let Some(pulled) = self.present(image).await? {
            progress(Progress::Done);
            return Ok(pulled);
        }
        self.join(image, Some(path.to_owned()), progress).await
    }

    /// The image of this manifest, held: for tasks that an agent finds again after a restart.
    pub fn get(&self, digest: &Digest) -> Option<Pulled> {
        let (record, lease) = self.inner.books.image(digest)?;
        Some(self.inner.pulled(&record, lease))
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    async fn present(&self, image: &ImageRef) -> Result<Option<Pulled>, ImageError> {
        let Some((record, lease)) = self.inner.books.named(&pull::name(image)) else {
            return Ok(None);
        };
        let (inner, digest) = (self.inner.clone(), record.digest);
        blocking::<_, ImageError>(move || {
            let used = inner.store.used(&digest)?;
            inner.books.lock().used(&digest, used);
            Ok(())
        })
        .await?;
        Ok(Some(self.inner.pulled(&record, lease)))
    }

    async fn join(
        &self,
        image: &ImageRef,
        archive: Option<PathBuf>,
        progress: impl Fn(Progress),
    ) -> Result<Pulled, ImageError> {
        let key = PullKey {
            name: pull::name(image),
            archive: archive.clone(),
        };
        let start = |report| pull::pull(self.inner.clone(), image.clone(), archive, report);
        let waiting = self.inner.pulls.join(key, image.as_str(), start);
        let hear = |now| {
            progress(now);
            Ok(())
        };
        let result = waiting.ended(hear).await;
        if let Ok(pulled) = &result {
            progress(Progress::Done);
            tracing::info!(%image, digest = %pulled.digest(), "image pulled");
        }
        result
    }
}

impl Inner {
    /// What the agent gets of an image that is held.
    pub fn pulled(&self, record: &Record, lease: Lease) -> Pulled {
        Pulled::of(record, &self.store, &self.books, lease)
    }
}
