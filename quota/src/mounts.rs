//! What is mounted where, as `/proc/self/mountinfo` says (proc_pid_mountinfo(5)).
//!
//! The parser is pure. A path's mount is the last one that covers it: later ones hide earlier ones.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use crate::error::BoundsError;

const TABLE: &str = "/proc/self/mountinfo";

/// One mount of this process's namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Which part of its file system.
    pub root: PathBuf,
    /// Where.
    pub at: PathBuf,
    /// Whether what is mounted below comes to other namespaces, too.
    pub shared: bool,
    /// The kind of file system.
    pub kind: String,
    /// The options of the file system, with commas.
    pub options: String,
    /// What it is on.
    pub source: PathBuf,
}

/// All mounts, in the kernel's order.
pub(crate) fn all() -> Result<Vec<Mount>, BoundsError> {
    let table = std::fs::read(TABLE);
    let table = table.map_err(|source| BoundsError::io("read", Path::new(TABLE), source))?;
    Ok(parse(&table))
}

/// The mount that a path without links is on.
pub(crate) fn containing<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    let covering = mounts.iter().filter(|mount| path.starts_with(&mount.at));
    // Of those that cover it, the innermost, and of several at one place the last.
    covering.max_by_key(|mount| mount.at.as_os_str().len())
}

impl Mount {
    /// Whether the file system has this option.
    pub fn has_option(&self, name: &str) -> bool {
        self.options.split(',').any(|option| option == name)
    }
}

/// Lines that are no mounts, which the kernel does not write, are left out.
fn parse(table: &[u8]) -> Vec<Mount> {
    let lines = table.split(|byte| *byte == b'\n');
    lines.filter_map(mount).collect()
}

fn mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    // Its id, its parent's, and the device's numbers.
    let root = path(fields.nth(3)?);
    let at = path(fields.next()?);
    // Options of the mount itself; then tags, until a lone dash.
    fields.next()?;
    let tags = fields.by_ref().take_while(|field| *field != b"-");
    let tags: Vec<&[u8]> = tags.collect();
    let shared = tags.iter().any(|tag| tag.starts_with(b"shared:"));
    let kind = String::from_utf8_lossy(fields.next()?).into_owned();
    let source = path(fields.next()?);
    let options = String::from_utf8_lossy(fields.next()?).into_owned();
    Some(Mount {
        root,
        at,
        shared,
        kind,
        options,
        source,
    })
}

/// Undoes the kernel's escapes: a space, for one, is `\040`.
fn path(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [byte, after @ ..] = rest {
        let escaped = (*byte == b'\\').then(|| octal(after)).flatten();
        bytes.push(escaped.unwrap_or(*byte));
        rest = match escaped {
            Some(_) => &after[3..],
            None => after,
        };
    }
    PathBuf::from(OsString::from_vec(bytes))
}

fn octal(digits: &[u8]) -> Option<u8> {
    let digits = std::str::from_utf8(digits.get(..3)?).ok()?;
    u8::from_str_radix(digits, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOME: &str = "\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
42 27 254:0 /data /data rw shared:1 master:2 - ext4 /dev/vda rw,prjquota,x=1
43 42 7:0 / /data/with\\040space\\134 rw,nosuid shared:3 - ext4 /dev/loop0 rw
44 42 7:1 / /data rw - xfs /dev/loop1 rw,prjquota
garbage
";

    #[test]
    fn the_kernels_table_is_read() {
        let mounts = parse(SOME.as_bytes());
        assert_eq!(mounts.len(), 5);
        assert!(!mounts[1].shared && mounts[2].shared);
        assert_eq!(mounts[3].at, Path::new("/data/with space\\"));
        assert_eq!(mounts[3].source, Path::new("/dev/loop0"));
        assert!(mounts[2].has_option("prjquota") && !mounts[2].has_option("x"));
    }

    #[test]
    fn a_path_is_on_the_innermost_and_latest_mount() {
        let mounts = parse(SOME.as_bytes());
        let kind = |path: &str| containing(&mounts, Path::new(path)).map(|it| it.kind.as_str());
        assert_eq!(kind("/database"), Some("ext4"));
        assert_eq!(kind("/data/a/b"), Some("xfs"));
        assert_eq!(kind("/proc/1"), Some("proc"));
        assert_eq!(kind("relative"), None);
    }
}
