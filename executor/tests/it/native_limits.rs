//! Native commands at their limits: these need cgroups, and say so where a
//! machine gives none.

use std::path::Path;

use tepui_executor::cgroup::Group;
use tepui_types::wire::executor::ToExecutor;
use tepui_types::{Bytes, MilliCpus};

use crate::env::{Builder, Executor, cgroups, check, eventually, task};

#[test]
fn more_memory_than_allowed_is_reported_as_such() {
    if !cgroups() {
        return;
    }
    let mut executor = Executor::native();
    // `tail` keeps the last line, and this one has no end.
    executor.launch(Builder::command("t", &["tail", "/dev/zero"]).mem(Bytes::mib(24)));
    let end = executor.end("t");
    check(
        &end,
        "failed",
        "memory-limit",
        None,
        "its memory limit of 24 MiB",
    );
    let peak = end.usage.unwrap().mem_peak_bytes;
    assert!(
        peak > Bytes::mib(16).0 && peak <= Bytes::mib(24).0,
        "{peak}"
    );
    // The same in a child whose shell lives on to tell its code.
    let mut executor = Executor::native();
    executor.launch(Builder::script("t", "tail /dev/zero; exit 9").mem(Bytes::mib(24)));
    check(
        &executor.end("t"),
        "failed",
        "memory-limit",
        Some(9),
        "24 MiB",
    );
}

#[test]
fn more_processes_than_allowed_are_refused_and_named() {
    if !cgroups() {
        return;
    }
    let mut executor = Executor::native();
    let script = "for i in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done; exit 0";
    executor.launch(Builder::script("t", script).pids(4));
    let end = executor.end("t");
    let words = "its limit of 4 processes and threads";
    assert_eq!(
        end.reason.as_ref().map(|reason| reason.code.as_str()),
        Some("pids-limit")
    );
    check(&end, "failed", "pids-limit", end.exit_code, words);
}

#[test]
fn the_cgroup_has_the_limits_while_the_command_runs_and_is_gone_after_it() {
    if !cgroups() {
        return;
    }
    let mut executor = Executor::native();
    let builder = Builder::script("t", "echo ready; sleep 1000");
    executor.launch(builder.mem(Bytes::mib(48)).cpus(MilliCpus(500)).pids(16));
    eventually("the command is ready", || {
        executor.output("t", "stdout") == "ready\n"
    });
    let path = executor.task_group("t").unwrap();
    let read = |v1: &str, v2: &str| {
        let v1 = Path::new("/sys/fs/cgroup").join(v1.replace('@', &path));
        let v2 = Path::new("/sys/fs/cgroup").join(&path).join(v2);
        let text = std::fs::read_to_string(v1).or_else(|_| std::fs::read_to_string(v2));
        text.unwrap().trim().to_owned()
    };
    assert_eq!(
        read("memory/@/memory.limit_in_bytes", "memory.max"),
        Bytes::mib(48).0.to_string()
    );
    assert_eq!(read("pids/@/pids.max", "pids.max"), "16");
    assert!(
        ["50000", "50000 100000"].contains(&read("cpu/@/cpu.cfs_quota_us", "cpu.max").as_str())
    );
    let group = Group::open(&path).unwrap();
    assert!(!group.is_empty());
    executor.kill("t", 0);
    check(&executor.end("t"), "killed", "kill-requested", None, "");
    let v1 = Path::new("/sys/fs/cgroup/memory").join(&path);
    assert!(!v1.exists() && !Path::new("/sys/fs/cgroup").join(&path).exists());
    // The executor's own goes with the executor.
    executor.send(&ToExecutor::Forget(task("t")));
    executor.send(&ToExecutor::Retire);
    executor.gone();
    let own = path.replace("/f1.t.0", "/executor");
    assert!(!Path::new("/sys/fs/cgroup/memory").join(own).exists());
}

#[test]
fn a_cgroup_that_cannot_be_made_is_an_error_that_says_why() {
    if !cgroups() {
        return;
    }
    let mut executor = Executor::native();
    executor.launch_in_group(Builder::script("t", "true"), "../outside");
    check(
        &executor.end("t"),
        "error",
        "executor-failed",
        None,
        "`../outside` is not a cgroup path",
    );
}

#[test]
fn a_dead_executors_task_is_ended_through_its_cgroup() {
    if !cgroups() {
        return;
    }
    let mut executor = Executor::native();
    executor.launch(Builder::script("t", "echo ready; sleep 1000"));
    eventually("the command is ready", || {
        executor.output("t", "stdout") == "ready\n"
    });
    executor.kill_process(nix::sys::signal::Signal::SIGKILL);
    executor.gone();
    assert_eq!(tepui_executor::exits::read(&executor.dir()).unwrap(), []);
    let path = executor.task_group("t").unwrap();
    assert!(!Group::open(&path).unwrap().is_empty());
    tepui_executor::cgroup::destroy(&path, crate::env::DEADLINE).unwrap();
    assert!(Group::open(&path).unwrap().is_empty());
}
