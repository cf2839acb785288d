//! Tasks that behave as badly as they can: the agent says what became of them, and nothing of
//! them is left.

use std::path::Path;

use tepui_types::api::file::FileList;
use tepui_types::task::reason;
use tepui_types::wire::agent::TaskLaunch;
use tepui_types::wire::stream::{FileForm, FileRequest, StreamRequest};
use tepui_types::{Digest, TaskState};

use crate::master::{FakeMaster, Session, contained, eventually, shell};
use crate::process::{AgentProcess, is_alive};

/// The number that a task has written into a file of its sandbox.
async fn pid_in(file: &Path) -> i32 {
    let mut pid = None;
    eventually("the number is there", || {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        pid = text
            .strip_suffix('\n')
            .map(|number| number.parse().unwrap());
        pid.is_some()
    })
    .await;
    pid.unwrap()
}

async fn finishes(session: &mut Session, task: &TaskLaunch) {
    session.launch(task).await;
    session.until(&task.task, TaskState::Finished).await;
}

#[tokio::test]
async fn an_archive_that_nobody_has_is_named() {
    let mut master = FakeMaster::start().await;
    let _agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    let missing = Digest::of(b"nobody has this");
    let container = format!(r#"{{"image": "artifact:{missing}"}}"#);
    let task = contained("a", &container, &["true"]);
    session.launch(&task).await;
    let end = session.until(&task.task, TaskState::Error).await;
    let why = end.reason.unwrap();
    assert_eq!(why.code, reason::ARTIFACT_UNKNOWN);
    assert!(why.message.contains(&missing.to_string()), "{why}");
    finishes(&mut session, &shell("next", "true")).await;
}

#[tokio::test]
async fn who_ignores_every_signal_is_ended_by_force_after_the_grace() {
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    let script = "trap '' TERM INT HUP QUIT; sh -c 'echo $$ > child; exec sleep 1000' & \
                  while true; do wait; sleep 0.05; done";
    let task = shell("deaf", script);
    session.launch(&task).await;
    session.until(&task.task, TaskState::Running).await;
    let child = session
        .meanwhile(pid_in(&agent.layout().sandbox(&task.task).join("child")))
        .await;
    session.kill(&task.task, 200).await;
    let why = session.until(&task.task, TaskState::Killed).await.reason;
    let why = why.unwrap();
    assert_eq!(why.code, reason::KILL_REQUESTED);
    assert!(why.message.contains("SIGKILL"), "{why}");
    assert!(!is_alive(child));
}

/// Forks twice, each time with a session of its own, and leaves what is left alone.
const DAEMON: &str = "setsid -f sh -c 'setsid -f sh -c \"echo \\$\\$ > daemon; exec sleep 1000\"'; \
                      until test -s daemon; do sleep 0.01; done";

#[tokio::test]
async fn a_daemon_ends_with_the_task_that_left_it() {
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    let ends = shell("ends", DAEMON);
    finishes(&mut session, &ends).await;
    let daemon = session
        .meanwhile(pid_in(&agent.layout().sandbox(&ends.task).join("daemon")))
        .await;
    assert!(!is_alive(daemon));

    let killed = shell("killed", &format!("{DAEMON}; echo up; exec sleep 1000"));
    session.launch(&killed).await;
    session.until(&killed.task, TaskState::Running).await;
    let daemon = session
        .meanwhile(pid_in(&agent.layout().sandbox(&killed.task).join("daemon")))
        .await;
    assert!(is_alive(daemon));
    session.kill(&killed.task, 5_000).await;
    session.until(&killed.task, TaskState::Killed).await;
    assert!(!is_alive(daemon));
}

#[tokio::test]
async fn two_million_lines_are_bounded_and_the_end_is_told() {
    const LIMIT: u64 = 1024 * 1024;
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start_with(&master, &["--output-limit", "1MiB"]);
    let mut session = master.session().await;
    let pid = agent.pid();
    let task = shell("loud", "yes 'a line of a log' | head -n 2000000");
    finishes(&mut session, &task).await;
    let output = agent.layout().task(&task.task).join("stdout");
    let output = std::fs::read(output).unwrap();
    let after = String::from_utf8_lossy(&output[LIMIT as usize..]).into_owned();
    // 16 bytes a line; what is dropped is counted.
    let dropped = 2_000_000 * 16 - LIMIT;
    assert!(after.contains(&format!("{dropped} bytes")), "{after}");
    assert!(after.len() < 1024, "{} bytes", output.len());
    finishes(&mut session, &shell("next", "true")).await;
    assert!(agent.pid() == pid && is_alive(pid.as_raw()));
}

#[tokio::test]
async fn files_of_any_name_are_listed_and_packed() {
    let mut master = FakeMaster::start().await;
    let _agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    let script = r#"echo 1 > "$(printf 'two\nlines')"; echo 2 > "$(printf 'no\377text')"
                    echo 3 > "$(head -c 255 /dev/zero | tr '\0' n)"; echo 4 > './-rf *'"#;
    let task = shell("a", script);
    finishes(&mut session, &task).await;
    let long = "n".repeat(255);
    let wanted: [&[u8]; 4] = [b"-rf *", long.as_bytes(), b"no\xfftext", b"two\nlines"];
    let mut answers = Vec::new();
    for (number, form) in [(1, FileForm::List), (2, FileForm::Tar)] {
        let request = StreamRequest::Files(FileRequest {
            task: task.task.clone(),
            path: String::new(),
            form,
        });
        session.open(number, request).await;
        let mut stream = master.stream(number).await;
        stream.until(|stream| stream.end.is_some()).await;
        assert_eq!(stream.end, Some(Ok(())));
        answers.push(stream.bytes);
    }
    let list: FileList = serde_json::from_slice(&answers[0]).unwrap();
    let names: Vec<_> = list.entries.iter().map(|entry| &entry.name).collect();
    let shown = wanted.map(|name| String::from_utf8_lossy(name).into_owned());
    assert_eq!(names, shown.iter().collect::<Vec<_>>());
    let mut packed = Vec::new();
    for entry in tar::Archive::new(&answers[1][..]).entries().unwrap() {
        packed.push(entry.unwrap().path_bytes().into_owned());
    }
    packed.sort();
    assert_eq!(packed, wanted);
}
