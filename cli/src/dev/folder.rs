//! The folder of a local cluster: one `tepui dev` at a time, and a place each
//! for the parts' data, logs and process identities.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tepui_folder::{Format, Hold};

/// The layout that this release writes.
const FORMAT: Format = Format {
    program: "tepui dev",
    version: 1,
};

/// Where the identities of the parts' processes are.
const PROCESSES: &str = "processes";
/// How the agents' names begin.
const AGENT: &str = "agent-";

/// An open folder. The hold on it goes with the process.
pub struct Folder {
    path: PathBuf,
    _hold: Hold,
}

impl Folder {
    /// Opens or makes the folder.
    pub fn open(path: &Path) -> Result<Self> {
        let path = path.to_owned();
        let hold = Hold::take(&path, FORMAT)?;
        for folder in [&path, &path.join("logs"), &path.join(PROCESSES)] {
            restrict(folder).with_context(|| {
                let folder = folder.display();
                format!("failed to prepare {folder}: name another folder with --dir")
            })?;
        }
        Ok(Self { path, _hold: hold })
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the parts' logs are.
    pub fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    /// Where the identity of a part's process is kept.
    pub fn identity(&self, part: &str) -> PathBuf {
        self.path.join(PROCESSES).join(part)
    }

    /// The parts whose processes an earlier `tepui dev` has left a note of, agents first.
    pub fn noted(&self) -> Vec<String> {
        names(&self.path.join(PROCESSES))
    }

    /// Where the agents' data is, of all that there ever were.
    pub fn agents(&self) -> Vec<PathBuf> {
        let names = names(&self.path).into_iter();
        let agents = names.filter(|name| name.starts_with(AGENT));
        agents.map(|name| self.path.join(name)).collect()
    }
}

/// An agent's name.
pub fn agent(number: u16) -> String {
    format!("{AGENT}{number}")
}

/// Which folder is meant: the user's own state folder when none is named.
pub fn place(dir: Option<&Path>) -> Result<PathBuf> {
    match dir {
        Some(dir) => std::path::absolute(dir)
            .with_context(|| format!("{} cannot be a folder", dir.display())),
        None => default_dir(),
    }
}

/// Whether a folder is that of a local cluster.
pub fn is_one(folder: &Path) -> bool {
    let format = fs::read_to_string(folder.join("format")).unwrap_or_default();
    format.starts_with(FORMAT.program)
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<_> = names.collect();
    // Agents are before masters, by their names.
    names.sort();
    names
}

/// Makes a folder for its owner only: what tasks wrote is nobody else's.
fn restrict(folder: &Path) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    fs::set_permissions(folder, Permissions::from_mode(0o700))
}

fn default_dir() -> Result<PathBuf> {
    let named = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let state = named("XDG_STATE_HOME")
        .or_else(|| named("HOME").map(|home| home.join(".local/state")))
        .context("neither XDG_STATE_HOME nor HOME names a folder: name one with --dir")?;
    Ok(state.join("tepui/dev"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_used_once_at_a_time() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        let first = Folder::open(&path).unwrap();
        let error = Folder::open(&path).err().unwrap().to_string();
        assert!(error.contains("another tepui dev (pid"), "{error}");
        drop(first);
        assert!(Folder::open(&path).is_ok());
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("file");
        std::fs::write(&path, "").unwrap();
        let error = Folder::open(&path).err().unwrap().to_string();
        assert!(error.contains(&path.display().to_string()), "{error}");
        assert!(error.contains("--dir"), "{error}");
    }

    #[test]
    fn a_folder_of_something_else_is_left_as_it_is() {
        let parent = tempfile::tempdir().unwrap();
        std::fs::write(parent.path().join("thesis.tex"), "").unwrap();
        let error = Folder::open(parent.path());
        let error = error.err().unwrap().to_string();
        assert!(error.contains("thesis.tex"), "{error}");
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 1);
    }
}
