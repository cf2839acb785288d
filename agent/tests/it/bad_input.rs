//! What an operator may get wrong: each ends the agent with a sentence that names
//! the fix.

use crate::master::{FakeMaster, eventually};
use crate::process::{AgentProcess, command, run_to_end};

async fn said(command: std::process::Command) -> String {
    let output = run_to_end(command).await;
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[tokio::test]
async fn second_agent_on_a_folder_is_refused() {
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start(&master);
    let _session = master.session().await;
    let said = said(command(&agent.dir(), &master.url)).await;
    assert!(said.contains("another tepui-agent (pid"), "{said}");
    eventually("the first goes on", || agent.layout().address().exists()).await;
}

#[tokio::test]
async fn corrupt_journal_is_named() {
    let master = FakeMaster::start().await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("format"), "tepui-agent 1\n").unwrap();
    std::fs::write(dir.path().join("checkpoint"), [7; 64]).unwrap();
    let said = said(command(dir.path(), &master.url)).await;
    assert!(said.contains("checkpoint is broken at byte 0"), "{said}");
}

#[tokio::test]
async fn unwritable_folder_is_named() {
    let said = said(command("/proc/tepui".as_ref(), "http://127.0.0.1:1")).await;
    assert!(
        said.contains("/proc/tepui") && said.contains("--dir"),
        "{said}"
    );
}

#[tokio::test]
async fn busy_port_is_named_with_its_fix() {
    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut command = command(dir.path(), "http://127.0.0.1:1");
    command
        .arg("--listen")
        .arg(busy.local_addr().unwrap().to_string());
    let said = said(command).await;
    assert!(
        said.contains("failed to listen on") && said.contains("--listen"),
        "{said}"
    );
}

#[tokio::test]
async fn bad_flags_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut bad = command(dir.path(), "http://127.0.0.1:1");
    bad.args(["--attributes", "zone"]);
    assert!(said(bad).await.contains("KEY=VALUE"));
    let said = said(command(dir.path(), "127.0.0.1:5050")).await;
    assert!(said.contains("http://127.0.0.1:5050"), "{said}");
}
