//! Commands in containers: what they see, what they may do, what they leave.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use tepui_executor::cgroup;
use tepui_executor::runtime::Runtime;
use tepui_types::task::TaskState;
use tepui_types::wire::executor::{ImageConfig, LocalImage, TaskUpdate, ToExecutor};
use tepui_types::{Bytes, Digest};

use crate::env::{Builder, Executor, check, eventually, task};

/// The shell of the images; Debian's busybox-static.
const BUSYBOX: &str = "/bin/busybox";
const TOOLS: [&str; 13] = [
    "sh", "cat", "echo", "ls", "sleep", "id", "mount", "mknod", "kill", "touch", "hostname", "pwd",
    "true",
];

/// An image of two layers below `dir`: the shell and users, then what the second adds.
pub fn image(dir: &Path, config: ImageConfig) -> LocalImage {
    let layers = ["base", "top"].map(|name| dir.join(name));
    for folder in ["base/bin", "base/etc", "base/lost", "top/etc", "top/srv"] {
        fs::create_dir_all(dir.join(folder)).unwrap();
    }
    fs::copy(BUSYBOX, layers[0].join("bin/busybox")).expect("busybox-static is installed");
    for tool in TOOLS {
        symlink("busybox", layers[0].join("bin").join(tool)).unwrap();
    }
    fs::write(
        layers[0].join("etc/passwd"),
        "root:x:0:0::/root:\nweb:x:33:34::/srv:\n",
    )
    .unwrap();
    fs::write(
        layers[0].join("etc/group"),
        "root:x:0:\nwww:x:34:\nlogs:x:40:web\n",
    )
    .unwrap();
    fs::write(layers[0].join("lost/file"), "base").unwrap();
    fs::write(layers[1].join("etc/motd"), "top").unwrap();
    LocalImage {
        digest: Digest::of(b"an image"),
        layers: layers.map(|path| path.to_str().unwrap().to_owned()).into(),
        config,
    }
}

/// What a script in a container of that image writes, and its end.
pub fn run_in(
    executor: &mut Executor,
    container: &str,
    config: ImageConfig,
    script: &str,
) -> (TaskUpdate, String) {
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path(), config);
    let builder = Builder::script("task", script)
        .container(container)
        .image(image);
    executor.launch(builder);
    let end = executor.end("task");
    (end, executor.output("task", "stdout"))
}

#[track_caller]
pub fn finished(executor: &Executor, end: &TaskUpdate) {
    let errors = executor.output("task", "stderr");
    assert_eq!(end.state, TaskState::Finished, "{:?} {errors}", end.reason);
}

/// A container of that image.
pub const IMAGE: &str = r#"{"image": "test"}"#;

#[test]
fn an_image_is_all_that_its_container_sees() {
    let Some(mut executor) = Executor::container(Runtime::BuiltIn) else {
        return;
    };
    let script = "echo $$; cat /etc/motd /lost/file; echo; ls /; id -u; pwd; hostname; \
                  echo $TEPUI_SANDBOX; echo own > $TEPUI_SANDBOX/file; touch /new; cat \
                  /etc/hostname";
    let (end, out) = run_in(&mut executor, IMAGE, ImageConfig::default(), script);
    finished(&executor, &end);
    assert!(end.usage.unwrap().cpu_micros > 0);
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(&lines[..2], ["1", "topbase"], "{out}");
    assert!(!lines.contains(&"usr") && lines.contains(&"bin"), "{out}");
    assert!(
        lines.ends_with(&["0", "/", "task", "/mnt/tepui/sandbox", "task"]),
        "{out}"
    );
    let sandbox = executor.task_dir("task").join("sandbox");
    assert_eq!(fs::read_to_string(sandbox.join("file")).unwrap(), "own\n");
}

