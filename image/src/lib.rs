//! OCI images on an agent's machine: pulled, checked, unpacked, collected.
//!
//! [`Images`] is a folder. `pull` sees to it that an image is in it and hands out its layers as
//! trees that overlayfs can be given as `lowerdir`s, with what the image says of how it is run.
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
mod joined;
mod layer;
mod manifest;
mod origin;
mod progress;
mod pull;
mod store;
mod unpack;

pub use books::Lease;
pub use collection::{Collected, ImageSize, Retention, Sizes};
pub use config::{ImagesConfig, RegistryConfig, Secret};
pub use error::ImageError;
pub use images::{Image, Images};
pub use manifest::ImageConfig;
pub use progress::Progress;
