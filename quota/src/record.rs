//! What is kept on disk of a bounded folder, in a folder of its own in the store: `record.json`, and
//! `image` where it has one.
//!
//! A record is written before anything is done, says how far that is, and goes last: whatever lies
//! beside it is known by it. A folder without a record was about to get one, and holds nothing.
//!
//! What is being removed has its record under another name, for a rename needs no room: a full disk
//! can be emptied.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tepui_types::Bytes;

use crate::error::BoundsError;
use crate::wanted::Life;

/// The layout that this release writes.
const VERSION: u32 = 1;

/// How far a folder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stage {
    /// Being made: nobody has it yet, and it may be thrown away.
    Making,
    /// Whole.
    Ready,
    /// Being removed: nobody may have it again. It is told by the record's name.
    Removing,
}

/// What bounds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum How {
    /// This project's limits.
    Project(u32),
    /// A file system in a file.
    Image,
    /// Nothing but being measured.
    Measured,
}

/// A folder as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    version: u32,
    /// Where it is to be found.
    pub at: PathBuf,
    /// Its size.
    pub bytes: Bytes,
    pub life: Life,
    pub how: How,
    pub stage: Stage,
    /// Whether it may not have all of its size yet.
    pub growing: bool,
}

impl Record {
    /// One that is about to be made.
    pub fn new(at: PathBuf, bytes: Bytes, life: Life, how: How) -> Self {
        Self {
            version: VERSION,
            at,
            bytes,
            life,
            how,
            stage: Stage::Making,
            growing: false,
        }
    }
}

/// Where one folder's record and image lie.
#[derive(Debug)]
pub(crate) struct Entry {
    path: PathBuf,
}

/// What the images of a store have of its disk, or will have: room that is not free and is not lost
/// to who lends it.
///
/// # Errors
/// When the store cannot be read; one that is not there has none.
pub fn set_aside(store: &Path) -> io::Result<Bytes> {
    let entries = match fs::read_dir(store) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Bytes(0)),
        entries => entries?,
    };
    let mut sum: u64 = 0;
    for entry in entries {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        match fs::symlink_metadata(Entry::of(store, name).image()) {
            // The kernel's unit of blocks.
            Ok(image) => sum = sum.saturating_add(image.blocks().saturating_mul(512)),
            Err(_) => continue,
        }
    }
    Ok(Bytes(sum))
}

impl Entry {
    /// That of this name, whether there is one or not.
    pub fn of(store: &Path, name: &str) -> Self {
        Self {
            path: store.join(name),
        }
    }

    /// Its image.
    pub fn image(&self) -> PathBuf {
        self.path.join("image")
    }

    fn record(&self) -> PathBuf {
        self.path.join("record.json")
    }

    fn doomed(&self) -> PathBuf {
        self.path.join("removing.json")
    }

    /// What is recorded; none where nothing was done yet.
    pub fn read(&self) -> Result<Option<Record>, BoundsError> {
        if let Some(record) = read_file(self.record())? {
            return Ok(Some(record));
        }
        let doomed = read_file(self.doomed())?;
        Ok(doomed.map(|record| Record {
            stage: Stage::Removing,
            ..record
        }))
    }

    /// Records that it is being removed.
    pub fn doom(&self) -> Result<(), BoundsError> {
        let path = self.doomed();
        let renamed = fs::rename(self.record(), &path).and_then(|()| sync_parent(&path));
        renamed.map_err(|source| BoundsError::io("write", &path, source))
    }

    /// Records it, so that it is there after a power cut.
    pub fn write(&self, record: &Record) -> Result<(), BoundsError> {
        let io = |source| BoundsError::io("make", &self.path, source);
        let made = DirBuilder::new().mode(0o700).create(&self.path);
        match made {
            Ok(()) => sync_parent(&self.path).map_err(io)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(io(error)),
        }
        let path = self.record();
        let bytes = serde_json::to_vec(record).map_err(io::Error::from);
        let written = bytes.and_then(|bytes| tepui_folder::replace(&path, &bytes, 0o600));
        written.map_err(|source| BoundsError::io("write", &path, source))
    }

