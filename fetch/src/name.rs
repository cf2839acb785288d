//! Names of files that strangers write: in URLs, or as what something is called.
//!
//! Pure. A name that comes out of here is one, of a file that can be in a folder.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use percent_encoding::percent_decode_str;

/// What the kernel takes as one name (NAME_MAX).
const MAX_NAME: usize = 255;

/// The name that a URL's path ends with; none where that is none.
pub(crate) fn last_segment(path: &str) -> Option<PathBuf> {
    let last = path.rsplit('/').next()?;
    let name: Vec<u8> = percent_decode_str(last).collect();
    one_name(&name)
}

/// A name that a file can have in a folder.
pub(crate) fn one_name(name: &[u8]) -> Option<PathBuf> {
    let is_name = !name.is_empty()
        && name.len() <= MAX_NAME
        && !matches!(name, b"." | b"..")
        && !name.iter().any(|byte| matches!(byte, b'/' | 0));
    is_name.then(|| OsStr::from_bytes(name).into())
}

#[cfg(test)]
mod tests {
    use std::path::Component;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn last_segments_are_one_name(path in "[a./%025Fe]{0,12}") {
            if let Some(name) = last_segment(&path) {
                prop_assert_eq!(name.components().count(), 1);
                let is_name = matches!(name.components().next(), Some(Component::Normal(_)));
                prop_assert!(is_name);
            }
        }
    }
}
