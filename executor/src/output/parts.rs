//! The files of a stream of which the latest output is kept, by their names.
//!
//! A file that is complete is called as the stream and by where it begins: how many bytes the stream
//! had before it. No number is ever used twice, so whoever lists the names twice and finds the same knows
//! that nothing was moved in between.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// Digits of a number: those of any `u64`, so that names sort as what is in them.
const DIGITS: usize = 20;

/// The complete file of the stream at `path` that begins there.
pub fn complete(path: &Path, begins: u64) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{begins:0DIGITS$}"));
    PathBuf::from(name)
}

/// Where the complete files of the stream at `path` begin, the oldest first. There are as many as may be
/// kept of it ([`MAX_LOG_FILES`](tepui_types::command::CommandOptions::MAX_LOG_FILES)), at most.
///
/// # Errors
/// Those of the system, where the folder cannot be read. One that is not there has none.
pub fn list(path: &Path) -> io::Result<Vec<u64>> {
    let (Some(folder), Some(stream)) = (path.parent(), path.file_name()) else {
        return Ok(Vec::new());
    };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let stream = stream.as_encoded_bytes();
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let rest = name.as_encoded_bytes().strip_prefix(stream);
        let begins = rest.and_then(number);
        // What it cannot be told of has just been removed.
        let is_file = || entry.file_type().is_ok_and(|kind| kind.is_file());
        found.extend(begins.filter(|_| is_file()));
    }
    found.sort_unstable();
    Ok(found)
}

/// What follows a stream's name in that of a complete file.
fn number(rest: &[u8]) -> Option<u64> {
    let digits = rest.strip_prefix(b".")?;
    let is_number = digits.len() == DIGITS && digits.iter().all(u8::is_ascii_digit);
    let digits = std::str::from_utf8(digits).ok().filter(|_| is_number)?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complete_files_are_found_by_their_names_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stdout");
        assert_eq!(list(&path.join("none")).unwrap(), [0; 0]);
        for begins in [1_000, 0, u64::MAX, 7] {
            fs::write(complete(&path, begins), "x").unwrap();
        }
        for name in ["stdout", "stdout.1", "stderr.00000000000000000009"] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        fs::create_dir(complete(&path, 8)).unwrap();
        assert_eq!(list(&path).unwrap(), [0, 7, 1_000, u64::MAX]);
        // More than any number.
        fs::write(folder.path().join(format!("stdout.{}", "9".repeat(20))), "").unwrap();
        assert_eq!(list(&path).unwrap().len(), 4);
    }
}