#[test]
fn an_image_says_how_it_is_run_and_the_task_has_the_last_word() {
    let config = || ImageConfig {
        entrypoint: vec!["sh".into(), "-c".into()],
        cmd: vec![
            "echo of-image $A $B; pwd; id -u; id -g; id -G; echo $HOME; touch $TEPUI_SANDBOX/own"
                .into(),
        ],
        env: vec!["A=1".into(), "B=2".into()],
        user: "web".into(),
        working_dir: "/srv/deep".into(),
        stop_signal: None,
    };
    let Some(mut executor) = Executor::container(Runtime::BuiltIn) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let builder = Builder::command("task", &[]).container(IMAGE).env("B", "3");
    executor.launch(builder.image(image(dir.path(), config())));
    let end = executor.end("task");
    finished(&executor, &end);
    let out = executor.output("task", "stdout");
    assert_eq!(out, "of-image 1 3\n/srv/deep\n33\n34\n34 40\n/srv\n");

    let mut executor = Executor::container(Runtime::BuiltIn).unwrap();
    let container =
        r#"{"image": "test", "entrypoint": ["echo", "own"], "user": "0:33", "workdir": "/bin"}"#;
    let builder = Builder::command("task", &["argument"]).container(container);
    let dir = tempfile::tempdir().unwrap();
    executor.launch(builder.image(image(dir.path(), config())));
    let end = executor.end("task");
    finished(&executor, &end);
    assert_eq!(executor.output("task", "stdout"), "own argument\n");
}

#[test]
fn what_a_container_writes_is_its_own_and_goes_with_it() {
    let Some(mut executor) = Executor::container(Runtime::BuiltIn) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let builder = Builder::script("task", "echo changed > /lost/file; cat /lost/file");
    executor.launch(
        builder
            .container(IMAGE)
            .image(image(dir.path(), ImageConfig::default())),
    );
    let end = executor.end("task");
    finished(&executor, &end);
    assert_eq!(executor.output("task", "stdout"), "changed\n");
    assert_eq!(
        fs::read_to_string(dir.path().join("base/lost/file")).unwrap(),
        "base"
    );
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let below = executor.task_dir("task");
    assert!(!mounts.contains(below.to_str().unwrap()), "{mounts}");
}

#[test]
fn a_read_only_root_leaves_the_sandbox_and_tmp() {
    let Some(mut executor) = Executor::container(Runtime::BuiltIn) else {
        return;
    };
    let script = "touch /new && echo root; touch /tmp/a $TEPUI_SANDBOX/a && echo rest";
    let container = r#"{"image": "test", "read_only": true}"#;
    let (end, out) = run_in(&mut executor, container, ImageConfig::default(), script);
    finished(&executor, &end);
    assert_eq!(out, "rest\n");
    assert!(executor.output("task", "stderr").contains("Read-only"));
}

#[test]
fn without_an_image_the_machine_is_seen_and_can_be_kept_as_it_is() {
    let Some(mut executor) = Executor::container(Runtime::BuiltIn) else {
        return;
    };
    let outside = tempfile::tempdir_in("/var/tmp").unwrap();
    let path = outside.path().to_str().unwrap();
    let token = executor.dir().join("token");
    let script = format!(
        "echo $$ $PWD; test -x /usr/bin/env && echo machine; touch {path}/a && echo written; touch \
         a /tmp/a && echo own; test -e /tmp/.. && cat {} && echo told; true",
        token.display()
    );
    let container = r#"{"read_only": true}"#;
    executor.launch(Builder::script("task", &script).container(container));
    let end = executor.end("task");
    finished(&executor, &end);
    let sandbox = executor.task_dir("task").join("sandbox");
    let out = executor.output("task", "stdout");
    assert_eq!(out, format!("1 {}\nmachine\nown\n", sandbox.display()));
    assert!(sandbox.join("a").is_file());
    assert!(!outside.path().join("a").exists());
}

#[test]
fn a_container_has_no_power_over_its_machine() {
    for runtime in runtimes() {
        let Some(mut executor) = Executor::container(runtime) else {
            return;
        };
        let script = "mount -t tmpfs none /srv 2>/dev/null && echo mounted; mknod /disk b 8 0 \
                      2>/dev/null && echo device; echo 1 > /proc/sys/kernel/sysrq && echo sysrq; \
                      hostname other 2>/dev/null && echo named; kill -9 -1; cat /proc/1/status";
        let (end, out) = run_in(&mut executor, IMAGE, ImageConfig::default(), script);
        finished(&executor, &end);
        for power in ["mounted", "device", "sysrq", "named"] {
            assert!(!out.contains(power), "{out}");
        }
        let field = |name: &str| {
            let line = out.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("{name} in {out}"))
                .trim()
                .to_owned()
        };
        assert_eq!(field("NoNewPrivs:"), "1");
        assert_eq!(field("Seccomp:"), "2");
        assert_eq!(field("CapBnd:"), "00000000800405fb");
        assert_eq!(field("CapEff:"), "00000000800405fb");
        assert_eq!(field("SigBlk:"), "0000000000000000");
    }
}

