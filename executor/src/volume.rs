//! A persistent volume in a task's sandbox.
//!
//! Both executors use this. The volume's folder is made when its first task needs it; who removes it
//! is the agent.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, chown, symlink};
use std::path::Path;

use tepui_types::wire::executor::VolumeFolder;

/// Makes a volume's folder if it is not there.
pub fn make(volume: &VolumeFolder) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o755);
    builder.create(&volume.folder)
}

/// Gives a new volume, which is there, to the user that its first container runs as. One that holds
/// something, or is another's, stays as it is.
pub fn give(volume: &VolumeFolder, uid: u32, gid: u32) -> io::Result<()> {
    let metadata = std::fs::metadata(&volume.folder)?;
    if (metadata.uid(), metadata.gid()) != (0, 0) || (uid, gid) == (0, 0) {
        return Ok(());
    }
    for entry in std::fs::read_dir(&volume.folder)? {
        // A file system of its own comes with that.
        if entry?.file_name() != "lost+found" {
            return Ok(());
        }
    }
    chown(&volume.folder, Some(uid), Some(gid))
}

/// Lets a task find a volume in its sandbox, which is there.
pub fn link(sandbox: &Path, volume: &VolumeFolder) -> io::Result<()> {
    make(volume)?;
    let place = sandbox.join(&volume.path);
    if let Some(parent) = place.parent() {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o755).create(parent)?;
    }
    match symlink(&volume.folder, &place) {
        // A launch that is done again finds its own.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            match std::fs::read_link(&place)? == Path::new(&volume.folder) {
                true => Ok(()),
                false => Err(error),
            }
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_where_its_path_says_and_survives_the_sandbox() {
        let dir = tempfile::tempdir().unwrap();
        let volume = VolumeFolder {
            folder: dir.path().join("volumes/7.0").to_str().unwrap().into(),
            path: "var/data".into(),
        };
        for sandbox in ["one", "two"].map(|name| dir.path().join(name)) {
            std::fs::create_dir(&sandbox).unwrap();
            link(&sandbox, &volume).unwrap();
            link(&sandbox, &volume).unwrap();
            let file = sandbox.join("var/data/file");
            match sandbox.ends_with("one") {
                true => std::fs::write(file, "kept").unwrap(),
                false => assert_eq!(std::fs::read_to_string(file).unwrap(), "kept"),
            }
            std::fs::remove_dir_all(&sandbox).unwrap();
        }
        assert!(dir.path().join("volumes/7.0/file").is_file());
    }
}
