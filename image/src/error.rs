//! Why there is no image.
//!
//! Every variant has a code that tasks show as their reason and a message that says what to do.
//! Errors can be cloned: all who wait for one pull get the same one.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tepui_transfer::Interrupted;
use tepui_types::Bytes;

/// Why an image could not be had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ImageError {
    /// Nobody has it.
    #[error("there is no {what} at {place}: check its name and tag, and that it was pushed there")]
    Unknown {
        /// What was asked for.
        what: String,
        /// Who was asked.
        place: String,
    },
    /// The registry wants to know who asks, or does not give it to who asks.
    #[error(
        "{place} does not let this agent have {what}: check the name, and what the agent's configuration has as username, password or token of {place}"
    )]
    Unauthorized {
        /// What was asked for.
        what: String,
        /// Who was asked.
        place: String,
    },
    /// The registry wants to know who asks in a way that agents do not follow.
    #[error("cannot sign in to {place} for {what}: {why}")]
    SignIn {
        /// What was asked for.
        what: String,
        /// Who was asked.
        place: String,
        /// What is wrong with its way, and what helps.
        why: String,
    },
    /// The registry, or what it names, is where this agent asks nobody.
    #[error(
        "{place} leads to {address} for {what}, which is {why}, and no image is pulled from there: pull it from elsewhere, or let the agent's operator name what is there in `allow`, `insecure` or `registries` of [containers.images]"
    )]
    Address {
        /// What was asked for.
        what: String,
        /// Who was asked first.
        place: String,
        /// Where its name, a redirect, or its way to sign in led.
        address: IpAddr,
        /// What is there.
        why: String,
    },
    /// It may not be pulled, and is not here.
    #[error(
        "{image} is not on this agent, and the task wants none to be pulled: pull it with another task, or change the policy"
    )]
    NotPresent {
        /// The reference.
        image: String,
    },
    /// It could not be had for now.
    #[error("could not get {what} from {place}: {why}")]
    Unavailable {
        /// What was asked for.
        what: String,
        /// Who was asked.
        place: String,
        /// What happened last.
        why: String,
    },
    /// What was got is not what an image consists of.
    #[error("{what} is not right: {why}")]
    Invalid {
        /// Which part.
        what: String,
        /// What is wrong, and what helps.
        why: String,
    },
    /// It is for other machines.
    #[error("{image} is for {found}, and this agent is {wanted}: build or choose one for {wanted}")]
    Architecture {
        /// The reference.
        image: String,
        /// What this machine is.
        wanted: String,
        /// What the image is for.
        found: String,
    },
    /// It is larger than the agent takes.
    #[error("{what} is larger than {}: make the image smaller, or raise max_image_bytes of the agent", Bytes(*limit))]
    TooLarge {
        /// Which part.
        what: String,
        /// The most there may be.
        limit: u64,
    },
    /// The agent's disk has no room for it.
    #[error("the disk of {} is full: make room on it, or let the agent collect images", path.display())]
    DiskFull {
        /// What was being written.
        path: PathBuf,
    },
    /// The agent's own folder failed.
    #[error("failed to {step} {}", path.display())]
    Store {
        /// What was being done.
        step: &'static str,
        /// With what.
        path: PathBuf,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// The work for it ended without a result.
    #[error("the pull of {image} was broken off: try again")]
    Interrupted {
        /// The reference.
        image: String,
    },
}

impl ImageError {
    /// The reason that a task shows. Codes never change their meaning.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unknown { .. } => "image-unknown",
            Self::Unauthorized { .. } => "image-unauthorized",
            Self::SignIn { .. } => "image-sign-in",
            Self::Address { .. } => "image-address-refused",
            Self::NotPresent { .. } => "image-not-present",
            Self::Unavailable { .. } => "image-unavailable",
            Self::Invalid { .. } => "image-invalid",
            Self::Architecture { .. } => "image-architecture",
            Self::TooLarge { .. } => "image-too-large",
            Self::DiskFull { .. } => "image-disk-full",
            Self::Store { .. } => "image-store",
            Self::Interrupted { .. } => "image-interrupted",
        }
    }

    /// Whether the same pull may succeed a little later.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Unavailable { .. }
            | Self::DiskFull { .. }
            | Self::Store { .. }
            | Self::Interrupted { .. } => true,
            Self::Unknown { .. }
            | Self::Unauthorized { .. }
            | Self::SignIn { .. }
            | Self::Address { .. }
            | Self::NotPresent { .. }
            | Self::Invalid { .. }
            | Self::Architecture { .. }
            | Self::TooLarge { .. } => false,
        }
    }

    pub(crate) fn invalid(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Invalid {
            what: what.into(),
            why: why.into(),
        }
    }

    /// What a failed step with a path of our own means.
    pub(crate) fn store(step: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path },
            _ => Self::Store {
                step,
                path,
                source: Arc::new(source),
            },
        }
    }
}

impl From<Interrupted> for ImageError {
    fn from(interrupted: Interrupted) -> Self {
        Self::Interrupted {
            image: interrupted.what,
        }
    }
}
