//! Processes that cannot be mistaken for later ones of the same number.
//!
//! An executor writes its identity into its folder as soon as it has its final
//! process number; agents compare it before they take a process for that
//! executor, or end it. A zombie counts as dead, and so does whatever reuses a
//! number.

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use tepui_types::envelope;
use tepui_types::wire::executor::{ProcessIdentity, VERSION};

/// The file in the executor's folder.
pub const IDENTITY_FILE: &str = "identity";

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The identity of the calling process.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn current() -> io::Result<ProcessIdentity> {
    let pid = std::process::id() as i32;
    of(pid)?.ok_or_else(|| io::Error::other("/proc does not show the calling process"))
}

/// The identity of the living process `pid`; none when there is none.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn of(pid: i32) -> io::Result<Option<ProcessIdentity>> {
    let boot_id = fs::read_to_string(BOOT_ID)?.trim().to_owned();
    let stat = match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat,
        Err(error) if is_gone(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    match parse_stat(&stat) {
        Some(('Z' | 'X' | 'x', _)) => Ok(None),
        Some((_, start_time)) => Ok(Some(ProcessIdentity {
            boot_id,
            pid,
            start_time,
        })),
        None => Err(io::Error::other(format!(
            "/proc/{pid}/stat has an unknown form"
        ))),
    }
}

/// Whether the process that was given this identity still runs.
pub fn is_alive(identity: &ProcessIdentity) -> bool {
    // A machine whose /proc cannot be read shows no process of ours either.
    of(identity.pid).is_ok_and(|found| found.as_ref() == Some(identity))
}

/// Writes `identity` into the executor's folder, whole or not at all.
///
/// # Errors
/// When the folder cannot be written.
pub fn write(dir: &Path, identity: &ProcessIdentity) -> io::Result<()> {
    let temporary = dir.join("identity.new");
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    io::Write::write_all(&mut file, &envelope::encode(VERSION, identity))?;
    fs::rename(&temporary, dir.join(IDENTITY_FILE))
}

/// The identity that the executor in `dir` wrote; none when it has not come so far.
///
/// # Errors
/// When the file cannot be read or is not an identity.
pub fn read(dir: &Path) -> io::Result<Option<ProcessIdentity>> {
    match fs::read(dir.join(IDENTITY_FILE)) {
        Ok(bytes) => envelope::decode(VERSION, &bytes)
            .map(Some)
            .map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// A process that ends while its file is read gives ESRCH.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// State and start time, fields 3 and 22 of proc_pid_stat(5). The name in field
/// 2 may hold blanks and parentheses.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn this_process_is_alive_and_another_start_time_is_not() {
        let identity = current().unwrap();
        assert!(is_alive(&identity));
        let reused = ProcessIdentity {
            start_time: identity.start_time + 1,
            ..identity.clone()
        };
        assert!(!is_alive(&reused));
        let rebooted = ProcessIdentity {
            boot_id: "another".into(),
            ..identity
        };
        assert!(!is_alive(&rebooted));
    }

    #[test]
    fn a_zombie_is_dead() {
        let mut child = Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let identity = of(child.id() as i32).unwrap().unwrap();
        assert!(is_alive(&identity));
        drop(child.stdin.take());
        // WNOWAIT leaves the zombie in place.
        let id = nix::sys::wait::Id::Pid(nix::unistd::Pid::from_raw(identity.pid));
        let flags = nix::sys::wait::WaitPidFlag::WEXITED | nix::sys::wait::WaitPidFlag::WNOWAIT;
        nix::sys::wait::waitid(id, flags).unwrap();
        assert!(!is_alive(&identity));
        child.wait().unwrap();
        assert!(!is_alive(&identity));
    }

    #[test]
    fn names_with_parentheses_do_not_shift_the_fields() {
        let stat = "7 (a) Z 9) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 1234 5 6";
        assert_eq!(parse_stat(stat), Some(('S', 1234)));
    }

    #[test]
    fn what_was_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        let identity = current().unwrap();
        write(dir.path(), &identity).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Some(identity));
    }
}