/// The built-in one, and what else is installed.
pub fn runtimes() -> Vec<Runtime> {
    let mut runtimes = vec![Runtime::BuiltIn];
    // Debian's runc, where it is installed.
    let runc = Path::new("/usr/sbin/runc");
    if runc.exists() {
        runtimes.push(Runtime::Program(runc.to_owned()));
    }
    runtimes
}

#[test]
fn mounts_limits_and_the_network_are_as_asked() {
    for runtime in runtimes() {
        let Some(mut executor) = Executor::container(runtime) else {
            return;
        };
        let given = tempfile::tempdir().unwrap();
        fs::write(given.path().join("in"), "given").unwrap();
        let host = given.path().to_str().unwrap();
        let container = format!(
            r#"{{"image": "test", "network": "none", "hostname": "db.example",
                "rlimits": {{"nofile": {{"soft": 77, "hard": 78}}}},
                "read_only_paths": ["/srv"],
                "mounts": [{{"path": "/rw", "source": {{"host": "{host}"}}}},
                           {{"path": "/ro", "source": {{"host": "{host}"}}, "read_only": true}},
                           {{"path": "/mem", "source": {{"tmpfs": 65536}}}}]}}"#
        );
        let script = "cat /ro/in; echo; touch /ro/x && echo ro; touch /srv/x && echo srv; echo out > \
                      /rw/out; cat /dev/zero > /mem/fill; hostname; ulimit -n; ulimit -Hn; ls \
                      /sys/class/net";
        let (end, out) = run_in(&mut executor, &container, ImageConfig::default(), script);
        finished(&executor, &end);
        assert_eq!(out, "given\ndb.example\n77\n78\nlo\n");
        let errors = executor.output("task", "stderr");
        assert!(errors.contains("No space left"), "{errors}");
        assert_eq!(
            fs::read_to_string(given.path().join("out")).unwrap(),
            "out\n"
        );
    }
}

#[test]
fn a_network_of_its_own_has_loopback() {
    for runtime in runtimes() {
        let Some(mut executor) = Executor::container(runtime) else {
            return;
        };
        let container = r#"{"image": "test", "network": "none"}"#;
        // Nobody listens there, which is for the network to say.
        let script = "ls /sys/class/net; cat /sys/class/net/lo/flags; busybox nc 127.0.0.1 9 2>&1";
        let (end, out) = run_in(&mut executor, container, ImageConfig::default(), script);
        assert_eq!(end.exit_code, Some(1), "{:?} {out}", end.reason);
        assert!(out.starts_with("lo\n0x9\n"), "{out}");
        assert!(out.contains("refused"), "{out}");
    }
}

#[test]
fn the_machines_tree_is_a_root_whichever_namespaces_are_the_machines() {
    let cases = [
        "{}",
        r#"{"read_only": true}"#,
        r#"{"share": ["pid", "ipc", "uts"]}"#,
        r#"{"share": ["pid"], "network": "none"}"#,
    ];
    for runtime in runtimes() {
        for container in cases {
            let Some(mut executor) = Executor::container(runtime.clone()) else {
                return;
            };
            // Nothing but its own is mounted there, and it shows what is the container's.
            let script = "for kind in proc sysfs; do grep -c \" - $kind $kind \" /proc/self/mountinfo; \
                          done; LC_ALL=C ls /sys/class/net; test -e /proc/$$/fd && echo own";
            executor.launch(Builder::script("task", script).container(container));
            let end = executor.end("task");
            finished(&executor, &end);
            let out = executor.output("task", "stdout");
            let devices = match container.contains("none") {
                true => "lo\n".to_owned(),
                false => devices_of_machine(),
            };
            assert!(
                out.ends_with(&format!("{devices}own\n")),
                "{container}: {out}"
            );
        }
    }
}

/// As `ls` shows them.
fn devices_of_machine() -> String {
    let entries = fs::read_dir("/sys/class/net").unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names.join("\n") + "\n"
}

