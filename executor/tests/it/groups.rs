//! Tasks of several containers: in which order they run, what they share, how they end together.

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;
use tepui_executor::cgroup;
use tepui_executor::runtime::Runtime;
use tepui_types::Bytes;
use tepui_types::task::{MemberState, MemberStatus, TaskState};
use tepui_types::wire::executor::{ImageConfig, RunBeside, RunIo, TaskUpdate, ToExecutor};

use crate::containers::{image, runtimes};
use crate::env::{Builder, DEADLINE, Executor, check, eventually, task};

const IMAGE: &str = r#"{"image": "test"}"#;
/// Runs until it is asked to end, and says so in the sandbox; that it is up, once it is ready for that.
fn serves(says: &str) -> String {
    format!("trap 'echo end of $0 >> log; exit 0' TERM; {says}; while true; do sleep 0.05; done")
}

/// A companion with the image of all: a script in its shell.
fn companion(name: &str, role: &str, script: &str, more: &str) -> String {
    let script = serde_json::to_string(&format!("cd $TEPUI_SANDBOX; {script}")).unwrap();
    format!(
        r#"{{"name": "{name}", "role": "{role}", "argv": ["sh", "-c", {script}, "{name}"],
            "container": {IMAGE}{more}}}"#
    )
}

/// A task of a script and those companions, all of one image below `dir`.
fn group(dir: &Path, script: &str, companions: &[String]) -> Builder {
    let script = format!("cd $TEPUI_SANDBOX; {script}");
    let list = companions.join(", ");
    let builder = Builder::command("task", &["sh", "-c", &script, "main"]);
    let image = image(dir, ImageConfig::default());
    builder
        .container(IMAGE)
        .life(&format!(r#"{{"companions": [{list}]}}"#))
        .grace(60_000)
        .image(image.clone())
        .other_image("test", image)
}

/// One executor for each runtime, with a folder for images.
fn executors() -> impl Iterator<Item = (Executor, tempfile::TempDir)> {
    let started = runtimes().into_iter().filter_map(Executor::container);
    started.map(|executor| (executor, tempfile::tempdir().unwrap()))
}

fn sandbox(executor: &Executor, file: &str) -> String {
    let path = executor.task_dir("task").join("sandbox").join(file);
    fs::read_to_string(path).unwrap_or_default()
}

/// What a companion wrote.
fn output(executor: &Executor, name: &str, stream: &str) -> String {
    let path = executor.task_dir("task").join("members").join(name);
    fs::read_to_string(path.join(stream)).unwrap_or_default()
}

#[track_caller]
fn finished(executor: &Executor, end: &TaskUpdate) {
    let errors = executor.output("task", "stderr");
    assert_eq!(end.state, TaskState::Finished, "{:?} {errors}", end.reason);
}

fn member<'a>(update: &'a TaskUpdate, name: &str) -> &'a MemberStatus {
    let mut members = update.members.iter();
    members.find(|member| member.name == name).unwrap()
}

#[test]
fn preparation_comes_first_sidecars_before_the_command_and_end_after_it() {
    for (mut executor, dir) in executors() {
        let wait = "until busybox grep -q second log && [ -e up ]; do sleep 0.02; done";
        let builder = group(
            dir.path(),
            &format!("{wait}; echo main >> log; echo out"),
            &[
                companion("proxy", "sidecar", &serves("touch up"), ""),
                companion("first", "init", "sleep 0.1; echo first >> log", ""),
                companion("second", "init", "echo second >> log; echo prepared", ""),
            ],
        );
        executor.launch(builder);
        let end = executor.end("task");
        finished(&executor, &end);
        assert_eq!(end.exit_code, Some(0));
        let log = sandbox(&executor, "log");
        assert_eq!(log, "first\nsecond\nmain\nend of proxy\n");
        assert_eq!(executor.output("task", "stdout"), "out\n");
        assert_eq!(output(&executor, "second", "stdout"), "prepared\n");
        let names: Vec<_> = end.members.iter().map(|member| &member.name).collect();
        assert_eq!(names, ["main", "proxy", "first", "second"]);
        let is_over = |member: &MemberStatus| member.state == MemberState::Finished;
        assert!(end.members.iter().all(is_over), "{:?}", end.members);
        assert!(end.usage.unwrap().cpu_micros > 0);
    }
}

