//! A task's output over a data connection: from an offset, so far, and followed to
//! the end of the task.

use std::sync::Arc;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tepui_types::api::file::FileList;
use tepui_types::command::{CommandOptions, CommandStdin, LogPolicy};
use tepui_types::wire::agent::TaskLaunch;
use tepui_types::wire::stream::{AttachRequest, ClientFrame, FileForm, FileRequest, StreamRequest};
use tepui_types::{Bytes, TaskState, Workload};

use crate::master::{FakeMaster, eventually, shell};
use crate::process::AgentProcess;

#[tokio::test]
async fn output_is_followed_to_the_end_of_the_task() {
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    let task = shell(
        "a",
        "echo one; while ! test -e ../go; do sleep 0.01; done; echo two",
    );
    session.launch(&task).await;
    session.until(&task.task, TaskState::Running).await;
    session.open_stream(5, &task.task, 0, true).await;
    let mut stream = master.stream(5).await;
    stream.until(|stream| stream.text == "one\n").await;
    std::fs::write(agent.layout().task(&task.task).join("go"), "").unwrap();
    assert_eq!(stream.all().await, ("one\ntwo\n".to_owned(), Ok(())));
    session.until(&task.task, TaskState::Finished).await;

    for (id, offset, text) in [
        (6, 0, "one\ntwo\n"),
        (7, 4, "two\n"),
        (8, -2, "o\n"),
        (9, 99, ""),
    ] {
        session.open_stream(id, &task.task, offset, true).await;
        let mut stream = master.stream(id).await;
        stream.until(|stream| stream.end.is_some()).await;
        let place = u64::try_from(offset).unwrap_or(6);
        assert_eq!(stream.places, [(place, 0)], "offset {offset}");
        let read = stream.all().await;
        assert_eq!(read, (text.to_owned(), Ok(())), "offset {offset}");
    }
}

#[tokio::test]
async fn who_follows_a_task_past_its_limit_reads_why_it_falls_silent() {
    let mut master = FakeMaster::start().await;
    let _agent = AgentProcess::start_with(&master, &["--output-limit", "1KiB"]);
    let mut session = master.session().await;
    let task = shell("a", "yes");
    session.launch(&task).await;
    session.until(&task.task, TaskState::Running).await;
    session.open_stream(5, &task.task, 0, true).await;
    let mut stream = master.stream(5).await;
    let kept = "y\n".repeat(512);
    let notice = "[tepui: the first 1 KiB of this output are kept, the rest is dropped";
    let silent = format!("{kept}{notice}");
    stream.until(|stream| stream.text == silent).await;
    session.kill(&task.task, 0).await;
    let (text, end) = stream.all().await;
    let dropped = text.strip_prefix(&silent).unwrap();
    assert!(dropped.starts_with(": ") && dropped.ends_with(" bytes]\n"));
    assert_eq!((dropped.lines().count(), end), (1, Ok(())));
}

#[tokio::test]
async fn output_so_far_is_sent_without_follow() {
    let mut master = FakeMaster::start().await;
    let _agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    let task = shell(
        "a",
        "head -c 300000 /dev/zero | tr '\\0' x; touch ../done; sleep 1000",
    );
    session.launch(&task).await;
    session.until(&task.task, TaskState::Running).await;
    let done = _agent.layout().task(&task.task).join("done");
    eventually("all is written", || done.exists()).await;
    session.open_stream(5, &task.task, 0, false).await;
    let (text, end) = master.stream(5).await.all().await;
    assert_eq!((text.len(), end), (300_000, Ok(())));
}

#[tokio::test]
async fn output_of_unknown_tasks_fails_with_a_reason() {
    let mut master = FakeMaster::start().await;
    let _agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    session
        .open_stream(5, &shell("never", "true").task, 0, true)
        .await;
    let (text, end) = master.stream(5).await.all().await;
    assert!(text.is_empty());
    assert_eq!(end.unwrap_err().code, "task-gone");
}

