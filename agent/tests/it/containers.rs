//! Tasks in containers, from their images and networks to what is left of them: nothing.

use tepui_types::TaskState;
use tepui_types::wire::agent::TaskLaunch;

use crate::bridge::Bridge;
use crate::images::ImageLayout;
use crate::master::{FakeMaster, contained, eventually};
use crate::process::AgentProcess;

/// Whether this machine lets us; says so when not.
pub fn can_contain() -> bool {
    let able = tepui_executor::cgroup::available();
    able.inspect_err(|error| eprintln!("without containers: {error}"))
        .is_ok()
}

pub fn stdout(agent: &AgentProcess, task: &TaskLaunch) -> String {
    let path = agent.layout().task(&task.task).join("stdout");
    std::fs::read_to_string(path).unwrap_or_default()
}

#[tokio::test]
async fn an_image_runs_as_its_maker_says_or_as_the_task_says() {
    if !can_contain() {
        return;
    }
    let image = ImageLayout::make();
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    let container = format!(r#"{{"image": "{}"}}"#, image.name());
    let plain = contained("plain", &container, &[]);
    let told = contained(
        "told",
        &container,
        &["sh", "-c", "echo $TEPUI_TASK_ID; ls /"],
    );
    session.launch(&plain).await;
    session.until(&plain.task, TaskState::Finished).await;
    assert_eq!(stdout(&agent, &plain), "hello\n");
    session.launch(&told).await;
    session.until(&told.task, TaskState::Finished).await;
    assert!(stdout(&agent, &told).starts_with("f1.told.0\n"));

    let archive = master.add_artifact(&image.archive());
    let container = format!(r#"{{"image": "artifact:{archive}"}}"#);
    let archived = contained("archived", &container, &[]);
    session.launch(&archived).await;
    session.until(&archived.task, TaskState::Finished).await;
    assert_eq!(stdout(&agent, &archived), "hello\n");
}

#[tokio::test]
async fn what_a_container_cannot_have_is_said_in_words() {
    if !can_contain() {
        return;
    }
    let image = ImageLayout::make();
    let mut master = FakeMaster::start().await;
    let _agent = AgentProcess::start_with(&master, &["--host-path", "/usr/share"]);
    let mut session = master.session().await;
    let layout = image.path();
    let cases = [
        (
            format!(r#"{{"image": "oci-layout:{}:other"}}"#, layout.display()),
            "image-unknown",
            "other",
        ),
        (
            r#"{"image": "localhost:1/nothing"}"#.to_owned(),
            "image-address-refused",
            "localhost:1",
        ),
        (
            r#"{"image": "busybox", "pull": "never"}"#.to_owned(),
            "image-not-present",
            "busybox",
        ),
        (
            r#"{"mounts": [{"path": "/mnt", "source": {"host": "/etc"}}]}"#.to_owned(),
            "container-refused",
            "--host-path",
        ),
        (
            r#"{"network": {"named": {"name": "no-such-network"}}}"#.to_owned(),
            "network-failed",
            "no-such-network",
        ),
    ];
    for (number, (container, code, words)) in cases.iter().enumerate() {
        let task = contained(&format!("t{number}"), container, &["true"]);
        session.launch(&task).await;
        let report = session.until(&task.task, TaskState::Error).await;
        let reason = report.reason.unwrap();
        assert_eq!(&reason.code, code, "{}", reason.message);
        assert!(reason.message.contains(words), "{}", reason.message);
    }
}

#[tokio::test]
async fn a_container_outlives_its_agent_and_goes_on_with_the_next() {
    if !can_contain() {
        return;
    }
    let image = ImageLayout::make();
    let mut master = FakeMaster::start().await;
    let mut agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    let container = format!(r#"{{"image": "{}"}}"#, image.name());
    let script = "until test -e $TEPUI_SANDBOX/go; do sleep 0.05; done; echo went";
    let task = contained("long", &container, &["sh", "-c", script]);
    session.launch(&task).await;
    session.until(&task.task, TaskState::Running).await;
    agent.kill();
    agent.start_again(&master);
    let mut session = master.session().await;
    std::fs::write(agent.layout().sandbox(&task.task).join("go"), "").unwrap();
    session.until(&task.task, TaskState::Finished).await;
    assert_eq!(stdout(&agent, &task), "went\n");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(agent.dir().to_str().unwrap()), "{mounts}");
}

#[tokio::test]
async fn a_container_has_an_address_of_its_own_until_its_end() {
    if !can_contain() || !std::path::Path::new("/usr/lib/cni/bridge").exists() {
        return;
    }
    let image = ImageLayout::make();
    let bridge = Bridge::make(&[]);
    let mut master = FakeMaster::start().await;
    let mut agent =
        AgentProcess::start_with(&master, vec!["--network-config", bridge.folder()].leak());
    let mut session = master.session().await;
    let container = format!(
        r#"{{"image": "{}", "network": {{"named": {{"name": "tests", "nameservers": ["192.0.2.1"]}}}}}}"#,
        image.name()
    );
    let script = "ip -4 addr show eth0; cat /etc/resolv.conf /etc/hosts; echo up; until test -e \
                  $TEPUI_SANDBOX/go; do sleep 0.05; done";
    let task = contained("addressed", &container, &["sh", "-c", script]);
    session.launch(&task).await;
    session.until(&task.task, TaskState::Running).await;
    eventually("it is up", || stdout(&agent, &task).ends_with("up\n")).await;
    let out = stdout(&agent, &task);
    assert!(
        out.contains("inet 10.213.") && out.contains("nameserver 192.0.2.1"),
        "{out}"
    );
    assert!(out.contains(" addressed\n"), "{out}");
    assert_eq!(bridge.leases(), 1);
    // Whoever comes after kill -9 keeps it, and lets go of it at its end.
    agent.kill();
    agent.start_again(&master);
    let mut session = master.session().await;
    assert_eq!(bridge.leases(), 1);
    std::fs::write(agent.layout().sandbox(&task.task).join("go"), "").unwrap();
    session.until(&task.task, TaskState::Finished).await;
    eventually("its address is free", || bridge.leases() == 0).await;
}

#[tokio::test]
async fn a_task_killed_while_its_image_comes_ends_at_once() {
    if !can_contain() {
        return;
    }
    // Takes connections, and says nothing.
    let registry = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = registry.local_addr().unwrap().port();
    let mut master = FakeMaster::start().await;
    let insecure: &str = format!("localhost:{port}").leak();
    let arguments = vec!["--insecure-registry", insecure].leak();
    let _agent = AgentProcess::start_with(&master, arguments);
    let mut session = master.session().await;
    let container = format!(r#"{{"image": "localhost:{port}/slow"}}"#);
    let task = contained("slow", &container, &["true"]);
    session.launch(&task).await;
    session.until(&task.task, TaskState::Starting).await;
    session.kill(&task.task, 1000).await;
    session.until(&task.task, TaskState::Killed).await;
    drop(registry);
}
