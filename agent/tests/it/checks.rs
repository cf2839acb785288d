//! Checks: what they find is told, and what is not well ends.

use std::sync::Arc;

use tepui_types::check::{CheckRole, CheckState};
use tepui_types::resources::PortRanges;
use tepui_types::task::{MemberState, MemberStatus, reason};
use tepui_types::wire::agent::{StatusReport, TaskLaunch};
use tepui_types::{TaskState, Workload};

use crate::containers::can_contain;
use crate::images::ImageLayout;
use crate::master::{FakeMaster, Session, contained, shell};
use crate::process::AgentProcess;

fn checked(name: &str, script: &str, checks: &str) -> TaskLaunch {
    let mut launch = shell(name, script);
    let checks = serde_json::from_str(checks).unwrap();
    let spec = Arc::make_mut(&mut launch.spec);
    spec.checks = Some(Box::new(checks));
    spec.validate().unwrap();
    launch
}

fn state(report: &StatusReport) -> Option<CheckState> {
    let signs = report.signs.as_ref()?;
    Some(signs.checks.first()?.state)
}

async fn until_check(session: &mut Session, task: &TaskLaunch, wanted: CheckState) {
    let is_there = |report: &StatusReport| state(report) == Some(wanted);
    session
        .until_all(|latest| latest.get(&task.task).is_some_and(is_there))
        .await;
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

const WAITING: &str = "while true; do sleep 0.05; done";

#[tokio::test]
async fn readiness_is_told_as_it_changes_and_ends_nothing() {
    let mut master = FakeMaster::start().await;
    let mut agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    let checks = r#"{"readiness": {"probe": {"command": {"argv": ["test", "-e", "ready"]}},
                     "interval_ms": 100, "failures": 1, "grace_ms": 0}}"#;
    let task = checked("task", WAITING, checks);
    session.launch(&task).await;
    until_check(&mut session, &task, CheckState::Failing).await;
    let ready = agent.layout().sandbox(&task.task).join("ready");
    std::fs::write(&ready, "").unwrap();
    until_check(&mut session, &task, CheckState::Passing).await;
    // The next agent process goes on with it.
    agent.kill();
    agent.start_again(&master);
    let mut session = master.session().await;
    until_check(&mut session, &task, CheckState::Passing).await;
    std::fs::remove_file(&ready).unwrap();
    until_check(&mut session, &task, CheckState::Failing).await;
    session.kill(&task.task, 100).await;
    let report = session.until(&task.task, TaskState::Killed).await;
    assert_eq!(report.signs, None);
}

#[tokio::test]
async fn a_task_that_is_not_well_ends_as_failed_with_what_was_wrong() {
    let mut master = FakeMaster::start().await;
    let _agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    let port = free_port();
    let cases = [
        (
            "command",
            r#"{"command": {"argv": ["sh", "-c", "exit 4"]}}"#.to_owned(),
            "exited with 4",
        ),
        (
            "tcp",
            format!(r#"{{"tcp": {{"port": {port}}}}}"#),
            "refused",
        ),
        ("http", r#"{"http": {}}"#.to_owned(), "--ports 1"),
    ];
    for (name, probe, words) in cases {
        let checks = format!(
            r#"{{"health": {{"probe": {probe}, "interval_ms": 100, "failures": 2, "grace_ms": 0}}}}"#
        );
        let task = checked(name, WAITING, &checks);
        session.launch(&task).await;
        let report = session.until(&task.task, TaskState::Failed).await;
        let why = report.reason.unwrap();
        assert_eq!(why.code, reason::HEALTH_CHECK_FAILED);
        assert!(why.message.contains(words), "{}", why.message);
    }
}

#[tokio::test]
async fn a_service_is_checked_on_the_first_of_its_ports() {
    let mut master = FakeMaster::start().await;
    let _agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    let port = free_port();
    let checks = r#"{"health": {"probe": {"http": {}}, "interval_ms": 100},
                     "startup": {"probe": {"tcp": {}}, "interval_ms": 100}}"#;
    let script = "mkdir www; echo hello > www/index.html; exec busybox httpd -f -h www -p \
                  127.0.0.1:$TEPUI_PORTS";
    let mut task = checked("web", script, checks);
    task.resources.ports = PortRanges::from_range(port, port);
    session.launch(&task).await;
    until_check(&mut session, &task, CheckState::Passing).await;
    session.kill(&task.task, 100).await;
    session.until(&task.task, TaskState::Killed).await;
}

#[tokio::test]
async fn checks_by_command_do_not_fail_while_a_command_pauses_before_it_is_started_again() {
    let mut master = FakeMaster::start().await;
    let _agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    // One failure would end it.
    let checks = r#"{"health": {"probe": {"command": {"argv": ["true"]}}, "interval_ms": 100,
                     "failures": 1, "grace_ms": 0}}"#;
    let script = "test -e again && exec sleep 1000; echo > again; exit 1";
    let mut task = checked("task", script, checks);
    let Workload::Command(command) = &mut Arc::make_mut(&mut task.spec).workload else {
        panic!("a shell is a command");
    };
    let life = r#"{"restart": {"backoff_ms": 1000, "max_backoff_ms": 1000}}"#;
    command.options = Some(serde_json::from_str(life).unwrap());
    session.launch(&task).await;
    let is_well_again = |report: &StatusReport| {
        let signs = report.signs.as_ref();
        let is_again = |members: &[MemberStatus]| {
            members
                .first()
                .is_some_and(|main| main.restarts == 1 && main.state == MemberState::Running)
        };
        state(report) == Some(CheckState::Passing)
            && signs.is_some_and(|signs| is_again(&signs.members))
    };
    session
        .until_all(|latest| latest.get(&task.task).is_some_and(is_well_again))
        .await;
    session.kill(&task.task, 0).await;
    session.until(&task.task, TaskState::Killed).await;
}

