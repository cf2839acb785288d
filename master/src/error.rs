//! What can go wrong between the log and the disk.
//!
//! Every variant says the step that failed and holds its cause; what an operator can do about it
//! stands in the text. Errors of the data folder, the configuration, proposals and artifacts stand
//! beside those nouns.

use std::path::PathBuf;

use rocksdb::ErrorKind;
use tepui_types::envelope::DecodeError;
use tepui_types::{ClusterId, Reason};

use crate::folder::FolderError;

/// What to do about a damaged database. Nothing that was synced is ever cut off, for an acknowledged
/// command may be in it; so its master cannot go on as who it was.
const MEND: &str = "nothing of it is cut off, so this master does not start: check the disk, then \
     start it with --rejoin, which keeps the damaged database aside and takes everything anew from the \
     other masters, under a new id; the only master of a cluster is restored from a backup with \
     `tepui restore`";

/// The database cannot be used, or what it holds cannot be trusted. Always fatal: a master never
/// goes on beside a log that it could not write or read.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The database does not open.
    #[error("failed to open the database {path} ({})", hint(.source))]
    Open {
        /// Its folder.
        path: PathBuf,
        /// RocksDB's word.
        #[source]
        source: rocksdb::Error,
    },
    /// A read or a write failed.
    #[error("failed to {step} the database ({})", hint(.source))]
    Database {
        /// What was tried: `write to`, `read from`…
        step: &'static str,
        /// RocksDB's word.
        #[source]
        source: rocksdb::Error,
    },
    /// The note of what was synced cannot be read or written.
    #[error("failed to use {path} (is the disk full or failing?)")]
    Watermark {
        /// The file.
        path: PathBuf,
        /// The system's word.
        #[source]
        source: std::io::Error,
    },
    /// Something is there and cannot be right.
    #[error("{what} is damaged: {detail}; {MEND}")]
    Corrupt {
        /// Which record, for people.
        what: String,
        /// What is wrong with it.
        detail: String,
    },
    /// A record is of another release, or torn.
    #[error("failed to decode {what}; if a later release wrote it, start that release")]
    Decode {
        /// Which record, for people.
        what: String,
        /// Why.
        #[source]
        source: DecodeError,
    },
    /// The database was made for another cluster than the folder says.
    #[error(
        "the database belongs to cluster {found} and the folder to {expected}: the folder was put \
         together from two, restore it as a whole"
    )]
    ForeignDatabase {
        /// What the database says.
        found: ClusterId,
        /// What the folder says.
        expected: ClusterId,
    },
}

impl StorageError {
    /// Whether the database is damaged, so that other masters' is to take its place.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Corrupt { .. } => true,
            Self::Open { source, .. } | Self::Database { source, .. } => is_corruption(source),
            Self::Watermark { .. } | Self::Decode { .. } | Self::ForeignDatabase { .. } => false,
        }
    }

    pub(crate) fn corrupt(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Corrupt {
            what: what.into(),
            detail: detail.into(),
        }
    }

    pub(crate) fn decode(what: impl Into<String>) -> impl FnOnce(DecodeError) -> Self {
        move |source| Self::Decode {
            what: what.into(),
            source,
        }
    }
}

fn is_corruption(error: &rocksdb::Error) -> bool {
    error.kind() == ErrorKind::Corruption
}

fn hint(error: &rocksdb::Error) -> &'static str {
    match is_corruption(error) {
        true => MEND,
        false => "is the disk full or failing? Make room, or mend it, and start the master again",
    }
}

/// The replicated log cannot start or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum RaftError {
    /// The data folder is not usable.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The database is not usable.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The raft library refused its configuration or a step.
    #[error("raft failed to {step}")]
    Raft {
        /// What was tried.
        step: &'static str,
        /// The library's word.
        #[source]
        source: raft::Error,
    },
    /// The folder has no place in a cluster.
    #[error(transparent)]
    Founding(Box<crate::masters::founding::FoundingError>),
    /// Other members do not count it among them any more.
    #[error(
        "this master was removed from the cluster; to take part again it needs an empty folder \
         and --join"
    )]
    Removed,
    /// Another process has this one's id.
    #[error("this master runs elsewhere: {0}")]
    Copied(Reason),
    /// This master's state is another than a majority's.
    #[error(
        "this master's state at log index {index} is not what a majority of masters has: its disk \
         or memory was damaged, or it is of another release. Take it out (tepui master remove), \
         empty its folder, and start it again"
    )]
    Diverged {
        /// Where they were compared.
        index: u64,
    },
    /// The log's thread could not be started.
    #[error("failed to start the log's thread")]
    Thread(#[source] std::io::Error),
    /// An invariant broke on the log's thread.
    #[error("the log's thread panicked: {0}")]
    Panicked(String),
}

impl RaftError {
    /// Whether the database is damaged, so that other masters' is to take its place.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Storage(error) if error.is_damage())
    }
}
