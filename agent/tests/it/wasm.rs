//! WebAssembly programs: one fetch, one process a trust domain, a thousand at once.

use tepui_types::task::reason;
use tepui_types::wire::agent::AgentEffect;
use tepui_types::{Digest, TaskState};

use crate::master::{FakeMaster, eventually, wasm};
use crate::process::AgentProcess;

/// Writes a line and returns.
pub fn hello() -> Vec<u8> {
    wat::parse_str(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write"
                (func $fd_write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 16) "hello\n")
            (func (export "_start")
                (i32.store (i32.const 0) (i32.const 16))
                (i32.store (i32.const 4) (i32.const 6))
                (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#,
    )
    .unwrap()
}

/// Never returns.
pub fn spin() -> Vec<u8> {
    wat::parse_str(
        r#"(module
            (memory (export "memory") 1)
            (func (export "_start") (loop $again (br $again))))"#,
    )
    .unwrap()
}

#[tokio::test]
async fn program_runs_and_its_artifact_is_fetched_once() {
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start(&master);
    let digest = master.add_artifact(&hello());
    let mut session = master.session().await;
    let first = wasm("first", digest);
    session.launch(&first).await;
    session.until(&first.task, TaskState::Finished).await;
    let second = wasm("second", digest);
    session.launch(&second).await;
    session.until(&second.task, TaskState::Finished).await;
    assert_eq!(master.fetches(), 1);
    assert_eq!(agent.executors().len(), 1, "one trust domain, one process");
    assert_eq!(agent.stdout(&first.task), "hello\n");
}

#[tokio::test]
async fn thousand_tasks_in_one_frame_all_finish_once() {
    let mut master = FakeMaster::start().await;
    let _agent = AgentProcess::start(&master);
    let digest = master.add_artifact(&hello());
    let mut session = master.session().await;
    let tasks: Vec<_> = (0..1_000)
        .map(|number| wasm(&format!("t{number}"), digest))
        .collect();
    let launch = |task: &_| AgentEffect::Launch(Box::new(Clone::clone(task)));
    session.effects(tasks.iter().map(launch).collect()).await;
    session
        .until_all(|latest| {
            let ended = latest.values().filter(|report| report.state.is_terminal());
            ended.count() == 1_000
        })
        .await;
    assert!(
        session
            .latest
            .values()
            .all(|report| report.state == TaskState::Finished)
    );
    assert_eq!(master.fetches(), 1);
}

#[tokio::test]
async fn domains_have_processes_of_their_own() {
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start(&master);
    let digest = master.add_artifact(&spin());
    let mut session = master.session().await;
    let ada = wasm("ada", digest);
    let mut bob = wasm("bob", digest);
    std::sync::Arc::make_mut(&mut bob.spec).user = "bob".into();
    for task in [&ada, &bob] {
        session.launch(task).await;
        session.until(&task.task, TaskState::Running).await;
    }
    assert_eq!(agent.executors().len(), 2);
    for task in [&ada, &bob] {
        session.kill(&task.task, 0).await;
        session.until(&task.task, TaskState::Killed).await;
    }
}

#[tokio::test]
async fn artifacts_that_cannot_be_had_are_errors() {
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    let unknown = wasm("unknown", Digest::of(b"nobody has this"));
    session.launch(&unknown).await;
    let report = session.until(&unknown.task, TaskState::Error).await;
    assert_eq!(report.reason.unwrap().code, reason::ARTIFACT_UNKNOWN);
    // The first bytes are wrong; what comes later is right.
    let digest = Digest::of(&hello());
    master.add_bytes(digest, b"something else");
    let late = wasm("late", digest);
    session.launch(&late).await;
    eventually("wrong bytes were refused", || {
        agent.log().contains("the bytes sent for")
    })
    .await;
    assert!(!agent.layout().artifact(&digest).exists());
    master.add_artifact(&hello());
    session.until(&late.task, TaskState::Finished).await;
}
