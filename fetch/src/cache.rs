//! Downloads that are kept for later tasks: a folder that one process has.
//!
//! ```text
//! blobs/SHA256         what was downloaded, under its digest
//! urls/SHA256.json     what a URL had last: a digest, and by which words its server knows it
//! drafts/N             what is unfinished
//! ```
//!
//! Everything begins as a draft, is synced, and gets its name by a rename: after a power cut there is
//! a draft or the whole. What was used longest ago goes first, and nothing goes while it is leased.
//! Memory and folder agree: both change under one lock. All of it blocks.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use tepui_folder::{Format, Hold};
use tepui_transfer::{Draft, Drafts, kept, touch};
use tepui_types::Digest;

use crate::error::FetchError;

const FORMAT: Format = Format {
    program: "tepui-fetch",
    version: 1,
};
/// URLs that are remembered: some megabytes of memory, and more than any cluster's jobs name.
const MAX_URLS: usize = 10_000;
/// A server's word for a version; a longer one is not kept.
const MAX_WORD: usize = 1024;

/// The folder.
#[derive(Debug)]
pub(crate) struct Cache {
    dir: PathBuf,
    max_bytes: u64,
    drafts: Drafts,
    pages: Mutex<Pages>,
    _hold: Hold,
}

#[derive(Debug, Default)]
struct Pages {
    blobs: HashMap<Digest, Blob>,
    urls: HashMap<Digest, Url>,
    leases: HashMap<Digest, usize>,
    bytes: u64,
    /// Counts uses: what has the least was used longest ago.
    uses: u64,
}

#[derive(Debug)]
struct Blob {
    bytes: u64,
    used: u64,
}

#[derive(Debug)]
struct Url {
    digest: Digest,
    version: Version,
    used: u64,
}

/// By what a server knows what it sent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Version {
    /// Its entity tag.
    pub etag: Option<String>,
    /// When it was changed last, in the server's words.
    pub last_modified: Option<String>,
}

impl Version {
    /// Whether a server can be asked with it.
    pub fn is_known(&self) -> bool {
        self.etag.is_some() || self.last_modified.is_some()
    }

    fn is_short(&self) -> bool {
        let words = [&self.etag, &self.last_modified];
        words
            .into_iter()
            .flatten()
            .all(|word| word.len() <= MAX_WORD)
    }
}

/// `urls/SHA256.json`. The URL itself, which may hold a password, is not written down.
#[derive(Debug, Serialize, Deserialize)]
struct UrlFile {
    sha256: String,
    #[serde(flatten)]
    version: Version,
}

/// Holds a kept download: while one of its leases lives, it stays.
#[derive(Debug)]
pub(crate) struct Lease {
    cache: Arc<Cache>,
    digest: Digest,
}

impl Lease {
    /// The file, from its beginning.
    pub fn open(&self) -> Result<File, FetchError> {
        let path = self.cache.blob(&self.digest);
        File::open(&path).map_err(|error| FetchError::disk("open", &path, error))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut pages = self.cache.lock();
        if let Some(count) = pages.leases.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                pages.leases.remove(&self.digest);
            }
        }
        self.cache.shrink(&mut pages);
    }
}

impl Cache {
    /// Takes the folder, making it if there is none, and clears what is unfinished.
    pub fn open(dir: &Path, max_bytes: u64) -> Result<Arc<Self>, FetchError> {
        let hold = Hold::take(dir, FORMAT).map_err(|error| FetchError::Folder {
            source: Arc::new(error),
        })?;
        let drafts = dir.join("drafts");
        let drafts = Drafts::open(drafts.clone())
            .map_err(|error| FetchError::disk("clear", &drafts, error))?;
        for name in ["blobs", "urls"] {
            let path = dir.join(name);
            // Tasks have no business in what was fetched for others.
            let made = fs::create_dir_all(&path).and_then(|()| {
                let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
                fs::set_permissions(&path, mode)
            });
            made.map_err(|error| FetchError::disk("make", &path, error))?;
        }
        let mut pages = Pages::default();
        pages.find_blobs(dir)?;
        pages.find_urls(dir)?;
        let cache = Arc::new(Self {
            dir: dir.to_owned(),
            max_bytes,
            drafts,
            pages: Mutex::new(pages),
            _hold: hold,
        });
        cache.shrink(&mut cache.lock());
        Ok(cache)
    }

    /// A new, empty draft.
    pub fn draft(&self) -> Result<(Draft, File), FetchError> {
        let draft = self.drafts.draft();
        let mut options = File::options();
        let file = options
            .read(true)
            .write(true)
            .create_new(true)
            .open(draft.path());
        let file = file.map_err(|error| FetchError::disk("make", draft.path(), error))?;
        Ok((draft, file))
    }

