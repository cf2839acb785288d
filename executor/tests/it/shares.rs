//! Commands that are held to some processors and to a part of a disk: these need cgroups, and say so
//! where a machine gives none.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use tepui_executor::runtime::Runtime;
use tepui_types::TaskState;
use tepui_types::wire::executor::{ImageConfig, ToExecutor};

use crate::containers::{IMAGE, finished, image};
use crate::env::{Builder, Executor, cgroups, check, eventually};

/// Says which processors it may run on.
const PROCESSORS: &str = "while read name list; do test $name = Cpus_allowed_list: && echo $list; done \
                          < /proc/self/status; true";

#[test]
fn a_command_runs_on_its_processors_and_the_next_on_all() {
    if !cgroups() {
        return;
    }
    let mut executor = Executor::native();
    executor.launch(Builder::script("before", PROCESSORS));
    check(&executor.end("before"), "finished", "", Some(0), "");
    let all = executor.output("before", "stdout");
    executor.launch(Builder::script("held", PROCESSORS).life(r#"{"cpuset": "0"}"#));
    check(&executor.end("held"), "finished", "", Some(0), "");
    assert_eq!(executor.output("held", "stdout"), "0\n");
    executor.launch(Builder::script("after", PROCESSORS));
    check(&executor.end("after"), "finished", "", Some(0), "");
    assert_eq!(executor.output("after", "stdout"), all);
    // Who asks for none of it again gets no more.
    executor.launch(Builder::script("other", PROCESSORS).life(r#"{"cpuset": "0-9999"}"#));
    let words = format!("0-9999, and tasks of this machine run on {}", all.trim());
    check(
        &executor.end("other"),
        "error",
        "executor-failed",
        None,
        &words,
    );
}

#[test]
fn a_container_runs_on_its_processors() {
    let Some(mut executor) = Executor::container(Runtime::BuiltIn) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let builder = Builder::script("task", PROCESSORS).container(IMAGE);
    let image = image(dir.path(), ImageConfig::default());
    executor.launch(builder.life(r#"{"cpuset": "0"}"#).image(image));
    let end = executor.end("task");
    finished(&executor, &end);
    assert_eq!(executor.output("task", "stdout"), "0\n");
}

#[test]
fn without_cgroups_neither_is_promised() {
    for options in [r#"{"cpuset": "0"}"#, r#"{"io": {"reads": 1}}"#] {
        let mut executor = Executor::native_without_cgroups();
        executor.launch(Builder::script("t", "true").life(options));
        check(
            &executor.end("t"),
            "error",
            "executor-failed",
            None,
            "need cgroups",
        );
    }
}

/// A file of the task's cgroup, by its names in v1 and v2.
fn read(group: &str, v1: &str, v2: &str) -> String {
    let root = Path::new("/sys/fs/cgroup");
    let old = fs::read_to_string(root.join("blkio").join(group).join(v1));
    let text = old.or_else(|_| fs::read_to_string(root.join(group).join(v2)));
    text.unwrap_or_default()
}

#[test]
fn the_kernel_holds_a_command_to_its_rates() {
    if !cgroups() {
        return;
    }
    let mut executor = Executor::native();
    let options = r#"{"io": {"weight": 250, "read_bytes": 7000000, "write_bytes": 8000000,
                             "reads": 900, "writes": 800}}"#;
    executor.launch(Builder::script("t", "echo ready; sleep 1000").life(options));
    let device = fs::metadata(executor.dir()).unwrap().dev();
    let numbers = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    if !Path::new("/sys/dev/block")
        .join(format!("{}:{}", numbers.0, numbers.1))
        .exists()
    {
        let words = "lies on no disk of this machine";
        return check(&executor.end("t"), "error", "executor-failed", None, words);
    }
    eventually("it runs", || executor.output("t", "stdout") == "ready\n");
    let group = executor.task_group().unwrap();
    for (file, key, rate) in [
        ("read_bps", "rbps", "7000000"),
        ("write_bps", "wbps", "8000000"),
        ("read_iops", "riops", "900"),
        ("write_iops", "wiops", "800"),
    ] {
        let v1 = format!("blkio.throttle.{file}_device");
        let text = read(&group, &v1, "io.max");
        let is_v1 = text.trim().ends_with(&format!(" {rate}"));
        assert!(
            is_v1 || text.contains(&format!("{key}={rate}")),
            "{file}: {text}"
        );
    }
    let weight = read(&group, "blkio.bfq.weight", "io.bfq.weight");
    let log = fs::read_to_string(executor.dir().join("log")).unwrap_or_default();
    assert!(
        weight.contains("250") || log.contains("know no shares"),
        "{weight} {log}"
    );
    executor.kill("t", 0);
    assert_eq!(executor.end("t").state, TaskState::Killed);
}

#[test]
fn companions_are_held_to_the_tasks_rates_too() {
    let Some(mut executor) = Executor::container(Runtime::BuiltIn) else {
        return;
    };
    let device = fs::metadata(executor.dir()).unwrap().dev();
    let numbers = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let known = format!("/sys/dev/block/{}:{}", numbers.0, numbers.1);
    if !Path::new(&known).exists() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let options = r#"{"io": {"reads": 900}, "cpuset": "0", "companions": [
        {"name": "side", "argv": ["sleep", "1000"], "container": {"image": "test"}}]}"#;
    let script = format!("{PROCESSORS}; sleep 1000");
    let builder = Builder::script("task", &script).container(IMAGE);
    let image = image(dir.path(), ImageConfig::default());
    executor.launch(builder.life(options).image(image));
    eventually("it runs", || executor.output("task", "stdout") == "0\n");
    let group = executor.task_group().unwrap();
    for member in ["main", "side"] {
        let member = format!("{group}/m-{member}");
        let text = read(&member, "blkio.throttle.read_iops_device", "io.max");
        assert!(text.contains("900"), "{member}: {text}");
    }
    executor.kill("task", 0);
    assert_eq!(executor.end("task").state, TaskState::Killed);
}

#[test]
fn memory_is_no_disk_whose_rate_could_be_promised() {
    if !cgroups() {
        return;
    }
    for (options, words) in [
        (
            r#"{"io": {"write_bytes": 1000000}}"#,
            Some("lies on no disk of this machine"),
        ),
        (r#"{"io": {"weight": 10}}"#, None),
    ] {
        let mut executor = Executor::native();
        let memory = tempfile::tempdir_in("/dev/shm").unwrap();
        let mut launch = executor.prepare(Builder::script("t", "true").life(options));
        launch.sandbox = memory.path().join("t/sandbox").to_str().unwrap().to_owned();
        executor.send(&ToExecutor::Launch(launch));
        match words {
            Some(words) => check(&executor.end("t"), "error", "executor-failed", None, words),
            None => check(&executor.end("t"), "finished", "", Some(0), ""),
        }
    }
}

#[test]
fn what_forks_faster_than_it_is_killed_ends_all_the_same() {
    if !cgroups() {
        return;
    }
    for script in [
        "f() { f & f; }; touch begun; f 2>/dev/null",
        // Each ends at once, and leaves another behind.
        "f() { (f &) & }; touch begun; f; while :; do f; done 2>/dev/null",
    ] {
        let mut executor = Executor::native();
        executor.launch(Builder::script("t", script).pids(100));
        let begun = executor.task_dir("t").join("sandbox/begun");
        eventually("it has begun", || begun.exists());
        executor.kill("t", 0);
        let end = executor.end("t");
        assert!(end.state.is_terminal());
        let group = executor.task_group().unwrap();
        let group =
            tepui_executor::cgroup::Group::open(&group, tepui_executor::cgroup::Reach::Needed);
        let group = group.unwrap();
        // But for the one that waits for the next task.
        executor.send(&ToExecutor::Forget(crate::env::task("t")));
        executor.send(&ToExecutor::Retire);
        executor.gone();
        assert!(group.is_empty());
    }
}
