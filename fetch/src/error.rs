//! Why something could not be fetched.
//!
//! Every variant has a code that tasks show as their reason and a message that says what to do.
//! URLs stand in them without credentials and queries. Errors can be cloned: all who wait for one
//! download get the same one.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tepui_folder::FolderError;
use tepui_transfer::Interrupted;

/// Why something could not be fetched.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FetchError {
    /// What is asked for cannot be meant.
    #[error("{what} cannot be fetched: {why}")]
    Invalid {
        /// What was asked for.
        what: String,
        /// What is wrong with it, and what helps.
        why: String,
    },
    /// It is not there.
    #[error("there is no {what}: check its name, and that it was put there")]
    NotFound {
        /// What was asked for.
        what: String,
    },
    /// Whoever has it does not give it to this agent.
    #[error("{what} is refused to this agent ({why}): check the credentials that its URL needs")]
    Refused {
        /// What was asked for.
        what: String,
        /// The answer.
        why: String,
    },
    /// It could not be had for now.
    #[error("could not get {what}: {why}; check that this agent reaches it, and try again")]
    Unavailable {
        /// What was asked for.
        what: String,
        /// What happened last.
        why: String,
    },
    /// It redirects to where nobody may be sent.
    #[error("{what} {why}: fetch it from where it is")]
    Redirect {
        /// What was asked for.
        what: String,
        /// Where it leads.
        why: String,
    },
    /// It is where this agent asks nobody.
    #[error(
        "{what} is at {address}, which is {why}, and tasks may not fetch from there: fetch it from elsewhere, or let the agent's operator allow {address} with --fetch-allow or `allow` of [fetch]"
    )]
    Address {
        /// What was asked for.
        what: String,
        /// Where its name or a redirect led.
        address: IpAddr,
        /// What is there.
        why: String,
    },
    /// What came is not what was meant.
    #[error(
        "{what} has the sha256 {found} and should have {wanted}: it was changed or damaged; if the change is meant, give the new sha256"
    )]
    DigestMismatch {
        /// What was asked for.
        what: String,
        /// In hexadecimal.
        wanted: String,
        /// In hexadecimal.
        found: String,
    },
    /// It is more than there is room for.
    #[error("{what} is larger than {limit} bytes: {fix}")]
    TooLarge {
        /// What was asked for.
        what: String,
        /// The most there may be.
        limit: u64,
        /// Who can change that.
        fix: &'static str,
    },
    /// The archive is damaged, none, or holds what none may hold.
    #[error("{what} cannot be unpacked: {why}")]
    ArchiveInvalid {
        /// The archive.
        what: String,
        /// What is wrong with it, and what helps.
        why: String,
    },
    /// It leads out of where it has to stay.
    #[error("{what} leads outside: {why}")]
    Outside {
        /// What was asked for.
        what: String,
        /// How, and what helps.
        why: String,
    },
    /// The sandbox has something else in its place.
    #[error("{what} has no place in the sandbox: {why}")]
    Conflict {
        /// What was asked for.
        what: String,
        /// What is there, and what helps.
        why: String,
    },
    /// The agent's disk has no room.
    #[error("the disk of {} is full: make room on it", path.display())]
    DiskFull {
        /// What was being written.
        path: PathBuf,
    },
    /// A folder or file of the agent's own failed.
    #[error("failed to {step} {}", path.display())]
    Disk {
        /// What was being done.
        step: &'static str,
        /// With what.
        path: PathBuf,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// The folder of kept downloads cannot be had.
    #[error("failed to open the folder of what was fetched")]
    Folder {
        /// Why.
        #[source]
        source: Arc<FolderError>,
    },
    /// The work for it ended without a result.
    #[error("fetching {what} was broken off: try again")]
    Interrupted {
        /// What was asked for.
        what: String,
    },
}

impl FetchError {
    /// The reason that a task shows. Codes never change their meaning.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Invalid { .. } => "fetch-invalid",
            Self::NotFound { .. } => "fetch-not-found",
            Self::Refused { .. } => "fetch-refused",
            Self::Unavailable { .. } => "fetch-unavailable",
            Self::Redirect { .. } => "fetch-redirect",
            Self::Address { .. } => "fetch-address-refused",
            Self::DigestMismatch { .. } => "fetch-digest-mismatch",
            Self::TooLarge { .. } => "fetch-too-large",
            Self::ArchiveInvalid { .. } => "fetch-archive-invalid",
            Self::Outside { .. } => "fetch-outside",
            Self::Conflict { .. } => "fetch-conflict",
            Self::DiskFull { .. } => "fetch-disk-full",
            Self::Disk { .. } => "fetch-disk",
            Self::Folder { .. } => "fetch-folder",
            Self::Interrupted { .. } => "fetch-interrupted",
        }
    }

    /// Whether the same fetch may succeed a little later.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Unavailable { .. }
            | Self::DiskFull { .. }
            | Self::Disk { .. }
            | Self::Folder { .. }
            | Self::Interrupted { .. } => true,
            Self::Invalid { .. }
            | Self::NotFound { .. }
            | Self::Refused { .. }
            | Self::Redirect { .. }
            | Self::Address { .. }
            | Self::DigestMismatch { .. }
            | Self::TooLarge { .. }
            | Self::ArchiveInvalid { .. }
            | Self::Outside { .. }
            | Self::Conflict { .. } => false,
        }
    }

    /// What a failed step with a path of our own means.
    pub(crate) fn disk(step: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path },
            _ => Self::Disk {
                step,
                path,
                source: Arc::new(source),
            },
        }
    }

    pub(crate) fn invalid(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Invalid {
            what: what.into(),
            why: why.into(),
        }
    }

    pub(crate) fn outside(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Outside {
            what: what.into(),
            why: why.into(),
        }
    }
}

impl From<Interrupted> for FetchError {
    fn from(interrupted: Interrupted) -> Self {
        Self::Interrupted {
            what: interrupted.what,
        }
    }
}
