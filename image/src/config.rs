//! What an operator may set about images: a table of the agent's configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use tepui_transfer::Network;

/// What one image may take, unless the operator says otherwise: far above common images, far below
/// common disks.
const MAX_IMAGE_BYTES: u64 = 10 * 1024 * 1024 * 1024;
/// A registry that sends nothing for this long is taken for gone.
const STALL: Duration = Duration::from_secs(20);
/// The first pause between tries.
const PAUSE: Duration = Duration::from_millis(200);

/// Where images come from, and how large they may be.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImagesConfig {
    /// By registry, as references name it (`docker.io`, `localhost:5000`): mirrors and credentials.
    /// A mirror that wants credentials has an entry of its own.
    pub registries: BTreeMap<String, RegistryConfig>,
    /// Registries, mirrors and those who have their tokens that are spoken to in plain HTTP. Nobody
    /// else is, but who is redirected to from there.
    pub insecure: BTreeSet<String>,
    /// Addresses that registries, and what they name, may be at besides those of public and private
    /// networks: loopback, link-local and metadata addresses. Who is named above is asked wherever it
    /// is.
    pub allow: Vec<Network>,
    /// The most that an image may have, both as it is sent and unpacked.
    pub max_image_bytes: u64,
    /// How long a registry may send nothing until it is given up.
    #[serde(skip)]
    pub stall: Duration,
    /// The pause before a registry that failed is asked again; each is twice the one before.
    #[serde(skip)]
    pub pause: Duration,
}

impl Default for ImagesConfig {
    fn default() -> Self {
        Self {
            registries: BTreeMap::new(),
            insecure: BTreeSet::new(),
            allow: Vec::new(),
            max_image_bytes: MAX_IMAGE_BYTES,
            stall: STALL,
            pause: PAUSE,
        }
    }
}

/// One registry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegistryConfig {
    /// Who is asked before it, in this order: `host`, `host:port`, or `host/prefix`, where the
    /// repository follows the prefix.
    pub mirrors: Vec<String>,
    /// With `password`: who this agent is.
    pub username: Option<String>,
    /// With `username`.
    pub password: Option<Secret>,
    /// In place of both: a token that the registry takes as it is.
    pub token: Option<Secret>,
}

/// Text that no log shows.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Takes it.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}
