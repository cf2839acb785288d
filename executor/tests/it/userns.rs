//! Containers whose users are none of the machine's own: whose their files are, inside and on disk.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rustix::thread::CapabilitySet;
use tepui_executor::runtime::Runtime;
use tepui_types::task::TaskState;
use tepui_types::wire::executor::{
    DeviceNode, ImageConfig, LocalDevices, LocalNetwork, ToExecutor, UserRange,
};

use crate::containers::{finished, image, runtimes};
use crate::env::{Builder, Executor, check, eventually};

/// Users that nobody on a machine has.
pub const USERS: UserRange = users(2_000_000_000);
const OTHERS: UserRange = users(2_000_065_536);
const PRIVATE: &str = r#"{"image": "test", "userns": "private"}"#;

const fn users(first: u32) -> UserRange {
    UserRange {
        first,
        count: 65536,
    }
}

/// A script in a container of the tests' image, with these users.
fn script(dir: &Path, container: &str, users: UserRange, script: &str) -> Builder {
    let mut builder = Builder::script("task", script)
        .container(container)
        .image(image(dir, ImageConfig::default()));
    builder.users = Some(users);
    builder
}

/// One executor for each runtime, with a folder for images.
fn executors() -> impl Iterator<Item = (Executor, tempfile::TempDir)> {
    let started = runtimes().into_iter().filter_map(Executor::container);
    started.map(|executor| (executor, tempfile::tempdir().unwrap()))
}

fn sandbox(executor: &Executor) -> PathBuf {
    executor.task_dir("task").join("sandbox")
}

fn owner(path: &Path) -> (u32, u32) {
    let metadata = fs::symlink_metadata(path).unwrap();
    (metadata.uid(), metadata.gid())
}

/// The users of the machine that processes with this argument run as.
fn users_of_processes(argument: &str) -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let found = entries.filter(|entry| {
        let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let mut words = words.split(|byte| *byte == 0);
        words.any(|word| word == argument.as_bytes())
    });
    let users = found.filter_map(|entry| {
        let status = fs::read_to_string(entry.path().join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
        line.split_whitespace().next()?.parse().ok()
    });
    users.collect()
}

#[test]
fn root_of_a_container_is_nobody_on_its_machine() {
    for (mut executor, dir) in executors() {
        let seconds = "918273";
        let text = format!(
            "id -u; cat /proc/self/uid_map /proc/self/gid_map; echo x > $TEPUI_SANDBOX/own; \
             echo changed > /lost/file; busybox mkdir /made; busybox rm /etc/motd; \
             busybox chown 33:34 /lost; ! [ -e /etc/motd ] || exit 9; ls -lnd / /bin /made $TEPUI_SANDBOX/own; \
             echo more > /dev/stdout; exec sleep {seconds}"
        );
        executor.launch(script(dir.path(), PRIVATE, USERS, &text));
        assert_eq!(executor.update().state, TaskState::Running);
        let wrote = || executor.output("task", "stdout");
        eventually("it has written", || wrote().contains("more"));
        let out = wrote();
        let lines: Vec<Vec<_>> = out
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        let map = ["0", "2000000000", "65536"];
        assert_eq!(lines[..3], [vec!["0"], map.into(), map.into()], "{out}");
        assert!(
            lines[3..7].iter().all(|line| line[2..4] == ["0", "0"]),
            "{out}"
        );

        eventually("it is asleep", || {
            users_of_processes(seconds) == [USERS.first]
        });
        // What lasts is as if there were no such users; what goes with it is theirs.
        assert_eq!(owner(&sandbox(&executor)), (0, 0));
        assert_eq!(owner(&sandbox(&executor).join("own")), (0, 0));
        let upper = executor.task_dir("task").join("container/upper");
        assert_eq!(owner(&upper.join("made")), (USERS.first, USERS.first));
        let web = (USERS.first + 33, USERS.first + 34);
        assert_eq!(owner(&upper.join("lost")), web);
        assert_eq!(
            fs::read_to_string(dir.path().join("base/lost/file")).unwrap(),
            "base"
        );
        executor.kill("task", 0);
        assert_eq!(executor.end("task").state, TaskState::Killed);
    }
}

