//! Which devices tasks may use, with nodes of harmless ones: a file named for a GPU leads to what any
//! program may read.

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use tepui_executor::cgroup::devices::{self, DeviceAccess, DeviceKind, DevicePolicy, DeviceRule};
use tepui_types::TaskState;
use tepui_types::wire::executor::{DeviceNode, ImageConfig, LocalDevices};

use crate::containers::{IMAGE, image, runtimes};
use crate::env::{Builder, Executor, check};

/// `/dev/zero` and `/dev/full`.
const TWINS: [(&str, u32, u32); 2] = [("gpu0", 1, 5), ("gpu1", 1, 7)];

/// The nodes in a folder whose file system has devices; none where this process may not make them.
fn nodes() -> Option<tempfile::TempDir> {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    for (name, major, minor) in TWINS {
        let device = makedev(major.into(), minor.into());
        let made = mknod(&dir.path().join(name), SFlag::S_IFCHR, Mode::all(), device);
        if let Err(errno) = made {
            eprintln!("without nodes of devices: {errno}");
            return None;
        }
    }
    Some(dir)
}

/// Everything but those of the twins.
fn all_but(denied: &[usize]) -> DevicePolicy {
    let rule = |number: &usize| DeviceRule {
        allow: false,
        kind: DeviceKind::Char,
        major: TWINS[*number].1,
        minor: Some(TWINS[*number].2),
        access: DeviceAccess::ALL,
    };
    DevicePolicy {
        allow_others: true,
        rules: denied.iter().map(rule).collect(),
    }
}

/// Which of the twins a task can read.
fn readable(executor: &mut Executor, name: &str, nodes: &Path) -> String {
    let script = format!(
        "cd {}; for node in gpu0 gpu1; do head -c 1 $node > /dev/null 2>&1 && echo $node; done; true",
        nodes.display()
    );
    executor.launch(Builder::script(name, &script));
    check(&executor.end(name), "finished", "", Some(0), "");
    executor.output(name, "stdout").replace('\n', " ")
}

/// The cgroup above the executor's and its tasks', if policies can be set there.
fn guarded(executor: &Executor) -> Option<String> {
    let tasks = executor.task_group()?;
    if let Err(error) = devices::available() {
        let needed = std::env::var_os("TEPUI_TEST_CGROUPS").is_some_and(|v| v == "needed");
        assert!(!needed, "devices are not kept from tasks: {error}");
        eprintln!("devices are not kept from tasks: {error}");
        return None;
    }
    Some(tasks.strip_suffix("/task").unwrap().to_owned())
}

#[test]
fn a_native_task_opens_no_device_that_is_denied_to_it() {
    for start in [Executor::native, Executor::native_with_all_privileges] {
        let mut executor = start();
        let (Some(nodes), Some(group)) = (nodes(), guarded(&executor)) else {
            return;
        };
        let nodes = nodes.path();
        assert_eq!(readable(&mut executor, "free", nodes), "gpu0 gpu1 ");
        // One task after another in one process, each with its own.
        for (name, denied, left) in [
            ("first", &[1][..], "gpu0 "),
            ("second", &[0], "gpu1 "),
            ("none", &[0, 1], ""),
            ("both", &[], "gpu0 gpu1 "),
        ] {
            devices::restrict(&group, &all_but(denied)).unwrap();
            assert_eq!(readable(&mut executor, name, nodes), left, "{name}");
        }
        // A node of its own leads nowhere else.
        devices::restrict(&group, &all_but(&[0])).unwrap();
        let script = "mknod twin c 1 5 && echo made; head -c 1 twin && echo read; true";
        executor.launch(Builder::script("maker", script));
        check(&executor.end("maker"), "finished", "", Some(0), "");
        assert_eq!(executor.output("maker", "stdout"), "");
    }
}

#[test]
fn as_many_devices_as_a_policy_may_have_are_told_apart() {
    let mut executor = Executor::native();
    let (Some(nodes), Some(group)) = (nodes(), guarded(&executor)) else {
        return;
    };
    let mut policy = all_but(&[1]);
    let other = |minor| DeviceRule {
        major: 195,
        minor: Some(minor),
        ..all_but(&[0]).rules[0]
    };
    let others = u32::try_from(devices::MAX_RULES).unwrap() - 1;
    policy.rules.extend((0..others).map(other));
    devices::restrict(&group, &policy).unwrap();
    assert_eq!(readable(&mut executor, "most", nodes.path()), "gpu0 ");
    policy.rules.push(other(others));
    let error = devices::restrict(&group, &policy).unwrap_err().to_string();
    assert!(error.contains("the most is 500"), "{error}");
    // So it is with rules that allow, and the rest denied.
    policy.rules.truncate(devices::MAX_RULES);
    for rule in &mut policy.rules {
        rule.allow = true;
    }
    let null = DeviceRule {
        minor: None,
        ..policy.rules[0]
    };
    (policy.allow_others, policy.rules[1]) = (false, DeviceRule { major: 136, ..null });
    policy.rules[2] = DeviceRule {
        minor: Some(3),
        ..null
    };
    devices::restrict(&group, &policy).unwrap();
    assert_eq!(readable(&mut executor, "least", nodes.path()), "gpu1 ");
}

/// The folders of that cgroup where something keeps its processes from devices: v1's controller, or v2.
fn folders(group: &str) -> Vec<PathBuf> {
    let roots = ["/sys/fs/cgroup/devices", "/sys/fs/cgroup"];
    let folders = roots.map(|root| Path::new(root).join(group));
    folders.into_iter().filter(|dir| dir.exists()).collect()
}

/// Whether a process of this test, with all that it may do, opens a node in that cgroup.
fn opens(group: &str, node: &Path) -> bool {
    let folders = folders(group);
    assert!(!folders.is_empty(), "{group}");
    let enter = |dir: &PathBuf| format!("echo 0 > {}/cgroup.procs; ", dir.display());
    let enter: String = folders.iter().map(enter).collect();
    let script = format!("set -e; {enter} exec 3<> {}", node.display());
    let status = Command::new("sh").args(["-c", &script]).status().unwrap();
    status.success()
}

#[test]
fn in_a_containers_cgroup_no_device_is_used_that_it_was_not_given() {
    let cases = runtimes()
        .into_iter()
        .flat_map(|it| [(it.clone(), false), (it, true)]);
    for (runtime, is_given) in cases {
        let (Some(mut executor), Some(nodes)) = (Executor::container(runtime), nodes()) else {
            return;
        };
        let kmsg = nodes.path().join("kmsg");
        mknod(&kmsg, SFlag::S_IFCHR, Mode::all(), makedev(1, 11)).unwrap();
        let node = DeviceNode {
            path: "/dev/given".into(),
            host_path: kmsg.to_str().unwrap().into(),
            is_block: false,
            major: 1,
            minor: 11,
        };
        let layers = tempfile::tempdir().unwrap();
        let builder = Builder::command("task", &["sleep", "10000"]).container(IMAGE);
        let builder = builder.image(image(layers.path(), ImageConfig::default()));
        executor.launch(builder.devices(LocalDevices {
            nodes: is_given.then_some(node).into_iter().collect(),
            ..LocalDevices::default()
        }));
        assert_eq!(executor.update().state, TaskState::Running);
        let group = executor.task_group().unwrap();
        assert!(opens(&group, &nodes.path().join("gpu0")), "anybody may");
        assert_eq!(opens(&group, &kmsg), is_given);
        executor.kill("task", 0);
        executor.end("task");
    }
}
