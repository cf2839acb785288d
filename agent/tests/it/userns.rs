//! Users that an agent lends to containers: nobody else has them, whichever agent process comes next.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;

use tepui_types::check::CheckState;
use tepui_types::task::reason;
use tepui_types::wire::agent::{TaskLaunch, TaskVolume};
use tepui_types::wire::stream::{ExecRequest, StreamRequest};
use tepui_types::{OperationId, TaskState};

use crate::bridge::{Bridge, has_plugins};
use crate::containers::{can_contain, stdout};
use crate::images::ImageLayout;
use crate::master::{FakeMaster, Session, contained, eventually};
use crate::process::AgentProcess;

/// Enough for three containers.
const THREE: &[&str] = &["--userns-range", "2100000000:196608"];
/// Says which users it has, and waits until it may go.
const WAITS: &str = "cat /proc/self/uid_map > $TEPUI_SANDBOX/map; touch $TEPUI_SANDBOX/up /own; \
                     until test -e $TEPUI_SANDBOX/go; do sleep 0.05; done";

fn private(name: &str, image: &ImageLayout, script: &str) -> TaskLaunch {
    let container = format!(r#"{{"image": "{}", "userns": "private"}}"#, image.name());
    contained(name, &container, &["sh", "-c", script])
}

/// Launches a task that waits; the first of its users.
async fn up(session: &mut Session, agent: &AgentProcess, task: &TaskLaunch) -> u32 {
    session.launch(task).await;
    session.until(&task.task, TaskState::Running).await;
    let sandbox = agent.layout().sandbox(&task.task);
    let is_up = eventually("it is up", || sandbox.join("up").exists());
    session.meanwhile(is_up).await;
    let map = fs::read_to_string(sandbox.join("map")).unwrap();
    let fields: Vec<u32> = map
        .split_whitespace()
        .map(|id| id.parse().unwrap())
        .collect();
    let [0, first, 65536] = fields[..] else {
        panic!("{map}");
    };
    first
}

async fn goes(session: &mut Session, agent: &AgentProcess, task: &TaskLaunch) {
    fs::write(agent.layout().sandbox(&task.task).join("go"), "").unwrap();
    session.until(&task.task, TaskState::Finished).await;
}

#[tokio::test]
async fn no_two_tasks_have_the_same_users_whichever_agent_lends_them() {
    if !can_contain() {
        return;
    }
    let image = ImageLayout::make();
    let mut master = FakeMaster::start().await;
    let mut agent = AgentProcess::start_with(&master, THREE);
    let mut session = master.session().await;
    let [a, b, c, d, e] = ["a", "b", "c", "d", "e"].map(|name| private(name, &image, WAITS));
    let mut lent = BTreeSet::new();
    lent.insert(up(&mut session, &agent, &a).await);
    let of_b = up(&mut session, &agent, &b).await;
    lent.insert(of_b);
    agent.kill();
    agent.start_again(&master);
    let mut session = master.session().await;
    lent.insert(up(&mut session, &agent, &c).await);
    let all = [2_100_000_000, 2_100_065_536, 2_100_131_072];
    assert_eq!(lent, BTreeSet::from(all));

    session.launch(&d).await;
    let end = session.until(&d.task, TaskState::Dropped).await;
    let why = end.reason.unwrap();
    assert_eq!(why.code, reason::AGENT_FULL);
    assert!(
        why.message.contains("--userns-range 2100000000:196608"),
        "{why}"
    );

    // What has ended leaves its users to the next, and nothing else.
    let leavings = agent.layout().container(&b.task);
    assert!(leavings.join("upper/own").exists());
    goes(&mut session, &agent, &b).await;
    let is_gone = eventually("what it wrote over its image is gone", || {
        !leavings.exists()
    });
    session.meanwhile(is_gone).await;
    assert_eq!(up(&mut session, &agent, &e).await, of_b);
    for task in [&a, &c, &e] {
        goes(&mut session, &agent, task).await;
    }
}

#[tokio::test]
async fn a_volume_outlives_the_users_that_filled_it() {
    if !can_contain() {
        return;
    }
    let image = ImageLayout::make();
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start_with(&master, THREE);
    let mut session = master.session().await;
    let on_volume = |name: &str, script: &str| {
        let mut task = private(name, &image, &format!("cd $TEPUI_SANDBOX/data; {script}"));
        task.volumes.push(TaskVolume {
            made_by: OperationId {
                index: 9,
                ordinal: 0,
            },
            disk: None,
            path: "data".into(),
            bytes: None,
        });
        task
    };
    let fill = on_volume("fill", "echo kept > file");
    session.launch(&fill).await;
    session.until(&fill.task, TaskState::Finished).await;
    // It has the first users, so that the next task has others.
    let other = private("other", &image, WAITS);
    assert_eq!(up(&mut session, &agent, &other).await, 2_100_000_000);
    let look = on_volume(
        "look",
        "cat file && echo more >> file && busybox stat -c %u file",
    );
    session.launch(&look).await;
    session.until(&look.task, TaskState::Finished).await;
    assert_eq!(stdout(&agent, &look), "kept\n0\n");
    let file = agent.dir().join("volumes/9.0/file");
    assert_eq!(fs::metadata(file).unwrap().uid(), 0);
    goes(&mut session, &agent, &other).await;
}

#[tokio::test]
async fn what_looks_into_a_container_is_among_its_users_and_on_its_network() {
    if !can_contain() || !has_plugins() {
        return;
    }
    let (image, bridge) = (ImageLayout::make(), Bridge::make(&[]));
    let mut master = FakeMaster::start().await;
    let arguments = [THREE, &["--network-config", bridge.folder()]].concat();
    let agent = AgentProcess::start_with(&master, arguments.leak());
    let mut session = master.session().await;
    let container = format!(
        r#"{{"image": "{}", "userns": "private", "network": {{"named": {{"name": "tests"}}}}}}"#,
        image.name()
    );
    let mut task = contained("web", &container, &["sh", "-c", WAITS]);
    let look = "grep -q 2100000000 /proc/self/uid_map && ip addr show eth0";
    let check = serde_json::json!({"readiness": {
        "probe": {"command": {"argv": ["/bin/busybox", "sh", "-c", look.replace("grep", "busybox grep")]}},
        "interval_ms": 100, "grace_ms": 0,
    }});
    let spec = std::sync::Arc::make_mut(&mut task.spec);
    spec.checks = Some(serde_json::from_value(check).unwrap());
    up(&mut session, &agent, &task).await;
    let passes = |state: Option<CheckState>| state == Some(CheckState::Passing);
    session
        .until_all(|latest| {
            let signs = latest
                .get(&task.task)
                .and_then(|report| report.signs.as_ref());
            passes(signs.and_then(|signs| Some(signs.checks.first()?.state)))
        })
        .await;
    let exec = StreamRequest::Exec(ExecRequest {
        task: task.task.clone(),
        member: None,
        argv: [
            "sh",
            "-c",
            "busybox id -u; ip -4 addr show eth0; echo again > /dev/stdout",
        ]
        .map(str::to_owned)
        .to_vec(),
        env: Vec::new(),
        terminal: None,
    });
    session.open(1, exec).await;
    let mut stream = master.stream(1).await;
    stream.until(|stream| stream.end.is_some()).await;
    assert_eq!(stream.exited, Some(0), "{}", stream.text);
    let text = &stream.text;
    assert!(
        text.starts_with("0\n") && text.ends_with("again\n"),
        "{text}"
    );
    assert!(stream.text.contains("inet 10.213."), "{}", stream.text);
    goes(&mut session, &agent, &task).await;
    let is_free = eventually("its address is free", || bridge.leases() == 0);
    session.meanwhile(is_free).await;
}

#[tokio::test]
async fn an_agent_that_has_no_users_to_lend_says_how_it_may_have_some() {
    if !can_contain() {
        return;
    }
    let image = ImageLayout::make();
    let mut master = FakeMaster::start().await;
    let _agent = AgentProcess::start(&master);
    let mut session = master.session().await;
    let task = private("task", &image, "true");
    session.launch(&task).await;
    let end = session.until(&task.task, TaskState::Error).await;
    let why = end.reason.unwrap();
    assert_eq!(why.code, reason::CONTAINER_REFUSED);
    assert!(why.message.contains("--userns-range"), "{why}");
}
