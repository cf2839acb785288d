//! Commands beside a task that read and write: by pipes and by a terminal.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;

use nix::pty::openpty;
use tempfile::TempDir;
use tepui_executor::runtime::Runtime;
use tepui_executor::{descriptors, protocol};
use tepui_types::TaskState;
use tepui_types::wire::executor::{FromExecutor, ImageConfig, RunBeside, RunIo, ToExecutor};

use crate::containers::{IMAGE, image, runtimes};
use crate::env::{Builder, Executor, check, eventually, task};
use crate::userns::USERS;

/// A task that runs, on the machine as it is or in a container.
struct Host {
    executor: Executor,
    /// The layers of its image.
    _image: Option<TempDir>,
    /// Whether a terminal controls what runs beside it.
    has_job_control: bool,
}

/// One of each kind.
fn hosts() -> Vec<Host> {
    let mut hosts = vec![host(Executor::native(), None, true)];
    for runtime in runtimes() {
        let is_built_in = runtime == Runtime::BuiltIn;
        if let Some(executor) = Executor::container(runtime) {
            let dir = tempfile::tempdir().unwrap();
            hosts.push(host(executor, Some(dir), is_built_in));
        }
    }
    hosts
}

fn host(mut executor: Executor, dir: Option<TempDir>, has_job_control: bool) -> Host {
    let mut builder = Builder::script("task", "while true; do sleep 0.05; done");
    if let Some(dir) = &dir {
        let image = image(dir.path(), ImageConfig::default());
        builder = builder.container(IMAGE).image(image);
    }
    executor.launch(builder);
    assert_eq!(executor.update().state, TaskState::Running);
    Host {
        executor,
        _image: dir,
        has_job_control,
    }
}

impl Host {
    fn end(mut self) {
        self.executor.kill("task", 0);
        assert_eq!(self.executor.end("task").state, TaskState::Killed);
    }
}