    /// What has the digest, if it is kept.
    pub fn find(self: &Arc<Self>, digest: Digest) -> Option<(Lease, u64)> {
        let mut pages = self.lock();
        let bytes = self.touch(&mut pages, &digest)?;
        Some((self.lease(&mut pages, digest), bytes))
    }

    /// What a URL had when it was last asked, if that is kept.
    pub fn find_url(self: &Arc<Self>, url: Digest) -> Option<(Lease, u64, Version)> {
        let mut pages = self.lock();
        let (digest, version) = pages.url(&url)?;
        let bytes = self.touch(&mut pages, &digest)?;
        Some((self.lease(&mut pages, digest), bytes, version))
    }

    /// Keeps a draft that is written.
    pub fn keep(
        self: &Arc<Self>,
        draft: Draft,
        digest: Digest,
        bytes: u64,
    ) -> Result<Lease, FetchError> {
        sync(&draft)?;
        let mut pages = self.lock();
        if pages.used(&digest).is_none() {
            keep(&draft, &self.blob(&digest))?;
            pages.add(digest, bytes);
        }
        let lease = self.lease(&mut pages, digest);
        self.shrink(&mut pages);
        Ok(lease)
    }

    /// Remembers what a URL has.
    pub fn keep_url(
        &self,
        url: Digest,
        digest: Digest,
        version: Version,
    ) -> Result<(), FetchError> {
        if !version.is_known() || !version.is_short() {
            return Ok(());
        }
        let (draft, file) = self.draft()?;
        let written = serde_json::to_writer(
            file,
            &UrlFile {
                sha256: digest.hex(),
                version: version.clone(),
            },
        );
        written.map_err(|error| FetchError::disk("write", draft.path(), error.into()))?;
        sync(&draft)?;
        let mut pages = self.lock();
        keep(&draft, &self.url(&url))?;
        pages.add_url(url, digest, version);
        while let Some(url) = pages.url_too_many() {
            remove(&self.url(&url));
        }
        Ok(())
    }

    /// Bytes that are kept.
    pub fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    fn lease(self: &Arc<Self>, pages: &mut Pages, digest: Digest) -> Lease {
        *pages.leases.entry(digest).or_default() += 1;
        Lease {
            cache: self.clone(),
            digest,
        }
    }

    /// Removes what was used longest ago, until the rest is not too much.
    fn shrink(&self, pages: &mut Pages) {
        while pages.bytes > self.max_bytes {
            let Some((digest, urls)) = pages.remove_oldest() else {
                return;
            };
            // First what names it: nothing is named that is not there.
            urls.iter().for_each(|url| remove(&self.url(url)));
            remove(&self.blob(&digest));
        }
    }

    /// Notes a use, also for the next process, and says how many bytes it has. What somebody else
    /// has removed is struck out.
    fn touch(&self, pages: &mut Pages, digest: &Digest) -> Option<u64> {
        let bytes = pages.used(digest)?;
        let path = self.blob(digest);
        match touch(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                pages.remove(digest);
                return None;
            }
            Err(error) => {
                tracing::debug!(path = %path.display(), %error, "its use is not noted");
            }
            Ok(()) => {}
        }
        Some(bytes)
    }

    fn lock(&self) -> MutexGuard<'_, Pages> {
        // Nothing that is done under the lock leaves the pages half changed.
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs").join(digest.hex())
    }

    fn url(&self, url: &Digest) -> PathBuf {
        self.dir.join("urls").join(format!("{}.json", url.hex()))
    }
}

impl Pages {
    fn find_blobs(&mut self, dir: &Path) -> Result<(), FetchError> {
        let mut found = Vec::new();
        for (path, digest) in digests(&dir.join("blobs"), "")? {
            let metadata = fs::symlink_metadata(&path);
            let metadata = metadata.map_err(|error| FetchError::disk("look at", &path, error))?;
            if !metadata.is_file() {
                tracing::warn!(path = %path.display(), "left out of what is kept: it is no file");
                continue;
            }
            let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            found.push((used, digest, metadata.len()));
        }
        found.sort_unstable();
        found
            .into_iter()
            .for_each(|(_, digest, bytes)| self.add(digest, bytes));
        Ok(())
    }

    fn find_urls(&mut self, dir: &Path) -> Result<(), FetchError> {
        for (path, url) in digests(&dir.join("urls"), ".json")? {
            let file = fs::read(&path);
            let file = file.and_then(|bytes| Ok(serde_json::from_slice::<UrlFile>(&bytes)?));
            let read = file.ok().and_then(|file| {
                let digest = format!("sha256:{}", file.sha256).parse().ok()?;
                self.blobs
                    .contains_key(&digest)
                    .then_some((digest, file.version))
            });
            match read {
                Some((digest, version)) if self.urls.len() < MAX_URLS => {
                    self.add_url(url, digest, version);
                }
                _ => remove(&path),
            }
        }
        Ok(())
    }

