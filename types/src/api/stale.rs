//! `?stale`: reads that ask nobody but the master they go to.

/// The parameter of a query.
pub const PARAMETER: &str = "stale";
/// The log index that the answering master has applied.
pub const INDEX_HEADER: &str = "tepui-index";
/// Milliseconds since that master last heard from a leader.
pub const AGE_HEADER: &str = "tepui-age-ms";
