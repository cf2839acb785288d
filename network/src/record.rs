//! What is kept on disk of an attachment: all that its end needs.
//!
//! A folder for each, named by its id: `record.json`, written before the first plugin is called
//! and again after each; `netns`, which the namespace is mounted on; `lock`, which plugins and all
//! that they start keep locked. The list is recorded as it was when the attachment began: it is
//! detached by that, whatever has become of the configuration since.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tepui_folder::turn;

use crate::attachment::{Attach, Attachment};
use crate::error::NetworkError;
use crate::list::NetworkList;
use crate::namespace;
use crate::orphans;

/// The layout that this release writes.
const VERSION: u32 = 1;
/// How long what a dead agent's plugins have started (`iptables`, an IPAM plugin) may go on:
/// usually it takes some milliseconds. The plugins themselves are killed with the agent.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long is waited for it after it was killed: longer than any system call should take.
const ORPHANS: Duration = Duration::from_secs(10);

/// An attachment as it is recorded.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    version: u32,
    /// What was asked.
    pub attach: Attach,
    /// How the network was configured then.
    pub list: NetworkList,
    /// The result of the last plugin that has answered.
    pub result: Option<Value>,
    /// Where all of them have.
    pub attachment: Option<Attachment>,
}

/// An attachment's folder.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
}

/// The hold of this process's plugins on an attachment.
#[derive(Debug)]
pub(crate) struct Lock(File);

impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Record {
    /// One of which no plugin has been told yet.
    pub fn new(attach: Attach, list: NetworkList) -> Self {
        Self {
            version: VERSION,
            attach,
            list,
            result: None,
            attachment: None,
        }
    }
}

impl Folder {
    /// The folder at this path, whether there is one or not.
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// What the namespace is mounted on.
    pub fn netns(&self) -> PathBuf {
        self.path.join("netns")
    }

    /// Whether it is there.
    pub fn exists(&self) -> bool {
        self.path.is_dir()
    }

    /// Makes the folder.
    pub fn create(&self) -> Result<(), NetworkError> {
        let mut builder = fs::DirBuilder::new();
        // Lists may hold secrets.
        let made = builder.mode(0o700).create(&self.path);
        // Plugins keep addresses on disk: a power cut must not take the record alone.
        let parent = self.path.parent().unwrap_or(Path::new("/"));
        let synced = made.and_then(|()| File::open(parent)?.sync_all());
        synced.map_err(|source| NetworkError::io("make", &self.path, source))
    }

    /// What is recorded; none if there is no record, because no plugin has been called yet.
    pub fn read(&self) -> Result<Option<Record>, NetworkError> {
        let path = self.record();
        let wrong = |what: String| NetworkError::Record {
            path: path.clone(),
            what,
        };
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(NetworkError::io("read", &path, error)),
        };
        let value: Value = serde_json::from_slice(&bytes).map_err(|e| wrong(e.to_string()))?;
        if value["version"] != VERSION {
            let version = &value["version"];
            return Err(wrong(format!(
                "format {version}, and this release reads {VERSION}"
            )));
        }
        let record = serde_json::from_value(value).map_err(|e| wrong(e.to_string()))?;
        Ok(Some(record))
    }

    /// Records it, so that it is there after a power cut.
    pub fn write(&self, record: &Record) -> Result<(), NetworkError> {
        let path = self.record();
        let bytes = serde_json::to_vec(record).map_err(io::Error::from);
        let written = bytes.and_then(|bytes| tepui_folder::replace(&path, &bytes, 0o600));
        written.map_err(|source| NetworkError::io("write", &path, source))
    }

    /// Waits for plugins of a process that is dead, and makes later ones wait for ours.
    pub fn lock(&self) -> Result<Lock, NetworkError> {
        let path = self.path.join("lock");
        let io = |source| NetworkError::io("lock", &path, source);
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(false);
        let file = options.open(&path).map_err(io)?;
        if !turn::lock(&file, PATIENCE).map_err(io)? {
            let killed = orphans::kill_holders(&path).map_err(io)?;
            tracing::warn!(path = %path.display(), killed, "a dead agent's plugins went on");
            if !turn::lock(&file, ORPHANS).map_err(io)? {
                // What cannot be killed is no reason never to detach.
                tracing::warn!(path = %path.display(), "a plugin's process goes on; not waiting");
            }
        }
        Ok(Lock(file))
    }

    /// Takes namespace and folder away, the record last.
    pub fn remove(&self) -> Result<(), NetworkError> {
        namespace::remove(&self.netns())?;
        let io = |source| NetworkError::io("remove", &self.path, source);
        fs::remove_file(self.record()).or_else(absent).map_err(io)?;
        fs::remove_dir_all(&self.path).or_else(absent).map_err(io)
    }

    fn record(&self) -> PathBuf {
        self.path.join("record.json")
    }
}

/// The names of the folders that are there.
pub(crate) fn folders(parent: &Path) -> Result<Vec<String>, NetworkError> {
    let io = |source| NetworkError::io("list", parent, source);
    let entries = fs::read_dir(parent).map_err(io)?;
    let names = entries.map(|entry| Ok(entry?.file_name().into_string().ok()));
    let names: io::Result<Vec<Option<String>>> = names.collect();
    Ok(names.map_err(io)?.into_iter().flatten().collect())
}

fn absent(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    }
}
