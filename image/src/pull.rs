//! One pull: what a reference names, what that consists of, and all of it fetched and kept.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt, TryStreamExt};
use tepui_transfer::{Report, blocking};
use tepui_types::Digest;
use tepui_types::image::{ImageRef, ImageSource};

use crate::books::Pin;
use crate::error::ImageError;
use crate::images::Inner;
use crate::layer;
use crate::manifest::{self, Blob, ImageConfig, MAX_DEPTH, Manifest};
use crate::origin::Origin;
use crate::origin::archive;
use crate::origin::local::Local;
use crate::origin::registry::Registry;
use crate::progress::{Progress, Tally};
use crate::pulled::Pulled;
use crate::store::{Name, Part, Record};

/// Layers of one image that are under way at once. How many there are of all images is the
/// semaphores' to say.
const PARALLEL: usize = 6;

/// References that are remembered: far more than an agent's tasks have, and a few megabytes. One that
/// is not is looked up again at each pull.
const MAX_NAMES: usize = 10_000;

/// Says how far a pull is, to all who wait for it.
pub type PullReport = Report<Progress>;

/// What an image consists of, and how it is run.
struct Wanted {
    digest: Digest,
    parts: Vec<(Part, Blob)>,
    config: ImageConfig,
}

/// A reference as it is remembered: with every default written out.
pub fn name(image: &ImageRef) -> String {
    match image.source() {
        ImageSource::Registry(image) => image.to_string(),
        ImageSource::Layout { .. } | ImageSource::Artifact(_) => image.to_string(),
    }
}

/// Where the image is to be had. `archive` is where the agent has an artifact's bytes.
pub async fn origin(
    inner: &Inner,
    image: &ImageRef,
    archive: Option<PathBuf>,
) -> Result<Origin, ImageError> {
    match (image.source(), archive) {
        (_, Some(path)) => {
            let draft = inner.store.draft();
            let limit = inner.config.max_image_bytes;
            let local = blocking(move || archive::open(&path, draft, limit)).await?;
            Ok(Origin::Local(local))
        }
        (ImageSource::Registry(image), None) => {
            let (clients, config) = (inner.clients.clone(), inner.config.clone());
            Ok(Origin::Registry(Registry::new(image, clients, config)))
        }
        (ImageSource::Layout { folder, tag }, None) => {
            Ok(Origin::Local(Local::open(folder.into(), tag).await?))
        }
        (ImageSource::Artifact(_), None) => Err(ImageError::NotPresent {
            image: image.to_string(),
        }),
    }
}

/// Pulls an image that is not here, or is to be looked at anew.
pub async fn pull(
    inner: Arc<Inner>,
    image: ImageRef,
    archive: Option<PathBuf>,
    report: PullReport,
) -> Result<Pulled, ImageError> {
    report.say(Progress::Resolving);
    let name = name(&image);
    let origin = Arc::new(origin(&inner, &image, archive).await?);
    let (digest, manifest) = resolve(&origin, &name).await?;
    // From here on the collection leaves the image alone, here or not.
    let lease = inner.books.hold(digest);
    let here = inner.books.image(&digest);
    let record = match here {
        Some((record, _)) => record,
        None => {
            let wanted = wanted(&origin, &name, digest, manifest).await?;
            // Held until the image is in the books: the collection finds either.
            let _pins = fetch(&inner, &origin, &name, &wanted, &report).await?;
            keep(&inner, wanted).await?
        }
    };
    remember(&inner, name, digest).await?;
    Ok(inner.pulled(&record, lease))
}

/// Goes from index to manifest.
async fn resolve(origin: &Origin, name: &str) -> Result<(Digest, Manifest), ImageError> {
    let mut bytes = origin.top().await?;
    for _ in 0..=MAX_DEPTH {
        match manifest::read(name, &bytes)? {
            Manifest::Index(blob) => bytes = origin.manifest(&blob).await?,
            manifest => return Ok((Digest::of(&bytes), manifest)),
        }
    }
    let why = "its indexes lead to more indexes";
    Err(ImageError::invalid(format!("the manifest of {name}"), why))
}

