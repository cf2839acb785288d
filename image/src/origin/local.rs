//! An OCI layout on this machine (image-spec, image-layout.md), or an archive that was made one.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::Digest as _;
use tepui_transfer::{Draft, blocking};
use tepui_types::Digest;

use super::{Fetched, check};
use crate::error::ImageError;
use crate::manifest::{Blob, MAX_MANIFEST_BYTES};

/// Where an entry of `index.json` has its tag.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// A layout, with one of its images chosen.
#[derive(Debug)]
pub struct Local {
    /// As messages name it.
    place: String,
    top: Vec<u8>,
    blobs: Blobs,
}

/// Where blobs are.
#[derive(Debug)]
pub enum Blobs {
    /// `blobs/sha256/HEX` below this folder.
    Folder(PathBuf),
    /// Wherever an archive's members were put.
    Files {
        /// By digest, as they were hashed when they were put there.
        files: HashMap<Digest, PathBuf>,
        /// What they lie in; it goes with the last who reads them.
        #[expect(dead_code, reason = "it is there to be dropped")]
        folder: Draft,
    },
}

impl Local {
    /// A layout folder.
    pub async fn open(folder: PathBuf, tag: Option<String>) -> Result<Self, ImageError> {
        blocking(move || {
            let place = folder.display().to_string();
            let index = folder.join("index.json");
            let bytes = read(&index, MAX_MANIFEST_BYTES).map_err(|error| ImageError::Unknown {
                what: format!("OCI layout ({error})"),
                place: place.clone(),
            })?;
            Self::choose(place, &bytes, tag.as_deref(), Blobs::Folder(folder))
        })
        .await
    }

    /// One whose manifest is known.
    pub fn new(place: String, top: Vec<u8>, blobs: Blobs) -> Self {
        Self { place, top, blobs }
    }

    /// The image of this tag, or the only one.
    pub fn choose(
        place: String,
        index: &[u8],
        tag: Option<&str>,
        blobs: Blobs,
    ) -> Result<Self, ImageError> {
        let what = || format!("the index of {place}");
        let index: Index = serde_json::from_slice(index)
            .map_err(|error| ImageError::invalid(what(), error.to_string()))?;
        let all = index.manifests.len();
        let matching: Vec<Entry> = index
            .manifests
            .into_iter()
            .filter(|entry| tag.is_none() || entry.tag() == tag)
            .collect();
        let tags: BTreeSet<&str> = matching.iter().filter_map(Entry::tag).collect();
        match &matching[..] {
            [] => {
                let image = tag.map_or("an image".to_owned(), |tag| format!("an image :{tag}"));
                let what = format!("{image} among its {all}");
                Err(ImageError::Unknown { what, place })
            }
            [only] => {
                let blob = only.blob(&what())?;
                let local = Self::new(place, Vec::new(), blobs);
                let top = local.read(&blob)?;
                Ok(Self { top, ..local })
            }
            _ if tags.len() > 1 => {
                let tags: Vec<&str> = tags.into_iter().take(16).collect();
                let why = format!("it has several images: name one of {}", tags.join(", "));
                Err(ImageError::invalid(what(), why))
            }
            // One image for several machines.
            several => {
                let entries: Vec<&serde_json::Value> =
                    several.iter().map(|entry| &entry.whole).collect();
                let top = serde_json::json!({ "schemaVersion": 2, "manifests": entries });
                Ok(Self::new(place, top.to_string().into_bytes(), blobs))
            }
        }
    }

    /// The manifest or index that the reference names.
    pub fn top(&self) -> &[u8] {
        &self.top
    }

    /// A small blob.
    pub async fn bytes(&self, blob: &Blob) -> Result<Vec<u8>, ImageError> {
        let (path, place, blob) = (self.path(&blob.digest)?, self.place.clone(), *blob);
        blocking(move || read_checked(&path, &place, &blob)).await
    }

    /// A large one, where it lies. An archive's members were hashed when they were put there.
    pub async fn file(&self, blob: &Blob) -> Result<Fetched, ImageError> {
        let (path, place, blob) = (self.path(&blob.digest)?, self.place.clone(), *blob);
        if matches!(self.blobs, Blobs::Files { .. }) {
            return Ok(Fetched::InPlace(path));
        }
        blocking(move || {
            let mut file = open(&path).map_err(|error| unreadable(&path, &error))?;
            let mut hash = sha2::Sha256::new();
            std::io::copy(&mut file, &mut hash).map_err(|error| unreadable(&path, &error))?;
            let found = Digest(hash.finalize().into());
            check(&blob.digest.to_string(), &place, &blob.digest, &found)?;
            Ok(Fetched::InPlace(path))
        })
        .await
    }

    fn read(&self, blob: &Blob) -> Result<Vec<u8>, ImageError> {
        read_checked(&self.path(&blob.digest)?, &self.place, blob)
    }

    fn path(&self, digest: &Digest) -> Result<PathBuf, ImageError> {
        match &self.blobs {
            Blobs::Folder(folder) => Ok(folder.join("blobs/sha256").join(digest.hex())),
            Blobs::Files { files, .. } => {
                let path = files.get(digest).cloned();
                path.ok_or_else(|| {
                    let why = format!("{digest} is missing in it: save or copy it again");
                    ImageError::invalid(&self.place, why)
                })
            }
        }
    }
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(from = "serde_json::Value")]
struct Entry {
    whole: serde_json::Value,
}

impl From<serde_json::Value> for Entry {
    fn from(whole: serde_json::Value) -> Self {
        Self { whole }
    }
}

impl Entry {
    fn tag(&self) -> Option<&str> {
        self.whole["annotations"][REF_NAME].as_str()
    }

    fn blob(&self, what: &str) -> Result<Blob, ImageError> {
        let digest = self.whole["digest"]
            .as_str()
            .and_then(|digest| digest.parse().ok());
        match (digest, self.whole["size"].as_u64()) {
            (Some(digest), Some(size)) => Ok(Blob { digest, size }),
            _ => Err(ImageError::invalid(
                what,
                "an entry has no sha256 digest or no size",
            )),
        }
    }
}

fn read_checked(path: &Path, place: &str, blob: &Blob) -> Result<Vec<u8>, ImageError> {
    let bytes = read(path, blob.size).map_err(|error| unreadable(path, &error))?;
    check(
        &blob.digest.to_string(),
        place,
        &blob.digest,
        &Digest::of(&bytes),
    )?;
    Ok(bytes)
}

fn unreadable(path: &Path, error: &std::io::Error) -> ImageError {
    ImageError::invalid(
        path.display().to_string(),
        format!("{error}: copy it again"),
    )
}

/// At most `most` bytes, which are bounded here too: sizes are the author's word.
pub fn read(path: &Path, most: u64) -> std::io::Result<Vec<u8>> {
    let most = most.min(crate::manifest::MAX_CONFIG_BYTES);
    let mut bytes = Vec::new();
    let read = open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if read as u64 > most {
        return Err(std::io::Error::other(format!(
            "it has more than {most} bytes"
        )));
    }
    Ok(bytes)
}

/// Files only: whoever names the folder could name a pipe, and have us wait for ever.
fn open(path: &Path) -> std::io::Result<File> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("it is no file"));
    }
    File::open(path)
}
