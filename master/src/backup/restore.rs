//! `tepui-master restore`: makes an empty folder the first master's of a cluster that begins again
//! from a backup.
//!
//! Nothing counts before the whole archive was read and is what its manifest says: the folder gets
//! its ids last, so one that was cut short is begun anew.

use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::PathBuf;

use bytes::Bytes;
use futures::stream;
use tepui_cluster::State;
use tepui_types::api::backup::{FORMAT, Manifest};
use tepui_types::{Digest, NodeId};
use tokio::runtime::Handle;

use super::{ARTIFACTS, MANIFEST, STATE};
use crate::artifacts::{ArtifactError, Artifacts};
use crate::error::StorageError;
use crate::folder::{Folder, FolderError, Identity};
use crate::storage::log::Members;
use crate::storage::snapshot::{self, NewSnapshot};
use crate::storage::{Batch, Storage};

/// The most bytes of a manifest, which names each artifact in 80.
const MAX_MANIFEST: u64 = 64 * 1024 * 1024;
/// The most bytes of a state: far above what fits into a master's memory twice.
const MAX_STATE: u64 = 64 * 1024 * 1024 * 1024;
/// Bytes that are read at once.
const CHUNK: usize = 64 * 1024;

/// What to restore, and where.
#[derive(Debug, Clone, clap::Args)]
pub struct Restore {
    /// The backup, as `tepui backup` wrote it.
    file: PathBuf,
    /// The data folder; empty, or made.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The address that the master will listen on.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:5050")]
    listen: SocketAddr,
}

/// Why a backup was not restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The folder has a cluster.
    #[error("{path} belongs to a master already: restore into an empty folder")]
    Taken {
        /// The folder.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("failed to read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's word.
        #[source]
        source: io::Error,
    },
    /// It is something else, or damaged.
    #[error("{path} is not a whole backup ({detail}): take another one with `tepui backup`")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// A later release wrote it.
    #[error(
        "{path} is in format {found}, and this release reads up to {FORMAT}: restore it with the \
         release that wrote it ({release}), or a later one"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// Its release.
        release: String,
    },
    /// The folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The database.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// An artifact could not be stored.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The system gave no random numbers.
    #[error("the system gave no random numbers")]
    Random(#[source] io::Error),
}

impl Restore {
    /// Restores, and says what was.
    pub fn run(&self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        // The archive is read step by step on this thread; only artifacts are stored by the runtime.
        let manifest = self.restore(runtime.handle())?;
        println!(
            "cluster {} is restored as it was at log index {}, with {} artifacts\n\
             start it with: tepui-master --dir {} --listen {}\n\
             what agents have started since then is held: `tepui agent list` shows it",
            manifest.cluster,
            manifest.index,
            manifest.artifacts.len(),
            self.dir.display(),
            self.listen,
        );
        Ok(())
    }

    fn restore(&self, runtime: &Handle) -> Result<Manifest, RestoreError> {
        let read = |source| RestoreError::Read {
            path: self.file.clone(),
            source,
        };
        // The file first: a folder is not made for nothing.
        let mut archive = tar::Archive::new(File::open(&self.file).map_err(read)?);
        let mut entries = archive.entries().map_err(read)?;
        let manifest = self.manifest(entries.next())?;
        let mut folder = Folder::open(&self.dir)?;
        if folder.identity().is_some() {
            let path = self.dir.clone();
            return Err(RestoreError::Taken { path });
        }
        let storage = Storage::open(&folder.database())?;
        let state = self.state(&manifest, entries.next())?;
        let artifacts = Artifacts::new(&folder.artifacts(), u64::MAX)?;
        for digest in &manifest.artifacts {
            let name = format!("{ARTIFACTS}/{}", digest.hex());
            let entry = self.entry(entries.next(), &name)?;
            let chunks = stream::iter(chunks(entry));
            let stored = runtime.block_on(artifacts.put(*digest, chunks));
            stored.map_err(|error| match error {
                ArtifactError::WrongDigest { .. } | ArtifactError::Cut { .. } => {
                    self.damaged(format!("the bytes of `{name}` are others"))
                }
                error => error.into(),
            })?;
        }
        let node = storage.candidate(Identity::draw_node().map_err(RestoreError::Random)?)?;
        let url = format!("http://{}", self.listen);
        let identity = begin(&storage, state.restored(node, url), node)?;
        folder.set_identity(identity)?;
        Ok(manifest)
    }

