//! Why a namespace could not be attached, detached or checked; each names the fix.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::attachment::Protocol;
use crate::id::AttachmentId;
use crate::namespace::NamespaceError;
use crate::plugin::PluginError;

/// What goes wrong with networks.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// Nobody has configured it.
    #[error("there is no network `{name}`: {}", choices(.known, .folders, .broken))]
    UnknownNetwork {
        /// What was asked for.
        name: String,
        /// Those that are configured.
        known: Vec<String>,
        /// Where lists are looked for.
        folders: Vec<PathBuf>,
        /// What is wrong with files that cannot be used.
        broken: Vec<String>,
    },
    /// What was asked cannot be.
    #[error("{0}")]
    Request(String),
    /// Ports are mapped, and none of the network's plugins does that.
    #[error(
        "network `{network}` maps no ports: add {{\"type\": \"portmap\", \"capabilities\": \
         {{\"portMappings\": true}}}} to \"plugins\" in {file}, or ask for no port mappings"
    )]
    NoPortMappings {
        /// The network.
        network: String,
        /// Where it is configured.
        file: PathBuf,
    },
    /// A program that nobody here has started listens on a port that is to be mapped.
    #[error(
        "{protocol} port {port} of this machine is taken: a program that is not this task's listens on \
         {address}; end that one, or keep the agent from lending its port (`ports` of --resources)"
    )]
    PortTaken {
        /// Over what.
        protocol: Protocol,
        /// Which.
        port: u16,
        /// On which address; an unspecified one is all of them.
        address: IpAddr,
    },
    /// The id is in use for something else.
    #[error("`{id}` is attached already, and otherwise: detach it first")]
    Attached {
        /// Whose.
        id: AttachmentId,
    },
    /// Nothing of this id is attached.
    #[error("`{id}` is not attached: attach it first")]
    NotAttached {
        /// Whose.
        id: AttachmentId,
    },
    /// The limit of attachments is reached.
    #[error(
        "this machine has {most} attachments, the most: end a task first, or use another agent"
    )]
    TooMany {
        /// The limit.
        most: usize,
    },
    /// A folder of lists holds too many.
    #[error("{folder} holds more than {most} network lists: remove those that nobody needs")]
    TooManyFiles {
        /// The folder.
        folder: PathBuf,
        /// The limit.
        most: usize,
    },
    /// What was noted of an attachment cannot be read.
    #[error(
        "{path} cannot be read ({what}): if no later release wrote it, remove its folder; what \
         plugins hold for it then has to be freed by hand"
    )]
    Record {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A plugin failed.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// The namespace could not be made, removed or entered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// A file or folder could not be used.
    #[error("failed to {step} {path}")]
    Io {
        /// What was tried.
        step: &'static str,
        /// With which file.
        path: PathBuf,
        /// The system's word.
        #[source]
        source: io::Error,
    },
}

impl NetworkError {
    pub(crate) fn io(step: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        Self::Io { step, path, source }
    }

    /// Whether a file must not be looked at.
    pub(crate) fn is_denied(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }
}

fn choices(known: &[String], folders: &[PathBuf], broken: &[String]) -> String {
    let folders: Vec<String> = folders
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let mut text = match known {
        [] => format!(
            "none is configured; put a CNI list into {}",
            folders.join(" or ")
        ),
        known => format!("choose one of {}", known.join(", ")),
    };
    if !broken.is_empty() {
        text += &format!("; these cannot be used: {}", broken.join("; "));
    }
    text
}
