//! Sessions with a master: hello and welcome, terms, silence, refusals.

use tepui_agent::checkpoint::{Journal, Record};
use tepui_types::wire::agent::{AgentEffect, AgentFrame, MasterFrame, Welcome};
use tepui_types::{AgentId, ClusterId, Reason, TaskState};

use crate::master::{FakeMaster, eventually, shell, welcome};
use crate::process::{AgentProcess, command, run_to_end};

#[tokio::test]
async fn agent_registers_and_comes_back_as_itself() {
    let mut master = FakeMaster::start().await;
    let mut agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    assert_eq!((session.hello.cluster, session.hello.agent), (None, None));
    assert_eq!(session.hello.info.resources.cpus.0, 2_000);
    let nonce = session.hello.nonce;
    eventually("the address is written", || {
        agent.layout().address().exists()
    })
    .await;
    let address = std::fs::read_to_string(agent.layout().address()).unwrap();
    assert!(
        address.starts_with("http://127.0.0.1:") && address.ends_with('\n'),
        "{address}"
    );
    let line = format!("tepui-agent a1 registered with {}\n", master.url);
    eventually("it says so", || agent.log().contains(&line)).await;
    assert!(matches!(session.next().await, AgentFrame::Heartbeat(_)));
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let get = async |path: &str| {
        http.get(format!("{}{path}", address.trim()))
            .send()
            .await
            .unwrap()
    };
    assert_eq!(get("/healthz").await.status(), 200);
    assert_eq!(get("/readyz").await.status(), 200);
    let metrics = get("/metrics").await.text().await.unwrap();
    assert!(metrics.contains("tepui_agent_registered 1"), "{metrics}");

    assert!(agent.stop().await, "SIGTERM is a clean end");
    agent.start_again(&master);
    let session = master.session().await;
    assert_eq!(session.hello.cluster, Some(ClusterId(7)));
    assert_eq!(session.hello.agent, Some(AgentId(1)));
    assert_eq!(session.hello.nonce, nonce);
}

#[tokio::test]
async fn lost_session_is_replaced_and_statuses_are_sent_again() {
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    session.records = false;
    let task = shell("a", "exit 3");
    session.launch(&task).await;
    session.until(&task.task, TaskState::Failed).await;
    drop(session);
    let mut session = master.session().await;
    assert_eq!(session.hello.tasks[0].exit_code, Some(3));
    let report = session.until(&task.task, TaskState::Failed).await;
    assert_eq!(report.exit_code, Some(3));
    // Recorded now, so that a third session hears nothing of it.
    let forgotten = Record::Forgotten(task.task.clone());
    eventually("the end is forgotten", || {
        let records = Journal::read(&agent.layout().checkpoint()).unwrap();
        records.contains(&forgotten)
    })
    .await;
    drop(session);
    let session = master.session().await;
    assert!(session.hello.tasks.is_empty(), "{:?}", session.hello.tasks);
}

#[tokio::test]
async fn silent_master_is_hung_up_on() {
    let mut master = FakeMaster::start().await;
    let _agent = AgentProcess::start(&master);
    let mut session = master.accept().await;
    let impatient = Welcome {
        timeout_ms: 50,
        ..welcome()
    };
    session.send(MasterFrame::Welcome(impatient)).await;
    session.until_hung_up().await;
    master.session().await;
}

#[tokio::test]
async fn older_terms_are_refused() {
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start(&master);
    let mut session = master.accept().await;
    session
        .send(MasterFrame::Welcome(Welcome {
            term: 5,
            ..welcome()
        }))
        .await;
    let old = shell("old", "true");
    let effects = vec![AgentEffect::Launch(Box::new(old.clone()))];
    session
        .send(MasterFrame::Effects { term: 4, effects })
        .await;
    session.until_hung_up().await;
    let mut session = master.accept().await;
    assert!(session.hello.tasks.is_empty());
    // The old leader is not even listened to.
    session.send(MasterFrame::Welcome(welcome())).await;
    session.until_hung_up().await;
    let mut session = master.accept().await;
    session
        .send(MasterFrame::Welcome(Welcome {
            term: 6,
            ..welcome()
        }))
        .await;
    assert!(matches!(session.next().await, AgentFrame::Heartbeat(_)));
    assert!(agent.executors().is_empty());
}

#[tokio::test]
async fn refusal_ends_the_agent_with_its_reason_unless_it_may_retry() {
    let mut master = FakeMaster::start().await;
    let dir = tempfile::tempdir().unwrap();
    let run = tokio::spawn(run_to_end(command(dir.path(), &master.url)));
    let mut session = master.accept().await;
    let reason = Reason::new("unavailable", "no leader yet");
    session
        .send(MasterFrame::Refused {
            reason,
            retry: true,
        })
        .await;
    let mut session = master.accept().await;
    let reason = Reason::new("foreign-cluster", "this folder is of another cluster");
    session
        .send(MasterFrame::Refused {
            reason,
            retry: false,
        })
        .await;
    let output = run.await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(
        said.contains("refused this agent: this folder is of another cluster"),
        "{said}"
    );
}

#[tokio::test]
async fn master_of_another_cluster_is_refused() {
    let mut master = FakeMaster::start().await;
    let mut agent = AgentProcess::start(&master);
    let first = master.session().await;
    eventually("it is registered", || agent.layout().address().exists()).await;
    agent.kill();
    drop(first);
    let run = tokio::spawn(run_to_end(command(&agent.dir(), &master.url)));
    let mut session = master.accept().await;
    session
        .send(MasterFrame::Welcome(Welcome {
            cluster: ClusterId(8),
            ..welcome()
        }))
        .await;
    let said = String::from_utf8(run.await.unwrap().stderr).unwrap();
    assert!(
        said.contains("belongs to cluster") && said.contains("--dir"),
        "{said}"
    );
}