#[test]
fn a_preparation_that_fails_is_tried_as_often_as_it_says_and_named() {
    for (mut executor, dir) in executors() {
        let restart = r#", "restart": {"most": 2, "backoff_ms": 10}"#;
        let builder = group(
            dir.path(),
            "echo main",
            &[companion(
                "fill",
                "init",
                "echo run >> log; exit 7",
                restart,
            )],
        );
        executor.launch(builder);
        let end = executor.end("task");
        check(
            &end,
            "failed",
            "exit-code",
            Some(7),
            "init `fill`: the command exited",
        );
        assert_eq!(sandbox(&executor, "log"), "run\nrun\nrun\n");
        assert_eq!(executor.output("task", "stdout"), "");
        assert_eq!(member(&end, "main").state, MemberState::Waiting);
        let errors = output(&executor, "fill", "stderr");
        assert!(errors.contains("started again, 2. time"), "{errors}");
    }
}

#[test]
fn a_sidecar_comes_back_and_finds_what_it_wrote() {
    for (mut executor, dir) in executors() {
        let restart = r#", "restart": {"after": "any", "backoff_ms": 10, "max_backoff_ms": 20}"#;
        let builder = group(
            dir.path(),
            "until [ $(busybox wc -l < log) -ge 3 ] 2>/dev/null; do sleep 0.02; done",
            &[companion(
                "flaky",
                "sidecar",
                "echo >> /own; cat /own > log",
                restart,
            )],
        );
        executor.launch(builder);
        let end = executor.end("task");
        finished(&executor, &end);
        assert!(member(&end, "flaky").restarts >= 2, "{:?}", end.members);
    }
}

#[test]
fn a_member_that_is_started_often_leaves_nothing_open_in_its_executor() {
    for (mut executor, dir) in executors() {
        let restart = r#", "restart": {"after": "any", "backoff_ms": 10, "max_backoff_ms": 10}"#;
        let companions = [companion("flaky", "sidecar", "echo >> runs", restart)];
        executor.launch(group(dir.path(), &serves(":"), &companions));
        let fds = format!("/proc/{}/fd", executor.identity.pid);
        let fds = || fs::read_dir(&fds).unwrap().count();
        let has_run = |times| sandbox(&executor, "runs").lines().count() >= times;
        eventually("it was started again", || has_run(3));
        let before = fds();
        eventually("it was started often", || has_run(23));
        // Some are open while it is started.
        assert!(fds() < before + 10, "{before}, then {}", fds());
        executor.kill("task", 10_000);
        assert_eq!(executor.end("task").state, TaskState::Killed);
    }
}

#[test]
fn a_peer_that_fails_ends_the_command_with_its_grace_and_is_the_reason() {
    for (mut executor, dir) in executors() {
        let builder = group(
            dir.path(),
            &serves("touch up"),
            &[
                companion("proxy", "sidecar", &serves("touch up2"), ""),
                companion(
                    "other",
                    "peer",
                    "until [ -e up ] && [ -e up2 ]; do sleep 0.02; done; sleep 0.1; exit 9",
                    "",
                ),
            ],
        );
        executor.launch(builder);
        let end = executor.end("task");
        check(
            &end,
            "failed",
            "exit-code",
            Some(9),
            "peer `other`: the command exited",
        );
        assert_eq!(sandbox(&executor, "log"), "end of main\nend of proxy\n");
    }
}

#[test]
fn a_kill_ends_the_command_before_its_sidecars_and_all_within_its_grace() {
    for (mut executor, dir) in executors() {
        let companions = [
            companion("one", "sidecar", &serves("touch up1"), ""),
            companion("two", "sidecar", &serves("touch up2"), ""),
        ];
        executor.launch(group(dir.path(), &serves("touch up"), &companions));
        let sandbox_dir = executor.task_dir("task").join("sandbox");
        let is_up = |file: &str| sandbox_dir.join(file).exists();
        eventually("all run", || ["up", "up1", "up2"].into_iter().all(is_up));
        executor.kill("task", 3_600_000);
        let end = executor.end("task");
        check(&end, "killed", "kill-requested", Some(0), "code 0");
        let log = sandbox(&executor, "log");
        assert_eq!(log, "end of main\nend of two\nend of one\n");
    }
    let Some((mut executor, dir)) = executors().next() else {
        return;
    };
    // One that does not care is made to end, and so is what comes after it.
    let deaf = |file| format!("trap '' TERM; touch {file}; while true; do sleep 0.05; done");
    let companions = [companion("proxy", "sidecar", &deaf("proxy"), "")];
    executor.launch(group(dir.path(), &deaf("up"), &companions));
    let sandbox_dir = executor.task_dir("task").join("sandbox");
    eventually("both run", || {
        ["up", "proxy"]
            .iter()
            .all(|file| sandbox_dir.join(file).exists())
    });
    executor.kill("task", 50);
    check(
        &executor.end("task"),
        "killed",
        "kill-requested",
        None,
        "SIGKILL",
    );
}

