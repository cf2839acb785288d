//! Half of an upgrade: executors that are of another release than their agent.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tepui_executor::identity;
use tepui_types::task::reason;
use tepui_types::wire;
use tepui_types::wire::executor::{FromExecutor, ProcessIdentity, VERSION};
use tepui_types::{TaskId, TaskState};

use crate::master::{FakeMaster, Session, eventually, shell};
use crate::process::AgentProcess;

/// Perl, of which every Debian has enough for this.
const PERL: &str = "/usr/bin/perl";

/// Answers an agent with what is in the file beside it, reads once more, and hangs up, until its folder
/// goes. It notes its number there.
const FOREIGN: &str = r#"#!/bin/sh
exec 3<&0
/usr/bin/perl -e '
    my ($folder, $greeting) = @ARGV;
    open my $listener, "<&=", 3;
    open my $file, "<", $greeting;
    alarm 300;
    local $/;
    my $greets = <$file>;
    open my $pid, ">", "$folder/pid";
    print $pid $$, "\n";
    close $pid;
    while (-e $folder) {
        accept(my $agent, $listener) or next;
        sysread $agent, my $attach, 65536;
        syswrite $agent, $greets;
        sysread $agent, my $launch, 65536;
    }
' "$2" "${0%/*}/greeting" 3<&3 0</dev/null &
"#;

/// A folder of executors, of which those for native tasks hang up at the first that they are told.
fn foreign() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let native = folder.path().join("tepui-executor-task");
    for name in ["tepui-executor-task", "tepui-executor-wasm"] {
        let program = folder.path().join(name);
        std::fs::write(&program, FOREIGN).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    assert!(native.exists());
    let greeting = FromExecutor::Attached {
        identity: ProcessIdentity {
            boot_id: "foreign".into(),
            pid: 1,
            start_time: 1,
        },
        version: "0.0.1".into(),
        tasks: Vec::new(),
    };
    let greeting = wire::frame(VERSION, &greeting).unwrap();
    std::fs::write(folder.path().join("greeting"), greeting).unwrap();
    folder
}

/// The process that the only executor has noted, made known as an executor makes itself known.
async fn introduced(session: &mut Session, agent: &AgentProcess) -> ProcessIdentity {
    let executors = agent.layout().executors();
    let folder = || {
        let mut entries = std::fs::read_dir(&executors).ok()?;
        Some(entries.next()?.ok()?.path())
    };
    let pid = || {
        let noted = std::fs::read_to_string(folder()?.join("pid")).ok()?;
        noted.strip_suffix('\n')?.parse().ok()
    };
    let noted = eventually("it runs", || pid().is_some());
    session.meanwhile(noted).await;
    let identity = identity::of(pid().unwrap()).unwrap().unwrap();
    identity::write(&folder().unwrap(), &identity).unwrap();
    identity
}

/// Waits until that task tells why it waits, or has ended, however long that takes.
async fn reason_of(session: &mut Session, task: &TaskId, state: TaskState) -> String {
    let is_told = |latest: &crate::master::Latest| {
        let report = latest.get(task);
        report.is_some_and(|report| report.state == state && report.reason.is_some())
    };
    // It is given up after longer than most things take.
    for _ in 0..3 {
        if session.is_seen(is_told).await {
            break;
        }
    }
    let report = &session.latest[task];
    let why = report.reason.clone().unwrap();
    assert_eq!((report.state, &*why.code), (state, reason::EXECUTOR_UNFIT));
    why.message
}

#[tokio::test]
async fn a_task_says_that_its_executor_is_of_another_release_and_is_dropped_to_run_elsewhere() {
    if !Path::new(PERL).exists() {
        eprintln!("skipped: there is no {PERL}");
        return;
    }
    let programs = foreign();
    let arguments = ["--executors", programs.path().to_str().unwrap()];
    let arguments: [&'static str; 2] = arguments.map(|word| &*word.to_owned().leak());
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start_with(&master, arguments.to_vec().leak());
    let mut session = master.session().await;
    let task = shell("a", "true");
    session.launch(&task).await;
    let process = introduced(&mut session, &agent).await;
    let why = reason_of(&mut session, &task.task, TaskState::Starting).await;
    assert!(
        why.contains("install the executors that belong to it"),
        "{why}"
    );
    let why = reason_of(&mut session, &task.task, TaskState::Dropped).await;
    assert!(why.contains("of another release"), "{why}");
    let gone = eventually("it is ended, and its folder removed", || {
        let left = std::fs::read_dir(agent.layout().executors())
            .unwrap()
            .count();
        left == 0 && !identity::is_alive(&process)
    });
    session.meanwhile(gone).await;
}
