//! Artifacts: bytes that the cluster holds, by digest.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tepui_types::api::event::EventBody;
use tepui_types::{Digest, Principal, Timestamp};

use crate::outcome::{Accepted, Outcome, Rejection};
use crate::state::State;
use crate::state::context::Context;
use crate::state::limits;

/// A stored artifact's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Its digest.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// When it was recorded.
    pub created_at: Timestamp,
    /// Who brought it.
    pub created_by: Principal,
    /// Log index of this record.
    pub revision: u64,
}

impl State {
    pub(super) fn record_artifact(
        &mut self,
        context: &mut Context,
        principal: &Principal,
        digest: Digest,
        size: u64,
    ) -> Outcome {
        if let Some(artifact) = self.artifacts.get(&digest) {
            if artifact.size != size {
                return Err(Rejection::Conflict(format!(
                    "artifact {digest} has {} bytes, not {size}",
                    artifact.size
                )));
            }
            return Ok(Accepted::Artifact {
                digest,
                known: true,
            });
        }
        if self.artifacts.len() >= limits::ARTIFACTS {
            return Err(Rejection::Limit(format!(
                "the cluster holds {} artifacts already, the most it takes",
                limits::ARTIFACTS
            )));
        }
        let artifact = Artifact {
            digest,
            size,
            created_at: context.now,
            created_by: principal.clone(),
            revision: context.index,
        };
        self.artifacts.insert(digest, Arc::new(artifact));
        context.event(EventBody::Artifact { digest });
        Ok(Accepted::Artifact {
            digest,
            known: false,
        })
    }
}