#[test]
fn a_member_is_held_to_its_own_memory_and_the_others_live() {
    for (mut executor, dir) in executors() {
        let hog = "echo >> runs; a=x; while true; do a=$a$a$a$a; done";
        let bound = r#", "mem_bytes": 16777216, "restart": {"backoff_ms": 10}"#;
        let builder = group(
            dir.path(),
            "until [ $(busybox wc -l < runs) -ge 2 ] 2>/dev/null; do sleep 0.02; done; echo well",
            &[companion("hog", "sidecar", hog, bound)],
        );
        executor.launch(builder.mem(Bytes::mib(128)));
        let end = executor.end("task");
        finished(&executor, &end);
        assert_eq!(executor.output("task", "stdout"), "well\n");
        let errors = output(&executor, "hog", "stderr");
        assert!(errors.contains("memory limit of 16 MiB"), "{errors}");
    }
    let Some((mut executor, dir)) = executors().next() else {
        return;
    };
    let hog = "a=x; while true; do a=$a$a$a$a; done";
    let peer = companion("hog", "peer", hog, r#", "mem_bytes": 16777216"#);
    executor.launch(group(dir.path(), &serves(":"), &[peer]).mem(Bytes::mib(128)));
    let end = executor.end("task");
    check(
        &end,
        "failed",
        "memory-limit",
        None,
        "peer `hog`: it used more than its memory limit of 16 MiB",
    );
}

#[test]
fn network_names_and_shared_memory_are_one_and_processes_are_not() {
    for (mut executor, dir) in executors() {
        let serve = "busybox mkdir /www; echo page > /www/index.html; echo shm > /dev/shm/file; exec \
                     busybox httpd -f -p 127.0.0.1:8080 -h /www";
        let script = "until busybox wget -q -O - http://127.0.0.1:8080/ 2>/dev/null; do sleep \
                      0.02; done; cat /dev/shm/file; echo $$; hostname; ls /www; true";
        let companions = [companion("web", "sidecar", serve, "")];
        let builder = group(dir.path(), script, &companions);
        let alone = r#"{"image": "test", "network": "none", "hostname": "pod"}"#;
        executor.launch(builder.container(alone));
        let end = executor.end("task");
        finished(&executor, &end);
        assert_eq!(executor.output("task", "stdout"), "page\nshm\n1\npod\n");
        assert!(executor.output("task", "stderr").contains("/www"));
    }
}

#[test]
fn members_of_different_users_write_to_one_sandbox() {
    for (mut executor, dir) in executors() {
        let user = r#"{"image": "test", "user": "web"}"#;
        let init = companion("fill", "init", "busybox id -u > of-web", "").replace(IMAGE, user);
        let builder = group(dir.path(), "cat of-web; echo > of-root; ls", &[init]);
        executor.launch(builder);
        let end = executor.end("task");
        finished(&executor, &end);
        assert_eq!(executor.output("task", "stdout"), "33\nof-root\nof-web\n");
    }
}

#[test]
fn companions_without_an_image_see_the_machine_each_once() {
    let Some(mut executor) = Executor::container(Runtime::BuiltIn) else {
        return;
    };
    let list: Vec<_> = (0..8)
        .map(|number| {
            format!(
                r#"{{"name": "c{number}", "role": "init", "argv":
                    ["sh", "-c", "grep -c . /proc/self/mountinfo"]}}"#
            )
        })
        .collect();
    let life = format!(r#"{{"companions": [{}]}}"#, list.join(", "));
    let builder = Builder::script("task", "test -x /usr/bin/env && echo machine");
    executor.launch(builder.container("{}").life(&life));
    let end = executor.end("task");
    finished(&executor, &end);
    assert_eq!(executor.output("task", "stdout"), "machine\n");
    let mounts = |name: &str| -> usize {
        let text = output(&executor, name, "stdout");
        text.trim().parse().unwrap()
    };
    assert!(
        mounts("c7") < mounts("c0") + 10,
        "{} {}",
        mounts("c0"),
        mounts("c7")
    );
}

