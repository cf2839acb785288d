//! What the mounts of a container show: its sandbox, secrets, images, devices.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use tepui_executor::runtime::Runtime;
use tepui_types::Digest;
use tepui_types::wire::executor::{
    DeviceMount, DeviceNode, ImageConfig, LocalDevices, LocalImage, TaskUpdate,
};

use crate::containers::{IMAGE, finished, image, runtimes};
use crate::env::{Builder, Executor, check};

/// Runs a script as the image's user `web`, with these mounts.
fn run_with(
    executor: &mut Executor,
    mounts: &str,
    script: &str,
    more: impl FnOnce(Builder) -> Builder,
) -> TaskUpdate {
    let dir = tempfile::tempdir().unwrap();
    let container = format!(r#"{{"image": "test", "user": "web", "mounts": [{mounts}]}}"#);
    let builder = Builder::script("task", script).container(&container);
    executor.launch(more(
        builder.image(image(dir.path(), ImageConfig::default())),
    ));
    executor.end("task")
}

#[test]
fn what_lies_in_the_sandbox_and_in_volumes_is_found_elsewhere_too() {
    for runtime in runtimes() {
        let Some(mut executor) = Executor::container(runtime) else {
            return;
        };
        let sandbox = executor.task_dir("task").join("sandbox");
        fs::create_dir_all(sandbox.join("fetched")).unwrap();
        fs::write(sandbox.join("fetched/file"), "fetched\n").unwrap();
        symlink("fetched", sandbox.join("link")).unwrap();
        let volumes = tempfile::tempdir().unwrap();
        let folder = volumes.path().join("7.0");
        let mounts = r#"{"path": "/up", "source": {"sandbox": "all"}, "read_only": true},
                        {"path": "/a", "source": {"sandbox": "fetched"}, "read_only": true},
                        {"path": "/b/c", "source": {"sandbox": "link/file"}},
                        {"path": "/var/lib/db", "source": {"sandbox": "all/data"}}"#;
        let script = "cat /a/file /b/c; touch /a/no && echo written; echo kept > /var/lib/db/file; \
                      cat $TEPUI_SANDBOX/all/data/file /up/data/file; touch /up/data/no && echo written; \
                      true";
        let end = run_with(&mut executor, mounts, script, |builder| {
            builder.volume(&folder, "all/data")
        });
        finished(&executor, &end);
        let out = executor.output("task", "stdout");
        assert_eq!(out, "fetched\nfetched\nkept\nkept\n");
        assert_eq!(fs::read_to_string(folder.join("file")).unwrap(), "kept\n");
    }
}

#[test]
fn a_new_volume_is_its_containers_users_and_one_in_use_stays_as_it_is() {
    let volumes = tempfile::tempdir().unwrap();
    for (name, file, owner) in [("new", None, 33), ("used", Some("file"), 0)] {
        let Some(mut executor) = Executor::container(Runtime::BuiltIn) else {
            return;
        };
        let folder = volumes.path().join(name);
        fs::create_dir(&folder).unwrap();
        // Of a file system of its own.
        fs::create_dir(folder.join("lost+found")).unwrap();
        if let Some(file) = file {
            fs::write(folder.join(file), "").unwrap();
        }
        let script = "touch $TEPUI_SANDBOX/data/own && echo well; true";
        let end = run_with(&mut executor, "", script, |builder| {
            builder.volume(&folder, "data")
        });
        finished(&executor, &end);
        assert_eq!(fs::metadata(&folder).unwrap().uid(), owner, "{name}");
        let is_well = executor.output("task", "stdout") == "well\n";
        assert_eq!(is_well, owner == 33, "{name}");
    }
}

#[test]
fn a_secret_is_a_file_of_its_user_alone_and_never_on_a_disk() {
    for runtime in runtimes() {
        let Some(mut executor) = Executor::container(runtime) else {
            return;
        };
        let secrets = tempfile::tempdir().unwrap();
        let file = secrets.path().join("1");
        fs::write(&file, "hush").unwrap();
        let mounts = r#"{"path": "/run/key", "source": {"secret": "tls.key"}}"#;
        let script = "cat /run/key; echo; ls -l -n /run/key; echo > /run/key && echo written; cat \
                      /proc/self/mountinfo";
        let end = run_with(&mut executor, mounts, script, |builder| {
            builder.secret("tls.key", &file)
        });
        finished(&executor, &end);
        let out = executor.output("task", "stdout");
        let lines: Vec<_> = out.lines().collect();
        assert_eq!(lines[0], "hush");
        let fields: Vec<_> = lines[1].split_whitespace().collect();
        assert_eq!(
            (fields[0], fields[2], fields[3]),
            ("-r--------", "33", "34")
        );
        let mount = lines.iter().find(|line| line.contains(" /run/key "));
        assert!(mount.unwrap().contains("- tmpfs "), "{out}");
        assert!(!lines.contains(&"written"), "{out}");
        let kept = executor.task_dir("task").join("container/secrets");
        assert_eq!(fs::read_dir(kept).unwrap().count(), 0);
    }
}

#[test]
fn another_images_files_are_seen_and_not_written_to() {
    for runtime in runtimes() {
        let Some(mut executor) = Executor::container(runtime) else {
            return;
        };
        let dir = tempfile::tempdir().unwrap();
        for (layer, file) in [("low", "a"), ("low", "b"), ("high", "b")] {
            fs::create_dir_all(dir.path().join(layer)).unwrap();
            fs::write(dir.path().join(layer).join(file), layer).unwrap();
        }
        let layers = ["low", "high"].map(|layer| dir.path().join(layer));
        let tools = LocalImage {
            digest: Digest::of(b"tools"),
            layers: layers.map(|path| path.to_str().unwrap().to_owned()).into(),
            config: ImageConfig::default(),
        };
        let mounts = r#"{"path": "/tools", "source": {"image": "tools:1"}}"#;
        let script = "cat /tools/a; echo; cat /tools/b; echo; touch /tools/c && echo written; true";
        let end = run_with(&mut executor, mounts, script, |builder| {
            builder.other_image("tools:1", tools)
        });
        finished(&executor, &end);
        assert_eq!(executor.output("task", "stdout"), "low\nhigh\n");
    }
}

/// A file system in memory at a folder, until this is dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn at(folder: PathBuf) -> Self {
        fs::create_dir(&folder).unwrap();
        let (kind, nothing) = (Some("tmpfs"), None::<&str>);
        mount(kind, &folder, kind, MsFlags::empty(), nothing).unwrap();
        Self(folder)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).unwrap();
    }
}

