//! A fetcher, its folder, and sandboxes with something beside them that nobody may touch.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tepui_fetch::{
    Extract, FetchConfig, FetchError, Fetcher, Filled, Item, Progress, Request, Source,
};

/// Room enough for every test that is not about room.
pub const ROOM: u64 = 64 * 1024 * 1024;

pub struct Site {
    pub fetcher: Fetcher,
    dir: tempfile::TempDir,
}

/// Quick to give up, so that tests of failures are.
pub fn config() -> FetchConfig {
    FetchConfig {
        stall: Duration::from_millis(300),
        pause: Duration::from_millis(1),
        // Servers of tests are on this machine.
        allow: vec!["127.0.0.0/8".parse().unwrap()],
        ..FetchConfig::default()
    }
}

impl Site {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut FetchConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config();
        config.file_folders = vec![dir.path().join("allowed")];
        change(&mut config);
        for name in ["allowed", "sandbox"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("outside"), "outside").unwrap();
        let fetcher = Fetcher::open(&dir.path().join("cache"), config).await;
        Self {
            fetcher: fetcher.unwrap(),
            dir,
        }
    }

    /// The fetcher of another process, after this one has ended.
    pub async fn reopen(self, change: impl FnOnce(&mut FetchConfig)) -> Self {
        let Self { fetcher, dir } = self;
        drop(fetcher);
        let mut config = config();
        change(&mut config);
        let fetcher = Fetcher::open(&dir.path().join("cache"), config).await;
        Self {
            fetcher: fetcher.unwrap(),
            dir,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn sandbox(&self) -> PathBuf {
        self.path("sandbox")
    }

    pub fn request(&self, items: Vec<Item>) -> Request {
        Request {
            sandbox: self.sandbox(),
            items,
            owner: None,
            limit: ROOM,
        }
    }

    pub async fn fetch(&self, item: Item) -> Result<Filled, FetchError> {
        let request = self.request(vec![item]);
        self.fetcher.fetch(&request, |_: Progress| {}).await
    }

    /// Writes an archive of the agent's own, and unpacks it.
    pub async fn unpack(&self, archive: &[u8]) -> Result<Filled, FetchError> {
        let path = self.path("archive");
        fs::write(&path, archive).unwrap();
        let filled = self.fetch(required(Source::Local(path))).await;
        assert_eq!(fs::read(self.path("outside")).unwrap(), b"outside");
        if filled.is_err() {
            assert_eq!(list(&self.sandbox()), [] as [&str; 0], "all or nothing");
        }
        filled
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.sandbox().join(name)).unwrap()
    }

    /// What is unfinished.
    pub fn drafts(&self) -> Vec<String> {
        list(&self.path("cache/drafts"))
    }

    pub fn blobs(&self) -> Vec<String> {
        list(&self.path("cache/blobs"))
    }
}

pub fn url(url: impl Into<String>) -> Item {
    Item::new(Source::Url(url.into()))
}

pub fn cached(url: impl Into<String>) -> Item {
    Item {
        cache: true,
        ..self::url(url)
    }
}

pub fn required(source: Source) -> Item {
    Item {
        extract: Extract::Required,
        ..Item::new(source)
    }
}

/// All that is below a folder, links as they are.
pub fn list(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = String::from_utf8_lossy(entry.file_name().as_bytes()).into_owned();
        if entry.file_type().unwrap().is_dir() {
            let below = list(&entry.path());
            names.extend(below.iter().map(|below| format!("{name}/{below}")));
        }
        names.push(name);
    }
    names.sort();
    names
}

/// Files and what they hold.
pub fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let names = list(folder).into_iter();
    let files = names.filter(|name| folder.join(name).is_file());
    files
        .map(|name| (name.clone(), fs::read(folder.join(&name)).unwrap()))
        .collect()
}

/// Runs a program of the machine.
pub fn run(program: &str, folder: &Path, arguments: &[&str]) {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program}: {output:?}");
}

/// Waits for what happens on its own.
pub async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            // sleep: between looks; the deadline is below.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), waiting).await;
    assert!(waited.is_ok(), "{what}");
}
