//! Compiled components on disk, so that a master that starts does not compile again.
//!
//! One file each, named by what it was made from (the artifact, and the engine that must run it) and
//! by the digest of its own bytes, which is checked before every use. A file takes its name when it is
//! whole and is never written again; one that is damaged, or of another release, is as good as none.
//! The least lately used go when there are too many bytes.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};
use tepui_types::Digest;

use crate::clock;

/// How entries are named and what is in them.
const VERSION: u32 = 1;
/// Ends the name of what is not whole.
const UNFINISHED: &str = ".new";

/// The folder could not be used.
#[derive(Debug, thiserror::Error)]
#[error("failed to {step} {path}, where compiled components are kept")]
pub struct CodeError {
    step: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// The kept machine code of one engine. All of it blocks.
#[derive(Debug, Clone)]
pub struct Code {
    folder: PathBuf,
    /// Stands for the engine in names.
    engine: String,
    max_bytes: u64,
    /// Tells files of one artifact apart.
    next_file: Arc<AtomicU64>,
}

/// A file that is being written; removed unless it is kept.
pub struct Unfinished {
    artifact: Digest,
    path: PathBuf,
    file: File,
}

impl Code {
    /// Opens the folder, making it if there is none, and removes what was not finished. Nobody else
    /// may write there: what lies in it is run.
    pub fn open(
        folder: &Path,
        engine: &wasmtime::Engine,
        max_bytes: u64,
    ) -> Result<Self, CodeError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(failed("make", folder))?;
        fs::set_permissions(folder, Permissions::from_mode(0o700))
            .map_err(failed("restrict", folder))?;
        for path in files(folder).map_err(failed("list", folder))? {
            if path.to_string_lossy().ends_with(UNFINISHED) {
                fs::remove_file(&path).map_err(failed("remove", &path))?;
            }
        }
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Ok(Self {
            folder: folder.to_owned(),
            engine: format!("{VERSION}-{:016x}", hasher.finish()),
            max_bytes,
            next_file: Arc::default(),
        })
    }

    /// An artifact's machine code, whole and unchanged.
    pub fn get(&self, artifact: Digest) -> Option<PathBuf> {
        let prefix = self.prefix(artifact);
        // What cannot be listed or read is compiled anew; writing that says what is wrong.
        files(&self.folder).ok()?.into_iter().find_map(|path| {
            let named = path.file_name()?.to_str()?.strip_prefix(&prefix)?;
            let file = File::open(&path).ok()?;
            if digest_of(&file).ok()?.hex() != named {
                tracing::warn!(path = %path.display(), "a compiled component is damaged");
                self.remove(&path);
                return None;
            }
            // Only the order in which entries go hangs on it.
            file.set_modified(now()).ok();
            Some(path)
        })
    }

    /// A new file for an artifact's machine code.
    pub fn begin(&self, artifact: Digest) -> Result<Unfinished, CodeError> {
        let number = self.next_file.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}.{number}{UNFINISHED}", artifact.hex());
        let path = self.folder.join(name);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        let file = options.open(&path).map_err(failed("create", &path))?;
        Ok(Unfinished {
            artifact,
            path,
            file,
        })
    }

    /// Names a file that is whole, and makes room for it.
    pub fn keep(&self, unfinished: Unfinished) -> Result<PathBuf, CodeError> {
        let from = &unfinished.path;
        let file = File::open(from).map_err(failed("open", from))?;
        let digest = digest_of(&file).map_err(failed("read", from))?;
        let name = self.prefix(unfinished.artifact) + &digest.hex();
        let path = self.folder.join(name);
        // Not synced: what a crash spoils has another digest.
        fs::rename(from, &path).map_err(failed("name", &path))?;
        self.make_room(&path)
            .map_err(failed("list", &self.folder))?;
        Ok(path)
    }

    /// Removes an entry that is of no use. Whoever runs it keeps it.
    pub fn remove(&self, path: &Path) {
        if let Err(error) = fs::remove_file(path) {
            tracing::warn!(%error, path = %path.display(), "a compiled component stays");
        }
    }

    fn prefix(&self, artifact: Digest) -> String {
        format!("{}-{}-", artifact.hex(), self.engine)
    }

    fn make_room(&self, newest: &Path) -> io::Result<()> {
        let mut entries = Vec::new();
        for path in files(&self.folder)? {
            let metadata = fs::metadata(&path)?;
            entries.push((metadata.modified()?, metadata.len(), path));
        }
        let mut bytes: u64 = entries.iter().map(|(_, bytes, _)| bytes).sum();
        entries.retain(|(_, _, path)| path != newest);
        entries.sort();
        for (_, size, path) in entries {
            if bytes <= self.max_bytes {
                break;
            }
            self.remove(&path);
            bytes -= size;
        }
        Ok(())
    }
}

