//! What can stop an agent, each with the step that failed.
//!
//! Failures of one task, fetch or stream are not here: they become that task's
//! status or that stream's end. What stands here ends the process with a
//! sentence for the operator; the tasks go on without it.

use std::path::PathBuf;

use tepui_folder::FolderError;
use tepui_types::{AgentId, ClusterId, Reason};

use crate::checkpoint::CheckpointError;

/// Why an agent stops, or does not start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The configuration file cannot be used.
    #[error("failed to read the configuration {path}")]
    ReadConfig {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The configuration file has something that it may not have.
    #[error("the configuration {path} is not valid")]
    ParseConfig {
        /// The file.
        path: PathBuf,
        /// Where and what.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A value is missing or out of place.
    #[error("{0}")]
    Config(String),
    /// The data folder cannot be had, or a file of it cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The identity file is torn or of a later release.
    #[error("{path} cannot be understood: {detail}")]
    Identity {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        detail: String,
    },
    /// The journal cannot be read or written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The machine does not tell what it has.
    #[error("failed to detect {0}: name it with --resources")]
    Detect(&'static str, #[source] std::io::Error),
    /// The agent's own HTTP cannot be served.
    #[error("failed to listen on {address}: choose another with --listen, or port 0 for any")]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The master will not have this agent.
    #[error("the master at {master} refused this agent: {reason}")]
    Refused {
        /// Its URL.
        master: String,
        /// Why.
        reason: Reason,
    },
    /// The master belongs to another cluster than the folder.
    #[error(
        "{path} belongs to cluster {ours}, and the master is of cluster {theirs}: name the right \
         master with --master, or an empty folder with --dir"
    )]
    OtherCluster {
        /// The data folder.
        path: PathBuf,
        /// What its identity says.
        ours: ClusterId,
        /// What the master says.
        theirs: ClusterId,
    },
    /// The master takes this agent for another.
    #[error(
        "{path} is the folder of agent {ours}, and the master calls it {theirs}: was the master \
         restored from a backup? Give this machine an empty folder with --dir"
    )]
    OtherAgent {
        /// The data folder.
        path: PathBuf,
        /// What its identity says.
        ours: AgentId,
        /// What the master says.
        theirs: AgentId,
    },
    /// What containers need cannot be kept.
    #[error("failed to prepare for containers")]
    Containers(#[source] anyhow::Error),
    /// The disks of tasks cannot be used.
    #[error("failed to make the disks of tasks ready")]
    TaskDisks(#[source] tepui_quota::BoundsError),
    /// The folders of volumes cannot be used.
    #[error("failed to make volumes ready")]
    Volumes(#[source] tepui_quota::BoundsError),
    /// The system refuses something that every process needs.
    #[error("failed to {0}")]
    System(&'static str, #[source] std::io::Error),
}