async fn wanted(
    origin: &Origin,
    name: &str,
    digest: Digest,
    manifest: Manifest,
) -> Result<Wanted, ImageError> {
    let (config, layers) = match manifest {
        Manifest::Wasm(blob) => {
            return Ok(Wanted {
                digest,
                parts: vec![(Part::Component(blob.digest), blob)],
                config: ImageConfig::default(),
            });
        }
        Manifest::Image { config, layers } => (config, layers),
        Manifest::Index(_) => {
            return Err(ImageError::invalid(name, "it leads to no manifest"));
        }
    };
    let bytes = origin.bytes(&config).await?;
    let (config, diff_ids) = manifest::read_config(name, &bytes, layers.len())?;
    let parts = diff_ids.into_iter().map(Part::Layer).zip(layers);
    Ok(Wanted {
        digest,
        parts: parts.collect(),
        config,
    })
}

/// Fetches what is not here; what is here or on its way is not fetched again.
async fn fetch(
    inner: &Arc<Inner>,
    origin: &Arc<Origin>,
    name: &str,
    wanted: &Wanted,
    report: &PullReport,
) -> Result<Vec<Pin>, ImageError> {
    let limit = inner.config.max_image_bytes;
    let too_large = || ImageError::TooLarge {
        what: name.to_owned(),
        limit,
    };
    let mut pins = Vec::new();
    let mut missing: Vec<(Part, Blob)> = Vec::new();
    let mut bytes: u64 = 0;
    for (part, blob) in &wanted.parts {
        let (pin, here) = inner.books.pin(*part);
        pins.push(pin);
        match here {
            Some(size) => bytes = bytes.saturating_add(size.bytes),
            // The same layer may stand in an image twice.
            None if missing.iter().any(|(other, _)| other == part) => {}
            None => missing.push((*part, *blob)),
        }
    }
    let total = missing
        .iter()
        .fold(0_u64, |sum, (_, blob)| sum.saturating_add(blob.size));
    if total > limit || bytes > limit {
        return Err(too_large());
    }
    let tally = Mutex::new(Tally::new(total));
    let fetches = missing.into_iter().map(|(part, blob)| {
        let tally = &tally;
        async move {
            let hear = |progress| {
                let tally = tally.lock();
                let mut tally = tally.unwrap_or_else(PoisonError::into_inner);
                report.say(tally.take(blob.digest, progress));
                Ok(())
            };
            loop {
                let start = |report| {
                    let (inner, origin) = (inner.clone(), origin.clone());
                    layer::get(inner, origin, part, blob, report)
                };
                let waiting = inner.layers.join(part, name, start);
                let is_joined = waiting.is_joined();
                let result = waiting.ended(hear).await;
                // Another image's pull may have had another registry, and another fate.
                if result.is_ok() || !is_joined {
                    break result;
                }
            }
        }
    });
    // Boxed: the compiler does not see otherwise that it may be sent between threads.
    let fetches: Vec<_> = fetches.map(futures::FutureExt::boxed).collect();
    let sizes = futures::stream::iter(fetches).buffer_unordered(PARALLEL);
    let fetched = sizes.try_fold(bytes, async |sum, size| {
        let sum = sum.saturating_add(size.bytes);
        if sum > limit {
            Err(too_large())
        } else {
            Ok(sum)
        }
    });
    fetched.await?;
    Ok(pins)
}

/// Writes the image down, once all of it is here.
async fn keep(inner: &Arc<Inner>, wanted: Wanted) -> Result<Arc<Record>, ImageError> {
    let mut record = Record {
        digest: wanted.digest,
        layers: Vec::new(),
        wasm: None,
        config: wanted.config,
    };
    for (part, _) in wanted.parts {
        match part {
            Part::Layer(diff_id) => record.layers.push(diff_id),
            Part::Component(digest) => record.wasm = Some(digest),
        }
    }
    let inner = inner.clone();
    blocking(move || {
        let used = inner.store.keep_image(&record)?;
        let record = Arc::new(record);
        inner.books.lock().add(record.clone(), used);
        Ok(record)
    })
    .await
}

/// Writes down what the reference names now.
async fn remember(inner: &Arc<Inner>, name: String, image: Digest) -> Result<(), ImageError> {
    let inner = inner.clone();
    blocking(move || {
        let used = inner.store.used(&image)?;
        let before = {
            let mut pages = inner.books.lock();
            pages.used(&image, used);
            if pages.names.len() >= MAX_NAMES && !pages.names.contains_key(&name) {
                return Ok(());
            }
            // Before it is in the folder, so that it does not go with what it named until now.
            pages.names.insert(name.clone(), image)
        };
        if before != Some(image) {
            inner.store.keep_name(&Name { name, image })?;
        }
        Ok(())
    })
    .await
}