#[test]
fn another_user_of_a_container_has_what_it_needs_and_no_more() {
    for (mut executor, dir) in executors() {
        let container =
            r#"{"image": "test", "userns": "private", "user": "web", "workdir": "/srv/deep/er"}"#;
        let text = "id -u; id -G; pwd; ls -lnd .; echo x > $TEPUI_SANDBOX/own; echo again > /dev/stdout; \
                    touch ./no && echo written; hostname; cat /etc/hostname; true";
        executor.launch(script(dir.path(), container, USERS, text));
        let end = executor.end("task");
        finished(&executor, &end);
        let out = executor.output("task", "stdout");
        let lines: Vec<_> = out.lines().collect();
        assert_eq!(lines[..3], ["33", "34 40", "/srv/deep/er"], "{out}");
        let folder: Vec<_> = lines[3].split_whitespace().collect();
        assert_eq!(folder[2..4], ["0", "0"], "{out}");
        assert_eq!(lines[4..], ["again", "task", "task"], "{out}");
        assert_eq!(owner(&sandbox(&executor).join("own")), (33, 34));
    }
}

#[test]
fn a_volume_is_every_next_tasks_whatever_users_that_has() {
    let volumes = tempfile::tempdir().unwrap();
    let folder = volumes.path().join("7.0");
    for (users, seen) in [(USERS, "33 34"), (OTHERS, "33 34")] {
        for (mut executor, dir) in executors() {
            let container = r#"{"image": "test", "userns": "private", "user": "web"}"#;
            let text = "cd $TEPUI_SANDBOX/data; echo line >> file; ls -n file";
            let builder = script(dir.path(), container, users, text).volume(&folder, "data");
            executor.launch(builder);
            let end = executor.end("task");
            finished(&executor, &end);
            let out = executor.output("task", "stdout");
            let fields: Vec<_> = out.split_whitespace().collect();
            assert_eq!(fields[2..4].join(" "), seen, "{out}");
            assert_eq!(owner(&folder), (33, 34));
            assert_eq!(owner(&folder.join("file")), (33, 34));
        }
    }
    let lines = fs::read_to_string(folder.join("file")).unwrap();
    assert_eq!(lines.lines().count(), 2 * runtimes().len());
}

#[test]
fn mounts_are_the_containers_own_whatever_they_show() {
    for (mut executor, dir) in executors() {
        let host = tempfile::tempdir().unwrap();
        fs::write(host.path().join("file"), "host").unwrap();
        let secret = host.path().join("secret");
        fs::write(&secret, "hush").unwrap();
        let other = tempfile::tempdir().unwrap();
        let mounts = format!(
            r#"[{{"path": "/host", "source": {{"host": "{0}"}}}},
                {{"path": "/closed", "source": {{"host": "{0}"}}, "read_only": true}},
                {{"path": "/mem", "source": {{"tmpfs": 65536}}}},
                {{"path": "/key", "source": {{"secret": "key"}}}},
                {{"path": "/in", "source": {{"sandbox": "data/deep"}}}},
                {{"path": "/tools", "source": {{"image": "tools"}}}}]"#,
            host.path().display()
        );
        let container = format!(r#"{{"image": "test", "userns": "private", "mounts": {mounts}}}"#);
        fs::create_dir_all(sandbox(&executor).join("data/deep")).unwrap();
        let text = "cat /host/file /key /tools/etc/motd; echo; \
                    for d in /host /mem /in; do echo x > $d/own || exit 9; done; \
                    touch /closed/no && echo written; touch /tools/no && echo written; \
                    ls -ln /host/own /mem/own /in/own /key /tools/etc/motd; ls -lnd /dev/shm";
        let builder = script(dir.path(), &container, USERS, text)
            .other_image("tools", image(other.path(), ImageConfig::default()))
            .secret("key", &secret);
        executor.launch(builder);
        let end = executor.end("task");
        finished(&executor, &end);
        let out = executor.output("task", "stdout");
        let mut lines = out.lines();
        assert_eq!(lines.next(), Some("hosthushtop"), "{out}");
        let owners = lines.map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            fields[2..4].join(" ")
        });
        assert_eq!(owners.collect::<Vec<_>>(), ["0 0"; 6], "{out}");
        assert_eq!(owner(&host.path().join("own")), (0, 0));
        assert_eq!(owner(&sandbox(&executor).join("data/deep/own")), (0, 0));
    }
}

