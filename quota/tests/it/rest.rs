//! Folders that nobody uses any more, and those that take no writes: file systems of their own.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use tepui_quota::{Bounds, BoundsError, Life, Mounts, Settings, Wanted};
use tepui_types::Bytes;

use crate::disk::{TestDisk, bounds_in, rest_when_free, settings_in, unmount, wanted};

const SIZE: Bytes = Bytes::mib(64);

#[test]
fn one_at_rest_takes_what_is_in_it_and_is_read_when_it_is_shown() {
    let Some(disk) = TestDisk::new() else { return };
    let (bounds, at) = (disk.bounds(), disk.at("s"));
    let asked = Wanted {
        life: Life::Scratch,
        ..wanted("s", &at, SIZE)
    };
    bounds.make(&asked).unwrap();
    fs::write(at.join("file"), vec![1; 8 << 20]).unwrap();
    let open = File::open(at.join("file")).unwrap();
    let error = bounds.rest("s").unwrap_err();
    assert!(matches!(error, BoundsError::InUse(_)), "{error}");
    assert_eq!(disk.mounts(), [at.as_path()]);
    drop(open);

    rest_when_free(&bounds, "s");
    bounds.rest("s").unwrap();
    assert_eq!(disk.mounts(), [""; 0].map(PathBuf::from));
    disk.has_devices(0);
    let kept = bounds.kept().unwrap();
    assert_eq!((kept[0].name.as_str(), &kept[0].path), ("s", &at));
    assert!(
        (Bytes::mib(8)..Bytes::mib(16)).contains(&kept[0].bytes),
        "{kept:?}"
    );

    // Another process of the same agent shows it.
    let again = disk.bounds();
    for _ in 0..2 {
        assert_eq!(again.show("s").unwrap().path, at);
        assert_eq!(fs::metadata(at.join("file")).unwrap().len(), 8 << 20);
        let error = File::create(at.join("more")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem);
        assert_eq!(disk.mounts(), [at.as_path()]);
    }
    rest_when_free(&again, "s");
    assert_eq!(again.kept().unwrap()[0].bytes, kept[0].bytes);
    // Whoever opens it has all of its room again.
    again.open("s").unwrap();
    fs::write(at.join("more"), vec![1; 40 << 20]).unwrap();
    assert!(again.kept().unwrap()[0].bytes >= SIZE);
    again.remove("s").unwrap();
    disk.is_bare();
}

#[test]
fn one_that_lives_on_elsewhere_is_shown_all_the_same() {
    let Some(disk) = TestDisk::new() else { return };
    let (bounds, at) = (disk.bounds(), disk.at("s"));
    bounds.make(&wanted("s", &at, SIZE)).unwrap();
    fs::write(at.join("file"), "seen").unwrap();
    // As layers of a container do, which have the file system and no mount of it.
    let held = File::open(at.join("file")).unwrap();
    nix::mount::umount2(&at, nix::mount::MntFlags::MNT_DETACH).unwrap();
    bounds.show("s").unwrap();
    assert_eq!(fs::read_to_string(at.join("file")).unwrap(), "seen");
    drop(held);
    rest_when_free(&bounds, "s");
    bounds.remove("s").unwrap();
    disk.is_bare();
}

