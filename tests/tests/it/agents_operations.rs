//! What operators do with agents.

use anyhow::{Context, bail};
use serde_json::json;
use tepui_tests::{Client, Cluster, Job, eventually};
use tepui_types::api::agent::AgentView;
use tepui_types::api::job::JobState;
use tepui_types::api::maintenance::WindowView;
use tepui_types::task::reason;
use tepui_types::{AgentStatus, TaskId, TaskState};

use super::Result;

/// A command that ends when it is asked to, and not before.
fn patient() -> Job {
    Job::command(["sleep", "600"])
}

/// One that does not end when it is asked to.
fn stubborn() -> Job {
    Job::shell("trap '' TERM; while true; do sleep 0.05; done").grace_ms(600_000)
}

async fn status_of(client: &Client, hostname: &str, wanted: AgentStatus) -> AgentView {
    eventually(&format!("{hostname} is {}", wanted.as_str()), async || {
        let agent = client.agent(hostname).await?;
        match agent.status == wanted {
            true => Ok(agent),
            false => bail!("{agent:?}"),
        }
    })
    .await
}

/// Waits until a job's one task runs as another attempt than `before`.
async fn moved(client: &Client, job: &str, before: &TaskId) -> TaskId {
    eventually(&format!("{job} runs again"), async || {
        let id = client.running(job).await;
        match id == *before {
            true => bail!("it is the first attempt"),
            false => Ok(id),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_agent_s_tasks_go_elsewhere_and_are_not_blamed() -> Result {
    let cluster = Cluster::new().agents(2).start().await?;
    let client = cluster.client();
    let job = client.submit(&patient().name("mover")).await?;
    let before = client.running(&job.name).await;
    let from = client.task(&before).await?;
    let agent = client
        .operate(from.agent, "drain", json!({ "grace_ms": 2_000 }))
        .await?;
    assert!(agent.drain.is_some(), "{agent:?}");
    let after = moved(client, &job.name, &before).await;
    assert_ne!(client.task(&after).await?.agent, from.agent);
    let ended = client.task(&before).await?.status;
    assert_eq!(ended.state, TaskState::Killed);
    let why = ended.reason.context("a reason")?;
    assert_eq!(why.code, reason::AGENT_DRAINED, "{why}");
    let agent = status_of(client, &from.hostname, AgentStatus::Drained).await;
    assert_eq!(agent.tasks, 0);
    let job = client.job(&job.name).await?;
    assert_eq!((job.restarts, job.failed, job.killed), (0, 0, 0), "{job:?}");

    client.operate(from.agent, "reactivate", json!({})).await?;
    status_of(client, &from.hostname, AgentStatus::Active).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_s_deadline_ends_what_ignores_it() -> Result {
    let cluster = Cluster::new().start().await?;
    let client = cluster.client();
    let job = client.submit(&stubborn().name("stubborn")).await?;
    let id = client.running(&job.name).await;
    let agent = client.agent("agent-0").await?;
    let request = json!({ "deadline_ms": 700 });
    let agent = client.operate(agent.id, "drain", request).await?;
    assert_eq!((agent.status, agent.tasks), (AgentStatus::Draining, 1));
    status_of(client, "agent-0", AgentStatus::Drained).await;
    assert_eq!(client.task(&id).await?.status.state, TaskState::Killed);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deactivated_agent_runs_what_it_has_and_gets_no_more() -> Result {
    let cluster = Cluster::new().start().await?;
    let client = cluster.client();
    let first = client.submit(&patient().name("first")).await?;
    let id = client.running(&first.name).await;
    let agent = client.agent("agent-0").await?.id;
    client.operate(agent, "deactivate", json!({})).await?;
    let second = client
        .submit(&Job::command(["true"]).name("second"))
        .await?;
    eventually("the second waits for an agent", async || {
        let job = client.job(&second.name).await?;
        match &job.reason {
            Some(why) if why.message.contains("1 agent not active") => Ok(()),
            _ => bail!("{job:?}"),
        }
    })
    .await;
    assert_eq!(client.task(&id).await?.status.state, TaskState::Running);
    client.operate(agent, "reactivate", json!({})).await?;
    assert_eq!(client.ended(&second.name).await.state, JobState::Finished);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_was_given_up_is_replaced_and_ends_what_it_runs_when_it_is_back() -> Result {
    let mut cluster = Cluster::new().agents(2).start().await?;
    let client = cluster.client().clone();
    let job = client.submit(&patient().name("replaced")).await?;
    let before = client.running(&job.name).await;
    let from = client.task(&before).await?;
    let index = usize::from(from.hostname == "agent-1");
    cluster.kill_agent(index);
    client.operate(from.agent, "gone", json!({})).await?;
    let after = moved(&client, &job.name, &before).await;
    let ended = client.task(&before).await?;
    assert_eq!(ended.status.state, TaskState::Gone);
    assert_eq!(
        ended.hostname, from.hostname,
        "it is still known where it was"
    );
    let why = ended.status.reason.context("a reason")?;
    assert_eq!(why.code, reason::AGENT_GONE, "{why}");
    let executors = tepui_cli::leftovers::executors(&cluster.agent_dir(index));
    assert!(!executors.is_empty(), "its machine still runs the task");

    cluster.spawn_agent(index)?;
    eventually("the agent is refused", async || {
        match cluster.agent_ended(index) {
            Some(status) if !status.success() => Ok(()),
            ended => bail!("{ended:?}"),
        }
    })
    .await;
    let log = cluster.log_of_agent(index);
    assert!(log.contains("empty folder"), "{log}");
    let left = tepui_cli::leftovers::executors(&cluster.agent_dir(index));
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(client.task(&after).await?.status.state, TaskState::Running);
    assert_eq!(client.job(&job.name).await?.restarts, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_given_up_while_it_is_there_ends() -> Result {
    let mut cluster = Cluster::new()
        .master_flag("--agent-timeout-ms", "1500")
        .master_flag("--heartbeat-ms", "100")
        .start()
        .await?;
    let client = cluster.client().clone();
    let agent = client.agent("agent-0").await?;
    client.operate(agent.id, "gone", json!({})).await?;
    eventually("the agent has ended", async || {
        match cluster.agent_ended(0) {
            Some(_) => Ok(()),
            None => bail!("it runs"),
        }
    })
    .await;
    let agent = client.agent("agent-0").await?;
    assert_eq!((agent.status, agent.connected), (AgentStatus::Gone, false));
    let late = client
        .post_raw(&format!("/v1/agents/{}/drain", agent.id), &json!({}))
        .await?;
    assert_eq!(late.problem().status, 409);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_maintenance_window_empties_an_agent_and_gives_it_back() -> Result {
    let cluster = Cluster::new().agents(2).start().await?;
    let client = cluster.client();
    let job = client.submit(&patient().name("mover")).await?;
    let before = client.running(&job.name).await;
    let from = client.task(&before).await?;
    let now = client.agent(&from.hostname).await?.registered_at.0;
    // It began a while ago by its plan, so its agents are drained at once, without grace.
    let request = json!({
        "agents": [from.agent], "start": now, "duration_ms": 3_600_000, "lead_ms": 0,
        "note": "new disks",
    });
    let window: WindowView = client.post_raw("/v1/maintenance", &request).await?.json()?;
    moved(client, &job.name, &before).await;
    let agent = status_of(client, &from.hostname, AgentStatus::Drained).await;
    assert_eq!(agent.drain.context("a drain")?.window, Some(window.id));
    let windows: Vec<WindowView> = client.list("/v1/maintenance").await?;
    assert!(windows[0].has_begun);
    let path = format!("/v1/maintenance/{}", window.id);
    assert!(client.delete_raw(&path).await?.status.is_success());
    status_of(client, &from.hostname, AgentStatus::Active).await;

    let request = json!({
        "agents": [from.agent], "start": now, "lead_ms": 0,
        "duration_ms": window.end.0.saturating_sub(window.start.0),
    });
    let again: WindowView = client.post_raw("/v1/maintenance", &request).await?.json()?;
    assert_ne!(again.id, window.id);
    let bad = json!({ "agents": [], "start": now, "duration_ms": 1 });
    let bad = client.post_raw("/v1/maintenance", &bad).await?;
    assert_eq!(bad.problem().status, 422);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_is_over_opens_its_agents_by_itself() -> Result {
    let cluster = Cluster::new().start().await?;
    let client = cluster.client();
    let agent = client.agent("agent-0").await?.id;
    // A drain tells what time the cluster has.
    let drained = client.operate(agent, "drain", json!({})).await?;
    let now = drained.drain.context("a drain")?.since;
    client.operate(agent, "reactivate", json!({})).await?;
    let request = json!({
        "agents": [agent], "start": now, "duration_ms": 3_000, "lead_ms": 0,
    });
    let planned = client.post_raw("/v1/maintenance", &request).await?;
    let planned: WindowView = planned.json()?;
    eventually("the window is over", async || {
        let windows: Vec<WindowView> = client.list("/v1/maintenance").await?;
        match windows.iter().any(|window| window.id == planned.id) {
            true => bail!("{windows:?}"),
            false => Ok(()),
        }
    })
    .await;
    let statuses = |events: &[(String, serde_json::Value)]| -> Vec<String> {
        let status = |(_, event): &(String, serde_json::Value)| {
            let status = event.pointer("/body/agent/status")?.as_str()?;
            Some(status.to_owned())
        };
        events.iter().filter_map(status).collect()
    };
    let wanted = ["drained", "active"].map(str::to_owned);
    let seen = |events: &[_]| statuses(events).ends_with(&wanted);
    client.events(Some("0.0"), seen).await?;
    status_of(client, "agent-0", AgentStatus::Active).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_job_is_killing_until_its_tasks_have_ended() -> Result {
    let cluster = Cluster::new().start().await?;
    let client = cluster.client();
    let job = client.submit(&stubborn().name("stubborn")).await?;
    let id = client.running(&job.name).await;
    let path = format!("/frameworks/batch/jobs/{}", job.name);
    client.delete_raw(&path).await?;
    assert_eq!(client.job(&job.name).await?.state, JobState::Killing);
    client
        .post_raw(&format!("/v1/tasks/{id}/kill"), &json!({ "grace_ms": 0 }))
        .await?;
    let job = client.ended(&job.name).await;
    assert_eq!((job.state, job.killed), (JobState::Killed, 1), "{job:?}");
    Ok(())
}