#[test]
fn what_a_companion_was_given_is_not_in_the_machines_tree_of_another() {
    let Some((mut executor, dir)) = executors().next() else {
        return;
    };
    let secret = dir.path().join("1");
    fs::write(&secret, "hush").unwrap();
    let mounts = format!(
        r#""mounts": [{{"path": "/run/key", "source": {{"secret": "key"}}}},
                      {{"path": "/up", "source": {{"host": "{}"}}}},
                      {{"path": "/tools", "source": {{"image": "test"}}}}]"#,
        dir.path().display()
    );
    let first = companion("first", "init", "cat /run/key; ls /tools", "");
    let first = first.replace(IMAGE, &format!(r#"{{"image": "test", {mounts}}}"#));
    let script = "cd ../members/first/container && ls -A secrets mounts/1 images/2/root; cat \
                  secrets/0; grep members/first/container /proc/self/mountinfo";
    let options = format!(r#"{{"companions": [{first}]}}"#);
    let builder = Builder::script("task", script).container("{}");
    let image = image(dir.path(), ImageConfig::default());
    let builder = builder.life(&options).other_image("test", image);
    executor.launch(builder.secret("key", &secret));
    let end = executor.end("task");
    let shown = output(&executor, "first", "stdout");
    assert!(
        shown.starts_with("hush") && shown.contains("bin"),
        "{shown}"
    );
    check(&end, "failed", "exit-code", Some(1), "");
    let seen = executor.output("task", "stdout");
    assert_eq!(seen, "images/2/root:\n\nmounts/1:\n\nsecrets:\n");
}

#[test]
fn commands_run_beside_the_member_that_is_named() {
    for (mut executor, dir) in executors() {
        let companions = [companion("proxy", "sidecar", &serves("touch /mine up"), "")];
        executor.launch(group(dir.path(), &serves(":"), &companions));
        let up = executor.task_dir("task").join("sandbox/up");
        eventually("the sidecar is up", || up.exists());
        let is_running = |member: &MemberStatus| member.state == MemberState::Running;
        while !executor.update().members.iter().all(is_running) {}
        let mut run = |member: Option<&str>| {
            executor.send(&ToExecutor::Run(RunBeside {
                id: 7,
                task: task("task"),
                member: member.map(str::to_owned),
                argv: ["ls", "/mine"].map(str::to_owned).into(),
                env: Vec::new(),
                timeout_ms: Some(60_000),
                io: RunIo::Nothing,
            }));
            executor.ran(7)
        };
        assert_eq!(run(Some("proxy")), Ok(0));
        assert_eq!(run(None), Ok(1));
        assert_eq!(run(Some("main")), Ok(1));
        let error = run(Some("nobody")).unwrap_err();
        assert!(error.contains("no command of that name"), "{error}");
        executor.kill("task", 10_000);
        assert_eq!(executor.end("task").state, TaskState::Killed);
    }
}

#[test]
fn a_companion_that_cannot_be_executed_is_an_error_that_names_it() {
    let Some((mut executor, dir)) = executors().next() else {
        return;
    };
    let bad = companion("bad", "sidecar", "", "").replace(r#""sh", "-c""#, r#""no-such-program""#);
    let good = companion("good", "sidecar", &serves(":"), "");
    executor.launch(group(dir.path(), "echo main", &[good, bad]));
    let words = "sidecar `bad`: `no-such-program` was not found";
    check(
        &executor.end("task"),
        "error",
        "command-failed",
        None,
        words,
    );
    assert_eq!(executor.output("task", "stdout"), "");
}

#[test]
fn members_are_told_of_while_the_task_runs() {
    let Some((mut executor, dir)) = executors().next() else {
        return;
    };
    let restart = r#", "restart": {"after": "any", "backoff_ms": 10, "max_backoff_ms": 20}"#;
    let companions = [companion("flaky", "sidecar", "exit 3", restart)];
    executor.launch(group(dir.path(), &serves(":"), &companions));
    let told = loop {
        let update = executor.update();
        assert_eq!(update.state, TaskState::Running);
        if update
            .members
            .get(1)
            .is_some_and(|flaky| flaky.restarts > 1)
        {
            break update;
        }
    };
    assert_eq!(told.members[0].state, MemberState::Running);
    assert_eq!(told.members[1].message, "the command exited with code 3");
    executor.kill("task", 10_000);
    assert_eq!(executor.end("task").state, TaskState::Killed);
}

#[test]
fn the_end_of_the_executor_leaves_nothing_of_any_member() {
    for (mut executor, dir) in executors() {
        let companions = [companion("proxy", "sidecar", &serves("touch up"), "")];
        executor.launch(group(dir.path(), &serves("touch up2"), &companions));
        let sandbox_dir = executor.task_dir("task").join("sandbox");
        eventually("both run", || {
            sandbox_dir.join("up").exists() && sandbox_dir.join("up2").exists()
        });
        executor.kill_process(Signal::SIGKILL);
        executor.gone();
        let group = executor.task_group().unwrap();
        cgroup::destroy(&group, DEADLINE).unwrap();
        let left = |hierarchy: &str| Path::new("/sys/fs/cgroup").join(hierarchy).join(&group);
        for hierarchy in ["memory", "devices", "cpuset", "freezer", "unified", ""] {
            assert!(!left(hierarchy).exists(), "{hierarchy}");
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let below = executor.task_dir("task");
        assert!(!mounts.contains(below.to_str().unwrap()), "{mounts}");
        // Without processes its mounts are gone, too, and the layers can be removed.
        dir.close().unwrap();
    }
}