/// runc as it was before it knew mounts that are read-only with all below them.
fn runtime_of_old(dir: &Path) -> Option<Runtime> {
    let script = "#!/bin/sh\nfor last; do case $before in --bundle) sed -i 's/\"rro\"/\"relatime\"/'  \
                  $last/config.json;; esac; before=$last; done\nexec /usr/sbin/runc \"$@\"\n";
    let path = dir.join("runc");
    let mut options = fs::OpenOptions::new();
    let options = options.write(true).create(true).mode(0o755);
    // Closed before it is executed.
    options
        .open(&path)
        .unwrap()
        .write_all(script.as_bytes())
        .unwrap();
    Path::new("/usr/sbin/runc")
        .exists()
        .then_some(Runtime::Program(path))
}

#[test]
fn a_mount_of_the_machine_is_read_only_and_without_devices_to_its_last_part() {
    let dir = tempfile::tempdir().unwrap();
    for runtime in runtimes().into_iter().chain(runtime_of_old(dir.path())) {
        let Some(mut executor) = Executor::container(runtime) else {
            return;
        };
        let machine = tempfile::tempdir().unwrap();
        let below = Mounted::at(machine.path().join("below"));
        fs::write(below.0.join("file"), "").unwrap();
        let host = machine.path().to_str().unwrap();
        let mounts = format!(
            r#"{{"path": "/ro", "source": {{"host": "{host}"}}, "read_only": true}},
               {{"path": "/rw", "source": {{"host": "{host}"}}}}"#
        );
        let script = "for place in /ro /ro/below /rw/below; do touch $place/new && echo $place; done; \
                      cat /proc/self/mountinfo";
        let container = format!(r#"{{"image": "test", "mounts": [{mounts}]}}"#);
        let images = tempfile::tempdir().unwrap();
        let builder = Builder::script("task", script).container(&container);
        let image = image(images.path(), ImageConfig::default());
        executor.launch(builder.image(image));
        let end = executor.end("task");
        finished(&executor, &end);
        let out = executor.output("task", "stdout");
        assert_eq!(out.lines().next(), Some("/rw/below"), "{out}");
        for place in ["/ro", "/ro/below", "/rw", "/rw/below"] {
            let place = format!(" {place} ");
            let line = out.lines().find(|line| line.contains(&place)).unwrap();
            let options = line.split(' ').nth(5).unwrap();
            assert!(
                options.contains("nodev") && options.contains("nosuid"),
                "{line}"
            );
        }
    }
}

#[test]
fn what_cannot_be_mounted_is_refused_by_name() {
    let large = tempfile::NamedTempFile::new().unwrap();
    large.as_file().set_len(1024 * 1024 + 1).unwrap();
    let cases = [
        (r#"{"sandbox": "none"}"#, "nothing lies at `none`"),
        (r#"{"sandbox": "up/x"}"#, "`up/x` leads out of the sandbox"),
        (r#"{"secret": "none"}"#, "the secret `none` is not there"),
        (
            r#"{"secret": "large"}"#,
            "the secret `large` is above 1 MiB",
        ),
        (r#"{"image": "none:1"}"#, "`none:1` was not prepared"),
    ];
    for (source, words) in cases {
        let Some(mut executor) = Executor::container(Runtime::BuiltIn) else {
            return;
        };
        let sandbox = executor.task_dir("task").join("sandbox");
        fs::create_dir_all(&sandbox).unwrap();
        symlink("/etc", sandbox.join("up")).unwrap();
        let mounts = format!(r#"{{"path": "/x", "source": {source}}}"#);
        let end = run_with(&mut executor, &mounts, "true", |builder| {
            builder.secret("large", large.path())
        });
        check(&end, "error", "container-refused", None, words);
    }
}

/// A device that no container has unless it is given.
fn kmsg() -> LocalDevices {
    LocalDevices {
        env: vec![("GIVEN".into(), "kmsg".into())],
        nodes: vec![DeviceNode {
            path: "/dev/given".into(),
            host_path: "/dev/kmsg".into(),
            is_block: false,
            major: 1,
            minor: 11,
        }],
        mounts: vec![DeviceMount {
            host_path: "/usr/share/common-licenses".into(),
            path: "/usr/lib/given".into(),
        }],
        ..LocalDevices::default()
    }
}

#[test]
fn a_task_has_the_devices_that_it_was_given() {
    for runtime in runtimes() {
        let Some(mut executor) = Executor::container(runtime) else {
            return;
        };
        let dir = tempfile::tempdir().unwrap();
        let script = "echo $GIVEN; test -c /dev/given && (: > /dev/given) && echo open; test -d \
                      /usr/lib/given && echo there; touch /usr/lib/given/x && echo written; true";
        let builder = Builder::script("task", script).container(IMAGE);
        let image = image(dir.path(), ImageConfig::default());
        executor.launch(builder.image(image).devices(kmsg()));
        let end = executor.end("task");
        finished(&executor, &end);
        assert_eq!(executor.output("task", "stdout"), "kmsg\nopen\nthere\n");
    }
    let mut executor = Executor::native();
    executor.launch(Builder::script("t", "echo $GIVEN").devices(kmsg()));
    check(&executor.end("t"), "finished", "", Some(0), "");
    assert_eq!(executor.output("t", "stdout"), "kmsg\n");
}

#[test]
fn a_container_opens_no_device_that_it_finds_outside_its_own_dev() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let in_images = runtimes().into_iter().map(|runtime| (runtime, IMAGE));
    for (runtime, container) in in_images.chain([(Runtime::BuiltIn, "{}")]) {
        let Some(mut executor) = Executor::container(runtime) else {
            return;
        };
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let image = image(dir.path(), ImageConfig::default());
        let sandbox = executor.task_dir("task").join("sandbox");
        fs::create_dir_all(&sandbox).unwrap();
        let base = dir.path().join("base");
        for folder in [&sandbox, &base] {
            let kmsg = makedev(1, 11);
            mknod(&folder.join("kmsg"), SFlag::S_IFCHR, Mode::all(), kmsg).unwrap();
        }
        // The image's root, or its folder on the machine.
        let script = format!(
            "for node in $TEPUI_SANDBOX/kmsg /kmsg {}/kmsg; do if test -c $node; then echo \
                 found; (: > $node) && echo open; fi; done; true",
            base.display()
        );
        let mut builder = Builder::script("task", &script).container(container);
        if container == IMAGE {
            builder = builder.image(image);
        }
        executor.launch(builder);
        let end = executor.end("task");
        finished(&executor, &end);
        let out = executor.output("task", "stdout");
        assert_eq!(out, "found\nfound\n", "{container}");
    }
}
