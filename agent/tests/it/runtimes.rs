//! Containers that another runtime makes: a whole life by runc.

use tepui_types::wire::agent::TaskLaunch;
use tepui_types::wire::stream::{ExecRequest, StreamRequest};
use tepui_types::{TaskId, TaskState};

use crate::containers::{can_contain, stdout};
use crate::images::ImageLayout;
use crate::master::{FakeMaster, Session, contained, eventually};
use crate::process::AgentProcess;

/// Debian's.
pub const RUNC: &str = "/usr/sbin/runc";

pub fn can_run() -> bool {
    let is_there = std::path::Path::new(RUNC).exists();
    if !is_there {
        eprintln!("skipped: there is no {RUNC}; apt-get install runc");
    }
    is_there && can_contain()
}

fn exec(task: &TaskId, script: &str) -> StreamRequest {
    StreamRequest::Exec(ExecRequest {
        task: task.clone(),
        member: None,
        argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
        env: vec![("ADDED".into(), "yes".into())],
        terminal: None,
    })
}

fn of_image(name: &str, image: &str, script: &str) -> TaskLaunch {
    let container = format!(r#"{{"image": "{image}"}}"#);
    contained(name, &container, &["sh", "-c", script])
}

/// Whether a line of `/proc/self/mountinfo` is of the agent.
fn has_mounts(agent: &AgentProcess) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.contains(agent.dir().to_str().unwrap())
}

async fn up(session: &mut Session, agent: &AgentProcess, task: &TaskLaunch) {
    session.launch(task).await;
    session.until(&task.task, TaskState::Running).await;
    let up = eventually("it is up", || stdout(agent, task) == "up\n");
    session.meanwhile(up).await;
}

#[tokio::test]
async fn runc_makes_what_ends_by_itself() {
    if !can_run() {
        return;
    }
    let image = ImageLayout::make();
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start_with(&master, &["--oci-runtime", RUNC]);
    let mut session = master.session().await;
    let good = of_image("good", &image.name(), "echo $$ $TEPUI_TASK_ID; touch /own");
    session.launch(&good).await;
    let end = session.until(&good.task, TaskState::Finished).await;
    assert_eq!(end.exit_code, Some(0));
    assert_eq!(stdout(&agent, &good), "1 f1.good.0\n");
    let bad = of_image("bad", &image.name(), "exit 9");
    session.launch(&bad).await;
    let end = session.until(&bad.task, TaskState::Failed).await;
    assert_eq!(end.exit_code, Some(9));
    let container = format!(r#"{{"image": "{}"}}"#, image.name());
    let none = contained("none", &container, &["no-such-program"]);
    session.launch(&none).await;
    let why = session.until(&none.task, TaskState::Error).await.reason;
    let why = why.unwrap().message;
    assert!(why.contains("no-such-program"), "{why}");
    eventually("no mount is left", || !has_mounts(&agent)).await;
}

#[tokio::test]
async fn what_runc_has_made_outlives_its_agent_and_is_stopped_as_its_image_says() {
    if !can_run() {
        return;
    }
    let image = ImageLayout::make();
    let name = image.configured("stopped", &["--config.stopsignal", "SIGUSR1"]);
    let mut master = FakeMaster::start().await;
    let mut agent = AgentProcess::start_with(&master, &["--oci-runtime", RUNC]);
    let mut session = master.session().await;
    let script = "trap 'echo stopped; exit 7' USR1; echo up; while :; do sleep 0.02; done";
    let task = of_image("long", &name, script);
    up(&mut session, &agent, &task).await;
    session
        .open(1, exec(&task.task, "echo $ADDED; cat; exit 3"))
        .await;
    let mut stream = master.stream(1).await;
    stream
        .say(tepui_types::wire::stream::ClientFrame::Data(
            b"typed".to_vec(),
        ))
        .await;
    stream
        .say(tepui_types::wire::stream::ClientFrame::End)
        .await;
    stream.until(|stream| stream.end.is_some()).await;
    assert_eq!(
        (stream.exited, stream.text.as_str()),
        (Some(3), "yes\ntyped")
    );

    agent.kill();
    agent.start_again(&master);
    let mut session = master.session().await;
    session.until(&task.task, TaskState::Running).await;
    session
        .open(2, exec(&task.task, "echo again; exit 4"))
        .await;
    let mut stream = master.stream(2).await;
    stream.until(|stream| stream.end.is_some()).await;
    assert_eq!((stream.exited, stream.text.as_str()), (Some(4), "again\n"));
    session.open_stream(3, &task.task, 0, false).await;
    assert_eq!(master.stream(3).await.all().await, ("up\n".into(), Ok(())));

    session.kill(&task.task, 20_000).await;
    let end = session.until(&task.task, TaskState::Killed).await;
    assert_eq!(end.exit_code, Some(7), "{end:?}");
    assert_eq!(stdout(&agent, &task), "up\nstopped\n");
    eventually("nothing of it is left", || {
        !has_mounts(&agent) && agent.processes_in_cgroups().is_empty()
    })
    .await;
}

#[tokio::test]
async fn what_runc_has_made_ends_by_force_and_with_its_executor() {
    use nix::sys::signal::{Signal, kill};
    if !can_run() {
        return;
    }
    let image = ImageLayout::make();
    let mut master = FakeMaster::start().await;
    let agent = AgentProcess::start_with(&master, &["--oci-runtime", RUNC]);
    let mut session = master.session().await;
    let script = "trap 'echo no' TERM; echo up; while :; do sleep 0.02; done";
    let deaf = of_image("deaf", &image.name(), script);
    up(&mut session, &agent, &deaf).await;
    session.kill(&deaf.task, 100).await;
    session.until(&deaf.task, TaskState::Killed).await;
    let lost = of_image("lost", &image.name(), script);
    up(&mut session, &agent, &lost).await;
    for executor in agent.executors() {
        kill(nix::unistd::Pid::from_raw(executor.pid), Signal::SIGKILL).unwrap();
    }
    let end = session.until(&lost.task, TaskState::Failed).await;
    let code = end.reason.unwrap().code;
    assert_eq!(code, tepui_types::task::reason::EXECUTOR_TERMINATED);
    let clean = eventually("nothing of it is left", || {
        !has_mounts(&agent) && agent.processes_in_cgroups().is_empty()
    });
    session.meanwhile(clean).await;
}
