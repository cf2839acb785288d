//! The data folder: what is taken, what is refused, and what is said.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use tepui_master::folder::{Folder, FolderError};
use tepui_master::raft::Options;

use crate::env::{OpenLog, folder};

#[tokio::test]
async fn ids_and_token_are_made_once_and_kept() {
    let (_folder, path) = folder();
    let mut seen = Vec::new();
    for _ in 0..2 {
        let open = OpenLog::open(&path, Options::default()).await.unwrap();
        let token = fs::read_to_string(path.join("token")).unwrap();
        assert_eq!(token.trim().len(), 32);
        let mode = fs::metadata(path.join("token"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        seen.push((open.log.identity, token));
    }
    assert_eq!(seen[0], seen[1]);
    // Lost after the database had it, or never written for a crash: it is written again.
    fs::remove_file(path.join("cluster")).unwrap();
    let open = OpenLog::open(&path, Options::default()).await.unwrap();
    assert_eq!(open.log.identity, seen[0].0);
    assert!(path.join("cluster").exists());
}

#[test]
fn what_is_not_a_masters_is_not_touched() {
    let (_folder, path) = folder();
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join("thesis.tex"), "").unwrap();
    let error = Folder::open(&path).unwrap_err();
    assert!(error.to_string().contains("holds `thesis.tex`"), "{error}");
    assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
    fs::remove_file(path.join("thesis.tex")).unwrap();
    fs::write(path.join("format"), "tepui-agent 1\n").unwrap();
    assert!(matches!(
        Folder::open(&path),
        Err(FolderError::Folder(
            tepui_folder::FolderError::Foreign { .. }
        ))
    ));
}

/// What a folder is refused with. Another test's child has its lock, too, until it comes to its own program.
fn refusal(path: &std::path::Path) -> String {
    for _ in 0..1_000_000 {
        let error = Folder::open(path).unwrap_err();
        if !matches!(
            error,
            FolderError::Folder(tepui_folder::FolderError::Locked { .. })
        ) {
            return error.to_string();
        }
        std::thread::yield_now();
    }
    panic!("{} stays locked", path.display());
}

#[test]
fn damaged_files_are_named_with_what_mends_them() {
    let (_folder, path) = folder();
    drop(Folder::open(&path).unwrap());
    fs::write(path.join("token"), "secret\n").unwrap();
    let error = refusal(&path);
    assert!(
        error.contains("token") && error.contains("delete it"),
        "{error}"
    );
    fs::remove_file(path.join("token")).unwrap();
    fs::write(path.join("cluster"), "cluster = \"x\"\n").unwrap();
    let error = refusal(&path);
    assert!(
        error.contains("cluster id of 32 hexadecimal digits"),
        "{error}"
    );
}

#[tokio::test]
async fn a_folder_whose_database_is_gone_does_not_start_over() {
    let (_folder, path) = folder();
    drop(OpenLog::open(&path, Options::default()).await.unwrap());
    fs::remove_dir_all(path.join("db")).unwrap();
    assert!(matches!(
        Folder::open(&path),
        Err(FolderError::DatabaseMissing { .. })
    ));
}
