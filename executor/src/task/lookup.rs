//! The file that a command names: looked up as a shell would, so that what is wrong can be said in
//! more than one number.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

/// Finds `name` in the folders of `search`, or, if it is a path, at that path from `dir`. `machine`
/// is what people know the place as where it is looked for.
///
/// # Errors
/// Says what is in the way.
pub fn program(name: &str, search: &str, dir: &Path, machine: &str) -> Result<PathBuf, String> {
    if name.contains('/') {
        let path = dir.join(name);
        return match executable(&path) {
            Ok(()) => Ok(path),
            Err(why) => Err(format!("`{name}` cannot be executed: {why}")),
        };
    }
    let candidates = search.split(':').map(|folder| dir.join(folder).join(name));
    let mut refused = None;
    for path in candidates {
        match executable(&path) {
            Ok(()) => return Ok(path),
            Err(why) if path.exists() => refused = refused.or(Some((path, why))),
            Err(_) => {}
        }
    }
    Err(match refused {
        Some((path, why)) => format!("`{}` cannot be executed: {why}", path.display()),
        None => format!(
            "`{name}` was not found in PATH ({search}): No such file or directory (os error 2). Is \
             it installed on {machine}?"
        ),
    })
}

fn executable(path: &Path) -> Result<(), io::Error> {
    if fs::metadata(path)?.is_dir() {
        return Err(io::Error::from_raw_os_error(libc::EISDIR));
    }
    Ok(access(path, AccessFlags::X_OK)?)
}

/// Why a file that was found was not executed.
pub fn not_executable(path: &Path, error: io::Error) -> String {
    let hint = match error.raw_os_error() {
        Some(libc::ENOENT) => ", though the file is there: the interpreter it names is not",
        Some(libc::ENOEXEC) => {
            ": it is neither a program of this machine's architecture nor a script that names its \
             interpreter"
        }
        _ => "",
    };
    format!("`{}` could not be executed: {error}{hint}", path.display())
}
