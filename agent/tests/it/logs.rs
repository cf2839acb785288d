//! A task's output over a data connection: from an offset, so far, and followed to
//! the end of the task.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tepui_types::TaskState;
use tepui_types::api::file::FileList;
use tepui_types::wire::stream::{FileForm, FileRequest, StreamRequest};

use crate::master::{FakeMaster, shell};
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
        let read = master.stream(id).await.all().await;
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
    crate::master::eventually("all is written", || done.exists()).await;
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
