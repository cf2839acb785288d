//! Sandboxes filled from real servers and with real archives, and from such as misbehave.

/// Servers on the machine itself, and what leads to them.
mod addresses;
/// Archives as tar, Python and others make them.
mod archives;
/// What is kept, revalidated, joined, and removed.
mod cache;
/// Downloads, and servers that fail, stall, lie and redirect.
mod downloads;
/// Files of the machine.
mod files;
/// Archives that no good program makes.
mod hostile;
/// Callers that go away, processes that are killed.
mod interrupted;
/// Proxies of the environment.
mod proxies;
/// Servers that answer as a test tells them.
mod server;
/// A fetcher, its folder and a sandbox.
mod site;
/// Servers with TLS.
mod tls;
