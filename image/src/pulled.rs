//! What a pull hands out: an image to run a container from, or a component to run as Wasm.
//!
//! Which of the two a reference names is its manifest's word (`manifest`), known when it is resolved.
//! Either is whole, has the digests that it is said to have, and stays while one of its clones lives.

use std::path::PathBuf;
use std::sync::Arc;

use tepui_types::Digest;

use crate::books::{Books, Lease};
use crate::manifest::ImageConfig;
use crate::store::{Part, Record, Size, Store};

/// What a reference named, here and held.
#[derive(Debug, Clone)]
pub enum Pulled {
    /// Layers and how they want to be run.
    Image(Box<Image>),
    /// A WebAssembly component or core module.
    Component(Component),
}

/// An image that is here, and stays while this or a clone of it lives.
#[derive(Debug, Clone)]
pub struct Image {
    /// Of its manifest.
    pub digest: Digest,
    /// Its unpacked layers, base first: `lowerdir`s, in reverse. Nobody may write in them.
    pub layers: Vec<PathBuf>,
    /// How it wants to be run.
    pub config: ImageConfig,
    /// Bytes of all its layers, those that it shares as well.
    pub bytes: u64,
    /// What was left out of it.
    pub notes: Vec<String>,
    /// What keeps it here.
    pub lease: Lease,
}

/// A WebAssembly component or core module that is here, and stays while this or a clone of it lives.
#[derive(Debug, Clone)]
pub struct Component {
    /// Of its manifest: what [`crate::Images::get`] and the collection know it by.
    pub digest: Digest,
    /// Of its bytes: the same as if these were uploaded as an artifact, and so what code that was
    /// compiled from them may be kept by.
    pub wasm: Digest,
    /// Its file, checked against `wasm`. Nobody may write to it.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// What keeps it here.
    pub lease: Lease,
}

impl Pulled {
    /// The digest of its manifest.
    pub fn digest(&self) -> Digest {
        match self {
            Self::Image(image) => image.digest,
            Self::Component(component) => component.digest,
        }
    }

    /// Its image, if it is one.
    pub fn image(self) -> Option<Image> {
        match self {
            Self::Image(image) => Some(*image),
            Self::Component(_) => None,
        }
    }

    /// Its component, if it is one.
    pub fn component(self) -> Option<Component> {
        match self {
            Self::Image(_) => None,
            Self::Component(component) => Some(component),
        }
    }

    /// What the agent gets of a record whose image is held.
    pub(crate) fn of(record: &Record, store: &Store, books: &Arc<Books>, lease: Lease) -> Self {
        let pages = books.lock();
        if let Some(wasm) = record.wasm {
            let part = Part::Component(wasm);
            return Self::Component(Component {
                digest: record.digest,
                wasm,
                path: store.part(&part),
                bytes: pages.bytes(&part),
                lease,
            });
        }
        let sizes = record.parts().filter_map(|part| pages.parts.get(&part));
        let sizes: Vec<&Size> = sizes.collect();
        let layers = record.layers.iter().copied().map(Part::Layer);
        Self::Image(Box::new(Image {
            digest: record.digest,
            layers: layers.map(|part| store.part(&part)).collect(),
            config: record.config.clone(),
            bytes: sizes.iter().map(|size| size.bytes).sum(),
            notes: sizes
                .iter()
                .flat_map(|size| size.notes.iter().cloned())
                .collect(),
            lease,
        }))
    }
}
