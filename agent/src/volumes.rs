//! The folders of persistent volumes: one for each operation that made a volume.
//!
//! A folder is made by the executor of the first task that uses it, and stays until the master says
//! which volumes there are and it is none of them. It is set aside at once, so that no task finds it,
//! and emptied beside the loop, for that may take long.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use tepui_tree::remove_folder;
use tepui_types::OperationId;
use tepui_types::wire::agent::VolumeList;

use crate::sandbox::Layout;

/// What a folder is called that is being emptied.
const DOOMED: &str = "doomed-";

/// Removes what is stored in volumes that are not in the list.
pub fn keep(layout: &Layout, list: &VolumeList) {
    let folders: Vec<PathBuf> = layout.volumes().collect();
    let doomed = folders.iter().flat_map(|folder| set_aside(folder, list));
    let doomed: Vec<PathBuf> = doomed.collect();
    if doomed.is_empty() {
        return;
    }
    std::thread::spawn(move || {
        for path in doomed {
            if let Err(error) = remove_folder(&path) {
                tracing::warn!(path = %path.display(), %error, "a volume could not be removed");
            }
        }
    });
}

/// Renames the folders of volumes that are no more; answers them, and those that an earlier agent
/// did not come to empty.
fn set_aside(folder: &Path, list: &VolumeList) -> Vec<PathBuf> {
    let kept: BTreeSet<OperationId> = list.kept.iter().copied().collect();
    let mut doomed = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if name.starts_with(DOOMED) {
            doomed.push(entry.path());
            continue;
        }
        let Ok(made_by) = name.parse::<OperationId>() else {
            continue;
        };
        if kept.contains(&made_by) || !(list.from..=list.to).contains(&made_by.index) {
            continue;
        }
        let aside = folder.join(format!("{DOOMED}{name}"));
        match std::fs::rename(entry.path(), &aside) {
            Ok(()) => doomed.push(aside),
            Err(error) => {
                tracing::warn!(path = %entry.path().display(), %error, "a volume could not be removed");
            }
        }
    }
    doomed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_list_knows_to_be_gone_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["3.0", "7.0", "7.1", "12.0", "mine", "doomed-1.0"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let list = VolumeList {
            kept: vec![OperationId {
                index: 7,
                ordinal: 1,
            }],
            from: 5,
            to: 10,
        };
        let mut doomed = set_aside(dir.path(), &list);
        doomed.sort();
        let names = ["doomed-1.0", "doomed-7.0"];
        assert_eq!(doomed, names.map(|name| dir.path().join(name)));
        for name in ["3.0", "7.1", "12.0", "mine"] {
            assert!(dir.path().join(name).is_dir(), "{name}");
        }
        assert!(set_aside(&dir.path().join("none"), &list).is_empty());
    }
}