#[test]
fn one_that_takes_no_writes_since_an_error_is_not_opened_until_it_is_mended() {
    let Some(disk) = TestDisk::new() else { return };
    let (bounds, at) = (disk.bounds(), disk.at("v"));
    bounds.make(&wanted("v", &at, SIZE)).unwrap();
    fs::write(at.join("file"), "kept").unwrap();
    rustix::fs::syncfs(File::open(&at).unwrap()).unwrap();
    let takes_writes = || Mounts::look().unwrap().take_writes(&at).unwrap();
    assert!(takes_writes());
    if !fail(&at) {
        return;
    }
    assert!(File::create(at.join("more")).is_err());
    for error in [
        bounds.open("v").unwrap_err(),
        bounds.grow("v", Bytes::mib(96)).unwrap_err(),
    ] {
        let said = error.to_string();
        assert!(matches!(error, BoundsError::Stopped { .. }), "{said}");
        assert!(!error.cannot_enforce());
        let mending = format!("umount {} && e2fsck -f ", at.display());
        assert!(said.contains(&mending), "{said}");
    }
    let told = bounds.check_writes("v", &Mounts::look().unwrap());
    assert!(matches!(told, Err(BoundsError::Stopped { .. })), "{told:?}");
    // What is said helps.
    unmount(&at);
    disk.has_devices(0);
    let image = disk.store().join("v/image");
    let mended = Command::new("e2fsck").arg("-fy").arg(image).output();
    assert!(mended.unwrap().status.code().is_some_and(|code| code <= 2));
    bounds.open("v").unwrap();
    assert!(takes_writes());
    let looked = Mounts::look().unwrap();
    bounds.check_writes("v", &looked).unwrap();
    assert_eq!(fs::read_to_string(at.join("file")).unwrap(), "kept");
    fs::write(at.join("more"), "more").unwrap();
    bounds.remove("v").unwrap();
    disk.is_bare();
}

/// Lets the file system of a folder find an error, as a broken disk would; false, said aloud, where this
/// kernel lets nobody.
fn fail(at: &Path) -> bool {
    let device = fs::metadata(at).unwrap().dev();
    let minor = device & 0xff | (device >> 12) & 0xfff00;
    let trigger = format!("/sys/fs/ext4/loop{minor}/trigger_fs_error");
    match fs::write(&trigger, "an error of a test") {
        Ok(()) => true,
        Err(error) => {
            eprintln!("skipped: {trigger}: {error}");
            false
        }
    }
}

#[test]
fn what_is_made_at_once_by_several_stores_leaves_the_headroom_free() {
    const HEADROOM: Bytes = Bytes::mib(40);
    const EACH: Bytes = Bytes::mib(16);
    let Some(disk) = TestDisk::new() else { return };
    // A small disk in a disk, with two agents on it.
    let small = disk.at("small");
    let size = Bytes::mib(160);
    disk.bounds().make(&wanted("small", &small, size)).unwrap();
    let store = |name: &str| {
        Bounds::new(Settings {
            store: small.join(format!("{name}-store")),
            places: vec![small.join(name)],
            ..settings_in(&small, HEADROOM)
        })
        .unwrap()
    };
    let stores = ["one", "two"].map(store);
    let make = |number: usize| {
        let which = number % 2;
        let name = number.to_string();
        let at = small.join(["one", "two"][which]).join(&name);
        match stores[which].make(&wanted(&name, &at, EACH)) {
            Ok(_) => true,
            Err(BoundsError::Full { .. }) => false,
            Err(error) => panic!("{error:?}"),
        }
    };
    let made: Vec<bool> = thread::scope(|scope| {
        let makers: Vec<_> = (0..12).map(|it| scope.spawn(move || make(it))).collect();
        makers.into_iter().map(|it| it.join().unwrap()).collect()
    });
    let free = rustix::fs::statvfs(&small).unwrap();
    let free = free.f_bavail * free.f_frsize;
    let count = made.iter().filter(|made| **made).count();
    for (number, _) in made.iter().enumerate().filter(|(_, made)| **made) {
        stores[number % 2].remove(&number.to_string()).unwrap();
    }
    for bounds in &stores {
        assert_eq!(bounds.sweep().unwrap(), [""; 0]);
        bounds.release().unwrap();
    }
    disk.bounds().remove("small").unwrap();
    disk.is_bare();
    // Tables and folders take a little besides.
    let least = HEADROOM.0 - (1 << 20);
    assert!(free >= least, "{free} is free");
    assert!(free < least + 2 * EACH.0, "{free} is free after {count}");
}

#[test]
fn nothing_is_laid_to_rest_or_shown_that_is_not_there() {
    let Some(disk) = TestDisk::new() else { return };
    let bounds = bounds_in(disk.path(), Bytes(0));
    for error in [bounds.rest("s").unwrap_err(), bounds.show("s").unwrap_err()] {
        assert!(matches!(error, BoundsError::Unknown(_)), "{error}");
    }
    assert_eq!(bounds.kept().unwrap(), []);
}
