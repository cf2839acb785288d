//! The crate with Debian's plugins and real namespaces; each test on a machine of its own.

// What a test runs on.
mod host;
// Attachments as they should be.
mod attach;
// Plugins that fail, and processes that are killed.
mod faults;
// Probes of tasks, with namespaces of their own and without.
mod probes;
// Who listens on ports that are not theirs.
mod ports;
