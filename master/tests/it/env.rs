//! A log in a folder of its own, without the rest of a master.

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tepui_cluster::{Accepted, Command};
use tepui_master::error::RaftError;
use tepui_master::folder::Folder;
use tepui_master::masters::candidacy::Candidacy;
use tepui_master::masters::founding::{self, Founder, Way};
use tepui_master::masters::peers::Peers;
use tepui_master::proposals::{Committed, Request};
use tepui_master::raft::{self, Leadership, Log, LogThread, Options};
use tepui_master::storage::Storage;
use tepui_types::api::event::{Event, Sequence};
use tepui_types::{Digest, Principal};

/// An open folder and the log in it.
pub struct OpenLog {
    pub log: Log,
    pub thread: LogThread,
    pub storage: Storage,
    // Dropped after the log: the lock is given back last.
    _folder: Folder,
}

impl OpenLog {
    /// Opens what is at `path` and waits until it leads.
    pub async fn open(path: &Path, options: Options) -> Result<Self, RaftError> {
        let mut folder = Folder::open(path)?;
        let storage = Storage::open(&folder.database())?;
        let (mut log, mut thread) = start(storage.clone(), &mut folder, options).await?;
        let leads = |leadership: &Leadership| matches!(leadership, Leadership::Leader { .. });
        tokio::select! {
            _ = log.leadership.wait_for(leads) => {}
            ended = thread.ended() => ended?,
        }
        Ok(Self {
            log,
            thread,
            storage,
            _folder: folder,
        })
    }

    /// Commits the record of an artifact that nobody has.
    pub async fn record(&self, name: &str) -> Committed {
        let committed = self.log.proposals.submit(record(name)).await.unwrap();
        let digest = Digest::of(name.as_bytes());
        assert_eq!(
            committed.outcome,
            Ok(Accepted::Artifact {
                digest,
                known: false
            })
        );
        committed
    }

    /// Commits many, up to `at_once` at the same time.
    pub async fn record_all(&self, names: impl Iterator<Item = String>, at_once: usize) {
        use futures::StreamExt as _;
        futures::stream::iter(names)
            .for_each_concurrent(at_once, |name| async move {
                self.record(&name).await;
            })
            .await;
    }

    /// The first events, once there are so many: they follow the answers.
    pub async fn events(&self, count: usize) -> Vec<Event> {
        let mut watcher = self.log.feed.subscribe(Some(Sequence::default())).unwrap();
        let mut events = Vec::new();
        while events.len() < count {
            events.extend(watcher.next().await.unwrap());
        }
        events
    }

    pub fn knows(&self, name: &str) -> bool {
        self.log
            .view
            .load()
            .artifacts
            .contains_key(&Digest::of(name.as_bytes()))
    }

    pub fn hash(&self) -> [u8; 32] {
        self.log.view.load().hash()
    }
}

/// Opens the log in a folder, which is that of a master alone.
pub async fn start(
    storage: Storage,
    folder: &mut Folder,
    options: Options,
) -> Result<(Log, LogThread), RaftError> {
    let founder = Founder {
        url: "http://127.0.0.1:1",
        peers: &Peers::new(None).unwrap(),
        candidacy: &Candidacy::default(),
    };
    let identity = founding::identify(folder, &storage, &Way::Alone, &founder).await?;
    raft::start(storage, identity, "http://127.0.0.1:1", options, None)
}

/// A small command: the record of an artifact.
pub fn record(name: &str) -> Request {
    let body = Command::RecordArtifact {
        digest: Digest::of(name.as_bytes()),
        size: 1,
    };
    Request::new(Principal::loopback_operator(), body)
}

/// A folder for one test.
pub fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("master");
    (folder, path)
}

/// Snapshots all the time.
pub fn eager() -> Options {
    Options {
        snapshot_entries: 50,
        snapshot_slack: 10,
        ..Options::default()
    }
}
