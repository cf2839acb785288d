//! Native commands at their limits: these need cgroups, and say so where a
//! machine gives none.

use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tepui_executor::cgroup::{Group, Reach};
use tepui_types::wire::executor::ToExecutor;
use tepui_types::{Bytes, MilliCpus};

use crate::env::{Builder, Executor, cgroups, check, eventually, task};

/// The processes in the cgroup of that path.
fn processes(path: &str) -> Vec<Pid> {
    let v2 = Path::new("/sys/fs/cgroup").join(path);
    let v1 = Path::new("/sys/fs/cgroup/memory").join(path);
    let text = [v1, v2].map(|dir| std::fs::read_to_string(dir.join("cgroup.procs")));
    let text = text.into_iter().find_map(Result::ok).unwrap_or_default();
    let pids = text.lines().map(|pid| pid.parse().unwrap());
    pids.map(Pid::from_raw).collect()
}

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
fn a_command_beside_a_task_that_takes_too_much_memory_is_not_the_tasks_end() {
    if !cgroups() {
        return;
    }
    let mut executor = Executor::native();
    // It starts no process: where there is no memory for one, the shell ends.
    let script = "while ! test -e go; do :; done; exit 3";
    executor.launch(Builder::script("t", script).mem(Bytes::mib(24)));
    executor.run_beside(1, "t", &["tail", "/dev/zero"], 60_000);
    assert_eq!(executor.ran(1), Err("SIGKILL ended it".into()));
    executor.run_beside(2, "t", &["sh", "-c", "tail /dev/zero; exit $?"], 60_000);
    assert_eq!(executor.ran(2), Ok(137));
    std::fs::write(executor.task_dir("t").join("sandbox/go"), "").unwrap();
    check(&executor.end("t"), "failed", "exit-code", Some(3), "");
}

