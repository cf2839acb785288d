//! The design's rules, each by its number and name, as far as one master can show them.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use tepui_tests::{Client, Cluster, Job, eventually};
use tepui_types::api::framework::FrameworkView;
use tepui_types::api::job::JobState;
use tepui_types::api::task::TaskView;
use tepui_types::{FrameworkPhase, TaskState};

use super::Result;

const UNRULY: &str = "test-frameworks/unruly.wasm";

async fn count(client: &Client) -> String {
    eventually("the framework answers", async || {
        let answer = client.get_raw("/frameworks/guest/count").await?;
        match answer.status.is_success() {
            true => Ok(answer.text()),
            false => bail!("{}", answer.text()),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_1_nothing_runs_that_the_log_does_not_know() -> Result {
    let mut cluster = Cluster::new().agents(2).start().await?;
    let ran = cluster.dir().join("ran");
    // A line shorter than a page, appended whole: nothing is lost or mixed.
    let job = Job::shell(&format!("echo $TEPUI_TASK_ID >> {}", ran.display())).count(300);
    cluster.client().submit(&job.name("all")).await?;
    for millis in [10, 60, 150] {
        // sleep: the kill comes at another moment of the work each time.
        tokio::time::sleep(Duration::from_millis(millis)).await;
        cluster.kill_master();
        cluster.start_master().await?;
    }
    let client = cluster.client();
    let job = client.ended("all").await;
    assert_eq!(
        (job.state, job.finished),
        (JobState::Finished, 300),
        "{job:?}"
    );
    let known = client.tasks("").await?;
    let known: BTreeSet<String> = known.iter().map(|task| task.id.to_string()).collect();
    let ran = std::fs::read_to_string(&ran)?;
    let once: BTreeSet<&str> = ran.lines().collect();
    assert_eq!(once.len(), ran.lines().count(), "no attempt ran twice");
    for id in &once {
        assert!(
            known.contains(*id),
            "{id} ran, and the log does not know it"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_2_a_frameworks_turn_is_a_transaction() -> Result {
    let mut cluster = Cluster::new().without_batch().start().await?;
    cluster.deploy("guest", UNRULY, "").await?;
    let client = cluster.client().clone();
    assert_eq!(
        client.post_text("/frameworks/guest/add", "").await?.text(),
        "1"
    );
    // What was answered is durable, whatever comes next.
    cluster.kill_master();
    cluster.start_master().await?;
    assert_eq!(count(&client).await, "1");

    // A turn that dies leaves neither its write nor its launch.
    let before = client.framework("guest").await?;
    client
        .post_text("/frameworks/guest/launch-then-trap", "")
        .await?;
    let after = eventually("the framework has died of an offer", async || {
        let framework = client.framework("guest").await?;
        match framework.phase {
            FrameworkPhase::Backoff | FrameworkPhase::Failed => Ok(framework),
            _ => bail!("{framework:?}"),
        }
    })
    .await;
    assert!(client.tasks("").await?.is_empty(), "nothing was launched");
    assert_eq!(
        (after.store_keys, after.store_bytes, after.used.cpus.0),
        (before.store_keys, before.store_bytes, 0)
    );
    assert_eq!(after.waiting, 1, "what it had wanted before stands");
    Ok(())
}

/// What State holds of tasks and frameworks, without what a restart counts.
async fn state(client: &Client) -> anyhow::Result<(Vec<TaskView>, Vec<FrameworkView>)> {
    let mut frameworks = client.frameworks().await?;
    for framework in &mut frameworks {
        (framework.incarnation, framework.turns, framework.revision) = (0, 0, 0);
    }
    Ok((client.tasks("").await?, frameworks))
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_3_the_log_applied_again_gives_the_same_state() -> Result {
    let mut cluster = Cluster::new().start().await?;
    let client = cluster.client().clone();
    client
        .run(&Job::shell("exit $((TEPUI_ARRAY_INDEX % 2))").count(20))
        .await?;
    client.run(&Job::command(["true"]).count(20)).await?;
    let before = state(&client).await?;
    for _ in 0..2 {
        cluster.kill_master();
        cluster.start_master().await?;
        eventually("batch runs again", async || {
            match client.framework("batch").await? {
                view if view.phase == FrameworkPhase::Running => Ok(()),
                view => bail!("{view:?}"),
            }
        })
        .await;
        assert_eq!(state(&client).await?, before);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_4_a_new_leader_has_a_new_term_and_new_instances() -> Result {
    let mut cluster = Cluster::new().start().await?;
    let client = cluster.client().clone();
    let before = client.cluster().await?;
    let batch = client.framework("batch").await?;
    cluster.kill_master();
    cluster.start_master().await?;
    let after = client.cluster().await?;
    assert!(
        after.term > before.term,
        "{} then {}",
        before.term,
        after.term
    );
    assert_eq!((after.cluster, after.node), (before.cluster, before.node));
    client.run(&Job::command(["true"])).await?;
    let restarted = client.framework("batch").await?;
    assert!(restarted.incarnation > batch.incarnation, "{restarted:?}");
    assert_eq!(restarted.id, batch.id);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_5_offers_are_soft_and_demand_is_not() -> Result {
    let mut cluster = Cluster::new()
        .resources("cpus=1,mem=1GiB,disk=1GiB")
        .start()
        .await?;
    let client = cluster.client().clone();
    let holder = client
        .submit(&Job::command(["sleep", "600"]).cpus(1_000).name("holder"))
        .await?;
    client.running(&holder.name).await;
    client
        .submit(&Job::command(["true"]).cpus(1_000).name("next"))
        .await?;
    cluster.kill_master();
    cluster.start_master().await?;
    let waiting = client.job("next").await?;
    assert_eq!(waiting.state, JobState::Waiting, "{waiting:?}");
    client.delete_raw("/frameworks/batch/jobs/holder").await?;
    assert_eq!(client.ended("next").await.state, JobState::Finished);
    eventually("no offer is held for ever", async || {
        match client.cluster().await? {
            view if view.offered.cpus.0 == 0 => Ok(()),
            view => bail!("{:?}", view.offered),
        }
    })
    .await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_6_every_end_is_delivered_and_counted_once() -> Result {
    let mut cluster = Cluster::new().start().await?;
    let client = cluster.client().clone();
    let gate = cluster.dir().join("gate");
    let script = format!("while ! test -e {}; do sleep 0.02; done", gate.display());
    client
        .submit(&Job::shell(&script).count(40).name("held"))
        .await?;
    eventually("all run", async || match client.job("held").await? {
        job if job.active == 40 => Ok(()),
        job => bail!("{job:?}"),
    })
    .await;
    // All ends happen while nobody leads; the agent says them until they are heard.
    cluster.kill_master();
    std::fs::write(&gate, "")?;
    cluster.start_master().await?;
    let job = client.ended("held").await;
    assert_eq!(
        (job.finished, job.failed, job.restarts),
        (40, 0, 0),
        "{job:?}"
    );
    // A framework that is started anew is not told again what it acknowledged.
    client.post_text("/v1/frameworks/batch/restart", "").await?;
    let after = eventually("batch answers again", async || client.job("held").await).await;
    assert_eq!(after, job);
    assert_eq!(
        client.cluster().await?.ended.get(&TaskState::Finished),
        Some(&40)
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_7_agents_outlive_masters_and_executors_outlive_agents() -> Result {
    let mut cluster = Cluster::new().start().await?;
    let client = cluster.client().clone();
    let (gate, pid) = (cluster.dir().join("gate"), cluster.dir().join("pid"));
    let script = format!(
        "echo $$ >> {}; while ! test -e {}; do sleep 0.02; done",
        pid.display(),
        gate.display()
    );
    let job = client.submit(&Job::shell(&script).name("steady")).await?;
    let id = client.running(&job.name).await;
    let agent = cluster.agent_pid(0)?;
    cluster.kill_master();
    cluster.start_master().await?;
    assert!(
        Path::new(&format!("/proc/{agent}")).exists(),
        "the agent goes on"
    );
    eventually("the agent is back", async || {
        match client.agents().await? {
            agents if agents.iter().all(|agent| agent.connected) => Ok(()),
            agents => bail!("{agents:?}"),
        }
    })
    .await;
    for round in 0..2 {
        match round {
            0 => cluster.kill_agent(0),
            _ => cluster.stop_agent(0)?,
        }
        cluster.start_agent(0).await?;
        assert_eq!(client.task(&id).await?.status.state, TaskState::Running);
    }
    std::fs::write(&gate, "")?;
    let job = client.ended("steady").await;
    assert_eq!(
        (job.state, job.restarts),
        (JobState::Finished, 0),
        "{job:?}"
    );
    assert_eq!(
        std::fs::read_to_string(&pid)?.lines().count(),
        1,
        "one process all along"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_8_no_guest_can_hurt_its_host() -> Result {
    let cluster = Cluster::new().start().await?;
    let client = cluster.client().clone();
    cluster.deploy("guest", UNRULY, "").await?;
    let spinning = client.clone();
    let spinning =
        tokio::spawn(async move { spinning.post_text("/frameworks/guest/loop", "").await });
    // While it spins, another framework takes its turns and its tasks run.
    for _ in 0..3 {
        assert_eq!(
            client.output_of(&Job::command(["echo", "fine"])).await?,
            "fine\n"
        );
    }
    let answer = spinning.await??;
    assert!(answer.status.is_server_error(), "{}", answer.text());
    let problem = answer.problem();
    assert!(!problem.detail.is_empty());
    for deed in ["allocate", "chatter", "fill"] {
        eventually("the framework is there", async || {
            let answer = client.get_raw("/frameworks/guest/count").await?;
            match answer.status.is_success() {
                true => Ok(()),
                false => {
                    client.post_text("/v1/frameworks/guest/restart", "").await?;
                    bail!("{}", answer.text())
                }
            }
        })
        .await;
        client
            .post_text(&format!("/frameworks/guest/{deed}"), "")
            .await?;
        assert_eq!(
            client.output_of(&Job::command(["echo", "fine"])).await?,
            "fine\n"
        );
    }
    let framework = client.framework("guest").await?;
    assert!(framework.store_bytes <= 64 * 1024 * 1024);
    let logs = client.get_raw("/v1/frameworks/guest/logs").await?.text();
    assert!(
        logs.lines().count() <= 1_000,
        "the last lines are kept, not all"
    );
    assert!(client.ready().await);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_10_everything_is_bounded_and_says_so() -> Result {
    let cluster = Cluster::new().start().await?;
    let client = cluster.client().clone();
    // A body.
    let answer = client
        .post_text("/v1/frameworks", &" ".repeat(1_200_000))
        .await?;
    assert_eq!(answer.status, 413);
    assert!(
        answer.problem().detail.chars().any(|c| c.is_ascii_digit()),
        "it names the limit"
    );
    // An array.
    let answer = client
        .submit_raw(&Job::command(["true"]).count(100_001))
        .await?;
    assert!(
        answer.problem().detail.contains("100000"),
        "{}",
        answer.text()
    );
    // A specification.
    let answer = client
        .submit_raw(&Job::command(["echo", &"x".repeat(100_000)]))
        .await?;
    assert!(answer.status.is_client_error());
    assert!(
        answer.problem().detail.contains("65536"),
        "{}",
        answer.text()
    );
    // A page.
    client.run(&Job::command(["true"]).count(3)).await?;
    let page: serde_json::Value = client.get("/v1/tasks?limit=2").await?;
    assert_eq!(page["items"].as_array().map(Vec::len), Some(2));
    assert!(page["next"].is_string(), "and says that there is more");
    let answer = client.get_raw("/v1/tasks?limit=1000000").await?;
    let bounded = answer.status == 400
        || answer.json::<serde_json::Value>()?["items"]
            .as_array()
            .map(Vec::len)
            <= Some(1_000);
    assert!(bounded);
    // An event past the retention.
    let answer = client.get_raw("/v1/events?after=nonsense").await?;
    assert_eq!(answer.status, 400, "{}", answer.text());
    answer.problem();
    // A task's output.
    let loud =
        "i=0; while test $i -lt 20; do head -c 100000 /dev/zero | tr '\\0' x; i=$((i+1)); done";
    let job = client.run(&Job::shell(loud)).await?;
    let task = job.task.context("its task")?.id;
    let output = client.output(&task, "stdout").await?;
    assert!(
        output.len() == 2_000_000 || output.contains("truncated"),
        "all of it, or a notice: {} bytes",
        output.len()
    );
    Ok(())
}
