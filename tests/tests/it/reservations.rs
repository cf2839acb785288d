//! Reservations and volumes, as operators make them and frameworks use them.

use serde_json::Value;
use tepui_tests::{Cluster, Job, eventually, process};
use tepui_types::TaskState;
use tepui_types::api::agent::AgentView;
use tepui_types::api::reservation::VolumeView;

use super::Result;
use super::cli::{ok, refused, tepui};

const FOUR_CPUS: &str = "cpus=4,mem=4GiB,disk=40GiB,ports=31000-31099";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_reserved_is_used_by_its_role_and_by_nobody_else() -> Result {
    let cluster = Cluster::new().resources(FOUR_CPUS).start().await?;
    let client = cluster.client();
    let said = ok(
        &cluster,
        &["agent", "reserve", "a1", "eng", "cpus=3,mem=1GiB"],
    )
    .await?;
    assert!(
        said.contains("3 cpus, 1 GiB mem (reserved for eng)"),
        "{said}"
    );
    let batch = process::guest("frameworks/batch.wasm")?;
    let batch = batch.display().to_string();
    let deploy = ["framework", "deploy", "web", &batch, "--role", "eng/web"];
    ok(&cluster, &deploy).await?;

    // Others have the one cpu that is left; the role has its own beside it.
    let staying = |name: &str| {
        let job = Job::command(["sleep", "1000"]);
        job.name(name).cpus(1_000).count(3)
    };
    client.submit(&staying("others")).await?;
    client.submit_to("web", &staying("ours")).await?;
    eventually(
        "one task of others runs, and three of the role",
        async || {
            let tasks = client.tasks("").await?;
            let runs = |framework: &str| {
                let is_its = |status| status == TaskState::Running;
                let tasks = tasks.iter().filter(|task| task.framework_name == framework);
                tasks.filter(|task| is_its(task.status.state)).count()
            };
            anyhow::ensure!((runs("batch"), runs("web")) == (1, 3), "{tasks:?}");
            Ok(())
        },
    )
    .await;
    let said = refused(&cluster, &["agent", "unreserve", "a1", "eng", "cpus=1"]).await?;
    assert!(said.contains("eng"), "{said}");
    client.delete_raw("/frameworks/web/jobs/ours").await?;
    eventually("it is free, and taken back", async || {
        // Refused while none of its tasks has ended.
        let said = tepui(&cluster, &["agent", "unreserve", "a1", "eng"]).await?;
        let agent: AgentView = client.get("/v1/agents/a1").await?;
        anyhow::ensure!(agent.total.pools.is_empty(), "{said:?} {agent:?}");
        Ok(())
    })
    .await;
    let said = ok(&cluster, &["agent", "operations", "-o", "json"]).await?;
    let operations: Value = serde_json::from_str(&said)?;
    let states: Vec<_> = operations
        .as_array()
        .into_iter()
        .flatten()
        .map(|one| &one["state"])
        .collect();
    assert!(states.iter().all(|state| **state == "finished"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_are_made_of_what_is_reserved_and_end_before_it_does() -> Result {
    let cluster = Cluster::new().resources(FOUR_CPUS).start().await?;
    let create = [
        "volume", "create", "a1", "data", "--role", "eng", "--size", "10GiB",
    ];
    let said = refused(&cluster, &create).await?;
    assert!(said.contains("tepui agent reserve"), "{said}");
    ok(&cluster, &["agent", "reserve", "a1", "eng", "disk=20GiB"]).await?;
    ok(&cluster, &create).await?;
    let said = refused(&cluster, &create).await?;
    assert!(said.contains("already"), "{said}");
    ok(&cluster, &["volume", "grow", "a1", "data", "5GiB"]).await?;
    ok(&cluster, &["volume", "shrink", "a1", "data", "3GiB"]).await?;
    let said = refused(&cluster, &["agent", "unreserve", "a1", "eng", "disk=10GiB"]).await?;
    assert!(said.contains("too little disk"), "{said}");
    let said = ok(&cluster, &["volume", "list", "-o", "json"]).await?;
    let volumes: Vec<VolumeView> = serde_json::from_str(&said)?;
    let sizes: Vec<_> = volumes.iter().map(|it| it.size_bytes.to_string()).collect();
    assert_eq!(sizes, ["12 GiB"], "{said}");
    ok(&cluster, &["volume", "destroy", "a1", "data"]).await?;
    ok(&cluster, &["agent", "unreserve", "a1", "eng"]).await?;
    let agent: AgentView = cluster.client().get("/v1/agents/a1").await?;
    assert!(agent.total.pools.is_empty(), "{agent:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_that_cannot_be_are_refused_with_what_would_help() -> Result {
    let cluster = Cluster::new().resources(FOUR_CPUS).start().await?;
    for (args, part) in [
        (
            vec!["agent", "reserve", "a1", "eng", "cpus=9"],
            "too little cpus",
        ),
        (
            vec!["agent", "reserve", "a1", "eng//web", "cpus=1"],
            "is not a role",
        ),
        (vec!["agent", "reserve", "a1", "*", "cpus=1"], "everybody"),
        (vec!["agent", "reserve", "a1", "eng", "cpus=-1"], "cpus"),
        (vec!["agent", "reserve", "a1", "eng"], "such as cpus=2"),
        (
            vec![
                "agent", "reserve", "a1", "eng/web", "cpus=1", "--from", "eng",
            ],
            "reserved for `eng`",
        ),
        (
            vec!["agent", "reserve", "a1", "eng", "--disk", "ssd"],
            "no disk `ssd`",
        ),
        (
            vec!["agent", "unreserve", "a1", "eng"],
            "reserved for `eng`",
        ),
        (
            vec!["agent", "reserve", "a9", "eng", "cpus=1"],
            "no agent a9",
        ),
        (vec!["volume", "destroy", "a1", "data"], "no volume `data`"),
    ] {
        let said = refused(&cluster, &args).await?;
        assert!(said.contains(part), "{args:?}: {said}");
    }
    Ok(())
}

/// A cluster of one agent in which batch has role `eng` and a volume.
async fn with_volume() -> anyhow::Result<Cluster> {
    let cluster = Cluster::new().resources(FOUR_CPUS).without_batch();
    let cluster = cluster.start().await?;
    let batch = process::guest("frameworks/batch.wasm")?;
    let batch = batch.display().to_string();
    ok(
        &cluster,
        &["framework", "deploy", "batch", &batch, "--role", "eng"],
    )
    .await?;
    ok(&cluster, &["agent", "reserve", "a1", "eng", "disk=20GiB"]).await?;
    create(&cluster).await?;
    Ok(cluster)
}

async fn create(cluster: &Cluster) -> anyhow::Result<String> {
    let create = [
        "volume", "create", "a1", "data", "--role", "eng", "--size", "1GiB",
    ];
    ok(cluster, &[&create[..], &["--path", "var/data"]].concat()).await
}

fn shell(name: &str, script: &str) -> Job {
    Job::command(["sh", "-c", script]).name(name).volume("data")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_outlives_its_task_and_its_agent() -> Result {
    let mut cluster = with_volume().await?;
    let writes = shell("writes", "echo kept > var/data/file");
    let job = cluster.client().run(&writes).await?;
    assert_eq!(job.finished, 1, "{job:?}");
    cluster.kill_agent(0);
    cluster.start_agent(0).await?;
    let said = cluster
        .client()
        .output_of(&shell("reads", "cat var/data/file"))
        .await?;
    assert_eq!(said, "kept\n");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_in_a_volume_ends_with_it_also_while_its_agent_is_away() -> Result {
    let mut cluster = with_volume().await?;
    let job = shell("writes", "echo old > var/data/file");
    cluster.client().run(&job).await?;
    let folder = cluster.agent_dir(0).join("volumes");
    let count = || std::fs::read_dir(&folder).map_or(0, Iterator::count);
    assert_eq!(count(), 1);
    cluster.kill_agent(0);
    ok(&cluster, &["volume", "destroy", "a1", "data"]).await?;
    create(&cluster).await?;
    cluster.start_agent(0).await?;
    let said = cluster
        .client()
        .output_of(&shell("reads", "ls var/data | wc -l"))
        .await?;
    assert_eq!(said.trim(), "0", "a volume of the same name is another");
    eventually("the old one is removed", async || {
        anyhow::ensure!(count() == 1, "{} folders", count());
        Ok(())
    })
    .await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_a_task_uses_is_not_destroyed() -> Result {
    let cluster = with_volume().await?;
    cluster
        .client()
        .submit(&shell("uses", "sleep 1000"))
        .await?;
    let task = cluster.client().running("uses").await;
    let said = refused(&cluster, &["volume", "destroy", "a1", "data"]).await?;
    assert!(said.contains(&task.to_string()), "{said}");
    let said = ok(&cluster, &["volume", "list"]).await?;
    assert!(said.contains(&task.to_string()), "{said}");
    // One that wants it, too, waits.
    cluster.client().submit(&shell("waits", "true")).await?;
    ok(&cluster, &["job", "kill", "uses"]).await?;
    let job = cluster.client().ended("waits").await;
    assert_eq!(job.finished, 1, "{job:?}");
    Ok(())
}
