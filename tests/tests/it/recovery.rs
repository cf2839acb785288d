//! Parts are killed at any moment, and nothing that was acknowledged is lost.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use tepui_cli::leftovers;
use tepui_tests::{Cluster, Job, eventually};
use tepui_types::TaskState;
use tepui_types::api::job::JobState;
use tepui_types::task::reason;

use super::Result;

/// A task that writes its process number, and ends when the gate opens.
fn waiter(gate: &Path, pid: &Path) -> Job {
    Job::shell(&format!(
        "echo $$ >> {}; echo before; while ! test -e {}; do sleep 0.02; done; echo after",
        pid.display(),
        gate.display()
    ))
}

async fn pid_of(file: &Path) -> i32 {
    eventually("the task has written its process number", async || {
        let text = std::fs::read_to_string(file)?;
        anyhow::Ok(text.trim().parse::<i32>()?)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_master_loses_nothing_that_it_acknowledged() -> Result {
    let mut cluster = Cluster::new().agents(2).start().await?;
    let mut acknowledged = BTreeMap::new();
    for round in 0..5_u64 {
        // Submissions go on while the master dies somewhere among them.
        let client = cluster.client().clone();
        let submitting = tokio::spawn(async move {
            let mut names = Vec::new();
            for number in 0..200 {
                let job = Job::command(["true"])
                    .count(2)
                    .name(&format!("job-{round}-{number}"));
                match client.submit(&job).await {
                    Ok(view) => names.push(view.name),
                    Err(_) => break,
                }
            }
            names
        });
        // sleep: the kill comes at another moment of the work each time.
        tokio::time::sleep(Duration::from_millis(20 + 45 * round)).await;
        cluster.kill_master();
        for name in submitting.await? {
            acknowledged.insert(name, 2);
        }
        cluster.start_master().await?;
    }
    assert!(!acknowledged.is_empty(), "something was acknowledged");
    let client = cluster.client();
    for (name, count) in &acknowledged {
        let job = client.ended(name).await;
        assert_eq!(
            (job.state, job.finished),
            (JobState::Finished, *count),
            "{job:?}"
        );
    }
    assert_eq!(client.cluster().await?.agents.get("active"), Some(&2));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_placed_on_an_agent_without_a_connection() -> Result {
    let mut cluster = Cluster::new().agents(2).start().await?;
    cluster.kill_agent(0);
    let client = cluster.client();
    eventually("the master has seen the connection end", async || {
        let agents = client.agents().await?;
        match agents.iter().filter(|agent| agent.connected).count() {
            1 => Ok(()),
            _ => bail!("{agents:?}"),
        }
    })
    .await;
    // The window in which it may still come back has only begun: 15 s.
    let job = client.run(&Job::command(["true"]).count(50)).await?;
    assert_eq!((job.state, job.finished), (JobState::Finished, 50));
    let tasks = client.tasks("").await?;
    let agents = client.agents().await?;
    let gone = agents.iter().find(|agent| !agent.connected);
    let gone = gone.context("one is away")?.id;
    assert!(tasks.iter().all(|task| task.agent != gone), "{tasks:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_finds_its_tasks_again() -> Result {
    let mut cluster = Cluster::new().start().await?;
    let (gate, pid) = (cluster.dir().join("gate"), cluster.dir().join("pid"));
    let job = cluster
        .client()
        .submit(&waiter(&gate, &pid).name("waiter"))
        .await?;
    let id = cluster.client().running(&job.name).await;
    let before = pid_of(&pid).await;
    cluster.kill_agent(0);
    assert!(
        Path::new(&format!("/proc/{before}")).exists(),
        "the task goes on"
    );
    cluster.start_agent(0).await?;
    let client = cluster.client();
    assert_eq!(client.task(&id).await?.status.state, TaskState::Running);
    assert_eq!(client.agents().await?.len(), 1, "it is the same agent");
    std::fs::write(&gate, "")?;
    let job = client.ended(&job.name).await;
    assert_eq!(
        (job.state, job.restarts),
        (JobState::Finished, 0),
        "{job:?}"
    );
    assert_eq!(client.output(&id, "stdout").await?, "before\nafter\n");
    assert_eq!(
        std::fs::read_to_string(&pid)?.lines().count(),
        1,
        "it ran once"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_that_no_agent_saw_are_read_from_their_records() -> Result {
    let mut cluster = Cluster::new().start().await?;
    let count = cluster.guest("tasks/count.wasm").await?;
    let (gate, pid) = (cluster.dir().join("gate"), cluster.dir().join("pid"));
    let client = cluster.client();
    let native = client.submit(&waiter(&gate, &pid).name("native")).await?;
    let wasm = client
        .submit(&Job::wasm(count, &["300", "3"]).name("wasm"))
        .await?;
    client.running(&native.name).await;
    client.running(&wasm.name).await;
    let native_pid = pid_of(&pid).await;
    cluster.kill_agent(0);
    std::fs::write(&gate, "")?;
    eventually(
        "the native task has ended unseen",
        async || match Path::new(&format!("/proc/{native_pid}")).exists() {
            false => Ok(()),
            true => bail!("it runs"),
        },
    )
    .await;
    cluster.start_agent(0).await?;
    for name in ["native", "wasm"] {
        let job = cluster.client().ended(name).await;
        assert_eq!(
            (job.state, job.restarts),
            (JobState::Finished, 0),
            "{job:?}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_executor_is_named_by_its_task() -> Result {
    let cluster = Cluster::new().start().await?;
    let client = cluster.client();
    let count = cluster.guest("tasks/count.wasm").await?;
    for (name, job) in [
        ("native", Job::command(["sleep", "600"])),
        ("wasm", Job::wasm(count, &["60000", "2"])),
    ] {
        let job = client.submit(&job.name(name)).await?;
        let id = client.running(&job.name).await;
        let executors = leftovers::executors(&cluster.agent_dir(0));
        assert!(!executors.is_empty());
        executors.into_iter().for_each(leftovers::kill_process);
        let job = client.ended(&job.name).await;
        assert_eq!(job.state, JobState::Failed, "{job:?}");
        let task = client.task(&id).await?;
        let why = task.status.reason.context("a reason")?;
        assert_eq!(why.code, reason::EXECUTOR_TERMINATED, "{name}: {why}");
    }
    let left = leftovers::tasks(&cluster.agent_dir(0));
    assert!(left.is_empty(), "an executor's task goes with it: {left:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_survives_a_killed_executor() -> Result {
    let cluster = Cluster::new().start().await?;
    let client = cluster.client();
    let (gate, pid) = (cluster.dir().join("gate"), cluster.dir().join("pid"));
    let job = client.submit(&waiter(&gate, &pid).restarts(1)).await?;
    client.running(&job.name).await;
    pid_of(&pid).await;
    std::fs::write(&gate, "")?;
    leftovers::executors(&cluster.agent_dir(0))
        .into_iter()
        .for_each(leftovers::kill_process);
    let job = client.ended(&job.name).await;
    assert_eq!(job.state, JobState::Finished, "{job:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_at_once_may_die() -> Result {
    let mut cluster = Cluster::new().agents(2).start().await?;
    let (gate, pid) = (cluster.dir().join("gate"), cluster.dir().join("pid"));
    let held = cluster
        .client()
        .submit(&waiter(&gate, &pid).name("held"))
        .await?;
    cluster.client().running(&held.name).await;
    let array = Job::command(["true"]).count(100).name("array");
    cluster.client().submit(&array).await?;
    cluster.kill_agent(0);
    cluster.kill_master();
    cluster.kill_agent(1);
    cluster.start_master().await?;
    cluster.start_agent(1).await?;
    cluster.start_agent(0).await?;
    let client = cluster.client();
    let job = client.ended("array").await;
    assert_eq!(
        (job.state, job.finished),
        (JobState::Finished, 100),
        "{job:?}"
    );
    std::fs::write(&gate, "")?;
    let job = client.ended("held").await;
    assert_eq!(
        (job.state, job.restarts),
        (JobState::Finished, 0),
        "{job:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn clean_stops_leave_tasks_alone() -> Result {
    let mut cluster = Cluster::new().start().await?;
    let (gate, pid) = (cluster.dir().join("gate"), cluster.dir().join("pid"));
    let job = cluster.client().submit(&waiter(&gate, &pid)).await?;
    cluster.client().running(&job.name).await;
    cluster.stop_agent(0)?;
    cluster.stop_master()?;
    cluster.start_master().await?;
    cluster.start_agent(0).await?;
    std::fs::write(&gate, "")?;
    let job = cluster.client().ended(&job.name).await;
    assert_eq!(
        (job.state, job.restarts),
        (JobState::Finished, 0),
        "{job:?}"
    );
    Ok(())
}
