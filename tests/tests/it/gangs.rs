//! Gangs: all tasks of a job start together, over several agents, or none does.

use tepui_tests::{Client, Cluster, Job, eventually, process};
use tepui_types::TaskState;
use tepui_types::api::job::JobState;

use super::Result;
use super::cli::ok;

/// A job of tasks that stay, each with a whole cpu.
fn staying(name: &str, count: u32) -> Job {
    Job::command(["sleep", "1000"])
        .name(name)
        .cpus(1_000)
        .count(count)
}

async fn running(client: &Client, job: &str) -> anyhow::Result<usize> {
    let tasks = client.tasks("").await?;
    let prefix = format!("{job}-");
    let its = tasks
        .iter()
        .filter(|task| task.id.name.as_str().starts_with(&prefix));
    Ok(its
        .filter(|task| task.status.state == TaskState::Running)
        .count())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gang_starts_over_two_agents_at_once_or_not_at_all() -> Result {
    let two_cpus = "cpus=2,mem=4GiB,disk=1GiB,ports=31000-31099";
    let cluster = Cluster::new().agents(2).resources(two_cpus).start().await?;
    let client = cluster.client();
    client.submit(&staying("before", 2)).await?;
    eventually("there is room for two more", async || {
        anyhow::ensure!(running(client, "before").await? == 2);
        Ok(())
    })
    .await;
    let run = ["run", "-d", "--name", "mpi", "--gang", "3", "--cpus", "1"];
    ok(&cluster, &[&run[..], &["--", "sleep", "1000"]].concat()).await?;
    eventually("it is said why the gang waits", async || {
        let said = ok(&cluster, &["explain", "mpi"]).await?;
        anyhow::ensure!(said.contains("must fit at once"), "{said}");
        Ok(())
    })
    .await;
    // What the gang cannot use is nobody's: a smaller job has it at once.
    client
        .submit(&Job::command(["true"]).name("small").cpus(1_000))
        .await?;
    eventually("the smaller job has run", async || {
        let job = client.job("small").await?;
        anyhow::ensure!(job.state == JobState::Finished, "{job:?}");
        Ok(())
    })
    .await;
    assert_eq!(client.job("mpi").await?.active, 0, "none of it has started");
    ok(&cluster, &["job", "kill", "before"]).await?;
    eventually("all of the gang runs", async || {
        let count = running(client, "mpi").await?;
        anyhow::ensure!(count == 3, "{count} run");
        Ok(())
    })
    .await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gang_fails_when_it_has_waited_for_too_long() -> Result {
    let cluster = Cluster::new().start().await?;
    let job = staying("mpi", 1_000).gang(Some(500));
    cluster.client().submit(&job).await?;
    let job = eventually("it is given up", async || {
        let job = cluster.client().job("mpi").await?;
        anyhow::ensure!(job.state == JobState::Failed, "{job:?}");
        Ok(job)
    })
    .await;
    assert_eq!((job.failed, job.restarts), (1_000, 0));
    assert_eq!(job.reason.expect("it says why").code, "gang-overdue");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn before_a_gang_that_waits_only_what_ends_in_time_runs() -> Result {
    let two_cpus = "cpus=2,mem=4GiB,disk=1GiB,ports=31000-31099";
    let cluster = Cluster::new().agents(2).resources(two_cpus).start().await?;
    let client = cluster.client();
    // It frees its agent in a quarter of an hour at the latest.
    let long = staying("long", 2).time_limit_ms(900_000);
    client.submit(&long).await?;
    eventually("there is room for two more", async || {
        anyhow::ensure!(running(client, "long").await? == 2);
        Ok(())
    })
    .await;
    client.submit(&staying("mpi", 4).gang(None)).await?;
    eventually("it is known when the gang starts", async || {
        let said = ok(&cluster, &["explain", "mpi"]).await?;
        anyhow::ensure!(said.contains("starts by"), "{said}");
        Ok(())
    })
    .await;
    let endless = Job::command(["true"]).name("endless").cpus(1_000);
    client.submit(&endless).await?;
    eventually("it waits behind the gang", async || {
        let said = ok(&cluster, &["explain", "endless"]).await?;
        anyhow::ensure!(said.contains("kept for a gang"), "{said}");
        Ok(())
    })
    .await;
    let short = Job::command(["true"]).name("short").cpus(1_000);
    client.submit(&short.time_limit_ms(60_000)).await?;
    eventually("what ends in time runs before it", async || {
        let job = client.job("short").await?;
        anyhow::ensure!(job.state == JobState::Finished, "{job:?}");
        Ok(())
    })
    .await;
    assert_eq!(client.job("endless").await?.active, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gang_of_a_role_below_its_guarantee_gets_room_at_once_or_nothing_ends_for_it() -> Result {
    let two_cpus = "cpus=2,mem=4GiB,disk=1GiB,ports=31000-31099";
    let cluster = Cluster::new().agents(2).resources(two_cpus).start().await?;
    let client = cluster.client();
    let batch = process::guest("frameworks/batch.wasm")?
        .display()
        .to_string();
    let deploy = ["framework", "deploy", "web", &batch, "--role", "eng"];
    ok(&cluster, &deploy).await?;
    client.submit(&staying("others", 4)).await?;
    eventually("the cluster is full", async || {
        let count = running(client, "others").await?;
        anyhow::ensure!(count == 4, "{count} run");
        Ok(())
    })
    .await;
    ok(&cluster, &["role", "set", "*", "--preemptible", "yes"]).await?;
    ok(&cluster, &["role", "set", "eng", "--guarantee", "cpus=3"]).await?;
    // Beyond the guarantee: no part of it is made room for.
    let large = Job::command(["sleep", "1000"]).name("large").cpus(1_000);
    client
        .submit_to("web", &large.count(4).gang(Some(1_500)))
        .await?;
    eventually("it is given up", async || {
        let jobs: serde_json::Value = client.get("/frameworks/web/jobs/large").await?;
        anyhow::ensure!(jobs["state"] == "failed", "{jobs}");
        Ok(())
    })
    .await;
    assert_eq!(running(client, "others").await?, 4, "nothing has ended");
    let gang = Job::command(["sleep", "1000"]).name("mpi").cpus(1_000);
    client.submit_to("web", &gang.count(3).gang(None)).await?;
    eventually("all of the gang runs", async || {
        let count = running(client, "mpi").await?;
        anyhow::ensure!(count == 3, "{count} run");
        Ok(())
    })
    .await;
    assert_eq!(running(client, "others").await?, 1);
    Ok(())
}