#[test]
fn what_ran_beside_a_task_and_was_killed_with_it_is_not_what_it_is_excused_by() {
    if !cgroups() {
        return;
    }
    let mut executor = Executor::native();
    let script = "while ! test -e go; do sleep 0.01; done; exec tail /dev/zero";
    executor.launch(Builder::script("t", script).mem(Bytes::mib(24)));
    let beside = "touch begun; exec sleep 1000";
    executor.run_beside(1, "t", &["sh", "-c", beside], 60_000);
    let sandbox = executor.task_dir("t").join("sandbox");
    eventually("it runs beside the task", || sandbox.join("begun").exists());
    std::fs::write(sandbox.join("go"), "").unwrap();
    assert_eq!(executor.ran(1), Err("SIGKILL ended it".into()));
    check(&executor.end("t"), "failed", "memory-limit", None, "24 MiB");
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
fn the_cgroup_has_the_limits_while_the_command_runs_and_is_gone_with_the_executor() {
    if !cgroups() {
        return;
    }
    let mut executor = Executor::native();
    let builder = Builder::script("t", "echo ready; sleep 1000");
    executor.launch(builder.mem(Bytes::mib(48)).cpus(MilliCpus(500)).pids(16));
    eventually("the command is ready", || {
        executor.output("t", "stdout") == "ready\n"
    });
    let path = executor.task_group().unwrap();
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
    let running = processes(&path);
    assert!(!running.is_empty());
    executor.kill("t", 0);
    check(&executor.end("t"), "killed", "kill-requested", None, "");
    let left = processes(&path);
    assert!(!left.iter().any(|pid| running.contains(pid)), "{left:?}");
    executor.send(&ToExecutor::Forget(task("t")));
    executor.send(&ToExecutor::Retire);
    executor.gone();
    for path in [path.replace("/task", "/executor"), path] {
        let v1 = Path::new("/sys/fs/cgroup/memory").join(&path);
        assert!(!v1.exists() && !Path::new("/sys/fs/cgroup").join(&path).exists());
    }
}

/// The microseconds of each 100 ms that the processes of that path may run.
fn quota(path: &str) -> u64 {
    let v1 = Path::new("/sys/fs/cgroup/cpu")
        .join(path)
        .join("cpu.cfs_quota_us");
    let v2 = Path::new("/sys/fs/cgroup").join(path).join("cpu.max");
    let text = std::fs::read_to_string(v1).or_else(|_| std::fs::read_to_string(v2));
    let text = text.unwrap_or_default();
    let first = text.split_whitespace().next();
    first.and_then(|quota| quota.parse().ok()).unwrap_or(0)
}

#[test]
fn a_task_that_is_throttled_gets_less_for_a_while_and_the_one_after_it_all() {
    if !cgroups() {
        return;
    }
    let mut executor = Executor::native();
    let sleeps = |name| Builder::script(name, "echo ready; sleep 1000").cpus(MilliCpus(500));
    let throttle = |name, most: Option<u64>| ToExecutor::Throttle {
        task: task(name),
        most: most.map(MilliCpus),
    };
    executor.launch(sleeps("t"));
    eventually("it runs", || executor.output("t", "stdout") == "ready\n");
    let path = executor.task_group().unwrap();
    for (most, expected) in [(Some(200), 20_000), (None, 50_000), (Some(9_000), 50_000)] {
        executor.send(&throttle("t", most));
        eventually("it is so", || quota(&path) == expected);
    }
    executor.send(&throttle("other", Some(1)));
    executor.send(&throttle("t", Some(100)));
    eventually("it is so", || quota(&path) == 10_000);
    executor.kill("t", 0);
    executor.end("t");
    executor.launch(sleeps("next"));
    eventually("it runs", || executor.output("next", "stdout") == "ready\n");
    assert_eq!(quota(&executor.task_group().unwrap()), 50_000);
}

#[test]
fn a_task_is_told_and_charged_nothing_of_the_one_before_it() {
    if !cgroups() {
        return;
    }
    let mut executor = Executor::native();
    // Time, memory, refusals, and a daemon that would outlive it.
    let script = "head -c 20000000 /dev/zero | tail -c 19000000 | wc -c; \
                  i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; \
                  setsid sleep 1000 & for i in 1 2 3 4 5 6; do sleep 1000 & done; exit 0";
    executor.launch(Builder::script("first", script).mem(Bytes::mib(64)).pids(5));
    let first = executor.end("first");
    check(
        &first,
        "failed",
        "pids-limit",
        first.exit_code,
        "5 processes",
    );
    let first = first.usage.unwrap();

    executor.launch(
        Builder::script("second", "exit 3")
            .mem(Bytes::mib(64))
            .pids(5),
    );
    let second = executor.end("second");
    check(&second, "failed", "exit-code", Some(3), "");
    let second = second.usage.unwrap();
    assert!(
        second.cpu_micros < first.cpu_micros / 2,
        "{second:?} after {first:?}"
    );
    assert!(
        second.mem_peak_bytes < first.mem_peak_bytes / 2,
        "{second:?} after {first:?}"
    );

    // Its own limits, too.
    let hungry = Builder::command("third", &["tail", "/dev/zero"]).mem(Bytes::mib(16));
    executor.launch(hungry);
    check(
        &executor.end("third"),
        "failed",
        "memory-limit",
        None,
        "16 MiB",
    );
    executor.launch(Builder::script("fourth", "exit 4").mem(Bytes::mib(16)));
    check(&executor.end("fourth"), "failed", "exit-code", Some(4), "");
    let script = "head -c 20000000 /dev/zero | tail -c 19000000 | wc -c";
    executor.launch(Builder::script("fifth", script).mem(Bytes::mib(64)));
    check(&executor.end("fifth"), "finished", "", Some(0), "");
}

#[test]
fn a_process_that_waits_for_the_next_task_is_replaced_when_it_dies_and_dies_with_its_executor() {
    // With v2 each task has a cgroup of its own, and nothing waits in it before.
    if !cgroups() || !Path::new("/sys/fs/cgroup/memory").exists() {
        return;
    }
    let mut executor = Executor::native();
    let path = executor.task_group().unwrap();
    let waiting = || match processes(&path).as_slice() {
        [pid] => Some(*pid),
        _ => None,
    };
    for (name, is_killed) in [("first", true), ("second", false), ("third", true)] {
        executor.launch(Builder::script(name, "echo $$"));
        check(&executor.end(name), "finished", "", Some(0), "");
        eventually("a process waits", || waiting().is_some());
        if is_killed {
            kill(waiting().unwrap(), Signal::SIGKILL).unwrap();
            eventually("it is gone", || waiting().is_none());
        }
    }
    executor.launch(Builder::script("fourth", "exit 0"));
    executor.end("fourth");
    eventually("a process waits", || waiting().is_some());
    let waits = waiting().unwrap().to_string();
    executor.launch(Builder::script("fifth", "echo $$"));
    executor.end("fifth");
    assert_eq!(executor.output("fifth", "stdout").trim(), waits);
    eventually("a process waits", || waiting().is_some());
    executor.kill_process(Signal::SIGKILL);
    executor.gone();
    eventually("nothing is left", || processes(&path).is_empty());
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
    executor.kill_process(Signal::SIGKILL);
    executor.gone();
    assert_eq!(tepui_executor::exits::read(&executor.dir()).unwrap(), []);
    let path = executor.task_group().unwrap();
    assert!(!Group::open(&path, Reach::Needed).unwrap().is_empty());
    tepui_executor::cgroup::destroy(&path, crate::env::DEADLINE).unwrap();
    assert!(Group::open(&path, Reach::Needed).unwrap().is_empty());
}
