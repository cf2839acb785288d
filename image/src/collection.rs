//! Which images go when the agent wants room.
//!
//! Least recently used first. An image goes when its last use is too long ago or all images take too
//! much, and neither a lease nor the caller's list has it; a layer goes with the last image that
//! needs it, unless a pull under way does.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use tepui_transfer::{Draft, blocking};
use tepui_types::Digest;

use crate::books::Pages;
use crate::error::ImageError;
use crate::images::Images;
use crate::store::Part;

/// What may stay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retention {
    /// Images that were not used for longer go.
    pub max_age: Option<Duration>,
    /// While all layers take more than this, images go.
    pub most_bytes: Option<u64>,
}

/// What went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// Images.
    pub images: Vec<Digest>,
    /// Layers and components.
    pub parts: usize,
    /// What these took.
    pub bytes: u64,
}

/// What images take.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Each image.
    pub images: Vec<ImageSize>,
    /// Layers and components, each once.
    pub parts: usize,
    /// What these take.
    pub bytes: u64,
}

/// One image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSize {
    /// Of its manifest.
    pub digest: Digest,
    /// The references that name it.
    pub names: Vec<String>,
    /// Its layers, also those that it shares.
    pub bytes: u64,
    /// When it was last pulled, or asked for and found here.
    pub last_used: SystemTime,
    /// Whether a lease holds it.
    pub held: bool,
}

impl Images {
    /// What images take, by their layers' archives: folders and file systems add a little.
    pub fn sizes(&self) -> Sizes {
        let pages = self.inner().books.lock();
        let image = |(digest, entry): (&Digest, &crate::books::Entry)| {
            let names = pages.names.iter().filter(|(_, image)| *image == digest);
            ImageSize {
                digest: *digest,
                names: names.map(|(name, _)| name.clone()).collect(),
                bytes: entry.record.parts().map(|part| pages.bytes(&part)).sum(),
                last_used: entry.used,
                held: pages.is_held(digest),
            }
        };
        Sizes {
            images: pages.images.iter().map(image).collect(),
            parts: pages.parts.len(),
            bytes: pages.parts.values().map(|size| size.bytes).sum(),
        }
    }

    /// Removes what is beyond `retention`, and nothing that is held, in `keep`, or being pulled.
    ///
    /// # Errors
    /// `image-store`; what had gone until then is gone.
    pub async fn collect(
        &self,
        keep: &HashSet<Digest>,
        retention: Retention,
        now: SystemTime,
    ) -> Result<Collected, ImageError> {
        let (inner, keep) = (self.inner().clone(), keep.clone());
        blocking(move || {
            let mut collected = Collected::default();
            // Names go under the lock, so nobody can take up what goes; bytes go after it.
            let mut drafts: Vec<Draft> = Vec::new();
            let mut pages = inner.books.lock();
            for image in plan(&pages, &keep, retention, now) {
                inner.store.remove_image(&image)?;
                for name in pages.remove_image(&image) {
                    inner.store.remove_name(&name)?;
                }
                collected.images.push(image);
            }
            for part in unneeded(&pages) {
                drafts.push(inner.store.remove_part(&part)?);
                collected.bytes += pages.bytes(&part);
                collected.parts += 1;
                pages.parts.remove(&part);
            }
            drop(pages);
            drop(drafts);
            if collected.parts > 0 {
                tracing::info!(
                    images = collected.images.len(),
                    bytes = collected.bytes,
                    "images collected"
                );
            }
            Ok(collected)
        })
        .await
    }
}

/// The images that go, least recently used first.
fn plan(
    pages: &Pages,
    keep: &HashSet<Digest>,
    retention: Retention,
    now: SystemTime,
) -> Vec<Digest> {
    let mut by_use: Vec<(SystemTime, Digest)> = pages
        .images
        .iter()
        .map(|(digest, entry)| (entry.used, *digest))
        .collect();
    by_use.sort();
    let free = |digest: &Digest| !keep.contains(digest) && !pages.is_held(digest);
    let is_old = |used: SystemTime| {
        let age = now.duration_since(used).unwrap_or_default();
        retention.max_age.is_some_and(|max_age| age > max_age)
    };
    let mut gone: HashSet<Digest> = HashSet::new();
    let mut going = Vec::new();
    for (used, digest) in by_use {
        let stays = pages
            .images
            .iter()
            .filter(|(digest, _)| !gone.contains(digest));
        let parts: HashSet<Part> = stays.flat_map(|(_, entry)| entry.record.parts()).collect();
        let bytes: u64 = parts.iter().map(|part| pages.bytes(part)).sum();
        let is_much = retention.most_bytes.is_some_and(|most| bytes > most);
        if free(&digest) && (is_old(used) || is_much) {
            gone.insert(digest);
            going.push(digest);
        }
    }
    going
}

/// Parts of no image, and of no pull.
fn unneeded(pages: &Pages) -> Vec<Part> {
    let needed: HashSet<Part> = pages
        .images
        .values()
        .flat_map(|entry| entry.record.parts())
        .collect();
    let parts = pages.parts.keys();
    let unneeded = parts.filter(|part| !needed.contains(part) && !pages.is_pinned(part));
    unneeded.copied().collect()
}