impl Unfinished {
    /// Where to write.
    pub fn file(&self) -> Result<File, CodeError> {
        self.file.try_clone().map_err(failed("open", &self.path))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // It has another name when all went well.
        fs::remove_file(&self.path).ok();
    }
}

fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

fn digest_of(mut file: &File) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    io::copy(&mut file, &mut hasher)?;
    Ok(Digest(hasher.finalize().into()))
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(clock::time_of_day().0)
}

fn failed(step: &'static str, path: &Path) -> impl Fn(io::Error) -> CodeError {
    let path = path.to_owned();
    move |source| CodeError {
        step,
        path: path.clone(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::frameworks::engine;

    fn open(folder: &Path, max_bytes: u64) -> Code {
        let engine = wasmtime::Engine::new(&engine::config()).unwrap();
        Code::open(folder, &engine, max_bytes).unwrap()
    }

    fn keep(code: &Code, name: &str, age_s: u64) -> PathBuf {
        let unfinished = code.begin(Digest::of(name.as_bytes())).unwrap();
        unfinished.file().unwrap().write_all(&[b'x'; 100]).unwrap();
        let path = code.keep(unfinished).unwrap();
        let file = File::open(&path).unwrap();
        file.set_modified(now() - Duration::from_secs(age_s))
            .unwrap();
        path
    }

    #[test]
    fn only_what_is_whole_and_unchanged_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let code = open(folder.path(), 1000);
        let artifact = Digest::of(b"a");
        assert_eq!(code.get(artifact), None);
        let unfinished = code.begin(artifact).unwrap();
        assert_eq!(code.get(artifact), None, "it is not whole");
        drop(unfinished);
        let path = keep(&code, "a", 0);
        let again = open(folder.path(), 1000);
        assert_eq!(again.get(artifact), Some(path.clone()));
        assert_eq!(again.get(Digest::of(b"b")), None);
        fs::write(&path, [b'y'; 100]).unwrap();
        assert_eq!(again.get(artifact), None);
        assert!(!path.exists(), "what is damaged goes");
    }

    #[test]
    fn what_was_not_finished_goes_at_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let code = open(folder.path(), 1000);
        std::mem::forget(code.begin(Digest::of(b"a")).unwrap());
        open(folder.path(), 1000);
        assert!(files(folder.path()).unwrap().is_empty());
    }

    #[test]
    fn the_least_lately_used_makes_room() {
        let folder = tempfile::tempdir().unwrap();
        let code = open(folder.path(), 250);
        let (old, used) = (keep(&code, "old", 60), keep(&code, "used", 120));
        assert_eq!(code.get(Digest::of(b"used")), Some(used.clone()));
        let new = keep(&code, "new", 0);
        let left = [old, used, new].map(|path| path.exists());
        assert_eq!(left, [false, true, true]);
        // Larger than all that is kept: it is kept as long as nothing else is.
        let small = open(folder.path(), 1);
        let only = keep(&small, "only", 0);
        assert_eq!(files(folder.path()).unwrap(), [only]);
    }

    #[test]
    fn nobody_else_may_write_there() {
        let folder = tempfile::tempdir().unwrap();
        let code = folder.path().join("code");
        fs::create_dir(&code).unwrap();
        fs::set_permissions(&code, Permissions::from_mode(0o777)).unwrap();
        open(&code, 1000);
        let mode = fs::metadata(&code).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }
}
