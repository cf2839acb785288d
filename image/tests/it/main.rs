//! Images from the real docker-registry, skopeo and umoci, and from a server that misbehaves.

/// Saved images.
mod archives;
/// What goes, and what stays.
mod collection;
/// WebAssembly that is stored as images are.
mod components;
/// Disks that are full, processes that are killed, callers that go away.
mod faults;
/// Images made and pushed, registries started and stopped.
mod fixture;
/// Images that no builder makes.
mod handmade;
/// Registries that stall, lie and break off.
mod misbehaving;
/// A server that does what no good registry does.
mod odd_server;
/// Layers in an overlay.
mod overlay;
/// Images for other machines, and what is no image.
mod platforms;
/// Images by tag, digest, folder and mirror.
mod pulls;
/// Registries that want to know who asks, and such as lead to where nobody is asked.
mod sign_in;
