//! OCI images on an agent's machine: pulled, checked, unpacked, collected.
//!
//! [`Images`] is a folder. [`Images::pull`] sees to it that what a reference names is in it, and hands
//! out one of two ([`Pulled`]):
//!
//! - an [`Image`]: its layers as trees that overlayfs can be given as `lowerdir`s, with what the image
//!   says of how it is run;
//! - a [`Component`]: the file of the WebAssembly that an artifact holds, with the digest of its bytes.
//!
//! An artifact is a component when its manifest says so in any of the ways of CNCF's Wasm OCI Artifact
//! layout: by the media type of its configuration (`application/vnd.wasm.config.v0+json`), by its
//! `artifactType`, or by that of its layer (`application/wasm`). It has that layer alone. A component is
//! held, listed and collected as images are, by the digest of its manifest; [`Images::get`] finds it
//! again after a restart.
//!
//! Everything is kept by digest, and what lies under a digest is whole: it was checked against the
//! digest, was on disk before it got its name, and is removed only while nobody uses it. Whatever is
//! unfinished lies in `drafts`, which is emptied when the folder is opened.
//!
//! In the order of flow: `pull` resolves a reference at its `origin`, `manifest` says what is
//! wanted, `layer` fetches and unpacks it, `store` keeps it, `books` know who uses it.

mod books;
mod collection;
mod config;
mod error;
mod images;
mod layer;
mod manifest;
mod origin;
mod progress;
mod pull;
mod pulled;
mod store;
mod unpack;

pub use books::Lease;
pub use collection::{Collected, ImageSize, Retention, Sizes};
pub use config::{ImagesConfig, RegistryConfig, Secret};
pub use error::ImageError;
pub use images::Images;
pub use manifest::ImageConfig;
pub use progress::Progress;
pub use pulled::{Component, Image, Pulled};