#[test]
fn another_runtime_says_what_cannot_be_executed_in_its_own_words() {
    let others = runtimes().into_iter();
    for runtime in others.filter(|runtime| *runtime != Runtime::BuiltIn) {
        for (program, words) in [
            (
                "no-such-program",
                "exec: \"no-such-program\": executable file not found",
            ),
            (
                "/no/such",
                "exec: \"/no/such\": stat /no/such: no such file",
            ),
            ("/etc/motd", "exec: \"/etc/motd\": permission denied"),
        ] {
            let Some(mut executor) = Executor::container(runtime.clone()) else {
                return;
            };
            let dir = tempfile::tempdir().unwrap();
            let image = image(dir.path(), ImageConfig::default());
            executor.launch(
                Builder::command("task", &[program])
                    .container(IMAGE)
                    .image(image),
            );
            let end = executor.end("task");
            check(&end, "error", "command-failed", None, words);
            assert!(end.reason.unwrap().message.starts_with("exec: "));
        }
    }
}

#[test]
fn what_cannot_be_executed_is_said_in_words() {
    let cases = [
        (
            &["no-such-program"][..],
            "`no-such-program` was not found in PATH",
        ),
        (
            &["/etc/motd"],
            "`/etc/motd` cannot be executed: Permission denied",
        ),
        (&["/srv"], "Is a directory"),
        (
            &["/bin/foreign"],
            "neither a program of this machine's architecture",
        ),
    ];
    for (argv, words) in cases {
        let Some(mut executor) = Executor::container(Runtime::BuiltIn) else {
            return;
        };
        let dir = tempfile::tempdir().unwrap();
        let image = image(dir.path(), ImageConfig::default());
        let foreign = dir.path().join("base/bin/foreign");
        fs::copy(BUSYBOX, &foreign).unwrap();
        let mut bytes = fs::read(&foreign).unwrap();
        // The ELF header's machine: something that nobody has.
        bytes[18] = 0xfe;
        fs::write(&foreign, bytes).unwrap();
        executor.launch(Builder::command("task", argv).container(IMAGE).image(image));
        check(
            &executor.end("task"),
            "error",
            "command-failed",
            None,
            words,
        );
    }
    let Some(mut executor) = Executor::container(Runtime::BuiltIn) else {
        return;
    };
    let container = r#"{"image": "test", "user": "eve"}"#;
    let (end, _) = run_in(&mut executor, container, ImageConfig::default(), "true");
    check(&end, "error", "command-failed", None, "no user `eve`");
    let mut executor = Executor::container(Runtime::BuiltIn).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let silent = image(dir.path(), ImageConfig::default());
    executor.launch(Builder::command("task", &[]).container(IMAGE).image(silent));
    check(
        &executor.end("task"),
        "error",
        "command-failed",
        None,
        "neither entrypoint nor command",
    );
}

#[test]
fn a_first_process_that_hears_nothing_is_not_waited_for() {
    let Some(mut executor) = Executor::container(Runtime::BuiltIn) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path(), ImageConfig::default());
    executor.launch(
        Builder::command("task", &["sleep", "1000"])
            .container(IMAGE)
            .image(image),
    );
    assert_eq!(executor.update().state, TaskState::Running);
    executor.kill("task", 3_600_000);
    check(
        &executor.end("task"),
        "killed",
        "kill-requested",
        None,
        "SIGKILL",
    );
}

#[test]
fn the_images_own_signal_asks_for_its_end() {
    let Some(mut executor) = Executor::container(Runtime::BuiltIn) else {
        return;
    };
    let config = ImageConfig {
        stop_signal: Some("SIGUSR1".into()),
        ..ImageConfig::default()
    };
    let dir = tempfile::tempdir().unwrap();
    let script = "trap 'echo told; exit 7' USR1; touch $TEPUI_SANDBOX/ready; while true; do sleep \
                  0.05; done";
    let image = image(dir.path(), config);
    executor.launch(
        Builder::script("task", script)
            .container(IMAGE)
            .image(image),
    );
    let ready = executor.task_dir("task").join("sandbox/ready");
    eventually("the script listens", || ready.exists());
    executor.kill("task", 3_600_000);
    let end = executor.end("task");
    assert_eq!((end.state, end.exit_code), (TaskState::Killed, Some(7)));
    assert_eq!(executor.output("task", "stdout"), "told\n");
}

