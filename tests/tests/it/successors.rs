//! Short tasks in line: one after another in one place, until anybody else wants it.

use tepui_tests::eventually;
use tepui_tests::{Client, Cluster, Job};
use tepui_types::api::job::{JobState, JobView};
use tepui_types::api::task::TaskView;

use super::Result;

/// An agent on which one task runs at a time.
const ONE_PLACE: &str = "cpus=1,mem=4GiB,disk=1GiB,ports=31000-31099";
/// Enough to be at work for seconds.
const MANY: u32 = 2_000;

/// Short tasks, each of which takes the whole place.
fn short(name: &str, count: u32) -> Job {
    Job::command(["true"]).name(name).cpus(1_000).count(count)
}

/// Waits until some task stands in line.
async fn lined_up(client: &Client) -> anyhow::Result<()> {
    let in_line = |event: &serde_json::Value| event["body"]["task"]["in_line"] == true;
    let seen = |events: &[(String, serde_json::Value)]| events.iter().any(|(_, it)| in_line(it));
    client.events(Some("0.0"), seen).await.map(drop)
}

/// Waits for the end of a job, which must have finished, each of its tasks once.
async fn finished_once(client: &Client, name: &str, count: u32) -> anyhow::Result<Vec<TaskView>> {
    let job = client.ended(name).await;
    assert_eq!(
        (job.state, job.finished),
        (JobState::Finished, count),
        "{job:?}"
    );
    let tasks = client.tasks("").await?;
    let prefix = format!("{name}-");
    let tasks = tasks
        .into_iter()
        .filter(|task| task.id.name.as_str().starts_with(&prefix));
    let tasks: Vec<_> = tasks.collect();
    let finished = tasks
        .iter()
        .filter(|task| task.status.state == tepui_types::TaskState::Finished);
    assert_eq!(finished.count(), count as usize, "each ran once");
    Ok(tasks)
}

#[tokio::test(flavor = "multi_thread")]
async fn short_tasks_make_way_for_another_framework() -> Result {
    let cluster = Cluster::new().resources(ONE_PLACE).start().await?;
    let client = cluster.client();
    cluster.deploy("other", "frameworks/batch.wasm", "").await?;
    client.submit(&short("many", MANY)).await?;
    lined_up(client).await?;
    client.submit_to("other", &short("one", 1)).await?;
    eventually("the other's task is through", async || {
        let job: JobView = client.get("/frameworks/other/jobs/one").await?;
        anyhow::ensure!(job.state == JobState::Finished, "{job:?}");
        Ok(())
    })
    .await;
    let many = client.job("many").await?;
    assert_eq!(many.state, JobState::Running, "it did not wait for all");
    let tasks = finished_once(client, "many", MANY).await?;
    let made_way = |task: &TaskView| {
        let reason = task.status.reason.as_ref();
        reason.is_some_and(|reason| reason.code == "place-wanted")
    };
    assert!(tasks.iter().any(made_way), "some stood in line and left it");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_go_on_under_the_next_leader() -> Result {
    let plan = Cluster::new().masters(3).resources(ONE_PLACE);
    let mut cluster = plan.start().await?;
    cluster.client().submit(&short("many", MANY)).await?;
    lined_up(cluster.client()).await?;
    let leader = cluster.leader().await?;
    cluster.kill_master_at(leader);
    cluster.speak_to((leader + 1) % 3)?;
    finished_once(cluster.client(), "many", MANY).await?;
    Ok(())
}

/// What is on deck is in the agent's journal, or is told again.
#[tokio::test(flavor = "multi_thread")]
async fn lines_hold_though_their_agent_is_killed_again_and_again() -> Result {
    let mut cluster = Cluster::new().resources(ONE_PLACE).start().await?;
    let marks = tempfile::tempdir()?;
    let script = format!("echo >> {}/$TEPUI_ARRAY_INDEX", marks.path().display());
    let job = Job::command(["sh", "-c", &script]).name("many");
    cluster
        .client()
        .submit(&job.cpus(1_000).count(MANY))
        .await?;
    lined_up(cluster.client()).await?;
    for _ in 0..10 {
        cluster.kill_agent(0);
        cluster.start_agent(0).await?;
        let before = cluster.client().job("many").await?.finished;
        eventually("it goes on", async || {
            let job = cluster.client().job("many").await?;
            anyhow::ensure!(job.finished > before, "{job:?}");
            Ok(())
        })
        .await;
    }
    finished_once(cluster.client(), "many", MANY).await?;
    for index in 0..MANY {
        let mark = std::fs::read_to_string(marks.path().join(index.to_string()))?;
        assert_eq!(mark, "\n", "task {index} ran once");
    }
    Ok(())
}