/// An executor that is in a group of the machine, as its agent may be.
fn of_groups(runtime: Runtime) -> Option<Executor> {
    let group: libc::gid_t = 4;
    let start = move || {
        // SAFETY: it reads one number, and changes this thread alone, which C libraries' own does not.
        let set = unsafe { libc::syscall(libc::SYS_setgroups, 1, &group) };
        assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
        Executor::container(runtime)
    };
    std::thread::spawn(start).join().unwrap()
}

#[test]
fn what_runs_beside_it_is_among_its_users() {
    for runtime in runtimes() {
        let Some(mut executor) = of_groups(runtime) else {
            return;
        };
        let dir = tempfile::tempdir().unwrap();
        let text = "busybox grep Groups: /proc/self/status; while true; do sleep 0.05; done";
        executor.launch(script(dir.path(), PRIVATE, USERS, text));
        assert_eq!(executor.update().state, TaskState::Running);
        let seconds = "817263";
        let look = format!(
            "cd $TEPUI_SANDBOX; (id -u; cat /proc/self/uid_map) > look; \
             busybox grep -E '^(Groups|CapPrm|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status > status; \
             [ $(hostname) = task ] || exit 9; exec sleep {seconds}"
        );
        executor.run_beside(1, "task", &["sh", "-c", &look], 1_000_000);
        eventually("it is asleep", || {
            users_of_processes(seconds) == [USERS.first]
        });
        let read = |name: &str| fs::read_to_string(sandbox(&executor).join(name)).unwrap();
        let seen: Vec<_> = read("look").split_whitespace().map(str::to_owned).collect();
        assert_eq!(seen, ["0", "0", "2000000000", "65536"]);
        assert_eq!(owner(&sandbox(&executor).join("look")), (0, 0));
        // No groups of the machine's root, and the capabilities that every confined root has.
        let status = read("status");
        let fields: Vec<_> = status.split_whitespace().collect();
        let kept = "00000000800405fb";
        assert_eq!(
            fields,
            [
                "Groups:",
                "CapPrm:",
                kept,
                "CapBnd:",
                kept,
                "NoNewPrivs:",
                "1",
                "Seccomp:",
                "2"
            ]
        );
        let groups = executor.output("task", "stdout");
        assert_eq!(groups.split_whitespace().collect::<Vec<_>>(), ["Groups:"]);
        executor.kill("task", 0);
        assert!(executor.ran(1).is_err());
        assert_eq!(executor.end("task").state, TaskState::Killed);
    }
}

/// Whether `ulimit` tells of these limits. The soft one may be the hard one: runc's own runtime raises it,
/// at the wrong moment now and then.
fn has_limits(said: &str, [soft, hard]: [&str; 2]) -> bool {
    let said: Vec<_> = said.split_whitespace().collect();
    matches!(said[..], [is_soft, is_hard] if is_hard == hard && (is_soft == soft || is_soft == hard))
}

#[test]
fn limits_may_be_above_those_of_its_executor() {
    let capabilities = rustix::thread::capabilities(None).unwrap().effective;
    let may_raise = capabilities.contains(CapabilitySet::SYS_RESOURCE);
    for (mut executor, dir) in executors() {
        executor.restore_files(libc::rlimit {
            rlim_cur: 256,
            rlim_max: 300,
        });
        let container = r#"{"image": "test", "userns": "private",
                            "rlimits": {"nofile": {"soft": 500, "hard": 600}}}"#;
        let look = "ulimit -n; ulimit -Hn";
        let text = format!("{look}; while true; do sleep 0.05; done");
        executor.launch(script(dir.path(), container, USERS, &text));
        if !may_raise {
            let why = "RLIMIT_NOFILE cannot be 600: its agent may give 300 at most";
            check(
                &executor.end("task"),
                "error",
                "container-refused",
                None,
                why,
            );
            continue;
        }
        assert_eq!(executor.update().state, TaskState::Running);
        let said = || executor.output("task", "stdout");
        eventually("it has said so", || has_limits(&said(), ["500", "600"]));
        let text = format!("({look}) > $TEPUI_SANDBOX/beside");
        executor.run_beside(1, "task", &["sh", "-c", &text], 10_000);
        assert_eq!(executor.ran(1), Ok(0));
        let beside = fs::read_to_string(sandbox(&executor).join("beside")).unwrap();
        assert!(has_limits(&beside, ["500", "600"]), "{beside}");
        executor.kill("task", 0);
        assert_eq!(executor.end("task").state, TaskState::Killed);
    }
}

