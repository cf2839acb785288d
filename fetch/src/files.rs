//! Files that are on the machine already: those that users may name, and the agent's own.
//!
//! What a user names is looked up with its links resolved, has to lie below a folder that the
//! operator allows, and is then opened below that folder through no link: what it leads to cannot be
//! changed in between. Blocks.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::OFlags;
use sha2::{Digest as _, Sha256};
use tepui_transfer::Draft;
use tepui_tree::BENEATH;
use tepui_types::Digest;

use crate::cache::Cache;
use crate::error::FetchError;
use crate::http::check;

/// Read at once.
const BUFFER: usize = 128 * 1024;

/// Opens what a user names.
pub(crate) fn open_allowed(path: &Path, folders: &[PathBuf]) -> Result<File, FetchError> {
    let what = format!("file://{}", path.display());
    let outside = || {
        let why = "it is in no folder that this agent lets tasks fetch from: move it, or name its \
                   folder in file_folders of the agent";
        FetchError::outside(&what, why)
    };
    let resolved = match fs::canonicalize(path) {
        Ok(resolved) => resolved,
        // Nobody learns what there is in other folders.
        Err(_) if !folders.iter().any(|folder| path.starts_with(folder)) => return Err(outside()),
        Err(error) => return Err(unopened(&what, path, error)),
    };
    for folder in folders {
        let Ok(folder) = fs::canonicalize(folder) else {
            continue;
        };
        let Ok(below) = resolved.strip_prefix(&folder) else {
            continue;
        };
        let root = File::open(&folder).map_err(|error| FetchError::disk("open", &folder, error))?;
        // A pipe that nobody writes into would never be opened.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = tepui_tree::open(&root, below, flags, BENEATH);
        let file = file.map_err(|error| unopened(&what, path, error.into()))?;
        return only_file(&what, file.into());
    }
    Err(outside())
}

/// Opens what the agent names.
pub(crate) fn open_own(path: &Path) -> Result<File, FetchError> {
    let what = path.display().to_string();
    let file = File::open(path).map_err(|error| unopened(&what, path, error))?;
    only_file(&what, file)
}

/// Copies what is to be checked: the original may change between being checked and being used.
pub(crate) fn copy_checked(
    mut file: File,
    name: &str,
    digest: Digest,
    cache: &Arc<Cache>,
    limit: u64,
    cancelled: &AtomicBool,
) -> Result<(Draft, File), FetchError> {
    let (draft, mut copy) = cache.draft()?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; BUFFER];
    let mut bytes = 0;
    loop {
        if cancelled.load(Ordering::Relaxed) {
            return Err(FetchError::Interrupted { what: name.into() });
        }
        let read = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(FetchError::disk("read", Path::new(name), error)),
        };
        bytes += read as u64;
        if bytes > limit {
            return Err(FetchError::TooLarge {
                what: name.into(),
                limit,
                fix: "make it smaller, or raise max_download_bytes of the agent",
            });
        }
        hash.update(&buffer[..read]);
        let written = copy.write_all(&buffer[..read]);
        written.map_err(|error| FetchError::disk("write", draft.path(), error))?;
    }
    check(name, Some(digest), Digest(hash.finalize().into()))?;
    Ok((draft, copy))
}

fn only_file(what: &str, file: File) -> Result<File, FetchError> {
    match file.metadata() {
        Ok(metadata) if metadata.is_file() => Ok(file),
        _ => Err(FetchError::invalid(
            what,
            "it is no file: pack a folder into an archive",
        )),
    }
}

fn unopened(what: &str, path: &Path, error: io::Error) -> FetchError {
    let what = what.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => FetchError::NotFound { what },
        io::ErrorKind::PermissionDenied => FetchError::Refused {
            what,
            why: "the agent may not read it".into(),
        },
        _ => FetchError::disk("open", path, error),
    }
}
