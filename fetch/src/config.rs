//! What an operator may set about fetching: a table of the agent's configuration.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use tepui_transfer::Network;

/// What is kept of downloads, unless the operator says otherwise.
const MAX_CACHE_BYTES: u64 = 10 * 1024 * 1024 * 1024;
/// The most that one download may have: far above common archives, far below common disks.
const MAX_DOWNLOAD_BYTES: u64 = 10 * 1024 * 1024 * 1024;
/// Downloads at a time: enough to fill a link with servers that are slow each.
const PARALLEL: usize = 8;
/// A server that sends less than 64 KiB in this time is taken for gone.
const STALL: Duration = Duration::from_secs(20);
/// The first pause between tries.
const PAUSE: Duration = Duration::from_millis(200);

/// What may be fetched, and how much of it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FetchConfig {
    /// Folders of this machine that `file://` URLs may name files in. None unless set.
    pub file_folders: Vec<PathBuf>,
    /// Addresses that http and https URLs may lead to besides those of public and private networks:
    /// loopback, link-local and metadata addresses, none of which are open unless named. Names that
    /// a proxy of the agent's environment resolves are the proxy's to refuse, `localhost` excepted.
    pub allow: Vec<Network>,
    /// The most bytes of downloads that are kept for later tasks. What is in use stays beyond it.
    pub max_cache_bytes: u64,
    /// The most bytes that one download may have.
    pub max_download_bytes: u64,
    /// Downloads at a time, of all tasks together.
    pub parallel_downloads: usize,
    /// How long a server may send nearly nothing until it is given up.
    #[serde(skip)]
    pub stall: Duration,
    /// The pause before a server that failed is asked again; each is twice the one before.
    #[serde(skip)]
    pub pause: Duration,
}

impl Default for FetchConfig {
    fn default() -> Self {
        Self {
            file_folders: Vec::new(),
            allow: Vec::new(),
            max_cache_bytes: MAX_CACHE_BYTES,
            max_download_bytes: MAX_DOWNLOAD_BYTES,
            parallel_downloads: PARALLEL,
            stall: STALL,
            pause: PAUSE,
        }
    }
}
