//! One layer or component: fetched, checked, unpacked, kept.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tepui_transfer::{Report, StopOnDrop, blocking};
use tepui_types::Digest;

use crate::error::ImageError;
use crate::images::Inner;
use crate::manifest::Blob;
use crate::origin::{Fetched, Origin};
use crate::progress::LayerProgress;
use crate::store::{Part, Size};
use crate::unpack::{UnpackError, Unpacked, unpack};

/// What all WebAssembly begins with, components and core modules.
const WASM: [u8; 4] = *b"\0asm";

/// Says how far a layer is, to all who wait for it.
pub type LayerReport = Report<LayerProgress>;

/// Sees to it that a part is here. Whoever asks has pinned it, and nobody else is at it.
pub async fn get(
    inner: Arc<Inner>,
    origin: Arc<Origin>,
    part: Part,
    blob: Blob,
    report: LayerReport,
) -> Result<Size, ImageError> {
    let here = inner.books.lock().parts.get(&part).cloned();
    if let Some(size) = here {
        return Ok(size);
    }
    let permit = inner.fetches.acquire().await;
    let fetched = origin
        .file(&blob, &inner.store, &|fetched| {
            report.say(LayerProgress {
                fetched,
                unpacked: 0,
            });
        })
        .await?;
    drop(permit);
    let permit = inner.unpacks.clone().acquire_owned().await;
    let stop = StopOnDrop::default();
    let cancelled = stop.flag();
    blocking(move || {
        // Held by the thread, which ends a little later than whoever waits for it may.
        let _permit = permit;
        let size = match part {
            Part::Layer(diff_id) => {
                keep_layer(&inner, fetched, diff_id, blob, &cancelled, &report)?
            }
            Part::Component(digest) => keep_component(&inner, fetched, digest)?,
        };
        inner.books.lock().parts.insert(part, size.clone());
        Ok(size)
    })
    .await
}

fn keep_layer(
    inner: &Inner,
    fetched: Fetched,
    diff_id: Digest,
    blob: Blob,
    cancelled: &AtomicBool,
    report: &LayerReport,
) -> Result<Size, ImageError> {
    let (draft, tree) = inner.store.draft_layer()?;
    let limit = inner.config.max_image_bytes;
    let unpacked = unpack(fetched.path(), &tree, limit, cancelled, |unpacked| {
        report.say(LayerProgress {
            fetched: blob.size,
            unpacked,
        });
    });
    let Unpacked {
        diff_id: found,
        bytes,
        notes,
    } = unpacked.map_err(|error| failed(error, &blob.digest, &tree))?;
    // What was fetched is not needed any more, and syncing it would take its time.
    drop(fetched);
    if found != diff_id {
        let why = format!(
            "it unpacks to {found}, and the image's configuration says {diff_id}: build it again"
        );
        return Err(ImageError::invalid(format!("layer {}", blob.digest), why));
    }
    for note in &notes {
        tracing::info!(layer = %diff_id, "{note}");
    }
    let size = Size {
        bytes,
        notes: notes.into(),
    };
    inner.store.keep_layer(draft, diff_id, &size)?;
    Ok(size)
}

fn keep_component(inner: &Inner, fetched: Fetched, digest: Digest) -> Result<Size, ImageError> {
    let draft = match fetched {
        Fetched::Draft(draft) => draft,
        Fetched::InPlace(path) => {
            let draft = inner.store.draft();
            let copied = std::fs::copy(&path, draft.path());
            copied.map_err(|error| ImageError::store("copy", &path, error))?;
            draft
        }
    };
    let path = draft.path();
    let read = |error| ImageError::store("read", path, error);
    let mut file = File::open(path).map_err(read)?;
    let bytes = file.metadata().map_err(read)?.len();
    let mut start = [0; WASM.len()];
    if bytes < start.len() as u64 || file.read_exact(&mut start).is_err() || start != WASM {
        let why = "it does not begin as WebAssembly does: build and push it again";
        return Err(ImageError::invalid(format!("component {digest}"), why));
    }
    inner.store.keep_component(draft, digest)?;
    Ok(Size::of(bytes))
}

fn failed(error: UnpackError, layer: &Digest, tree: &Path) -> ImageError {
    let what = format!("layer {layer}");
    match error {
        UnpackError::Invalid(why) => {
            ImageError::invalid(what, format!("{why}: build and push the image again"))
        }
        UnpackError::TooLarge(limit) => ImageError::TooLarge { what, limit },
        UnpackError::Write { path, source } => {
            ImageError::store("unpack", &tree.join(path), source)
        }
        UnpackError::Cancelled => ImageError::Interrupted { image: what },
    }
}
