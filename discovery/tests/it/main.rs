//! The real server on loopback, asked with real packets.

// A server, its askers, and who plays a misbehaving resolver.
mod host;
// Questions and their answers, over UDP and TCP.
mod questions;
// Packets that are none, floods, and connections that never end.
mod faults;
// Questions for other domains.
mod upstream;
// The same, by what people look with.
mod dig;
