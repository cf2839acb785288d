//! Where an image comes from: a registry, a layout folder, or an archive that was unpacked into one.
//!
//! Whatever an origin hands out by digest was checked against it.

pub mod archive;
pub mod local;
pub mod registry;

use std::path::{Path, PathBuf};

use tepui_transfer::Draft;
use tepui_types::Digest;

use crate::error::ImageError;
use crate::manifest::Blob;
use crate::store::Store;
use local::Local;
use registry::Registry;

/// Where an image comes from.
#[derive(Debug)]
pub enum Origin {
    /// A registry and its mirrors.
    Registry(Registry),
    /// A folder on this machine.
    Local(Local),
}

/// A blob as a file.
#[derive(Debug)]
pub enum Fetched {
    /// In the folder where it was found.
    InPlace(PathBuf),
    /// As a draft of ours.
    Draft(Draft),
}

impl Fetched {
    /// Where it lies.
    pub fn path(&self) -> &Path {
        match self {
            Self::InPlace(path) => path,
            Self::Draft(draft) => draft.path(),
        }
    }
}

impl Origin {
    /// The manifest or index that the reference names.
    pub async fn top(&self) -> Result<Vec<u8>, ImageError> {
        match self {
            Self::Registry(registry) => registry.top().await,
            Self::Local(local) => Ok(local.top().to_vec()),
        }
    }

    /// A manifest or index by its digest.
    pub async fn manifest(&self, blob: &Blob) -> Result<Vec<u8>, ImageError> {
        match self {
            Self::Registry(registry) => registry.manifest(blob).await,
            Self::Local(local) => local.bytes(blob).await,
        }
    }

    /// A small blob. Whoever asks has looked at its size.
    pub async fn bytes(&self, blob: &Blob) -> Result<Vec<u8>, ImageError> {
        match self {
            Self::Registry(registry) => registry.bytes(blob).await,
            Self::Local(local) => local.bytes(blob).await,
        }
    }

    /// A large one, as a file. `progress` hears how many bytes are here.
    pub async fn file(
        &self,
        blob: &Blob,
        store: &Store,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Fetched, ImageError> {
        match self {
            Self::Registry(registry) => registry.file(blob, store, progress).await,
            Self::Local(local) => local.file(blob).await,
        }
    }
}

/// That bytes are those that were asked for.
fn check(what: &str, place: &str, wanted: &Digest, found: &Digest) -> Result<(), ImageError> {
    if wanted == found {
        return Ok(());
    }
    let why = format!("{place} has {found} in place of {wanted}: push or copy it again");
    Err(ImageError::invalid(what, why))
}
