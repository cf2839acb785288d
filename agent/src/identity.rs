//! Who the agent is: cluster, agent id and nonce, in its data folder.
//!
//! The nonce is drawn once with the folder, so that a registration that is
//! sent twice makes one agent; cluster and id are written when the master has
//! given them, before anything is launched.

use serde::{Deserialize, Serialize};
use tepui_folder::FolderError;
use tepui_types::envelope;
use tepui_types::{AgentId, ClusterId};

use crate::error::AgentError;
use crate::sandbox::Layout;

/// The version of the identity file.
const VERSION: u8 = 1;

/// What the identity file says, version 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The cluster; none before the first registration.
    pub cluster: Option<ClusterId>,
    /// The agent's id there; none before the first registration.
    pub agent: Option<AgentId>,
    /// Drawn with the folder.
    pub nonce: u128,
}

impl Identity {
    /// The folder's identity; a new one, already written, if there is none.
    pub fn load_or_create(layout: &Layout) -> Result<Self, AgentError> {
        let path = layout.identity();
        match std::fs::read(&path) {
            Ok(bytes) => envelope::decode(VERSION, &bytes).map_err(|error| AgentError::Identity {
                detail: format!("{error}; restore it from a copy, or use an empty folder"),
                path,
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let identity = Self {
                    cluster: None,
                    agent: None,
                    nonce: random_u128()?,
                };
                identity.save(layout)?;
                Ok(identity)
            }
            Err(source) => Err(FolderError::io("read", &path, source).into()),
        }
    }

    /// Writes the identity so that it survives a power cut.
    pub fn save(&self, layout: &Layout) -> Result<(), AgentError> {
        let path = layout.identity();
        let bytes = envelope::encode(VERSION, self);
        tepui_folder::replace(&path, &bytes, 0o644)
            .map_err(|source| FolderError::io("write", &path, source).into())
    }
}

/// 128 bits that nobody can guess.
pub fn random_u128() -> Result<u128, AgentError> {
    let mut bytes = [0; 16];
    fill_random(&mut bytes)?;
    Ok(u128::from_le_bytes(bytes))
}

/// Fills `bytes` with what nobody can guess.
pub fn fill_random(bytes: &mut [u8]) -> Result<(), AgentError> {
    getrandom::fill(bytes).map_err(|error| {
        AgentError::System(
            "draw random bytes",
            std::io::Error::other(error.to_string()),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_is_drawn_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().to_owned());
        let mut first = Identity::load_or_create(&layout).unwrap();
        assert_eq!(Identity::load_or_create(&layout).unwrap(), first);
        first.cluster = Some(ClusterId(7));
        first.agent = Some(AgentId(1));
        first.save(&layout).unwrap();
        assert_eq!(Identity::load_or_create(&layout).unwrap(), first);
    }

    #[test]
    fn torn_identity_is_refused_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().to_owned());
        std::fs::write(layout.identity(), [VERSION, 1]).unwrap();
        let error = Identity::load_or_create(&layout).unwrap_err().to_string();
        assert!(
            error.contains("identity") && error.contains("empty folder"),
            "{error}"
        );
    }
}
