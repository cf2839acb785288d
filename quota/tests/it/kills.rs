//! Kills (SIGKILL) between any two steps: a process of this test's own dies just before its n-th step,
//! for every n until it comes through, and another one goes on with what is left.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use nix::sys::signal::{Signal, raise};
use tepui_quota::{Bounds, BoundsError, Way};
use tepui_types::Bytes;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::disk::{TestDisk, bounds_in, rest_when_free, wanted};

/// For the process that dies: in which folder, what it does, and before which step it is killed.
const VICTIM: &str = "TEPUI_TEST_VICTIM";
const BEFORE: Bytes = Bytes::mib(32);
const AFTER: Bytes = Bytes::mib(48);

#[test]
fn a_folder_half_made_is_gone_or_whole_after_a_kill() {
    const NAME: &str = "kills::a_folder_half_made_is_gone_or_whole_after_a_kill";
    if is_victim(|bounds, dir| bounds.make(&wanted("v", &dir.join("volumes/v"), BEFORE))) {
        return;
    }
    let steps = kill_at_each_step(
        TestDisk::new,
        NAME,
        |_| {},
        |disk| {
            let bounds = disk.bounds();
            match bounds.sweep().unwrap().as_slice() {
                [] => {
                    assert!(bounds.open("v").is_err());
                    assert!(fs::read_dir(disk.store()).unwrap().next().is_none());
                }
                names => {
                    assert_eq!(names, ["v"]);
                    bounds.open("v").unwrap();
                }
            }
            let at = disk.at("v");
            assert_eq!(
                bounds.make(&wanted("v", &at, BEFORE)).unwrap().bytes,
                BEFORE
            );
            assert_eq!(disk.mounts(), [at.as_path()]);
            fs::write(at.join("file"), "written").unwrap();
        },
    );
    assert!(steps >= 7, "{steps}");
}

#[test]
fn a_folder_half_grown_keeps_all_it_has_after_a_kill() {
    const NAME: &str = "kills::a_folder_half_grown_keeps_all_it_has_after_a_kill";
    if is_victim(|bounds, _| bounds.grow("v", AFTER)) {
        return;
    }
    let before = |disk: &TestDisk| {
        let at = disk.at("v");
        disk.bounds().make(&wanted("v", &at, BEFORE)).unwrap();
        fs::write(at.join("file"), "kept").unwrap();
    };
    let steps = kill_at_each_step(TestDisk::new, NAME, before, |disk| {
        let bounds = disk.bounds();
        assert_eq!(bounds.sweep().unwrap(), ["v"]);
        let found = bounds.open("v").unwrap().bytes;
        assert!([BEFORE, AFTER].contains(&found), "{found}");
        let room = bounds.usage("v").unwrap().unwrap();
        assert_eq!(found == AFTER, room.size.bytes > BEFORE, "{room:?}");
        assert_eq!(bounds.grow("v", AFTER).unwrap().bytes, AFTER);
        assert!(bounds.usage("v").unwrap().unwrap().size.bytes > BEFORE);
        assert_eq!(
            fs::read_to_string(disk.at("v").join("file")).unwrap(),
            "kept"
        );
    });
    assert!(steps >= 4, "{steps}");
}

#[test]
fn a_folder_half_removed_is_never_had_again_after_a_kill() {
    const NAME: &str = "kills::a_folder_half_removed_is_never_had_again_after_a_kill";
    if is_victim(|bounds, _| bounds.remove("v")) {
        return;
    }
    let before = |disk: &TestDisk| {
        let at = disk.at("v");
        disk.bounds().make(&wanted("v", &at, BEFORE)).unwrap();
        fs::write(at.join("file"), "doomed").unwrap();
    };
    let steps = kill_at_each_step(TestDisk::new, NAME, before, |disk| {
        let bounds = disk.bounds();
        match bounds.sweep().unwrap().as_slice() {
            // It was not recorded yet.
            [name] => assert!(name == "v" && disk.at("v").join("file").exists()),
            left => assert_eq!(left, [""; 0]),
        }
        bounds.remove("v").unwrap();
        disk.is_bare();
    });
    assert!(steps >= 4, "{steps}");
}

