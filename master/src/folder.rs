//! The master's data folder: who it belongs to, and what lies in it.
//!
//! Beside what every folder has ([`tepui_folder`]), `cluster` holds the ids that were minted once and
//! `token` the local secret. The database is in `db/`, artifacts in `artifacts/`, and what was
//! compiled of them in `code/`.

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
            _hold: hold,
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
