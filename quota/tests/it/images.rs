//! Folders with a file system of their own.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Stdio};
use std::thread;

use nix::mount::{MntFlags, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use rustix::thread::CapabilitySet;
use tepui_quota::{Bounds, BoundsError, Enforce, Life, Settings, Support, Wanted, Way};
use tepui_types::Bytes;

use crate::disk::{TestDisk, bounds_in, fill, settings_in, unmount, wanted};

const SIZE: Bytes = Bytes::mib(32);

#[test]
fn a_write_beyond_the_size_fails_and_neighbours_go_on() {
    let Some(disk) = TestDisk::new() else { return };
    let bounds = disk.bounds();
    let [full, other] = ["full", "other"].map(|name| {
        let made = bounds.make(&wanted(name, &disk.at(name), SIZE)).unwrap();
        assert_eq!((made.way, made.bytes), (Way::Image, SIZE));
        made.path
    });
    let (written, error) = fill(&full.join("file"));
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    assert!((20 << 20..SIZE.0).contains(&written), "{written}");
    fs::write(other.join("file"), vec![1; 8 << 20]).unwrap();
    let room = bounds.usage("full").unwrap().unwrap();
    // What is asked for at a time may be more than the last blocks.
    assert!(room.size.bytes.0 - room.used.bytes.0 <= 1 << 20, "{room:?}");
    let room = bounds.usage("other").unwrap().unwrap();
    assert!(room.used.bytes > Bytes::mib(8) && room.used.bytes < room.size.bytes);
    for name in ["full", "other"] {
        bounds.remove(name).unwrap();
        bounds.remove(name).unwrap();
    }
    disk.is_bare();
}

#[test]
fn inodes_end_as_bytes_do() {
    let Some(disk) = TestDisk::new() else { return };
    let bounds = disk.bounds();
    let made = bounds.make(&wanted("v", &disk.at("v"), SIZE)).unwrap();
    let room = bounds.usage("v").unwrap().unwrap();
    let error = (0..=room.size.inodes)
        .find_map(|number| File::create(made.path.join(number.to_string())).err())
        .unwrap();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    let room = bounds.usage("v").unwrap().unwrap();
    assert_eq!(room.used.inodes, room.size.inodes);
}

#[test]
fn contents_survive_a_remount_by_another_process_and_no_folder_is_lost_and_found() {
    let Some(disk) = TestDisk::new() else { return };
    for (name, life) in [("v", Life::Persistent), ("s", Life::Scratch)] {
        let at = disk.at(name);
        let asked = Wanted {
            life,
            ..wanted(name, &at, SIZE)
        };
        let made = disk.bounds().make(&asked).unwrap();
        fs::write(at.join("file"), name).unwrap();
        let again = disk.bounds();
        assert_eq!(again.open(name).unwrap(), made, "it is mounted");
        assert_eq!(again.make(&asked).unwrap(), made);
        assert_eq!(disk.mounts(), [at.as_path()]);
        unmount(&at);
        let unmounted = again.usage(name).unwrap_err();
        assert!(matches!(unmounted, BoundsError::Unknown(_)));
        assert_eq!(again.open(name).unwrap(), made, "it is mounted again");
        let names: Vec<_> = fs::read_dir(&at).unwrap().flatten().collect();
        assert_eq!(names.len(), 1, "{names:?}");
        assert_eq!(fs::read_to_string(at.join("file")).unwrap(), name);
        again.remove(name).unwrap();
    }
    disk.is_bare();
}

#[test]
fn what_was_synced_survives_a_power_cut() {
    let Some(disk) = TestDisk::new() else { return };
    let (bounds, at) = (disk.bounds(), disk.at("v"));
    for (others, (name, life)) in [("v", Life::Persistent), ("s", Life::Scratch)]
        .into_iter()
        .enumerate()
    {
        let at = disk.at(name);
        let asked = Wanted {
            life,
            ..wanted(name, &at, SIZE)
        };
        bounds.make(&asked).unwrap();
        let mut file = File::create(at.join("file")).unwrap();
        file.write_all(b"kept").unwrap();
        file.sync_all().unwrap();
        File::open(&at).unwrap().sync_all().unwrap();
        fs::write(at.join("other"), vec![1; 4 << 20]).unwrap();
        // What a disk would have if the power went now: the file system is in the midst of things.
        let image = disk.store().join(name).join("image");
        let cut = disk.path().join("cut");
        fs::copy(&image, &cut).unwrap();
        drop(file);
        unmount(&at);
        disk.has_devices(others);
        fs::rename(&cut, &image).unwrap();
        bounds.open(name).unwrap();
        assert_eq!(fs::read_to_string(at.join("file")).unwrap(), "kept");
        fs::write(at.join("more"), "more").unwrap();
    }
    bounds.open("v").unwrap();
    assert!(at.join("more").is_file());
}

#[test]
fn a_folder_grows_and_never_shrinks() {
    let Some(disk) = TestDisk::new() else { return };
    let bounds = disk.bounds();
    for (name, life) in [("v", Life::Persistent), ("s", Life::Scratch)] {
        let at = disk.at(name);
        let mut asked = Wanted {
            life,
            ..wanted(name, &at, SIZE)
        };
        bounds.make(&asked).unwrap();
        let mut file = File::create(at.join("file")).unwrap();
        // While it is used, that takes a right that not every agent has.
        let grown = match bounds.grow(name, Bytes::mib(64)) {
            Err(BoundsError::InUse(path)) => {
                assert_eq!((path, grows_online()), (at.clone(), false));
                assert_eq!(bounds.open(name).unwrap().bytes, SIZE);
                file.write_all(b"").unwrap();
                drop(file);
                let grown = bounds.grow(name, Bytes::mib(64)).unwrap();
                file = File::create(at.join("file")).unwrap();
                grown
            }
            grown => grown.unwrap(),
        };
        assert_eq!(grown.bytes, Bytes::mib(64));
        file.write_all(&vec![1; 48 << 20]).unwrap();
        file.sync_all().unwrap();
        drop(file);
        asked.bytes = Bytes::mib(96);
        assert_eq!(bounds.make(&asked).unwrap().bytes, Bytes::mib(96));
        let room = bounds.usage(name).unwrap().unwrap();
        assert!(room.size.bytes > Bytes::mib(80), "{room:?}");
        asked.bytes = SIZE;
        assert_eq!(bounds.make(&asked).unwrap().bytes, Bytes::mib(96));
        let less = bounds.grow(name, SIZE).unwrap_err();
        assert!(matches!(less, BoundsError::Shrinks { .. }));
        unmount(&at);
        bounds.open(name).unwrap();
        assert_eq!(fs::metadata(at.join("file")).unwrap().len(), 48 << 20);
    }
}

fn grows_online() -> bool {
    let sets = rustix::thread::capabilities(None).unwrap();
    sets.effective.contains(CapabilitySet::SYS_RESOURCE)
}

#[test]
fn an_image_that_is_mounted_elsewhere_is_one_file_system_in_two_places() {
    let Some(disk) = TestDisk::new() else { return };
    let (bounds, at) = (disk.bounds(), disk.at("v"));
    bounds.make(&wanted("v", &at, SIZE)).unwrap();
    let file = File::create(at.join("file")).unwrap();
    // Nothing in this process's mounts says any more that somebody has it.
    umount2(&at, MntFlags::MNT_DETACH).unwrap();
    bounds.open("v").unwrap();
    disk.has_devices(1);
    (&file).write_all(b"seen").unwrap();
    assert_eq!(fs::read_to_string(at.join("file")).unwrap(), "seen");
    drop(file);
    bounds.remove("v").unwrap();
    disk.is_bare();
}

#[test]
fn a_disk_without_room_refuses_and_keeps_nothing() {
    let Some(disk) = TestDisk::new() else { return };
    // A small disk in a disk.
    let at = disk.at("small");
    disk.bounds()
        .make(&wanted("small", &at, Bytes::mib(96)))
        .unwrap();
    let small = bounds_in(&at, Bytes::mib(8));
    let is_full = |error| {
        let said = format!("{error}");
        assert!(matches!(error, BoundsError::Full { .. }), "{said}");
        assert!(said.contains("lend less"), "{said}");
    };
    let (one, two) = (at.join("volumes/one"), at.join("volumes/two"));
    is_full(
        small
            .make(&wanted("one", &one, Bytes::mib(90)))
            .unwrap_err(),
    );
    assert_eq!(small.sweep().unwrap(), [""; 0]);
    small.make(&wanted("one", &one, Bytes::mib(48))).unwrap();
    is_full(small.grow("one", Bytes::mib(90)).unwrap_err());
    is_full(
        small
            .make(&wanted("two", &two, Bytes::mib(48)))
            .unwrap_err(),
    );
    // What was promised is there when everything else is full.
    let (_, error) = fill(&at.join("filler"));
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    fs::write(one.join("file"), vec![1; 30 << 20]).unwrap();
    File::open(one.join("file")).unwrap().sync_all().unwrap();
    assert_eq!(small.open("one").unwrap().bytes, Bytes::mib(48));
    // Not a byte is needed to remove it.
    small.remove("one").unwrap();
    small.release().unwrap();
    disk.bounds().remove("small").unwrap();
    disk.is_bare();
}

#[test]
fn processes_with_mounts_of_their_own_see_folders_come_and_go() {
    let Some(disk) = TestDisk::new() else { return };
    let at = disk.at("v");
    // As executors of containers have them.
    let script = "echo ready; while read path; do cat \"$path\" 2>/dev/null || echo none; done";
    let mut other = Command::new("unshare")
        .args(["--mount", "--propagation", "slave", "sh", "-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut asked = other.stdin.take().unwrap();
    let mut lines = BufReader::new(other.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    disk.bounds().make(&wanted("v", &at, SIZE)).unwrap();
    fs::write(at.join("file"), "seen\n").unwrap();
    writeln!(asked, "{}", at.join("file").display()).unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "seen");
    disk.bounds().remove("v").unwrap();
    // Nothing in there keeps it.
    disk.is_bare();
    drop(asked);
    assert!(other.wait().unwrap().success());
}

#[test]
fn one_that_is_in_use_is_removed_and_ends_with_its_last_user() {
    let Some(disk) = TestDisk::new() else { return };
    let (bounds, at) = (disk.bounds(), disk.at("v"));
    bounds.make(&wanted("v", &at, SIZE)).unwrap();
    let mut file = File::create(at.join("file")).unwrap();
    bounds.remove("v").unwrap();
    assert!(!at.exists() && disk.mounts().is_empty());
    file.write_all(b"still").unwrap();
    file.sync_all().unwrap();
    // The name is free at once.
    bounds.make(&wanted("v", &at, SIZE)).unwrap();
    assert!(!at.join("file").exists());
    bounds.remove("v").unwrap();
    drop(file);
    disk.is_bare();
}

#[test]
fn devices_in_a_folder_are_none() {
    let Some(disk) = TestDisk::new() else { return };
    let at = disk.at("v");
    disk.bounds().make(&wanted("v", &at, SIZE)).unwrap();
    let node = at.join("null");
    mknod(&node, SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 3)).unwrap();
    let error = File::open(&node).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
}

#[test]
fn what_is_there_already_is_never_hidden() {
    let Some(disk) = TestDisk::new() else { return };
    let (bounds, at) = (disk.bounds(), disk.at("v"));
    fs::create_dir(&at).unwrap();
    fs::write(at.join("file"), "old").unwrap();
    let asked = wanted("v", &at, SIZE);
    let error = bounds.make(&asked).unwrap_err();
    assert!(matches!(error, BoundsError::Occupied(_)) && error.cannot_enforce());
    // It can still be had measured, and stays so.
    let asked = Wanted {
        enforce: Enforce::Measured,
        ..asked
    };
    assert_eq!(bounds.make(&asked).unwrap().way, Way::Measured);
    let enforced = wanted("v", &at, SIZE);
    assert_eq!(bounds.make(&enforced).unwrap().way, Way::Measured);
    assert_eq!(bounds.usage("v").unwrap(), None);
    assert_eq!(fs::read_to_string(at.join("file")).unwrap(), "old");
    let elsewhere = disk.at("w");
    let taken = bounds.make(&wanted("v", &elsewhere, SIZE)).unwrap_err();
    assert!(matches!(taken, BoundsError::Taken { .. }));
    bounds.remove("v").unwrap();
    disk.is_bare();
}

#[test]
fn what_cannot_be_is_refused_by_what_would_help() {
    let Some(disk) = TestDisk::new() else { return };
    let (bounds, at) = (disk.bounds(), disk.at("v"));
    let small = bounds.make(&wanted("v", &at, Bytes::mib(1))).unwrap_err();
    assert!(small.cannot_enforce() && small.to_string().contains("16 MiB"));
    let outside = bounds.make(&wanted("v", disk.path(), SIZE)).unwrap_err();
    assert!(matches!(outside, BoundsError::Elsewhere(_)));
    let climbing = disk.place().join("../v");
    let outside = bounds.make(&wanted("v", &climbing, SIZE)).unwrap_err();
    assert!(matches!(outside, BoundsError::Elsewhere(_)));
    let name = bounds.make(&wanted("../v", &at, SIZE)).unwrap_err();
    assert!(matches!(name, BoundsError::Name(_)));
    for error in [
        bounds.open("v").unwrap_err(),
        bounds.grow("v", SIZE).unwrap_err(),
    ] {
        assert!(matches!(error, BoundsError::Unknown(_)));
    }
    disk.is_bare();
}

#[test]
fn without_the_right_to_mount_nothing_is_enforced_and_that_is_said() {
    let Some(disk) = TestDisk::new() else { return };
    // As an agent in a container has it, once with nothing left to mount before images are: its folders
    // are shared already, as all of a machine with systemd is.
    has_no_right_to_mount(&disk);
    disk.bounds().release().unwrap();
    has_no_right_to_mount(&disk);
    disk.is_bare();
}

fn has_no_right_to_mount(disk: &TestDisk) {
    let dir = disk.path().to_owned();
    let agent = thread::spawn(move || {
        let mut sets = rustix::thread::capabilities(None).unwrap();
        sets.effective.remove(CapabilitySet::SYS_ADMIN);
        rustix::thread::set_capabilities(None, sets).unwrap();
        let bounds = bounds_in(&dir, Bytes(0));
        let support = bounds.prepare().unwrap();
        assert!(matches!(support, Support::Measured(_)), "{support:?}");
        let at = dir.join("volumes/v");
        let error = bounds.make(&wanted("v", &at, SIZE)).unwrap_err();
        assert!(
            error.cannot_enforce() && error.to_string().contains("as root"),
            "{error}"
        );
        let asked = Wanted {
            enforce: Enforce::Measured,
            ..wanted("v", &at, SIZE)
        };
        assert_eq!(bounds.make(&asked).unwrap().way, Way::Measured);
        bounds.remove("v").unwrap();
    });
    agent.join().unwrap();
}

#[test]
fn many_are_made_at_once_and_one_name_by_many_is_one() {
    let Some(disk) = TestDisk::new() else { return };
    let bounds = disk.bounds();
    let names = ["a", "b", "c", "d", "a", "b", "c", "d"];
    thread::scope(|scope| {
        for name in names {
            let (bounds, at) = (&bounds, disk.at(name));
            scope.spawn(move || bounds.make(&wanted(name, &at, SIZE)).unwrap());
        }
    });
    assert_eq!(bounds.sweep().unwrap(), names[..4]);
    assert_eq!(disk.mounts().len(), 4);
    disk.has_devices(4);
    thread::scope(|scope| {
        for name in names {
            let bounds = &bounds;
            scope.spawn(move || bounds.remove(name).unwrap());
        }
    });
    disk.is_bare();
}

#[test]
fn room_is_taken_at_once_and_kept_unless_it_is_to_be_lent_twice() {
    let Some(disk) = TestDisk::new() else { return };
    for whole_images in [true, false] {
        let bounds = Bounds::new(Settings {
            whole_images,
            ..settings_in(disk.path(), Bytes(0))
        })
        .unwrap();
        let at = disk.at("v");
        let is_whole = || {
            let image = fs::metadata(disk.store().join("v/image")).unwrap();
            assert_eq!(image.len(), SIZE.0);
            image.blocks() * 512 >= SIZE.0
        };
        bounds.make(&wanted("v", &at, SIZE)).unwrap();
        assert_eq!(is_whole(), whole_images);
        fs::write(at.join("file"), vec![1; 8 << 20]).unwrap();
        File::open(at.join("file")).unwrap().sync_all().unwrap();
        fs::remove_file(at.join("file")).unwrap();
        // Some machines do this every week.
        let trimmed = Command::new("fstrim").arg(&at).status().unwrap();
        assert_eq!(is_whole(), whole_images && !trimmed.success());
        bounds.open("v").unwrap();
        assert_eq!(is_whole(), whole_images);
        bounds.remove("v").unwrap();
    }
}