#[test]
fn a_container_is_held_to_its_memory_and_leaves_no_cgroup() {
    for runtime in runtimes() {
        let Some(mut executor) = Executor::container(runtime) else {
            return;
        };
        let dir = tempfile::tempdir().unwrap();
        let image = image(dir.path(), ImageConfig::default());
        let script = "a=x; while true; do a=$a$a$a$a; done";
        let builder = Builder::script("task", script).mem(Bytes::mib(16));
        executor.launch(builder.container(IMAGE).image(image));
        check(
            &executor.end("task"),
            "failed",
            "memory-limit",
            None,
            "16 MiB",
        );
        executor.send(&ToExecutor::Forget(task("task")));
        executor.send(&ToExecutor::Retire);
        executor.gone();
        let group = executor.task_group().unwrap();
        let left = |hierarchy: &str| Path::new("/sys/fs/cgroup").join(hierarchy).join(&group);
        for hierarchy in [
            "memory", "devices", "cpuset", "freezer", "blkio", "unified", "",
        ] {
            assert!(!left(hierarchy).exists(), "{hierarchy}");
        }
    }
}

#[test]
fn whoever_ends_the_executor_can_end_all_of_its_container() {
    let Some(mut executor) = Executor::container(Runtime::BuiltIn) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path(), ImageConfig::default());
    let script = "sleep 1000 & touch $TEPUI_SANDBOX/ready; sleep 1000";
    executor.launch(
        Builder::script("task", script)
            .container(IMAGE)
            .image(image),
    );
    let ready = executor.task_dir("task").join("sandbox/ready");
    eventually("the container runs", || ready.exists());
    executor.kill_process(nix::sys::signal::Signal::SIGKILL);
    executor.gone();
    let group = executor.task_group().unwrap();
    cgroup::destroy(&group, crate::env::DEADLINE).unwrap();
    // Without processes its mounts are gone, too, and the layers can be removed.
    dir.close().unwrap();
}

/// What a command beside the task ends with.
fn run_beside(executor: &mut Executor, argv: &[&str], timeout_ms: u64) -> Result<i32, String> {
    executor.run_beside(7, "task", argv, timeout_ms);
    executor.ran(7)
}

#[test]
fn commands_beside_a_container_run_in_it_and_end_with_their_time() {
    for runtime in runtimes() {
        let Some(mut executor) = Executor::container(runtime) else {
            return;
        };
        let dir = tempfile::tempdir().unwrap();
        let image = image(dir.path(), ImageConfig::default());
        let script = "echo here > /mark; while true; do sleep 0.05; done";
        executor.launch(
            Builder::script("task", script)
                .container(IMAGE)
                .image(image),
        );
        assert_eq!(executor.update().state, TaskState::Running);
        let upper = executor.task_dir("task").join("container/upper/mark");
        eventually("the container has begun", || upper.exists());
        let mut run = |argv: &[&str], millis| run_beside(&mut executor, argv, millis);
        assert_eq!(run(&["cat", "/mark"], 60_000), Ok(0));
        assert_eq!(run(&["sh", "-c", "exit 3"], 60_000), Ok(3));
        let error = run(&["no-such-program"], 60_000).unwrap_err();
        assert!(error.contains("no-such-program"), "{error}");
        let error = run(&["sleep", "1000"], 200).unwrap_err();
        assert!(error.contains("more than 200 ms"), "{error}");
        executor.kill("task", 100);
        assert_eq!(executor.end("task").state, TaskState::Killed);
    }
}

#[test]
fn a_volume_is_made_for_its_first_container_and_kept_for_the_next() {
    let volumes = tempfile::tempdir().unwrap();
    let folder = volumes.path().join("volumes/7.0");
    for (script, expected) in [
        ("echo kept > $TEPUI_SANDBOX/data/file", ""),
        ("cat $TEPUI_SANDBOX/data/file", "kept\n"),
    ] {
        let Some(mut executor) = Executor::container(Runtime::BuiltIn) else {
            return;
        };
        let dir = tempfile::tempdir().unwrap();
        let image = image(dir.path(), ImageConfig::default());
        let builder = Builder::script("task", script)
            .container(IMAGE)
            .image(image);
        executor.launch(builder.volume(&folder, "data"));
        let end = executor.end("task");
        finished(&executor, &end);
        assert_eq!(executor.output("task", "stdout"), expected);
    }
    assert!(folder.join("file").is_file());
}