    fn manifest(&self, entry: Option<Entry<'_>>) -> Result<Manifest, RestoreError> {
        let mut text = Vec::new();
        let entry = self.entry(entry, MANIFEST)?;
        let read = entry.take(MAX_MANIFEST).read_to_end(&mut text);
        read.map_err(|error| self.damaged(error.to_string()))?;
        #[derive(serde::Deserialize)]
        struct Head {
            format: u32,
            release: String,
        }
        // Its format first: a later one may have other fields.
        let head: Head =
            serde_json::from_slice(&text).map_err(|error| self.damaged(error.to_string()))?;
        if head.format > FORMAT {
            return Err(RestoreError::Newer {
                path: self.file.clone(),
                found: head.format,
                release: head.release,
            });
        }
        serde_json::from_slice(&text).map_err(|error| self.damaged(error.to_string()))
    }

    fn state(&self, manifest: &Manifest, entry: Option<Entry<'_>>) -> Result<State, RestoreError> {
        let mut bytes = Vec::new();
        let entry = self.entry(entry, STATE)?;
        let read = entry.take(MAX_STATE).read_to_end(&mut bytes);
        read.map_err(|error| self.damaged(error.to_string()))?;
        if Digest::of(&bytes) != manifest.state {
            return Err(self.damaged("the state has another digest".into()));
        }
        State::decode(&bytes).map_err(|error| self.damaged(error.to_string()))
    }

    fn entry<'a>(
        &self,
        entry: Option<Entry<'a>>,
        name: &str,
    ) -> Result<tar::Entry<'a, File>, RestoreError> {
        let entry = entry.ok_or_else(|| self.damaged(format!("it ends before `{name}`")))?;
        let entry = entry.map_err(|error| self.damaged(error.to_string()))?;
        let found = entry.path_bytes();
        if found != name.as_bytes() {
            let found = String::from_utf8_lossy(&found).into_owned();
            return Err(self.damaged(format!("`{found}` stands where `{name}` should")));
        }
        drop(found);
        Ok(entry)
    }

    fn damaged(&self, detail: String) -> RestoreError {
        let path = self.file.clone();
        RestoreError::Damaged { path, detail }
    }
}

type Entry<'a> = io::Result<tar::Entry<'a, File>>;

/// A file's bytes, piece by piece.
fn chunks(mut file: impl Read) -> impl Iterator<Item = io::Result<Bytes>> {
    std::iter::from_fn(move || {
        let mut chunk = vec![0; CHUNK];
        match file.read(&mut chunk) {
            Ok(0) => None,
            Ok(read) => {
                chunk.truncate(read);
                Some(Ok(chunk.into()))
            }
            Err(error) => Some(Err(error)),
        }
    })
}

/// Writes the state as the image that the master starts from.
pub fn begin(storage: &Storage, state: State, node: NodeId) -> Result<Identity, StorageError> {
    let image = NewSnapshot {
        index: state.index,
        term: state.term,
        members: Members {
            voters: vec![node.0],
            ..Members::default()
        },
        state_hash: state.hash(),
    };
    let identity = Identity {
        cluster: state.cluster,
        node,
    };
    let mut batch = Batch::default();
    let record = snapshot::prepare(storage, &mut batch, image, &snapshot::pieces_of(&state))?;
    storage.initialize(identity, &record, batch)?;
    Ok(identity)
}
