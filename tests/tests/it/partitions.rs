//! Agents that are not heard of, and what their tasks wish for that case.

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tepui_cli::leftovers;
use tepui_tests::cluster::Plan;
use tepui_tests::{Client, Cluster, Job, eventually};
use tepui_types::api::job::JobState;
use tepui_types::task::{PartitionPolicy, reason};
use tepui_types::{AgentStatus, TaskId, TaskState, Timestamp};

use super::Result;
use super::cli::ok;

/// Agents are unreachable after so many milliseconds here: long enough for a machine that has much
/// else to do, and the rest of a test waits for it.
const WINDOW_MS: u64 = 2_000;

fn impatient(agents: usize) -> Plan {
    Cluster::new()
        .agents(agents)
        .master_flag("--agent-timeout-ms", &WINDOW_MS.to_string())
        .master_flag("--heartbeat-ms", "100")
}

fn patient() -> Job {
    Job::command(["sleep", "600"])
}

/// The agent that a task runs on, as the cluster counts them here.
async fn place_of(client: &Client, task: &TaskId) -> anyhow::Result<usize> {
    let task = client.task(task).await?;
    let index = task.hostname.strip_prefix("agent-").context("a number")?;
    Ok(index.parse()?)
}

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

async fn in_state(client: &Client, task: &TaskId, state: TaskState) {
    eventually(&format!("{task} is {state}"), async || {
        let view = client.task(task).await?;
        match view.status.state == state {
            true => Ok(()),
            false => bail!("{view:?}"),
        }
    })
    .await
}

async fn reason_of(client: &Client, task: &TaskId) -> anyhow::Result<String> {
    let status = client.task(task).await?.status;
    Ok(status.reason.context("a reason")?.code)
}

