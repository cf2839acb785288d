//! What a backup says of itself.
//!
//! A backup is a tar archive: the manifest, `tepui-backup.json`; the state, `state`, in its own
//! versioned encoding; and each artifact, `artifacts/HEX`, by its SHA-256.

use serde::{Deserialize, Serialize};

use crate::ids::{ClusterId, Digest};
use crate::time::Timestamp;

/// The layout that this release writes; it reads every earlier one.
pub const FORMAT: u32 = 1;

/// The archive's first file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Manifest {
    /// The archive's layout.
    pub format: u32,
    /// The cluster.
    pub cluster: ClusterId,
    /// The log index of the state.
    pub index: u64,
    /// The cluster's time then.
    pub time: Timestamp,
    /// The release that wrote it.
    pub release: String,
    /// SHA-256 of the state's bytes.
    pub state: Digest,
    /// The artifacts that follow.
    pub artifacts: Vec<Digest>,
}