#[test]
fn what_runs_beside_a_container_has_its_limits_whosever_its_users_are() {
    for userns in ["private", "host"] {
        for (mut executor, dir) in executors() {
            let limits = r#"{"nofile": {"soft": 77, "hard": 78}}"#;
            let container =
                format!(r#"{{"image": "test", "userns": "{userns}", "rlimits": {limits}}}"#);
            let text = "while true; do sleep 0.05; done";
            executor.launch(script(dir.path(), &container, USERS, text));
            assert_eq!(executor.update().state, TaskState::Running);
            let look = "(ulimit -n; ulimit -Hn) > $TEPUI_SANDBOX/beside";
            executor.run_beside(1, "task", &["sh", "-c", look], 10_000);
            assert_eq!(executor.ran(1), Ok(0));
            let beside = fs::read_to_string(sandbox(&executor).join("beside")).unwrap();
            assert!(has_limits(&beside, ["77", "78"]), "{userns} {beside}");
            executor.kill("task", 0);
            assert_eq!(executor.end("task").state, TaskState::Killed);
        }
    }
}

#[test]
fn a_container_that_is_started_again_finds_its_files() {
    for (mut executor, dir) in executors() {
        let text =
            "echo x >> /made; echo x >> $TEPUI_SANDBOX/own; [ $(busybox wc -l < /made) = 3 ]";
        let builder = script(dir.path(), PRIVATE, USERS, text);
        let restart = r#"{"restart": {"after": "failure", "most": 5, "backoff_ms": 1}}"#;
        executor.launch(builder.life(restart));
        let end = executor.end("task");
        finished(&executor, &end);
        let lines = fs::read_to_string(sandbox(&executor).join("own")).unwrap();
        assert_eq!(lines.lines().count(), 3);
    }
}

#[test]
fn companions_share_users_names_memory_and_network() {
    for network in ["none", "host"] {
        for (mut executor, dir) in executors() {
            let container = format!(
                r#"{{"image": "test", "userns": "private", "network": "{network}", "hostname": "pod"}}"#
            );
            let say = "cd $TEPUI_SANDBOX; cat /proc/self/uid_map > $0.map; ls /sys/class/net > $0.net; \
                       busybox readlink /proc/self/ns/user /proc/self/ns/ipc /proc/self/ns/net > $0.ns; \
                       hostname > $0.name";
            let first = format!("{say}; echo shared > /dev/shm/file; touch ready");
            let life = format!(
                r#"{{"companions": [{{"name": "fill", "role": "init", "argv": ["sh", "-c", "{first}", "fill"],
                    "container": {{"image": "test"}}}}]}}"#
            );
            let second = format!("{say}; cat /dev/shm/file; [ -e ready ]");
            let image = image(dir.path(), ImageConfig::default());
            let mut builder = Builder::command("task", &["sh", "-c", &second, "main"])
                .container(&container)
                .life(&life)
                .image(image.clone())
                .other_image("test", image);
            builder.users = Some(USERS);
            executor.launch(builder);
            let end = executor.end("task");
            finished(&executor, &end);
            assert_eq!(executor.output("task", "stdout"), "shared\n");
            let read = |name: &str| {
                let text = fs::read_to_string(sandbox(&executor).join(name));
                text.unwrap_or_else(|error| panic!("{name}: {error}"))
            };
            assert_eq!(read("fill.ns"), read("main.ns"));
            assert_eq!(read("fill.name"), "pod\n");
            for member in ["fill", "main"] {
                assert!(read(&format!("{member}.map")).contains(" 2000000000 "));
                let devices = read(&format!("{member}.net"));
                assert_eq!(
                    devices == "lo\n",
                    network == "none" || machine_has_lo_alone()
                );
            }
        }
    }
}

fn machine_has_lo_alone() -> bool {
    fs::read_dir("/sys/class/net").unwrap().count() == 1
}

/// A process in a network of its own, which ends when dropped.
struct Elsewhere(Child);

