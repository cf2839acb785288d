//! Measurements of real folders, beside what `du` says of them.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use tepui_quota::{Measured, Measurement, Progress};

#[test]
fn links_holes_and_folders_are_counted_as_du_does() {
    let dir = tempfile::tempdir().unwrap();
    let (inside, outside) = (dir.path().join("inside"), dir.path().join("outside"));
    fs::create_dir_all(inside.join("a/b")).unwrap();
    fs::write(&outside, vec![1; 1 << 20]).unwrap();
    synced(&inside.join("a/file"), 300_000);
    for name in ["a/b/again", "again"] {
        fs::hard_link(inside.join("a/file"), inside.join(name)).unwrap();
    }
    File::create(inside.join("sparse"))
        .unwrap()
        .set_len(1 << 30)
        .unwrap();
    symlink(&outside, inside.join("link")).unwrap();
    symlink("..", inside.join("a/up")).unwrap();
    let found = measure(&inside, 1_000);
    assert!(found.complete);
    // The folder, `a`, `b`, the file once, the sparse one, two links.
    assert_eq!(found.usage.inodes, 7);
    assert_eq!(found.usage.bytes.0, du(&inside));
}

#[test]
fn a_large_folder_takes_many_steps_of_a_bounded_length() {
    let dir = tempfile::tempdir().unwrap();
    for number in 0..500 {
        let folder = dir.path().join(format!("d{}", number % 7));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(number.to_string()), "x").unwrap();
    }
    let mut measurement = Measurement::begin(dir.path()).unwrap();
    let mut steps = 1;
    let found = loop {
        match measurement.step(10).unwrap() {
            Progress::More => steps += 1,
            Progress::Done(found) => break found,
        }
    };
    assert!(steps > 50, "{steps}");
    assert_eq!(found, measure(dir.path(), usize::MAX));
    assert_eq!((found.complete, found.usage.inodes), (true, 508));
}

#[test]
fn a_deep_folder_is_measured_to_its_end_and_back() {
    // More than is held open, and more than a path may be long.
    const DEPTH: u64 = 1_000;
    let dir = tempfile::tempdir().unwrap();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let mut folder = openat(CWD, dir.path(), flags, Mode::empty()).unwrap();
    for _ in 0..DEPTH {
        // On the way down there is more on both sides of each.
        for name in ["a", "z"] {
            mkdirat(&folder, name, Mode::RWXU).unwrap();
        }
        mkdirat(&folder, "inner", Mode::RWXU).unwrap();
        folder = openat(&folder, "inner", flags, Mode::empty()).unwrap();
    }
    let found = measure(dir.path(), 1_000);
    assert_eq!((found.complete, found.usage.inodes), (true, 1 + 3 * DEPTH));
}

#[test]
fn what_is_mounted_inside_is_not_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (inside, outside) = (dir.path().join("inside"), dir.path().join("outside"));
    fs::create_dir_all(inside.join("mounted")).unwrap();
    fs::create_dir(&outside).unwrap();
    synced(&outside.join("file"), 1 << 20);
    let before = measure(&inside, 1_000);
    let place = inside.join("mounted");
    let none = None::<&str>;
    // Of the same file system: only the kernel knows that it is another's.
    if let Err(error) = mount(Some(&outside), &place, none, MsFlags::MS_BIND, none) {
        eprintln!("skipped: nothing can be mounted here: {error}");
        return;
    }
    let found = measure(&inside, 1_000);
    umount2(&place, MntFlags::MNT_DETACH).unwrap();
    assert!(before.complete && found.complete);
    assert_eq!(before.usage.inodes, 2);
    assert_eq!(found.usage.inodes, 1);
}

#[test]
fn a_folder_that_is_moved_meanwhile_ends_the_measurement_with_what_was_seen() {
    let dir = tempfile::tempdir().unwrap();
    let inside = dir.path().join("inside");
    let chain = ["x"; 40].join("/");
    fs::create_dir_all(inside.join(&chain)).unwrap();
    let mut measurement = Measurement::begin(&inside).unwrap();
    while measurement.depth() < 41 {
        assert_eq!(measurement.step(1).unwrap(), Progress::More);
    }
    fs::rename(inside.join("x"), dir.path().join("moved")).unwrap();
    let found = match measurement.step(10_000).unwrap() {
        Progress::Done(found) => found,
        Progress::More => panic!("there is no more"),
    };
    assert_eq!((found.complete, found.usage.inodes), (false, 41));
}

/// The most that a measurement can be wrong by is what was moved while it was under way.
#[test]
fn what_is_moved_behind_a_measurement_is_missed_by_that_one_alone() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["one", "other"] {
        let tree = dir.path().join(name).join("tree");
        fs::create_dir_all(&tree).unwrap();
        for file in 0..20 {
            fs::write(tree.join(file.to_string()), "x").unwrap();
        }
    }
    let mut order = fs::read_dir(dir.path()).unwrap();
    let mut next = || order.next().unwrap().unwrap().path();
    let (first, second) = (next(), next());
    let mut measurement = Measurement::begin(dir.path()).unwrap();
    for depth in [2, 1] {
        while measurement.depth() != depth {
            assert_eq!(measurement.step(1).unwrap(), Progress::More);
        }
    }
    fs::rename(second.join("tree"), first.join("moved")).unwrap();
    let Progress::Done(found) = measurement.step(10_000).unwrap() else {
        panic!("there is no more");
    };
    assert_eq!(found.usage.inodes, 3 + 21);
    assert_eq!(measure(dir.path(), 1_000).usage.inodes, 3 + 2 * 21);
}

fn measure(folder: &Path, entries: usize) -> Measured {
    let mut measurement = Measurement::begin(folder).unwrap();
    loop {
        if let Progress::Done(found) = measurement.step(entries).unwrap() {
            return found;
        }
    }
}

/// Its blocks are there when this returns.
fn synced(path: &Path, len: usize) {
    let mut file = File::create(path).unwrap();
    file.write_all(&vec![1; len]).unwrap();
    file.sync_all().unwrap();
}

fn du(folder: &Path) -> u64 {
    let output = Command::new("du").args(["-s", "-B1"]).arg(folder).output();
    let output = String::from_utf8(output.unwrap().stdout).unwrap();
    output.split_whitespace().next().unwrap().parse().unwrap()
}