#[tokio::test]
async fn silent_task_has_an_empty_output() {
    let mut master = FakeMaster::start().await;
    let _agent = AgentProcess::start(&master);
    let digest = master.add_artifact(&crate::wasm::spin());
    let mut session = master.session().await;
    let task = crate::master::wasm("quiet", digest);
    session.launch(&task).await;
    session.until(&task.task, TaskState::Running).await;
    session.open_stream(5, &task.task, 0, true).await;
    let stream = master.stream(5).await;
    session.kill(&task.task, 0).await;
    assert_eq!(stream.all().await, (String::new(), Ok(())));
}

#[tokio::test]
async fn packed_output_is_read_as_any_other_and_outlives_the_agent_and_the_executor() {
    let mut master = FakeMaster::start().await;
    let mut agent = AgentProcess::start(&master);
    let digest = master.add_artifact(&crate::wasm::hello());
    let mut session = master.session().await;
    let task = crate::master::wasm("short", digest);
    session.launch(&task).await;
    session.until(&task.task, TaskState::Finished).await;
    assert!(!agent.layout().task(&task.task).exists(), "it is packed");
    for (id, offset, text) in [
        (5, 0, "hello\n"),
        (6, 4, "o\n"),
        (7, -3, "lo\n"),
        (8, 9, ""),
    ] {
        session
            .open_stream(id, &task.task, offset, id % 2 == 1)
            .await;
        let read = master.stream(id).await.all().await;
        assert_eq!(read, (text.to_owned(), Ok(())), "offset {offset}");
    }
    let request = FileRequest {
        task: task.task.clone(),
        path: String::new(),
        form: FileForm::List,
    };
    session.open(10, StreamRequest::Files(request)).await;
    let (list, end) = master.stream(10).await.all().await;
    let list: FileList = serde_json::from_str(&list).unwrap();
    assert_eq!((list, end), (FileList::default(), Ok(())));
    agent.kill();
    for executor in agent.executors() {
        let _ = kill(Pid::from_raw(executor.pid), Signal::SIGKILL);
    }
    agent.start_again(&master);
    let mut session = master.session().await;
    session.open_stream(9, &task.task, 0, false).await;
    let read = session.meanwhile(master.stream(9)).await;
    assert_eq!(
        session.meanwhile(read.all()).await,
        ("hello\n".to_owned(), Ok(()))
    );
}

/// Of which the latest is kept, in so many files of these bytes.
fn rotating(name: &str, script: &str, max_bytes: u64, files: u32) -> TaskLaunch {
    let mut task = shell(name, script);
    let Workload::Command(command) = &mut Arc::make_mut(&mut task.spec).workload else {
        panic!("a shell is a command");
    };
    let max_bytes = Bytes(max_bytes);
    command.options = Some(Box::new(CommandOptions {
        logs: Some(LogPolicy { max_bytes, files }),
        stdin: CommandStdin::Open,
        ..CommandOptions::default()
    }));
    task
}

/// What `seq 1 last` writes.
fn numbers(last: u32) -> String {
    (1..=last).map(|number| format!("{number}\n")).collect()
}

