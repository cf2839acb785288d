//! Problem documents (RFC 9457).

use serde::{Deserialize, Serialize};

/// The content type of every error.
pub const CONTENT_TYPE: &str = "application/problem+json";

/// What went wrong, and what would mend it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Problem {
    /// `tag:tepui,2026:` and the code, a name that never changes.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind of problem in a few words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// This problem, and what the caller can do.
    pub detail: String,
    /// Kebab-case code for programs: the end of `type`.
    pub code: String,
}
