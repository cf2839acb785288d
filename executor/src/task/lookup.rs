//! The file that a command names: looked up as a shell would, so that what is wrong can be said in
//! more than one number.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};
use tepui_types::Reason;
use tepui_types::task::reason;

/// Codes of reasons in this process alone, for what a shell tells by its exit code.
const MISSING: (&str, i32) = ("command-missing", 127);
const NOT_EXECUTABLE: (&str, i32) = ("command-not-executable", 126);

/// Why there is nothing to be executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unfit {
    /// Nothing of that name was found.
    Missing(String),
    /// What was found is no program, or not for us.
    NotExecutable(String),
}

impl Unfit {
    /// A reason of which [`exit_code`] knows what it was.
    pub fn into_reason(self) -> Reason {
        match self {
            Self::Missing(why) => Reason::new(MISSING.0, why),
            Self::NotExecutable(why) => Reason::new(NOT_EXECUTABLE.0, why),
        }
    }
}

/// What a shell would have exited with for that reason.
pub fn exit_code(reason: &Reason) -> Option<i32> {
    let known = [MISSING, NOT_EXECUTABLE].into_iter();
    let mut known = known.filter(|(code, _)| *code == reason.code);
    known.next().map(|(_, exit)| exit)
}

/// The reason of a task that was not started.
pub fn of_task(reason: Reason) -> Reason {
    match exit_code(&reason) {
        Some(_) => Reason::new(reason::COMMAND_FAILED, reason.message),
        None => reason,
    }
}

/// Finds `name` in the folders of `search`, or, if it is a path, at that path from `dir`. `machine`
/// is what people know the place as where it is looked for.
///
/// # Errors
/// Says what is in the way.
pub fn program(name: &str, search: &str, dir: &Path, machine: &str) -> Result<PathBuf, Unfit> {
    if name.contains('/') {
        let path = dir.join(name);
        return match executable(&path) {
            Ok(()) => Ok(path),
            Err(error) => {
                let why = format!("`{name}` cannot be executed: {error}");
                Err(match error.kind() {
                    io::ErrorKind::NotFound => Unfit::Missing(why),
                    _ => Unfit::NotExecutable(why),
                })
            }
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
        Some((path, why)) => {
            Unfit::NotExecutable(format!("`{}` cannot be executed: {why}", path.display()))
        }
        None => Unfit::Missing(format!(
            "`{name}` was not found in PATH ({search}): No such file or directory (os error 2). Is \
             it installed on {machine}?"
        )),
    })
}

fn executable(path: &Path) -> Result<(), io::Error> {
    if fs::metadata(path)?.is_dir() {
        return Err(io::Error::from_raw_os_error(libc::EISDIR));
    }
    Ok(access(path, AccessFlags::X_OK)?)
}

/// Why a file that was found was not executed.
pub fn not_executable(path: &Path, error: io::Error) -> Unfit {
    let hint = match error.raw_os_error() {
        Some(libc::ENOENT) => ", though the file is there: the interpreter it names is not",
        Some(libc::ENOEXEC) => {
            ": it is neither a program of this machine's architecture nor a script that names its \
             interpreter"
        }
        _ => "",
    };
    Unfit::NotExecutable(format!(
        "`{}` could not be executed: {error}{hint}",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_and_what_cannot_be_executed_are_told_apart() {
        let look = |name: &str| program(name, "/etc:/nowhere", Path::new("/"), "it");
        for (name, code) in [
            ("no-such", 127),
            ("/no/such", 127),
            ("passwd", 126),
            ("/etc/passwd", 126),
            ("/etc", 126),
            ("/etc/passwd/x", 126),
        ] {
            let reason = look(name).unwrap_err().into_reason();
            assert_eq!(exit_code(&reason), Some(code), "{reason}");
            let told = of_task(reason.clone());
            assert_eq!(told, Reason::new(reason::COMMAND_FAILED, reason.message));
        }
        let other = Reason::new(reason::EXECUTOR_FAILED, "else");
        assert_eq!((exit_code(&other), of_task(other.clone())), (None, other));
    }
}
