//! Data folders: whose each is, in which layout, and that one process uses it.
//!
//! `format` says which program a folder belongs to and in which layout; `lock` is held for as long
//! as the process lives, and taken before anything else is touched. A folder that holds something
//! else is never written to: who mistypes `--dir` loses nothing. Masters, agents and `tepui dev`
//! take their folders here, and each lays out its own files in it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

pub mod turn;

const FORMAT: &str = "format";
const LOCK: &str = "lock";

/// What a folder is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// The program, as people call it.
    pub program: &'static str,
    /// The layout that this release writes; it reads every earlier one.
    pub version: u32,
}

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// It is a file.
    #[error("{path} is not a directory: name a folder, or one to be made, with --dir")]
    NotADirectory {
        /// What was named.
        path: PathBuf,
    },
    /// It holds something else.
    #[error(
        "{path} is not a folder of {program} and is not empty (it holds `{entry}`): name another \
         folder with --dir"
    )]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// Who wanted it.
        program: &'static str,
        /// Something in it.
        entry: String,
    },
    /// A later release wrote it.
    #[error(
        "{path} is in format {found}, and this release reads up to {known}: start the release that \
         wrote it, or a later one"
    )]
    Newer {
        /// The folder.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest that this release reads.
        known: u32,
    },
    /// Another process uses it.
    #[error(
        "another {program} (pid {pid}) uses {path}: stop it, or name another folder with --dir"
    )]
    Locked {
        /// The folder.
        path: PathBuf,
        /// What uses it.
        program: &'static str,
        /// Who says to use it.
        pid: String,
    },
    /// It cannot be written to.
    #[error(
        "{path} cannot be written to: give its owner write access, or name another folder with \
         --dir"
    )]
    Unwritable {
        /// The file or folder.
        path: PathBuf,
        /// The system's word.
        #[source]
        source: io::Error,
    },
    /// Anything else that the system says.
    #[error("failed to {step} {path}")]
    Io {
        /// What was tried.
        step: &'static str,
        /// With which file.
        path: PathBuf,
        /// The system's word.
        #[source]
        source: io::Error,
    },
}

/// The hold on a folder; let go when the process ends, however it ends.
#[derive(Debug)]
pub struct Hold {
    /// Locked until it is closed.
    _lock: File,
}

impl Hold {
    /// Takes the folder for this process, making it if there is none. Blocks.
    pub fn take(path: &Path, format: Format) -> Result<Self, FolderError> {
        create(path)?;
        refuse_foreign(path, format)?;
        let lock = lock(path, format)?;
        // Another program may have made it its own in between.
        refuse_foreign(path, format)?;
        check_format(path, format)?;
        Ok(Self { _lock: lock })
    }
}

/// Writes a file of a folder so that readers see it whole or not at all, also after a power cut.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(mode);
    let mut file = options.open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

impl FolderError {
    /// What the system says of a step, with its fix where that is known.
    pub fn io(step: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Self::Unwritable { path, source }
            }
            _ => Self::Io { step, path, source },
        }
    }
}

fn create(path: &Path) -> Result<(), FolderError> {
    let not_a_directory = || FolderError::NotADirectory {
        path: path.to_owned(),
    };
    if path.exists() && !path.is_dir() {
        return Err(not_a_directory());
    }
    fs::create_dir_all(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => not_a_directory(),
        _ => FolderError::Unwritable {
            path: path.to_owned(),
            source,
        },
    })
}

/// Looks without touching: the folder is empty, has a format, or is not ours.
fn refuse_foreign(path: &Path, format: Format) -> Result<(), FolderError> {
    if path.join(FORMAT).exists() {
        return read_format(path, format).map(drop);
    }
    let io = |source| FolderError::io("list", path, source);
    for entry in fs::read_dir(path).map_err(io)? {
        let name = entry.map_err(io)?.file_name();
        let entry = name.to_string_lossy();
        // What a first start leaves when it is cut short.
        if entry != LOCK && entry.strip_suffix(".new") != Some(FORMAT) {
            return Err(FolderError::Foreign {
                path: path.to_owned(),
                program: format.program,
                entry: entry.into_owned(),
            });
        }
    }
    Ok(())
}