#[test]
fn a_folder_half_laid_to_rest_keeps_all_it_has_after_a_kill() {
    const NAME: &str = "kills::a_folder_half_laid_to_rest_keeps_all_it_has_after_a_kill";
    if is_victim(|bounds, _| bounds.rest("v").and_then(|()| bounds.show("v"))) {
        return;
    }
    let before = |disk: &TestDisk| {
        let at = disk.at("v");
        disk.bounds().make(&wanted("v", &at, BEFORE)).unwrap();
        fs::write(at.join("file"), "kept").unwrap();
    };
    let steps = kill_at_each_step(TestDisk::new, NAME, before, |disk| {
        let bounds = disk.bounds();
        assert_eq!(bounds.sweep().unwrap(), ["v"]);
        rest_when_free(&bounds, "v");
        assert!(disk.mounts().is_empty());
        disk.has_devices(0);
        bounds.show("v").unwrap();
        assert_eq!(
            fs::read_to_string(disk.at("v").join("file")).unwrap(),
            "kept"
        );
    });
    assert!(steps >= 5, "{steps}");
}

#[test]
fn a_project_half_made_or_half_removed_is_mended_after_a_kill() {
    const NAME: &str = "kills::a_project_half_made_or_half_removed_is_mended_after_a_kill";
    let made_and_removed = |bounds: &Bounds, dir: &Path| {
        bounds.make(&wanted("v", &dir.join("volumes/v"), BEFORE))?;
        fs::write(dir.join("volumes/v/file"), "doomed").unwrap();
        bounds.remove("v")
    };
    if is_victim(made_and_removed) {
        return;
    }
    let first = AtomicU32::new(0);
    let steps = kill_at_each_step(
        || TestDisk::with_projects("ext4"),
        NAME,
        |_| {},
        |disk| {
            let bounds = disk.bounds();
            for name in bounds.sweep().unwrap() {
                bounds.remove(&name).unwrap();
            }
            let made = bounds.make(&wanted("v", &disk.at("v"), BEFORE)).unwrap();
            let Way::Project(id) = made.way else {
                panic!("{:?}", made.way)
            };
            // Had again, so nothing was left under it.
            let before = first.swap(id, Ordering::Relaxed);
            assert!([0, id].contains(&before), "{before} {id}");
            assert_eq!(bounds.usage("v").unwrap().unwrap().used.inodes, 1);
        },
    );
    assert!(steps >= 8, "{steps}");
}

/// Lets a process do it and die, before its first step, its second, and so on until it comes through;
/// answers how many steps it has. `check` sees what is left each time.
fn kill_at_each_step(
    disk: fn() -> Option<TestDisk>,
    test: &str,
    before: impl Fn(&TestDisk),
    check: impl Fn(&TestDisk),
) -> usize {
    for step in 0.. {
        let Some(disk) = disk() else {
            return usize::MAX;
        };
        before(&disk);
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(VICTIM, format!("{step} {}", disk.path().display()))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let killed = output.status.signal() == Some(Signal::SIGKILL as i32);
        assert!(killed || output.status.success(), "step {step}: {said}");
        check(&disk);
        disk.bounds().remove("v").unwrap();
        disk.is_bare_of_folders();
        if !killed {
            return step;
        }
    }
    unreachable!("steps end")
}

/// In the process that is to die: does it, with a kill on the way; then this is true.
fn is_victim<T>(act: impl FnOnce(&Bounds, &Path) -> Result<T, BoundsError>) -> bool {
    let Ok(order) = std::env::var(VICTIM) else {
        return false;
    };
    let (step, dir) = order.split_once(' ').unwrap();
    let killer = Killer {
        left: AtomicUsize::new(step.parse().unwrap()),
    };
    let dir = Path::new(dir);
    let bounds = bounds_in(dir, Bytes(0));
    tracing::subscriber::with_default(killer, || act(&bounds, dir)).unwrap();
    true
}

/// Kills its own process when it is told of a step and has let so many pass.
struct Killer {
    left: AtomicUsize,
}

impl Subscriber for Killer {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "tepui_quota::step"
    }

    fn event(&self, _: &Event<'_>) {
        if self.left.fetch_sub(1, Ordering::Relaxed) == 0 {
            raise(Signal::SIGKILL).unwrap();
        }
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
