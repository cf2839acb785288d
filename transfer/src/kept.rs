//! What is kept under the names of digests, and when it was last used. Blocks.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW};
use tepui_types::Digest;

/// The entries of a folder that are called after a digest, with `suffix` behind it; others are passed
/// over.
///
/// # Errors
/// The disk's.
pub fn kept(folder: &Path, suffix: &str) -> io::Result<Vec<(PathBuf, Digest)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let hex = name.and_then(|name| name.strip_suffix(suffix));
        if let Some(digest) = hex.and_then(|hex| format!("sha256:{hex}").parse().ok()) {
            found.push((path, digest));
        }
    }
    Ok(found)
}

/// Writes down that something is used now: the time of its file, which a next process finds.
///
/// # Errors
/// The disk's; `NotFound` where somebody has removed it.
pub fn touch(path: &Path) -> io::Result<()> {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_NOW,
    };
    let times = Timestamps {
        last_access: now,
        last_modification: now,
    };
    Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::empty())?)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn only_what_is_called_after_a_digest_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let digest = Digest::of(b"abc");
        let path = dir.path().join(format!("{}.json", digest.hex()));
        for name in [&*path, Path::new("abc.json"), Path::new("abc")] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        fs::write(dir.path().join(digest.hex()), "").unwrap();
        assert_eq!(kept(dir.path(), ".json").unwrap(), [(path, digest)]);
    }

    #[test]
    fn what_is_used_is_newer_than_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let file = fs::File::create(&path).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        touch(&path).unwrap();
        let used = fs::metadata(&path).unwrap().modified().unwrap();
        assert!(used > SystemTime::UNIX_EPOCH);
        let missing = touch(&dir.path().join("none")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
