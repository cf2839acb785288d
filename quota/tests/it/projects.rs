//! Folders whose size a project quota keeps. Who has CAP_SYS_RESOURCE is above ext4's quotas, so
//! threads that write give that up first.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::thread;

use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use tepui_quota::{Bounds, Way};
use tepui_types::Bytes;

use crate::disk::{TestDisk, fill, wanted};

/// The file systems that have projects.
const KINDS: [&str; 2] = ["ext4", "xfs"];
const SIZE: Bytes = Bytes::mib(8);

#[test]
fn a_project_ends_where_its_size_does_and_neighbours_go_on() {
    for disk in KINDS
        .iter()
        .filter_map(|kind| TestDisk::with_projects(kind))
    {
        ends_where_its_size_does(&disk);
    }
}

fn ends_where_its_size_does(disk: &TestDisk) {
    let bounds = disk.bounds();
    let full = make(&bounds, disk, "full");
    let other = make(&bounds, disk, "other");
    assert_ne!(full.1, other.1);
    let (written, error) = as_task(full.0.join("file"), |path| fill(&path));
    assert!(is_full(&error), "{error}");
    assert!((6 << 20..=SIZE.0).contains(&written), "{written}");
    as_task(other.0.join("file"), |path| {
        fs::write(path, vec![1; 4 << 20])
    })
    .unwrap();
    let room = bounds.usage("other").unwrap().unwrap();
    assert_eq!(room.size.bytes, SIZE);
    assert!(room.used.bytes >= Bytes::mib(4) && room.used.bytes < Bytes::mib(5));
    // Growing is at once.
    bounds.grow("full", Bytes::mib(16)).unwrap();
    let (more, _) = as_task(full.0.join("more"), |path| fill(&path));
    assert!((6 << 20..=SIZE.0 + (1 << 20)).contains(&more), "{more}");
    // What is in folders inside counts as well.
    let inner = other.0.join("a/b");
    fs::create_dir_all(&inner).unwrap();
    let (written, error) = as_task(inner.join("file"), |path| fill(&path));
    assert!(is_full(&error) && written <= 4 << 20, "{error} {written}");
    // An id is free when all that was under it is gone, which xfs sees to later.
    bounds.remove("full").unwrap();
    assert_ne!(make(&bounds, disk, "again").1, other.1);
    for name in ["again", "other"] {
        bounds.remove(name).unwrap();
    }
    disk.is_bare_of_folders();
}

#[test]
fn inodes_of_a_project_end_as_bytes_do() {
    for disk in KINDS
        .iter()
        .filter_map(|kind| TestDisk::with_projects(kind))
    {
        inodes_end(&disk);
    }
}

fn inodes_end(disk: &TestDisk) {
    let bounds = disk.bounds();
    let (path, _) = make(&bounds, disk, "v");
    let most = bounds.usage("v").unwrap().unwrap().size.inodes;
    let (made, error) = as_task(path, move |path| {
        let mut files = (0..=most).map(|number| File::create(path.join(number.to_string())));
        let made = files.by_ref().take_while(Result::is_ok).count();
        (
            made as u64 + 1,
            File::create(path.join("more")).unwrap_err(),
        )
    });
    assert!(is_full(&error), "{error}");
    assert_eq!(made, most);
    assert_eq!(bounds.usage("v").unwrap().unwrap().used.inodes, most);
}

/// Its path and project.
fn make(bounds: &Bounds, disk: &TestDisk, name: &str) -> (PathBuf, u32) {
    let made = bounds.make(&wanted(name, &disk.at(name), SIZE)).unwrap();
    assert_eq!(bounds.open(name).unwrap(), made);
    match made.way {
        Way::Project(id) => (made.path, id),
        way => panic!("{way:?}"),
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::QuotaExceeded | ErrorKind::StorageFull
    )
}

/// Does it with no more rights than a task has.
fn as_task<T: Send + 'static>(path: PathBuf, act: impl FnOnce(PathBuf) -> T + Send + 'static) -> T {
    let task = thread::spawn(move || {
        let mut sets = capabilities(None).unwrap();
        sets.effective.remove(CapabilitySet::SYS_RESOURCE);
        set_capabilities(None, sets).unwrap();
        act(path)
    });
    task.join().unwrap()
}
