//! The crate on recorded machines, with real files.

// What a test runs on.
mod machines;
// What is found and lent.
mod detection;
