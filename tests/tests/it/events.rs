//! Events: who follows them on one master goes on on another, and misses nothing.

use anyhow::Context;
use serde_json::Value;
use tepui_tests::{Cluster, Job};
use tepui_types::api::job::JobState;

use super::Result;
use super::failover::submit_surely;

/// Whether a task of this job is told to have finished.
fn finished(events: &[(String, Value)], job: &str) -> bool {
    events.iter().any(|(_, data)| {
        let task = &data["body"]["task"];
        task["state"] == "finished" && task.to_string().contains(job)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn who_follows_a_master_that_dies_goes_on_on_another() -> Result {
    let mut cluster = Cluster::new().masters(3).start().await?;
    let clients = (0..3).map(|index| cluster.client_of(index));
    let clients: Vec<_> = clients.collect::<anyhow::Result<_>>()?;
    let leader = cluster.leader().await?;
    let (next, third) = ((leader + 1) % 3, (leader + 2) % 3);
    let start = format!("{}.0", clients[leader].cluster().await?.index);
    clients[leader]
        .run(&Job::command(["true"]).name("first"))
        .await?;
    let first = |events: &[(String, Value)]| finished(events, "first");
    let seen = clients[leader].events(Some(&start), first).await?;
    cluster.kill_master_at(leader);
    let left = [clients[next].clone(), clients[third].clone()];
    submit_surely(&left, &Job::command(["true"]).name("second")).await?;
    assert_eq!(
        clients[next].ended("second").await.state,
        JobState::Finished
    );
    let (last, _) = seen.last().context("an event")?;
    let second = |events: &[(String, Value)]| finished(events, "second");
    let rest = clients[next].events(Some(last), second).await?;
    let all = clients[third].events(Some(&start), second).await?;
    let seen = [seen, rest].concat();
    // A piece of the stream may hold more than was waited for.
    let both = seen.len().min(all.len());
    assert!(second(&seen[..both]) && second(&all[..both]));
    assert_eq!(seen[..both], all[..both], "each once, and none is missing");
    Ok(())
}
