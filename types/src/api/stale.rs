//! `?stale`: reads that ask nobody but the master they go to.

/// The parameter of a query.
pub const PARAMETER: &str = "stale";
/// The log index that the answering master has applied.
pub const INDEX_HEADER: &str = "tepui-index";
/// Milliseconds since that master last heard from a leader; where it has heard none since it began, since the
/// last command that it has.
pub const AGE_HEADER: &str = "tepui-age-ms";
