//! `GET /v1/tasks/{id}/logs/{output}`: what a task writes.
//!
//! An `offset` counts from the first byte that was ever written to the output, also where that is not
//! there any more: who goes on where a connection broke loses nothing that is there, and reads nothing
//! twice.

/// Where the answer's first byte is: above the `offset` that was asked for where what was there has been
/// rotated away.
pub const OFFSET_HEADER: &str = "tepui-log-offset";
/// The parameter of a query with which an answer breaks off rather than to leave something out, so that
/// each of its bytes is the output's. Without it a line in the answer says what is left out.
pub const EXACT: &str = "exact";