impl Elsewhere {
    fn make() -> Self {
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "echo; exec sleep 1000"]);
        let child = command.stdout(Stdio::piped()).spawn();
        let mut this = Self(child.expect("unshare is installed"));
        let mut line = [0];
        let mut out = this.0.stdout.take().unwrap();
        std::io::Read::read_exact(&mut out, &mut line).unwrap();
        this
    }

    fn path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.0.id()).into()
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_network_that_was_made_for_it_is_its_own_with_every_port() {
    for (mut executor, dir) in executors() {
        let network = Elsewhere::make();
        let container =
            r#"{"image": "test", "userns": "private", "network": {"named": {"name": "web"}}}"#;
        let text = "busybox readlink /proc/self/ns/net; ls /sys/class/net; cat /etc/hosts; \
                    busybox httpd -p 80 || exit 9; while true; do sleep 0.05; done";
        let mut launch = executor.prepare(script(dir.path(), container, USERS, text));
        launch.network = Some(Arc::new(LocalNetwork {
            namespace: network.path().to_str().unwrap().to_owned(),
            resolv_conf: String::new(),
            hosts: "10.0.0.9 task\n".into(),
            addresses: Vec::new(),
        }));
        executor.send(&ToExecutor::Launch(launch));
        assert_eq!(executor.update().state, TaskState::Running);
        let id = fs::read_link(network.path()).unwrap();
        let look = format!(
            "[ $(busybox readlink /proc/self/ns/net) = '{}' ]",
            id.display()
        );
        executor.run_beside(1, "task", &["sh", "-c", &look], 10_000);
        assert_eq!(executor.ran(1), Ok(0));
        let wrote = || executor.output("task", "stdout");
        eventually("it has written", || wrote().contains("10.0.0.9"));
        assert_eq!(wrote(), format!("{}\nlo\n10.0.0.9 task\n", id.display()));
        executor.kill("task", 0);
        assert_eq!(executor.end("task").state, TaskState::Killed);
    }
}

#[test]
fn devices_are_the_machines_own() {
    for (mut executor, dir) in executors() {
        let devices = LocalDevices {
            nodes: vec![DeviceNode {
                path: "/dev/own-zero".into(),
                host_path: "/dev/zero".into(),
                is_block: false,
                major: 1,
                minor: 5,
            }],
            ..LocalDevices::default()
        };
        let text = "busybox head -c 3 /dev/own-zero | busybox wc -c; echo x > /dev/null; \
                    busybox head -c 2 /dev/urandom | busybox wc -c";
        executor.launch(script(dir.path(), PRIVATE, USERS, text).devices(devices));
        let end = executor.end("task");
        finished(&executor, &end);
        assert_eq!(executor.output("task", "stdout"), "3\n2\n");
    }
}

#[test]
fn who_is_none_of_its_users_and_what_cannot_be_shown_to_them_is_refused() {
    let refused = |container: &str, code: &str, state: &str, words: &str| {
        let Some(mut executor) = Executor::container(Runtime::BuiltIn) else {
            return;
        };
        let dir = tempfile::tempdir().unwrap();
        executor.launch(script(dir.path(), container, USERS, "true"));
        check(&executor.end("task"), state, code, None, words);
    };
    refused(
        r#"{"image": "test", "userns": "private", "user": "65536"}"#,
        "command-failed",
        "error",
        "user 65536 is none of the 65536",
    );
    refused(
        r#"{"image": "test", "userns": "private",
            "mounts": [{"path": "/in", "source": {"host": "/proc/sys"}}]}"#,
        "container-refused",
        "error",
        "idmapped mounts",
    );
    // An image on a file system that cannot be shown to others.
    let Some(mut executor) = Executor::container(Runtime::BuiltIn) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let mut layers = image(dir.path(), ImageConfig::default());
    layers.layers.push("/proc/sys".into());
    let mut builder = Builder::script("task", "true")
        .container(PRIVATE)
        .image(layers);
    builder.users = Some(USERS);
    executor.launch(builder);
    let end = executor.end("task");
    check(&end, "error", "container-refused", None, "idmapped mounts");
    // Its agent has lent it none.
    let Some(mut executor) = Executor::container(Runtime::BuiltIn) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let mut builder = script(dir.path(), PRIVATE, USERS, "true");
    builder.users = None;
    executor.launch(builder);
    let end = executor.end("task");
    let reason = end.reason.unwrap();
    assert!(
        reason.message.contains("users were not prepared"),
        "{reason:?}"
    );
}
