//! Who uses what: the one place that decides whether something may be removed.
//!
//! Images that are in use are held by leases, parts that a pull will need are pinned. Both are taken
//! under the lock under which the collection takes names away, so nothing vanishes between being
//! found and being held. Memory and folder agree: what is written here is in the folder already.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tepui_types::Digest;

use crate::store::{Found, Part, Record, Size};

/// The books of one folder.
#[derive(Debug, Default)]
pub struct Books(Mutex<Pages>);

/// What stands in them.
#[derive(Debug, Default)]
pub struct Pages {
    /// Images by manifest.
    pub images: BTreeMap<Digest, Entry>,
    /// Layers and components.
    pub parts: HashMap<Part, Size>,
    /// What references named.
    pub names: BTreeMap<String, Digest>,
    holds: HashMap<Digest, usize>,
    pins: HashMap<Part, usize>,
}

/// An image.
#[derive(Debug)]
pub struct Entry {
    /// What it consists of.
    pub record: Arc<Record>,
    /// When it was last pulled or found here.
    pub used: SystemTime,
}

/// Holds an image: while one of its leases lives, the image and its layers stay.
#[derive(Debug, Clone)]
pub struct Lease(#[expect(dead_code, reason = "it is there to be dropped")] Arc<Hold>);

#[derive(Debug)]
struct Hold {
    books: Arc<Books>,
    image: Digest,
}

/// Holds a part, there or still to come.
#[derive(Debug)]
pub struct Pin {
    books: Arc<Books>,
    part: Part,
}

impl Books {
    /// From what was found in the folder.
    pub fn new(found: Found) -> Arc<Self> {
        let mut pages = Pages {
            parts: found.parts.into_iter().collect(),
            ..Pages::default()
        };
        for (record, used) in found.images {
            pages.add(Arc::new(record), used);
        }
        let names = found.names.into_iter();
        pages.names = names.map(|name| (name.name, name.image)).collect();
        Arc::new(Self(Mutex::new(pages)))
    }

    /// The pages, for a moment.
    pub fn lock(&self) -> MutexGuard<'_, Pages> {
        // Nothing that is done under the lock leaves the pages half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The image that the reference named when it was last resolved, held.
    pub fn named(self: &Arc<Self>, name: &str) -> Option<(Arc<Record>, Lease)> {
        let image = *self.lock().names.get(name)?;
        self.image(&image)
    }

    /// The image, held.
    pub fn image(self: &Arc<Self>, image: &Digest) -> Option<(Arc<Record>, Lease)> {
        let lease = self.hold(*image);
        let record = self.lock().images.get(image)?.record.clone();
        Some((record, lease))
    }

    /// Holds an image, also one that is still to come.
    pub fn hold(self: &Arc<Self>, image: Digest) -> Lease {
        *self.lock().holds.entry(image).or_default() += 1;
        Lease(Arc::new(Hold {
            books: self.clone(),
            image,
        }))
    }

    /// Pins a part, and says its size where it is here.
    pub fn pin(self: &Arc<Self>, part: Part) -> (Pin, Option<Size>) {
        let mut pages = self.lock();
        *pages.pins.entry(part).or_default() += 1;
        let pin = Pin {
            books: self.clone(),
            part,
        };
        (pin, pages.parts.get(&part).cloned())
    }
}

impl Pages {
    /// Takes in an image, all of which is here.
    pub fn add(&mut self, record: Arc<Record>, used: SystemTime) {
        self.images.insert(record.digest, Entry { record, used });
    }

    /// Says when the image was used.
    pub fn used(&mut self, image: &Digest, used: SystemTime) {
        if let Some(entry) = self.images.get_mut(image) {
            entry.used = used;
        }
    }

    /// Strikes out an image, and returns what named it.
    pub fn remove_image(&mut self, image: &Digest) -> Vec<String> {
        self.images.remove(image);
        let names = self.names.extract_if(.., |_, named| named == image);
        names.map(|(name, _)| name).collect()
    }

    /// What a part takes.
    pub fn bytes(&self, part: &Part) -> u64 {
        self.parts.get(part).map_or(0, |size| size.bytes)
    }

    /// Whether somebody holds the image.
    pub fn is_held(&self, image: &Digest) -> bool {
        self.holds.contains_key(image)
    }

    /// Whether a pull needs the part.
    pub fn is_pinned(&self, part: &Part) -> bool {
        self.pins.contains_key(part)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        release(&mut self.books.lock().holds, &self.image);
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        release(&mut self.books.lock().pins, &self.part);
    }
}

fn release<K: Eq + std::hash::Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}
