//! Paths that strangers write: in archives, in links, as destinations.
//!
//! Pure. A path that comes out of here is relative, has only ordinary names, and is one that the
//! kernel takes. Whether links stand in its way is for who looks it up.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// What the kernel takes as one name (NAME_MAX).
const MAX_NAME: usize = 255;
/// What the kernel takes as a path, with its closing zero (PATH_MAX).
const MAX_PATH: usize = 4096;
/// Folders in folders. Far more than anyone has; descriptors are not held for each.
const MAX_DEPTH: usize = 256;

/// A relative path that names nothing above where it begins; empty for that place itself.
///
/// # Errors
/// What is wrong with it, and what helps.
pub fn clean(path: &[u8]) -> Result<PathBuf, &'static str> {
    if path.starts_with(b"/") {
        return Err("it is absolute: use a relative path");
    }
    if path.len() >= MAX_PATH || path.contains(&0) {
        return Err("it is no path that a file can have");
    }
    let mut clean = PathBuf::new();
    let mut depth = 0;
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err("it climbs with `..`: use a path without"),
            part if part.len() > MAX_NAME => return Err("it has a name longer than 255 bytes"),
            part => {
                depth += 1;
                clean.push(OsStr::from_bytes(part));
            }
        }
    }
    match depth <= MAX_DEPTH {
        true => Ok(clean),
        false => Err("it is more than 256 folders deep"),
    }
}

/// Checks that a symbolic link at `depth` folders below the root stays in it, also where it leads
/// through other links that do.
///
/// A target may climb only at its beginning: there `..` is the folder above the link, made by us
/// and no link. Behind a name, which may be a link, `..` could be anywhere.
///
/// # Errors
/// What is wrong with it, and what helps.
pub fn stays_inside(target: &[u8], depth: usize) -> Result<(), &'static str> {
    if target.is_empty() || target.len() >= MAX_PATH || target.contains(&0) {
        return Err("it is a link to nowhere");
    }
    if target.starts_with(b"/") {
        return Err("it is a link to an absolute path: make it relative");
    }
    let parts = target.split(|byte| *byte == b'/');
    let mut parts = parts.filter(|part| !matches!(*part, b"" | b".")).peekable();
    let mut climbs = 0;
    while parts.next_if(|part| *part == b"..").is_some() {
        climbs += 1;
    }
    if climbs > depth {
        return Err("it is a link that climbs out: let it stay in the archive");
    }
    if parts.any(|part| part == b"..") {
        return Err("it is a link with `..` behind a name: put all `..` first");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Component;

    use proptest::prelude::*;

    use super::*;

    /// Paths made of what is awkward in them.
    fn awkward() -> impl Strategy<Value = Vec<u8>> {
        let part = prop_oneof![
            Just(b"..".to_vec()),
            Just(b".".to_vec()),
            Just(b"".to_vec()),
            Just(b"a".to_vec()),
            Just(b"b".to_vec()),
            proptest::collection::vec(any::<u8>(), 0..4),
        ];
        proptest::collection::vec(part, 0..7).prop_map(|parts| parts.join(&b'/'))
    }

    proptest! {
        #[test]
        fn clean_paths_have_only_names(path in awkward()) {
            if let Ok(cleaned) = clean(&path) {
                for component in cleaned.components() {
                    prop_assert!(matches!(component, Component::Normal(_)));
                }
                prop_assert_eq!(clean(cleaned.as_os_str().as_bytes()), Ok(cleaned));
            }
        }

        #[test]
        fn links_that_stay_inside_never_climb_above_the_root(target in awkward(), depth in 0_usize..4) {
            if stays_inside(&target, depth).is_ok() {
                prop_assert_eq!(target.first().filter(|byte| **byte == b'/'), None);
                let mut at = depth as isize;
                for part in target.split(|byte| *byte == b'/') {
                    match part {
                        b"" | b"." => {}
                        b".." => at -= 1,
                        _ => at += 1,
                    }
                    prop_assert!(at >= 0);
                }
            }
        }
    }

    #[test]
    fn links_behind_links_are_refused() {
        assert!(stays_inside(b"../../a/b", 2).is_ok());
        assert!(stays_inside(b"../../../a", 2).is_err());
        assert!(stays_inside(b"a/../b", 2).is_err());
        assert!(stays_inside(b"/etc", 9).is_err());
    }
}