#[tokio::test]
async fn checks_by_tcp_and_http_do_not_fail_while_a_command_pauses_either() {
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    for probe in ["tcp", "http"] {
        let port = free_port();
        // A pause is three times as long as what ends it.
        let checks = format!(
            r#"{{"startup": {{"probe": {{"tcp": {{}}}}, "interval_ms": 100}},
                 "health": {{"probe": {{"{probe}": {{}}}}, "interval_ms": 100, "failures": 10,
                             "grace_ms": 0}}}}"#
        );
        let script = "echo hello > index.html; busybox httpd -f -p 127.0.0.1:$TEPUI_PORTS & while ! \
                      test -e stop; do sleep 0.01; done; rm stop; exit 1";
        let mut task = checked(probe, script, &checks);
        task.resources.ports = PortRanges::from_range(port, port);
        let Workload::Command(command) = &mut Arc::make_mut(&mut task.spec).workload else {
            panic!("a shell is a command");
        };
        let life = r#"{"restart": {"backoff_ms": 3000, "max_backoff_ms": 3000}}"#;
        command.options = Some(serde_json::from_str(life).unwrap());
        session.launch(&task).await;
        let is_well = |report: &StatusReport| {
            let checks = report.signs.as_ref().map(|signs| &signs.checks);
            checks.is_some_and(|checks| {
                let health = checks.iter().find(|check| check.check == CheckRole::Health);
                health.is_some_and(|health| health.state == CheckState::Passing)
            })
        };
        session
            .until_all(|latest| latest.get(&task.task).is_some_and(is_well))
            .await;
        std::fs::write(agent.layout().sandbox(&task.task).join("stop"), "").unwrap();
        let runs_again = |report: &StatusReport| {
            assert_eq!(report.state, TaskState::Running, "{:?}", report.reason);
            let signs = report.signs.as_ref();
            let main = signs.and_then(|signs| signs.members.first());
            main.is_some_and(|main| main.restarts == 1 && main.state == MemberState::Running)
        };
        session
            .until_all(|latest| {
                let report = latest.get(&task.task);
                report.is_some_and(|report| runs_again(report) && is_well(report))
            })
            .await;
        session.kill(&task.task, 0).await;
        session.until(&task.task, TaskState::Killed).await;
    }
}

#[tokio::test]
async fn a_check_by_command_runs_beside_the_member_that_it_names() {
    if !can_contain() {
        return;
    }
    let image = ImageLayout::make();
    let mut master = FakeMaster::start().await;
    let _agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    let container = format!(r#"{{"image": "{}"}}"#, image.name());
    let second = format!(
        r#"{{"name": "second", "role": "peer", "argv": ["sh", "-c", "{WAITING}"],
             "env": {{"WHO": "second"}}, "container": {container}}}"#
    );
    // What passes beside the task's own command fails beside the other.
    for (name, member, found) in [
        ("own", "", CheckState::Passing),
        ("named", r#", "member": "second""#, CheckState::Failing),
    ] {
        let argv = r#"["sh", "-c", "test $WHO = main"]"#;
        let checks = format!(
            r#"{{"readiness": {{"probe": {{"command": {{"argv": {argv}{member}}}}},
                                "interval_ms": 100, "failures": 1, "grace_ms": 0}}}}"#
        );
        let mut task = contained(name, &container, &["sh", "-c", WAITING]);
        let spec = Arc::make_mut(&mut task.spec);
        spec.checks = Some(serde_json::from_str(&checks).unwrap());
        let Workload::Command(command) = &mut spec.workload else {
            panic!("a container is a command");
        };
        command.env.insert("WHO".into(), "main".into());
        let companions = format!(r#"{{"companions": [{second}]}}"#);
        command.options = Some(serde_json::from_str(&companions).unwrap());
        spec.validate().unwrap();
        session.launch(&task).await;
        until_check(&mut session, &task, found).await;
        let report = &session.latest[&task.task];
        let check = &report.signs.as_ref().unwrap().checks[0];
        assert!(check.message.is_empty() || check.message.contains("exited with 1"));
        session.kill(&task.task, 0).await;
        session.until(&task.task, TaskState::Killed).await;
    }
}