fn run(executor: &mut Executor, id: u64, argv: &[&str], io: RunIo, files: &[BorrowedFd<'_>]) {
    let run = ToExecutor::Run(RunBeside {
        id,
        task: task("task"),
        member: None,
        argv: argv.iter().map(|word| (*word).to_owned()).collect(),
        env: vec![("ADDED".into(), "yes".into())],
        timeout_ms: None,
        io,
    });
    let frame = protocol::encode(&run).unwrap();
    let mut connection = executor.connection();
    let sent = descriptors::send(connection.as_fd(), &frame, files).unwrap();
    connection.write_all(&frame[sent..]).unwrap();
}

#[test]
fn a_command_beside_a_task_reads_and_writes_by_pipes() {
    for mut host in hosts() {
        let executor = &mut host.executor;
        let (stdin, mut to) = io::pipe().unwrap();
        let (mut out, stdout) = io::pipe().unwrap();
        let (mut err, stderr) = io::pipe().unwrap();
        let script = "cat; echo $ADDED >&2; exit 3";
        let files = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
        run(executor, 1, &["sh", "-c", script], RunIo::Pipes, &files);
        to.write_all(b"through").unwrap();
        assert_eq!(text_of(&mut out, 7), "through");
        drop((to, stdin, stdout, stderr));
        assert_eq!(executor.ran(1), Ok(3));
        let mut said = String::new();
        err.read_to_string(&mut said).unwrap();
        assert_eq!(said, "yes\n");
        host.end();
    }
}

#[test]
fn a_command_beside_a_container_is_its_user_in_its_working_folder() {
    let config = || ImageConfig {
        user: "web".into(),
        working_dir: "/srv/deep".into(),
        ..ImageConfig::default()
    };
    let both = |one: Runtime| [(one.clone(), "host"), (one, "private")];
    for (runtime, userns) in runtimes().into_iter().flat_map(both) {
        let Some(mut executor) = Executor::container(runtime) else {
            return;
        };
        let dir = tempfile::tempdir().unwrap();
        let mut builder = Builder::script("task", "while true; do sleep 0.05; done")
            .container(&format!(r#"{{"image": "test", "userns": "{userns}"}}"#))
            .image(image(dir.path(), config()));
        builder.users = Some(USERS);
        executor.launch(builder);
        assert_eq!(executor.update().state, TaskState::Running);

        let (stdin, _to) = io::pipe().unwrap();
        let (mut out, stdout) = io::pipe().unwrap();
        let (_err, stderr) = io::pipe().unwrap();
        // It opens once more what it is given, and may write where the container's user may.
        let script = "(id -u; id -g; id -G; pwd; echo $HOME; busybox grep CapEff /proc/self/status) \
                      > /dev/stdout; touch $TEPUI_SANDBOX/own && ! touch /bin/own";
        let files = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
        let argv = ["sh", "-c", script];
        run(&mut executor, 1, &argv, RunIo::Pipes, &files);
        assert_eq!(executor.ran(1), Ok(0));
        drop((stdin, stdout, stderr));
        let mut said = String::new();
        out.read_to_string(&mut said).unwrap();
        let words: Vec<_> = said.split_whitespace().collect();
        let none = "0000000000000000";
        let own = ["33", "34", "34", "40", "/srv/deep", "/srv", "CapEff:", none];
        assert_eq!(words, own, "{userns}");
        executor.kill("task", 0);
        assert_eq!(executor.end("task").state, TaskState::Killed);
    }
}

#[test]
fn a_command_beside_a_container_without_its_working_folder_says_so() {
    let Some(mut executor) = Executor::container(Runtime::BuiltIn) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let text = "cd /; busybox rmdir /srv/deep; while true; do sleep 0.05; done";
    let container = r#"{"image": "test", "workdir": "/srv/deep"}"#;
    let builder = Builder::script("task", text).container(container);
    executor.launch(builder.image(image(dir.path(), ImageConfig::default())));
    assert_eq!(executor.update().state, TaskState::Running);
    let missing = "the container's working folder /srv/deep: No such file";
    eventually("it is told", || {
        executor.run_beside(1, "task", &["true"], 10_000);
        let ran = executor.ran(1);
        ran.is_err_and(|why| why.contains(missing))
    });
    executor.kill("task", 0);
    assert_eq!(executor.end("task").state, TaskState::Killed);
}

#[test]
fn a_command_beside_a_task_that_is_no_program_says_so_as_a_shell_does() {
    for mut host in hosts() {
        let executor = &mut host.executor;
        for (argv, code, words) in [
            ("no-such-program", 127, "not found"),
            ("/no/such/program", 127, "o such file or directory"),
            ("/etc/passwd", 126, "ermission denied"),
            ("/etc", 126, ""),
        ] {
            let (stdin, _to) = io::pipe().unwrap();
            let (mut out, stdout) = io::pipe().unwrap();
            let (mut err, stderr) = io::pipe().unwrap();
            let files = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
            run(executor, 1, &[argv], RunIo::Pipes, &files);
            drop((stdin, stdout, stderr));
            assert_eq!(executor.ran(1), Ok(code), "{argv}");
            let mut said = String::new();
            err.read_to_string(&mut said).unwrap();
            assert!(said.contains(words), "{said}");
            // Once, and not as a log has it.
            assert_eq!(said.lines().count(), 1, "{said}");
            assert_eq!(
                said.matches(argv).count(),
                said.matches("stat ").count() + 1,
                "{said}"
            );
            assert!(!said.contains("level"), "{said}");
            said.clear();
            out.read_to_string(&mut said).unwrap();
            assert_eq!(said, "");
        }
        let pty = openpty(None, None).unwrap();
        run(
            executor,
            2,
            &["no-such-program"],
            RunIo::Terminal,
            &[pty.slave.as_fd()],
        );
        assert_eq!(executor.ran(2), Ok(127));
        let mut line = [0; 200];
        let length = File::from(pty.master).read(&mut line).unwrap();
        let line = String::from_utf8_lossy(&line[..length]);
        assert!(line.contains("no-such-program"), "{line}");
        // A check that cannot be made has no code.
        executor.run_beside(3, "task", &["no-such-program"], 60_000);
        let why = executor.ran(3).unwrap_err();
        assert!(
            why.contains("no-such-program") && !why.contains("level"),
            "{why}"
        );
        host.end();
    }
}

#[test]
fn a_command_beside_a_task_is_controlled_by_its_terminal() {
    for mut host in hosts() {
        let executor = &mut host.executor;
        let pty = openpty(None, None).unwrap();
        let script = "test -t 0 && test -t 2 && echo begun && exec sleep 1000";
        let files = [pty.slave.as_fd()];
        run(executor, 1, &["sh", "-c", script], RunIo::Terminal, &files);
        drop(pty.slave);
        let mut terminal = File::from(pty.master);
        assert_eq!(text_of(&mut terminal, 7), "begun\r\n");
        if host.has_job_control {
            // Ctrl-C.
            terminal.write_all(b"\x03").unwrap();
            assert_eq!(executor.ran(1), Ok(130));
        } else {
            executor.send(&ToExecutor::Abandon(1));
            assert_eq!(executor.ran(1), Ok(137));
        }
        host.end();
    }
}

#[test]
fn a_command_that_nobody_waits_for_is_ended_and_the_task_goes_on() {
    for mut host in hosts() {
        let executor = &mut host.executor;
        let (stdin, to) = io::pipe().unwrap();
        let (mut out, stdout) = io::pipe().unwrap();
        let files = [stdin.as_fd(), stdout.as_fd(), stdout.as_fd()];
        let script = "echo begun; sleep 1000";
        run(executor, 1, &["sh", "-c", script], RunIo::Pipes, &files);
        assert_eq!(text_of(&mut out, 6), "begun\n");
        executor.send(&ToExecutor::Abandon(1));
        assert_eq!(executor.ran(1), Ok(137));
        drop((to, stdout));
        executor.run_beside(2, "task", &["sh", "-c", ":"], 60_000);
        assert_eq!(executor.ran(2), Ok(0));
        host.end();
    }
}

#[test]
fn commands_that_people_run_end_when_another_agent_comes_and_checks_go_on() {
    for mut host in hosts() {
        let executor = &mut host.executor;
        let (stdin, to) = io::pipe().unwrap();
        let (mut out, stdout) = io::pipe().unwrap();
        let files = [stdin.as_fd(), stdout.as_fd(), stdout.as_fd()];
        let script = "echo begun; sleep 1000";
        run(executor, 1, &["sh", "-c", script], RunIo::Pipes, &files);
        assert_eq!(text_of(&mut out, 6), "begun\n");
        let mark = executor.task_dir("task").join("sandbox/mark");
        let wait = "while ! test -e $TEPUI_SANDBOX/mark; do sleep 0.05; done";
        executor.run_beside(2, "task", &["sh", "-c", wait], 60_000);
        executor.reattach();
        assert_eq!(executor.ran(1), Ok(137));
        std::fs::write(mark, "").unwrap();
        assert_eq!(executor.ran(2), Ok(0));
        drop(to);
        host.end();
    }
}

#[test]
fn a_command_whose_files_did_not_come_is_refused() {
    let mut host = host(Executor::native(), None, true);
    let executor = &mut host.executor;
    run(executor, 1, &["true"], RunIo::Pipes, &[]);
    let why = executor.ran(1).unwrap_err();
    assert!(why.contains("did not come"), "{why}");
    host.end();
}

/// Sees the processes of its container, and lets none of them go on.
const STOPS_ALL: &str = "touch $TEPUI_SANDBOX/up; while true; do for p in /proc/[0-9]*; do \
                         p=${p#/proc/}; test $p = 1 || kill -STOP $p; done; done 2>/dev/null";

#[test]
fn a_container_that_stops_what_comes_in_holds_up_nobody_outside() {
    for runtime in runtimes() {
        let Some(mut executor) = Executor::container(runtime) else {
            return;
        };
        let dir = tempfile::tempdir().unwrap();
        let image = image(dir.path(), ImageConfig::default());
        let builder = Builder::script("task", STOPS_ALL);
        executor.launch(builder.container(IMAGE).image(image));
        let up = executor.task_dir("task").join("sandbox/up");
        eventually("it stops all", || up.exists());
        assert_eq!(executor.update().state, TaskState::Running);
        // One that nobody limits goes on beside those that are limited, until one of these was stopped
        // before its program.
        let sleep = ["sleep", "1000"];
        run(&mut executor, 1, &sleep, RunIo::Nothing, &[]);
        let mut ids = 10..200;
        let was_stopped = ids.any(|id| {
            executor.run_beside(id, "task", &sleep, 300);
            let why = executor.ran(id).unwrap_err();
            why.contains("was not executed within")
        });
        assert!(was_stopped);
        executor.send(&ToExecutor::Abandon(1));
        // It had begun, or it never did.
        assert!(matches!(executor.ran(1), Ok(137) | Err(_)));
        let pid = executor.identity.pid;
        let children = format!("/proc/{pid}/task/{pid}/children");
        eventually("nothing is left of either", || {
            let children = std::fs::read_to_string(&children).unwrap();
            children.split_whitespace().count() == 1
        });
        // Nor does one that is still being started hold up the end.
        run(&mut executor, 3, &sleep, RunIo::Nothing, &[]);
        executor.kill("task", 0);
        let (mut has_ended, mut has_run) = (false, false);
        while !(has_ended && has_run) {
            match protocol::read_frame(&mut executor.connection()).unwrap() {
                Some(FromExecutor::Update(update)) => has_ended |= update.state.is_terminal(),
                Some(FromExecutor::Ran { id: 3, .. }) => has_run = true,
                other => panic!("neither an end nor an answer: {other:?}"),
            }
        }
    }
}

#[test]
fn a_runtime_that_hangs_holds_up_neither_requests_nor_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("hangs");
    let script = format!(
        "#!/bin/sh\necho $$ > {0}.pid\nexec sleep 1000\n",
        program.display()
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let Some(mut executor) = Executor::container(Runtime::Program(program.clone())) else {
        return;
    };
    let builder = Builder::script("task", ":").container(IMAGE);
    executor.launch(builder.image(image(dir.path(), ImageConfig::default())));
    let noted = || std::fs::read_to_string(program.with_extension("pid")).unwrap_or_default();
    eventually("the runtime is called", || noted().ends_with('\n'));
    executor.run_beside(1, "task", &["true"], 60_000);
    assert!(executor.is_not_now(1));
    executor.kill("task", 3_600_000);
    let words = "the command did not run";
    let end = executor.end("task");
    check(&end, "killed", "kill-requested", None, words);
    let runtime = format!("/proc/{}", noted().trim());
    eventually("the runtime is gone", || {
        !std::path::Path::new(&runtime).exists()
    });
}

#[test]
fn what_a_helper_has_made_ends_with_it_unless_it_said_so() {
    let Some(runc) = runtimes().into_iter().find_map(|runtime| match runtime {
        Runtime::Program(path) => Some(path),
        Runtime::BuiltIn => None,
    }) else {
        eprintln!("skipped: there is no runc");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("kills");
    // The helper, which calls it, has no time to say what was made.
    let script = format!(
        "#!/bin/sh\n{} \"$@\" || exit\ncase \" $* \" in *\" exec \"*) kill -9 $PPID; esac\n",
        runc.display()
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let Some(executor) = Executor::container(Runtime::Program(program)) else {
        return;
    };
    let mut host = host(executor, Some(tempfile::tempdir().unwrap()), false);
    let executor = &mut host.executor;
    let script = "echo up > /mnt/tepui/sandbox/up; exec sleep 1000";
    executor.run_beside(1, "task", &["sh", "-c", script], 60_000);
    let why = executor.ran(1).unwrap_err();
    assert!(why.contains("its helper ended"), "{why}");
    // It has ended before that was said.
    let pid = executor.identity.pid;
    let children = || {
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let children = children.unwrap();
        let name = |child: &str| std::fs::read_to_string(format!("/proc/{child}/comm")).ok();
        let names: Vec<String> = children.split_whitespace().filter_map(name).collect();
        names
    };
    let found = children();
    assert!(!found.contains(&"sleep\n".to_owned()), "{found:?}");
    eventually("nothing is left but the task", || children() == ["sh\n"]);
    host.end();
}

#[test]
fn files_that_an_executor_has_no_room_for_are_refused_and_the_next_commands_have_theirs() {
    let mut host = host(Executor::native(), None, true);
    let executor = &mut host.executor;
    let (stdin, _to) = io::pipe().unwrap();
    let (mut out, stdout) = io::pipe().unwrap();
    let files = [stdin.as_fd(), stdout.as_fd(), stdout.as_fd()];
    // Two of the three come, and one does not.
    let before = executor.limit_files(2);
    run(executor, 1, &["echo", "one"], RunIo::Pipes, &files);
    let why = executor.ran(1).unwrap_err();
    assert!(why.contains("ulimit -n"), "{why}");
    // Neither does another agent, which is not waited for all the time.
    let stranger = executor.stranger();
    executor.restore_files(before);
    run(executor, 2, &["echo", "two"], RunIo::Pipes, &files);
    assert_eq!(executor.ran(2), Ok(0));
    drop((stdout, stranger));
    let mut said = String::new();
    // Ends, for nobody has kept any of them.
    out.read_to_string(&mut said).unwrap();
    assert_eq!(said, "two\n");
    host.end();
}

fn text_of(from: &mut impl Read, count: usize) -> String {
    let mut bytes = vec![0; count];
    from.read_exact(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}