fn lock(path: &Path, format: Format) -> Result<File, FolderError> {
    let path_of_lock = path.join(LOCK);
    let io = |source| FolderError::io("lock", &path_of_lock, source);
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false);
    let mut file = options.open(&path_of_lock).map_err(io)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            // Who holds the lock may not have written its id yet.
            file.read_to_string(&mut pid).ok();
            let pid = match pid.trim() {
                "" => "unknown".to_owned(),
                pid => pid.to_owned(),
            };
            return Err(FolderError::Locked {
                path: path.to_owned(),
                program: format.program,
                pid,
            });
        }
        Err(TryLockError::Error(source)) => return Err(io(source)),
    }
    file.set_len(0).map_err(io)?;
    file.rewind().map_err(io)?;
    writeln!(file, "{}", std::process::id()).map_err(io)?;
    Ok(file)
}

fn check_format(path: &Path, format: Format) -> Result<(), FolderError> {
    if read_format(path, format)?.is_some() {
        return Ok(());
    }
    let text = format!("{} {}\n", format.program, format.version);
    let path = path.join(FORMAT);
    replace(&path, text.as_bytes(), 0o644).map_err(|source| FolderError::io("write", &path, source))
}

/// The layout of a folder that is this program's; none if nobody has made it theirs.
fn read_format(path: &Path, format: Format) -> Result<Option<u32>, FolderError> {
    let file = path.join(FORMAT);
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        // No text is no format of ours.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => String::new(),
        Err(source) => return Err(FolderError::io("read", &file, source)),
    };
    let version = text.trim().strip_prefix(format.program);
    let version = version.and_then(|version| version.strip_prefix(' ')?.parse::<u32>().ok());
    match version {
        None => Err(FolderError::Foreign {
            path: path.to_owned(),
            program: format.program,
            entry: FORMAT.into(),
        }),
        Some(found) if found > format.version => Err(FolderError::Newer {
            path: path.to_owned(),
            found,
            known: format.version,
        }),
        Some(found) => Ok(Some(found)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Format = Format {
        program: "tepui-agent",
        version: 2,
    };

    #[test]
    fn one_process_has_a_folder_at_a_time() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        let hold = Hold::take(&path, OURS).unwrap();
        let error = Hold::take(&path, OURS).unwrap_err().to_string();
        let pid = std::process::id();
        assert!(error.contains(&format!("another tepui-agent (pid {pid})")));
        drop(hold);
        Hold::take(&path, OURS).unwrap();
    }

    #[test]
    fn what_is_not_ours_is_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("executors")).unwrap();
        let error = Hold::take(folder.path(), OURS).unwrap_err().to_string();
        assert!(error.contains("`executors`") && error.contains("--dir"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);

        let folder = tempfile::tempdir().unwrap();
        for of_others in ["tepui-master 1\n", "tepui-agents 1", "zip", "tepui-agent"] {
            fs::write(folder.path().join(FORMAT), of_others).unwrap();
            let error = Hold::take(folder.path(), OURS).unwrap_err();
            assert!(matches!(error, FolderError::Foreign { .. }), "{error}");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn a_later_releases_folder_is_left_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let later = Format { version: 3, ..OURS };
        drop(Hold::take(folder.path(), later).unwrap());
        let error = Hold::take(folder.path(), OURS).unwrap_err();
        assert!(matches!(error, FolderError::Newer { found: 3, .. }));
        drop(Hold::take(folder.path(), later).unwrap());
    }

    #[test]
    fn a_first_start_that_was_cut_short_is_taken_up() {
        let folder = tempfile::tempdir().unwrap();
        for left in ["lock", "format.new"] {
            fs::write(folder.path().join(left), "").unwrap();
        }
        Hold::take(folder.path(), OURS).unwrap();
    }

    #[test]
    fn places_that_cannot_be_folders_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        for path in [file.clone(), file.join("below")] {
            let error = Hold::take(&path, OURS).unwrap_err();
            assert!(matches!(error, FolderError::NotADirectory { .. }));
            assert!(error.to_string().contains("--dir"), "{error}");
        }
        let error = Hold::take(Path::new("/proc/tepui"), OURS).unwrap_err();
        assert!(error.to_string().contains("--dir"), "{error}");
    }
}