/// When a task came into a state, by the log's clock.
async fn time_of(client: &Client, task: &TaskId, state: TaskState) -> anyhow::Result<Timestamp> {
    let wanted = |event: &serde_json::Value| {
        let of = |field: &str| event.pointer(&format!("/body/task/{field}"))?.as_str();
        of("task") == Some(&task.to_string()) && of("state") == Some(state.as_str())
    };
    let found = |events: &[(String, serde_json::Value)]| {
        let event = events.iter().find(|(_, event)| wanted(event));
        event.and_then(|(_, event)| event["time"].as_u64())
    };
    let events = client
        .events(Some("0.0"), |events| found(events).is_some())
        .await?;
    found(&events).map(Timestamp).context("its event")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_replaced_after_its_time_and_its_copy_ends_when_its_agent_is_back() -> Result {
    replace_and_end(false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_ends_also_when_its_agents_process_was_there_all_the_while() -> Result {
    replace_and_end(true).await
}

/// A task is replaced while its agent is away, killed or only hanging, and the copy ends after that.
async fn replace_and_end(hangs: bool) -> Result {
    let mut cluster = impatient(2).start().await?;
    let client = cluster.client().clone();
    let after_ms = 1_000;
    let job = patient().partition(PartitionPolicy::ReplaceAfter(after_ms));
    let job = client.submit(&job.name("replaced")).await?;
    let waits = client.submit(&patient().name("waits").count(8)).await?;
    let before = client.running(&job.name).await;
    let index = place_of(&client, &before).await?;
    let pid = Pid::from_raw(cluster.agent_pid(index)?);
    match hangs {
        true => kill(pid, Signal::SIGSTOP)?,
        false => cluster.kill_agent(index),
    }
    let after = moved(&client, &job.name, &before).await;
    assert_ne!(place_of(&client, &after).await?, index);
    let status = client.task(&before).await?.status;
    assert_eq!(status.state, TaskState::Gone);
    assert_eq!(reason_of(&client, &before).await?, reason::REPLACED);
    let unreachable = time_of(&client, &before, TaskState::Unreachable).await?;
    let gone = time_of(&client, &before, TaskState::Gone).await?;
    assert!(gone.millis_since(unreachable) >= after_ms);
    let job = client.job(&waits.name).await?;
    assert_eq!((job.active, job.restarts), (8, 0), "by default: {job:?}");

    let copies = leftovers::executors(&cluster.agent_dir(index)).len();
    match hangs {
        true => kill(pid, Signal::SIGCONT)?,
        false => cluster.start_agent(index).await?,
    }
    eventually(
        "the copy has ended, and no other task",
        async || match leftovers::executors(&cluster.agent_dir(index)).len() {
            left if left + 1 == copies => Ok(()),
            left => bail!("{left} of {copies} executors are left"),
        },
    )
    .await;
    assert_eq!(client.task(&after).await?.status.state, TaskState::Running);
    assert_eq!(
        client.task(&before).await?.status,
        status,
        "an end is final"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_hears_nothing_stops_a_task_before_its_time() -> Result {
    let mut cluster = impatient(1).start().await?;
    let client = cluster.client().clone();
    let job = patient()
        .partition(PartitionPolicy::StopAfter(PartitionPolicy::MIN_STOP_MS))
        .name("stopped");
    let job = client.submit(&job).await?;
    let other = client.submit(&patient().name("other")).await?;
    let before = client.running(&job.name).await;
    let kept = client.running(&other.name).await;
    cluster.kill_master();
    let dir = cluster.agent_dir(0);
    let running = leftovers::executors(&dir).len();
    assert_eq!(running, 2);
    eventually(
        "the agent has stopped the task by itself",
        async || match leftovers::tasks(&dir).len() {
            1 => Ok(()),
            left => bail!("{left} tasks run"),
        },
    )
    .await;
    cluster.start_master().await?;
    let client = cluster.client();
    let after = moved(client, &job.name, &before).await;
    assert_ne!(before, after);
    assert_eq!(reason_of(client, &before).await?, reason::STOPPED_UNHEARD);
    assert_eq!(client.task(&kept).await?.status.state, TaskState::Running);
    let job = client.job(&job.name).await?;
    assert_eq!((job.state, job.restarts), (JobState::Running, 0), "{job:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_starts_while_the_masters_are_silent_stops_what_is_overdue_at_once() -> Result
{
    let mut cluster = impatient(1).start().await?;
    let client = cluster.client().clone();
    // So long that only what an earlier process of the agent knew can end it in a test's time.
    let after_ms = 200_000;
    let job = patient().partition(PartitionPolicy::StopAfter(after_ms));
    let job = job.name("stopped");
    let job = client.submit(&job).await?;
    let before = client.running(&job.name).await;
    let contact = cluster.agent_dir(0).join("contact");
    eventually("the agent keeps when it was heard", async || {
        std::fs::metadata(&contact).map(drop)
    })
    .await;
    cluster.kill_master();
    cluster.kill_agent(0);
    // It was heard just now; as if that had been long ago, as the machine's uptime has it.
    let text = std::fs::read_to_string(&contact)?;
    let (boot, heard_ms) = text.trim().split_once(' ').context("two words")?;
    let heard_ms: u64 = heard_ms.parse()?;
    let earlier_ms = heard_ms.saturating_sub(after_ms);
    std::fs::write(&contact, format!("{boot} {earlier_ms}\n"))?;
    cluster.spawn_agent(0)?;
    let dir = cluster.agent_dir(0);
    eventually("the task has ended", async || {
        match leftovers::tasks(&dir).len() {
            0 => Ok(()),
            left => bail!("{left} tasks run"),
        }
    })
    .await;
    cluster.start_master().await?;
    moved(cluster.client(), &job.name, &before).await;
    let code = reason_of(cluster.client(), &before).await?;
    assert_eq!(code, reason::STOPPED_UNHEARD);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_to_be_stopped_is_not_replaced_before_its_time() -> Result {
    let mut cluster = impatient(2).start().await?;
    let client = cluster.client().clone();
    let after_ms = PartitionPolicy::MIN_STOP_MS;
    let job = patient().partition(PartitionPolicy::StopAfter(after_ms));
    let job = client.submit(&job.name("stopped")).await?;
    let before = client.running(&job.name).await;
    let index = place_of(&client, &before).await?;
    cluster.kill_agent(index);
    let after = moved(&client, &job.name, &before).await;
    let unreachable = time_of(&client, &before, TaskState::Unreachable).await?;
    let again = client.task(&after).await?.launched_at;
    assert!(again.millis_since(unreachable) >= after_ms);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_falls_silent_at_once_is_not_declared_lost() -> Result {
    let mut cluster = impatient(3).start().await?;
    let client = cluster.client().clone();
    // So much that each agent gets one.
    let job = patient()
        .cpus(3_000)
        .count(3)
        .partition(PartitionPolicy::ReplaceAfter(0));
    let job = client.submit(&job.name("held")).await?;
    eventually("a task runs on each agent", async || {
        let running = client.tasks("?state=running").await?;
        match running.len() {
            3 => Ok(()),
            _ => bail!("{running:?}"),
        }
    })
    .await;
    (0..3).for_each(|index| cluster.kill_agent(index));
    eventually("the cluster says what it holds back", async || {
        let warnings = client.cluster().await?.warnings;
        match warnings.iter().any(|text| text.contains("silent at once")) {
            true => Ok(()),
            false => bail!("{warnings:?}"),
        }
    })
    .await;
    // sleep: nothing is to happen for longer than the window in which it would.
    tokio::time::sleep(std::time::Duration::from_millis(2 * WINDOW_MS)).await;
    let agents = client.agents().await?;
    let is_held = |status| status == AgentStatus::Active;
    assert!(
        agents.iter().all(|agent| is_held(agent.status)),
        "{agents:?}"
    );
    assert_eq!(client.tasks("?state=running").await?.len(), 3);

    cluster.start_agent(0).await?;
    cluster.start_agent(1).await?;
    eventually("the one that stays away is unreachable", async || {
        let agent = client.agent("agent-2").await?;
        match agent.status {
            AgentStatus::Unreachable => Ok(()),
            _ => bail!("{agent:?}"),
        }
    })
    .await;
    let job = client.job(&job.name).await?;
    assert_eq!(job.failed + job.killed + job.restarts, 0, "{job:?}");
    let warnings = client.cluster().await?.warnings;
    assert!(
        !warnings.iter().any(|text| text.contains("silent")),
        "{warnings:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_was_restarted_tells_at_once_that_its_tasks_are_gone() -> Result {
    let mut cluster = Cluster::new().start().await?;
    let client = cluster.client().clone();
    let job = client.submit(&patient().name("rebooted")).await?;
    let before = client.running(&job.name).await;
    cluster.reboot_agent(0).await?;
    in_state(&client, &before, TaskState::Gone).await;
    assert_eq!(reason_of(&client, &before).await?, reason::AGENT_REBOOTED);
    moved(&client, &job.name, &before).await;
    assert_eq!(client.agents().await?.len(), 1, "it is the same agent");
    assert_eq!(client.job(&job.name).await?.restarts, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_lends_may_change_under_its_tasks() -> Result {
    let mut cluster = Cluster::new().start().await?;
    let client = cluster.client().clone();
    let large = client.submit(&patient().cpus(6_000).name("large")).await?;
    let small = client.submit(&patient().name("small")).await?;
    let kept = client.running(&small.name).await;
    cluster.stop_agent(0)?;
    cluster.set_resources("cpus=8,mem=4GiB,disk=1GiB,ports=31000-31099");
    cluster.start_agent(0).await?;
    client.running(&large.name).await;
    assert_eq!(client.task(&kept).await?.status.state, TaskState::Running);
    assert_eq!(client.agent("agent-0").await?.total.cpus.0, 8_000);

    cluster.stop_agent(0)?;
    cluster.add_agent_flag("--attributes", "rack=west");
    cluster.start_agent(0).await?;
    let here = ["run", "--where", "rack=west", "--", "echo", "here"];
    assert_eq!(ok(&cluster, &here).await?, "here\n");
    assert_eq!(client.task(&kept).await?.status.state, TaskState::Running);
    assert_eq!(client.agents().await?.len(), 1, "it is the same agent");
    Ok(())
}