    /// Takes all of it away, the record last.
    pub fn remove(&self) -> Result<(), BoundsError> {
        let record = self.record();
        let draft = record.with_extension("json.new");
        for path in [self.image(), draft, record, self.doomed()] {
            fs::remove_file(&path)
                .or_else(absent)
                .map_err(|source| BoundsError::io("remove", &path, source))?;
        }
        fs::remove_dir(&self.path)
            .or_else(absent)
            .map_err(|source| BoundsError::io("remove", &self.path, source))
    }
}

fn read_file(path: PathBuf) -> Result<Option<Record>, BoundsError> {
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(BoundsError::io("read", &path, error)),
    };
    parse(&bytes)
        .map(Some)
        .map_err(|what| BoundsError::Record { path, what })
}

fn parse(bytes: &[u8]) -> Result<Record, String> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if value["version"] != VERSION {
        let version = &value["version"];
        return Err(format!("it has format {version}, not {VERSION}"));
    }
    serde_json::from_value(value).map_err(|error| error.to_string())
}

/// The names of all that have a folder in the store.
pub(crate) fn names(store: &Path) -> Result<Vec<String>, BoundsError> {
    let io = |source| BoundsError::io("list", store, source);
    let mut names = Vec::new();
    for entry in fs::read_dir(store).map_err(io)? {
        let entry = entry.map_err(io)?;
        // What is not ours has another kind of name, or is no folder.
        let name = entry.file_name().into_string().ok();
        let name = name.filter(|name| is_name(name) && entry.path().is_dir());
        names.extend(name);
    }
    names.sort_unstable();
    Ok(names)
}

/// Whether it can be a folder's name in the store.
pub(crate) fn is_name(name: &str) -> bool {
    // 255 is what file systems take; a little is left for the ends of temporary ones.
    (1..=200).contains(&name.len()) && !name.starts_with('.') && !name.contains(['/', '\0'])
}

/// Makes what was done in the folder above last through a power cut.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

/// What is not there has been removed.
pub(crate) fn absent(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let entry = Entry::of(dir.path(), "7.0");
        assert_eq!(entry.read().unwrap(), None);
        let at = PathBuf::from("/volumes/7.0");
        let how = How::Project(7);
        let record = Record::new(at, Bytes::gib(1), Life::Persistent, how);
        entry.write(&record).unwrap();
        assert_eq!(entry.read().unwrap(), Some(record.clone()));
        entry.doom().unwrap();
        let doomed = Record {
            stage: Stage::Removing,
            ..record
        };
        assert_eq!(entry.read().unwrap(), Some(doomed));
        assert_eq!(names(dir.path()).unwrap(), ["7.0"]);
        entry.remove().unwrap();
        entry.remove().unwrap();
        assert_eq!(names(dir.path()).unwrap(), [""; 0]);
    }

    #[test]
    fn records_of_other_releases_and_torn_ones_are_refused_by_their_path() {
        let dir = tempfile::tempdir().unwrap();
        let entry = Entry::of(dir.path(), "7.0");
        fs::create_dir(dir.path().join("7.0")).unwrap();
        for bytes in ["", "{", "{}", r#"{"version":2}"#, r#"{"version":1}"#] {
            fs::write(entry.record(), bytes).unwrap();
            let error = entry.read().unwrap_err().to_string();
            assert!(error.contains("7.0/record.json"), "{error}");
        }
    }

    #[test]
    fn names_stay_within_the_store() {
        for name in ["7.0", "f1.job.5", "a b"] {
            assert!(is_name(name), "{name}");
        }
        let long = "x".repeat(201);
        for name in ["", ".", "..", ".x", "a/b", "a\0", &long] {
            assert!(!is_name(name), "{name}");
        }
    }
}
