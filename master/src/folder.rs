//! The master's data folder: who it belongs to, and that one master uses it.
//!
//! `format` says that the folder is a master's and in which layout; `lock` is held for as long as
//! the process lives and taken before anything else is touched; `cluster` holds the ids that were
//! minted once; `token` is the local secret. The database is in `db/`, artifacts in `artifacts/`,
//! and what was compiled of them in `code/`.
//! A folder that holds something else is never written to.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tepui_types::{ClusterId, NodeId};

/// The layout that this release writes.
const FORMAT_VERSION: u32 = 1;
const FORMAT_WORD: &str = "tepui-master";
const FORMAT: &str = "format";
const LOCK: &str = "lock";
const CLUSTER: &str = "cluster";
const TOKEN: &str = "token";
/// Hexadecimal digits of the token: 128 bits.
const TOKEN_DIGITS: usize = 32;

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
        "{path} is not a master's folder and is not empty (it holds `{entry}`): name another \
         folder with --dir"
    )]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// Something in it.
        entry: String,
    },
    /// A later release wrote it.
    #[error(
        "{path} is in format {found}, and this release reads up to {FORMAT_VERSION}: start the \
         release that wrote it, or a later one"
    )]
    Newer {
        /// The folder.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// Another process uses it.
    #[error("another master (pid {pid}) uses {path}: stop it, or name another folder with --dir")]
    Locked {
        /// The folder.
        path: PathBuf,
        /// Who says to use it.
        pid: String,
    },
    /// It cannot be written to.
    #[error("{path} cannot be written to: give its owner write access, or name another folder")]
    Unwritable {
        /// The file or folder.
        path: PathBuf,
        /// The system's word.
        #[source]
        source: io::Error,
    },
    /// A file in it makes no sense.
    #[error("{path} is damaged ({detail}): {mend}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
        /// What to do.
        mend: &'static str,
    },
    /// The database is gone.
    #[error(
        "{path} is missing, though this master has served before: restore the folder from a \
         backup, or start anew with an empty folder"
    )]
    DatabaseMissing {
        /// Where it should be.
        path: PathBuf,
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

/// The ids that are minted once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// This master in it; also its Raft id.
    pub node: NodeId,
}

impl Identity {
    /// Draws a master's id.
    pub fn draw_node() -> io::Result<NodeId> {
        // Raft keeps 0 for "nobody".
        Ok(NodeId((random_u128()? as u64).max(1)))
    }
}

/// An opened and locked data folder. Dropping it lets another master in.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    identity: Option<Identity>,
    token: String,
    /// Locked until it is closed.
    _lock: File,
}

