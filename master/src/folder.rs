//! The master's data folder: who it belongs to, and what lies in it.
//!
//! Beside what every folder has ([`tepui_folder`]), `cluster` holds the ids that were minted once and
//! `token` the local secret. The database is in `db/`, artifacts in `artifacts/`, and what was
//! compiled of them in `code/`. `db.new/` is a database that is to take the place of a damaged one,
//! and `db.damaged*/` is where such a one was put.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tepui_folder::{Format, Hold};
use tepui_types::{ClusterId, NodeId};

/// The layout that this release writes.
const FORMAT: Format = Format {
    program: "tepui-master",
    version: 1,
};
const CLUSTER: &str = "cluster";
const TOKEN: &str = "token";
const DATABASE: &str = "db";
const NEW_DATABASE: &str = "db.new";
const DAMAGED_DATABASE: &str = "db.damaged";
/// Hexadecimal digits of the token: 128 bits.
const TOKEN_DIGITS: usize = 32;

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// It cannot be had, or one of its files cannot be read or written.
    #[error(transparent)]
    Folder(#[from] tepui_folder::FolderError),
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
    /// The file of `--token-file` holds something else.
    #[error(
        "{path} holds no token, which has {TOKEN_DIGITS} hexadecimal digits: make one with \
         `openssl rand -hex 16`, the same for all masters"
    )]
    NoToken {
        /// The file.
        path: PathBuf,
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
    _hold: Hold,
}

impl Folder {
    /// Takes the folder for this process, making it if there is none. Blocks.
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        let hold = Hold::take(path, FORMAT)?;
        finish_exchange(path)?;
        let identity = read_identity(path)?;
        let database = path.join(DATABASE);
        if identity.is_some() && !database.exists() {
            return Err(FolderError::DatabaseMissing { path: database });
        }
        let token = own_token(path)?;
        Ok(Self {
            path: path.to_owned(),
            identity,
            token,
            _hold: hold,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The database's folder.
    pub fn database(&self) -> PathBuf {
        self.path.join(DATABASE)
    }

    /// Where a database may be made that is to take this one's place; nothing is there.
    pub fn new_database(&self) -> Result<PathBuf, FolderError> {
        let path = self.path.join(NEW_DATABASE);
        match fs::remove_dir_all(&path) {
            // One that was not finished.
            Ok(()) => Ok(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(path),
            Err(source) => Err(io_error("remove", &path, source)),
        }
    }

    /// Puts a finished new database in the place of the old one, which must be closed; says where
    /// the old one is now. After a crash in between, the next [`Folder::open`] finishes it.
    pub fn exchange_databases(&mut self) -> Result<PathBuf, FolderError> {
        // The ids in it are the old database's; without it they are read from the database.
        let path = self.path.join(CLUSTER);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("remove", &path, error));
            }
            _ => self.identity = None,
        }
        let aside = free_name(&self.path);
        rename(&self.database(), &aside)?;
        finish_exchange(&self.path)?;
        Ok(aside)
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

/// Gives the new database its place if there is none: the old one is put aside only once the new
/// one is whole.
fn finish_exchange(folder: &Path) -> Result<(), FolderError> {
    let (new, place) = (folder.join(NEW_DATABASE), folder.join(DATABASE));
    match new.exists() && !place.exists() {
        true => rename(&new, &place),
        false => Ok(()),
    }
}

/// Where a damaged database is put: earlier ones stay as they are.
fn free_name(folder: &Path) -> PathBuf {
    let names = (2..).map(|number: u32| format!("{DAMAGED_DATABASE}-{number}"));
    let mut paths = std::iter::once(DAMAGED_DATABASE.to_owned())
        .chain(names)
        .map(|name| folder.join(name));
    // invariant: no folder holds so many that the numbers end.
    paths.find(|path| !path.exists()).expect("a free name")
}

fn rename(from: &Path, to: &Path) -> Result<(), FolderError> {
    let renamed = fs::rename(from, to);
    // The one must be on the disk before the next.
    let folder = to.parent().unwrap_or(to);
    let synced = renamed.and_then(|()| fs::File::open(folder)?.sync_all());
    synced.map_err(|source| io_error("rename", from, source))
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
        let drawn = random_u128().map_err(|source| io_error("draw", &path_of_token, source))?;
        let token = format!("{drawn:032x}");
        replace(path, TOKEN, &format!("{token}\n"), 0o600)?;
        return Ok(token);
    };
    let token = parse_token(&text).ok_or_else(|| FolderError::Damaged {
        path: path_of_token.clone(),
        detail: format!("a token has {TOKEN_DIGITS} hexadecimal digits"),
        mend: "delete it to have a new one made",
    })?;
    let only_owner = fs::Permissions::from_mode(0o600);
    fs::set_permissions(&path_of_token, only_owner)
        .map_err(|source| io_error("restrict", &path_of_token, source))?;
    Ok(token)
}

/// The token that an operator has given to all masters, in a file outside their folders.
pub fn shared_token(path: &Path) -> Result<String, FolderError> {
    let text = fs::read_to_string(path).map_err(|source| io_error("read", path, source))?;
    parse_token(&text).ok_or_else(|| FolderError::NoToken {
        path: path.to_owned(),
    })
}

fn parse_token(text: &str) -> Option<String> {
    let token = text.trim();
    let is_token =
        token.len() == TOKEN_DIGITS && token.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_token.then(|| token.to_owned())
}

fn read(path: &Path) -> Result<Option<String>, FolderError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(io_error("read", path, source)),
    }
}

fn replace(folder: &Path, name: &str, text: &str, mode: u32) -> Result<(), FolderError> {
    let path = folder.join(name);
    tepui_folder::replace(&path, text.as_bytes(), mode)
        .map_err(|source| io_error("write", &path, source))
}

fn io_error(step: &'static str, path: &Path, source: io::Error) -> FolderError {
    tepui_folder::FolderError::io(step, path, source).into()
}

fn random_u128() -> io::Result<u128> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(u128::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(folder: &Path, name: &str, text: &str) {
        fs::create_dir(folder.join(name)).unwrap();
        fs::write(folder.join(name).join("file"), text).unwrap();
    }

    fn text(folder: &Path, name: &str) -> String {
        fs::read_to_string(folder.join(name).join("file")).unwrap()
    }

    #[test]
    fn a_damaged_database_is_put_aside_and_none_before_it_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("master");
        let mut folder = Folder::open(&path).unwrap();
        for (number, aside) in ["db.damaged", "db.damaged-2"].into_iter().enumerate() {
            if number == 0 {
                put(&path, "db", "0");
            }
            folder.new_database().unwrap();
            put(&path, "db.new", &(number + 1).to_string());
            assert_eq!(folder.exchange_databases().unwrap(), path.join(aside));
            assert_eq!(text(&path, aside), number.to_string());
        }
        assert_eq!(text(&path, "db"), "2");
    }

    #[test]
    fn an_exchange_that_a_crash_cut_short_is_finished_and_one_not_begun_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("master");
        drop(Folder::open(&path).unwrap());
        put(&path, "db", "old");
        put(&path, "db.new", "half");
        drop(Folder::open(&path).unwrap());
        assert_eq!(text(&path, "db"), "old");
        fs::rename(path.join("db"), path.join("db.damaged")).unwrap();
        let folder = Folder::open(&path).unwrap();
        assert_eq!(text(&path, "db"), "half");
        assert!(!folder.new_database().unwrap().exists());
    }
}
