//! `/v1/artifacts`: bytes by digest.
//!
//! `PUT /v1/artifacts/{digest}` with the bytes as body stores them once they
//! have the digest; `GET` gives them back.

use serde::{Deserialize, Serialize};

use crate::ids::Digest;
use crate::time::Timestamp;

/// A stored artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ArtifactView {
    /// Its name.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// When the cluster came to know it.
    pub created_at: Timestamp,
    /// Who brought it.
    pub created_by: String,
    /// Log index of its record.
    pub revision: u64,
}