impl Folder {
    /// Takes the folder for this process, making it if there is none. Blocks.
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        create(path)?;
        refuse_foreign(path)?;
        let lock = lock(path)?;
        // Another master may have made it its own in between.
        refuse_foreign(path)?;
        check_format(path)?;
        let identity = read_identity(path)?;
        if identity.is_some() && !path.join("db").exists() {
            return Err(FolderError::DatabaseMissing {
                path: path.join("db"),
            });
        }
        let token = own_token(path)?;
        Ok(Self {
            path: path.to_owned(),
            identity,
            token,
            _lock: lock,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The database's folder.
    pub fn database(&self) -> PathBuf {
        self.path.join("db")
    }

    /// The artifacts' folder.
    pub fn artifacts(&self) -> PathBuf {
        self.path.join("artifacts")
    }

    /// The folder of compiled components.
    pub fn code(&self) -> PathBuf {
        self.path.join("code")
    }

    /// The local secret: 32 hexadecimal digits, also in the file `token`, for its owner only.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The ids in it; none before the database was made.
    pub fn identity(&self) -> Option<Identity> {
        self.identity
    }

    /// Writes the ids down, once the database holds them.
    pub fn set_identity(&mut self, identity: Identity) -> Result<(), FolderError> {
        let text = format!(
            "# Minted once; a copy of this folder is not another master.\n\
             cluster = \"{}\"\nnode = \"{}\"\n",
            identity.cluster, identity.node
        );
        replace(&self.path, CLUSTER, &text, 0o644)?;
        self.identity = Some(identity);
        Ok(())
    }
}

fn create(path: &Path) -> Result<(), FolderError> {
    if path.exists() && !path.is_dir() {
        return Err(FolderError::NotADirectory {
            path: path.to_owned(),
        });
    }
    fs::create_dir_all(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => FolderError::NotADirectory {
            path: path.to_owned(),
        },
        _ => FolderError::Unwritable {
            path: path.to_owned(),
            source,
        },
    })
}

/// Looks without touching: the folder is empty, a master's, or not ours.
fn refuse_foreign(path: &Path) -> Result<(), FolderError> {
    if path.join(FORMAT).exists() {
        return Ok(());
    }
    let io = |source| FolderError::Io {
        step: "list",
        path: path.to_owned(),
        source,
    };
    for entry in fs::read_dir(path).map_err(io)? {
        let name = entry
            .map_err(io)?
            .file_name()
            .to_string_lossy()
            .into_owned();
        // What a first start leaves when it is cut short.
        if name != LOCK && !is_temporary(&name, FORMAT) {
            return Err(FolderError::Foreign {
                path: path.to_owned(),
                entry: name,
            });
        }
    }
    Ok(())
}

fn lock(path: &Path) -> Result<File, FolderError> {
    let path_of_lock = path.join(LOCK);
    let io = |source| io_error("lock", &path_of_lock, source);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path_of_lock)
        .map_err(|source| io_error("open", &path_of_lock, source))?;
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

fn check_format(path: &Path) -> Result<(), FolderError> {
    let Some(text) = read(&path.join(FORMAT))? else {
        return replace(
            path,
            FORMAT,
            &format!("{FORMAT_WORD} {FORMAT_VERSION}\n"),
            0o644,
        );
    };
    let version = text
        .trim()
        .strip_prefix(FORMAT_WORD)
        .and_then(|version| version.trim().parse::<u32>().ok());
    match version {
        None => Err(FolderError::Foreign {
            path: path.to_owned(),
            entry: FORMAT.into(),
        }),
        Some(found) if found > FORMAT_VERSION => Err(FolderError::Newer {
            path: path.to_owned(),
            found,
        }),
        Some(_) => Ok(()),
    }
}

fn read_identity(path: &Path) -> Result<Option<Identity>, FolderError> {
    let path = path.join(CLUSTER);
    let Some(text) = read(&path)? else {
        return Ok(None);
    };
    toml::from_str(&text)
        .map(Some)
        .map_err(|error| FolderError::Damaged {
            path,
            detail: error.message().to_owned(),
            mend: "delete it, and it is written again from the database",
        })
}

/// The token's file is read anew at every start, so that an operator may replace it.
fn own_token(path: &Path) -> Result<String, FolderError> {
    let path_of_token = path.join(TOKEN);
    let Some(text) = read(&path_of_token)? else {
        let token = format!(
            "{:032x}",
            random_u128().map_err(|source| FolderError::Io {
                step: "draw",
                path: path_of_token,
                source,
            })?
        );
        replace(path, TOKEN, &format!("{token}\n"), 0o600)?;
        return Ok(token);
    };
    let token = check_token(&path_of_token, &text, "delete it to have a new one made")?;
    let only_owner = fs::Permissions::from_mode(0o600);
    fs::set_permissions(&path_of_token, only_owner)
        .map_err(|source| io_error("restrict", &path_of_token, source))?;
    Ok(token)
}

/// The token that an operator has given to all masters, in a file outside their folders.
pub fn shared_token(path: &Path) -> Result<String, FolderError> {
    let text = fs::read_to_string(path).map_err(|source| io_error("read", path, source))?;
    let mend = "make one with `openssl rand -hex 16`, the same for all masters";
    check_token(path, &text, mend)
}

fn check_token(path: &Path, text: &str, mend: &'static str) -> Result<String, FolderError> {
    let token = text.trim();
    if token.len() != TOKEN_DIGITS || !token.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(FolderError::Damaged {
            path: path.to_owned(),
            detail: format!("a token has {TOKEN_DIGITS} hexadecimal digits"),
            mend,
        });
    }
    Ok(token.to_owned())
}

fn read(path: &Path) -> Result<Option<String>, FolderError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(FolderError::Io {
            step: "read",
            path: path.to_owned(),
            source,
        }),
    }
}

/// Writes a file so that it is there whole or not at all.
fn replace(folder: &Path, name: &str, text: &str, mode: u32) -> Result<(), FolderError> {
    let temporary = folder.join(format!("{name}.new"));
    let write = || {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(mode);
        let mut file = options.open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, folder.join(name))?;
        File::open(folder)?.sync_all()
    };
    write().map_err(|source| io_error("write", &folder.join(name), source))
}

fn is_temporary(name: &str, of: &str) -> bool {
    name.strip_suffix(".new") == Some(of)
}

fn io_error(step: &'static str, path: &Path, source: io::Error) -> FolderError {
    match source.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            FolderError::Unwritable {
                path: path.to_owned(),
                source,
            }
        }
        _ => FolderError::Io {
            step,
            path: path.to_owned(),
            source,
        },
    }
}

fn random_u128() -> io::Result<u128> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(u128::from_le_bytes(bytes))
}