    fn add(&mut self, digest: Digest, bytes: u64) {
        self.uses += 1;
        let used = self.uses;
        self.bytes += bytes;
        self.blobs.insert(digest, Blob { bytes, used });
    }

    fn add_url(&mut self, url: Digest, digest: Digest, version: Version) {
        self.uses += 1;
        let used = self.uses;
        let entry = Url {
            digest,
            version,
            used,
        };
        self.urls.insert(url, entry);
    }

    /// Notes a use, and says how many bytes it has.
    fn used(&mut self, digest: &Digest) -> Option<u64> {
        let blob = self.blobs.get_mut(digest)?;
        self.uses += 1;
        blob.used = self.uses;
        Some(blob.bytes)
    }

    fn url(&mut self, url: &Digest) -> Option<(Digest, Version)> {
        let entry = self.urls.get_mut(url)?;
        self.uses += 1;
        entry.used = self.uses;
        Some((entry.digest, entry.version.clone()))
    }

    fn url_too_many(&mut self) -> Option<Digest> {
        if self.urls.len() <= MAX_URLS {
            return None;
        }
        let oldest = self.urls.iter().min_by_key(|(_, url)| url.used);
        let oldest = oldest.map(|(url, _)| *url)?;
        self.urls.remove(&oldest);
        Some(oldest)
    }

    /// Strikes out what nobody holds and was used longest ago, and what names it.
    fn remove_oldest(&mut self) -> Option<(Digest, Vec<Digest>)> {
        let free = self.blobs.iter();
        let free = free.filter(|(digest, _)| !self.leases.contains_key(*digest));
        let oldest = free.min_by_key(|(_, blob)| blob.used);
        let oldest = oldest.map(|(digest, _)| *digest)?;
        Some((oldest, self.remove(&oldest)))
    }

    /// Strikes out a download, and returns what named it.
    fn remove(&mut self, digest: &Digest) -> Vec<Digest> {
        if let Some(blob) = self.blobs.remove(digest) {
            self.bytes -= blob.bytes;
        }
        let urls = self.urls.extract_if(|_, url| url.digest == *digest);
        urls.map(|(url, _)| url).collect()
    }
}

fn digests(folder: &Path, suffix: &str) -> Result<Vec<(PathBuf, Digest)>, FetchError> {
    kept(folder, suffix).map_err(|error| FetchError::disk("list", folder, error))
}

fn sync(draft: &Draft) -> Result<(), FetchError> {
    let synced = draft.sync();
    synced.map_err(|error| FetchError::disk("sync", draft.path(), error))
}

fn keep(draft: &Draft, to: &Path) -> Result<(), FetchError> {
    let kept = draft.keep(to);
    kept.map_err(|error| FetchError::disk("name", to, error))
}

/// What stays is found again at the next start.
fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "failed to remove what was kept");
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn keep(cache: &Arc<Cache>, content: &[u8]) -> Lease {
        let (draft, mut file) = cache.draft().unwrap();
        file.write_all(content).unwrap();
        let digest = Digest::of(content);
        cache.keep(draft, digest, content.len() as u64).unwrap()
    }

    #[test]
    fn what_is_leased_stays_until_it_is_let_go() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), 5).unwrap();
        let (first, second) = (keep(&cache, b"first"), keep(&cache, b"second"));
        assert_eq!(cache.bytes(), 11);
        let again = cache.find(Digest::of(b"first")).unwrap();
        drop(first);
        assert_eq!(cache.bytes(), 11, "it has two leases");
        again.0.open().unwrap();
        drop(second);
        assert_eq!(cache.bytes(), 5, "what is free goes");
        drop(again);
        assert_eq!(cache.bytes(), 5, "and no more than has to");
    }

    #[test]
    fn urls_are_bounded_and_go_with_what_they_name() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), 100).unwrap();
        drop(keep(&cache, b"abc"));
        let version = |etag: String| Version {
            etag: Some(etag),
            last_modified: None,
        };
        let (url, digest) = (Digest::of(b"url"), Digest::of(b"abc"));
        cache
            .keep_url(url, digest, version("x".repeat(MAX_WORD + 1)))
            .unwrap();
        assert!(cache.find_url(url).is_none(), "its word is too long");
        cache.keep_url(url, digest, version("1".into())).unwrap();
        assert_eq!(cache.find_url(url).unwrap().2, version("1".into()));
        drop(cache);
        // A blob that vanished takes its URLs along at the next start.
        let blob = folder.path().join("blobs").join(digest.hex());
        fs::remove_file(blob).unwrap();
        let cache = Cache::open(folder.path(), 100).unwrap();
        assert!(cache.find_url(url).is_none());
        assert_eq!(fs::read_dir(folder.path().join("urls")).unwrap().count(), 0);
    }
}
