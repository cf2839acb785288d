//! Images from the real docker-registry, skopeo and umoci.

/// Saved images.
mod archives;
/// Images made and pushed, registries started and stopped.
mod fixture;
/// Layers in an overlay.
mod overlay;
/// Images by tag, digest, folder and mirror.
mod pulls;
