//! The history of a task: attempts, the offers that they took, and their moves.

use anyhow::Context;
use tepui_tests::{Cluster, Job, eventually};
use tepui_types::TaskState;
use tepui_types::api::task::TaskHistory;
use tepui_types::task::{PartitionPolicy, reason};

use super::Result;
use super::cli::ok;

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_moved_is_told_attempt_by_attempt_also_after_a_restart_of_the_master() -> Result
{
    let mut cluster = Cluster::new()
        .agents(2)
        .master_flag("--agent-timeout-ms", "2000")
        .master_flag("--heartbeat-ms", "100")
        .start()
        .await?;
    let client = cluster.client().clone();
    let job = Job::command(["sleep", "600"]).partition(PartitionPolicy::ReplaceAfter(0));
    client.submit(&job.name("mover")).await?;
    let first = client.running("mover").await;
    let hostname = client.task(&first).await?.hostname;
    let agent = hostname.strip_prefix("agent-").context("a number")?;
    cluster.kill_agent(agent.parse()?);
    let second = eventually("it runs elsewhere", async || {
        let id = client.running("mover").await;
        anyhow::ensure!(id != first, "it is the first attempt");
        Ok(id)
    })
    .await;
    cluster.kill_master();
    cluster.start_master().await?;

    let path = format!("/v1/tasks/{second}/history");
    let history: TaskHistory = client.get(&path).await?;
    let ids: Vec<_> = history.attempts.iter().map(|one| &one.id).collect();
    assert_eq!((ids, history.more), (vec![&second, &first], false));
    let [newest, oldest] = &history.attempts[..] else {
        panic!("two attempts: {history:?}");
    };
    assert_ne!(newest.agent, oldest.agent);
    for attempt in [newest, oldest] {
        let chosen = attempt.chosen.context("its offer")?;
        assert!(chosen.among >= 1, "{chosen:?}");
    }
    let states = |index: usize| {
        let steps = history.attempts[index].steps.iter();
        steps.map(|step| step.state).collect::<Vec<_>>()
    };
    assert_eq!(states(0), [TaskState::Staging, TaskState::Running]);
    let told = states(1);
    assert_eq!(told[..2], [TaskState::Staging, TaskState::Running]);
    assert!(told.contains(&TaskState::Unreachable), "{told:?}");
    let reasons = oldest.steps.iter().filter_map(|step| step.reason.as_ref());
    let codes: Vec<_> = reasons.map(|reason| reason.code.as_str()).collect();
    assert!(codes.contains(&reason::AGENT_UNREACHABLE), "{codes:?}");

    let said = ok(&cluster, &["task", "history", first.name.as_str()]).await?;
    for word in [
        oldest.id.to_string(),
        newest.id.to_string(),
        "unreachable".into(),
    ] {
        assert!(said.contains(&word), "{word} in {said}");
    }
    Ok(())
}