#[tokio::test]
async fn who_comes_back_to_rotated_output_goes_on_with_the_next_byte() {
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    let waits = "while ! test -e ../go; do sleep 0.01; done";
    let script = format!("seq 1 3000; {waits}; seq 3001 4000; rm ../go; {waits}; seq 4001 30000");
    let task = rotating("a", &script, 8192, 3);
    session.launch(&task).await;
    session.until(&task.task, TaskState::Running).await;
    let all = numbers(30_000);
    let go = agent.layout().task(&task.task).join("go");

    // A reader that leaves in the middle of the second file, after the first was rotated away or not.
    session.open_stream(5, &task.task, 0, true).await;
    let mut stream = session.meanwhile(master.stream(5)).await;
    stream
        .until(|stream| stream.text.ends_with("\n3000\n"))
        .await;
    let begins = stream.places[0].0 as usize;
    let mut at = begins + stream.text.len();
    assert_eq!(stream.text, all[begins..at]);
    drop(stream);

    // What is written meanwhile rotates, and is all there.
    std::fs::write(&go, "").unwrap();
    session
        .meanwhile(eventually("it waits again", || !go.exists()))
        .await;
    session.open_stream(6, &task.task, at as i64, true).await;
    let mut stream = session.meanwhile(master.stream(6)).await;
    let end = numbers(4000).len();
    stream.until(|stream| stream.text.len() >= end - at).await;
    assert_eq!(stream.places, [(at as u64, 0)]);
    assert_eq!(stream.text, all[at..end]);
    at = end;
    drop(stream);

    // What it wants is gone, but for the end of it.
    std::fs::write(&go, "").unwrap();
    session.until(&task.task, TaskState::Finished).await;
    session.open_stream(7, &task.task, at as i64, true).await;
    let mut stream = session.meanwhile(master.stream(7)).await;
    stream.until(|stream| stream.end.is_some()).await;
    let [(begins, 0)] = stream.places[..] else {
        panic!("{:?}", stream.places);
    };
    assert!(begins as usize > at && all[begins as usize..] == stream.text);
    assert!(stream.text.len() > 8192);
}

#[tokio::test]
async fn who_attaches_to_rotated_output_is_told_where_it_begins() {
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    let script = "seq 1 20000; touch ../done; read line; echo end";
    let task = rotating("a", script, 8192, 3);
    session.launch(&task).await;
    session.until(&task.task, TaskState::Running).await;
    // What a pipe holds of it is less than what was rotated away.
    let done = agent.layout().task(&task.task).join("done");
    session
        .meanwhile(eventually("all is written", || done.exists()))
        .await;
    let all = numbers(20_000) + "end\n";
    for (id, is_end) in [(5, false), (6, true)] {
        let request = AttachRequest {
            task: task.task.clone(),
            terminal: None,
        };
        session.open(id, StreamRequest::Attach(request)).await;
        let mut stream = session.meanwhile(master.stream(id)).await;
        stream
            .until(|stream| stream.text.ends_with("\n20000\n"))
            .await;
        if is_end {
            stream.say(ClientFrame::Data(b"\n".to_vec())).await;
            stream.until(|stream| stream.end.is_some()).await;
        }
        // The first may have seen some that was rotated away since.
        let (begins, from) = *stream.places.last().unwrap();
        let (begins, text) = (begins as usize, &stream.text[from..]);
        assert!(begins > 0 && all[begins..begins + text.len()] == *text);
    }
    session.until(&task.task, TaskState::Finished).await;
}

#[tokio::test]
async fn a_slow_reader_of_rotating_output_is_told_what_it_missed() {
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    let script = "seq 1 100; while ! test -e ../go; do sleep 0.01; done; seq 101 2000000";
    let task = rotating("a", script, 8192, 2);
    session.launch(&task).await;
    session.until(&task.task, TaskState::Running).await;
    session.open_stream(5, &task.task, 0, true).await;
    let mut stream = session.meanwhile(master.stream(5)).await;
    stream.until(|stream| !stream.text.is_empty()).await;
    // More than the connection holds is written before it is read.
    std::fs::write(agent.layout().task(&task.task).join("go"), "").unwrap();
    session.until(&task.task, TaskState::Finished).await;
    stream.until(|stream| stream.end.is_some()).await;
    let all = numbers(2_000_000);
    let (places, text) = (&stream.places, &stream.text);
    assert!(places.len() > 1 && places[0] == (0, 0));
    let mut last_end = 0;
    for (number, (begins, from)) in places.iter().enumerate() {
        let until = places.get(number + 1).map_or(text.len(), |next| next.1);
        let (begins, piece) = (*begins as usize, &text[*from..until]);
        assert!(
            begins > last_end || number == 0,
            "something is missed before {begins}"
        );
        last_end = begins + piece.len();
        // No `assert_eq`: it would print them.
        assert!(all[begins..last_end] == *piece, "at {begins}");
    }
    assert_eq!(last_end, all.len());
}
