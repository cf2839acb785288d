//! Disks that are full: whoever cannot write says so and ends, the others go on, and once there is
//! room it comes back and has missed nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use tepui_tests::disk::FOR_A_MASTER_MIB;
use tepui_tests::{Client, Cluster, Job, eventually};
use tepui_types::TaskState;
use tepui_types::api::job::JobState;
use tepui_types::task::reason;

use super::Result;
use super::failover::{all_vote, make_lead, submit_surely};

/// Bytes of a job's environment: what RocksDB has reserved for its log is used up soon.
const PAD_BYTES: usize = 32 * 1024;

fn padded(name: &str) -> Job {
    Job::command(["true"])
        .name(name)
        .env("PAD", &"x".repeat(PAD_BYTES))
}

/// Submits jobs until it is told to stop; gives the names of those that were acknowledged.
fn load(
    clients: Vec<Client>,
    stop: Arc<AtomicBool>,
) -> tokio::task::JoinHandle<anyhow::Result<Vec<String>>> {
    tokio::spawn(async move {
        let mut names = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let name = format!("load-{}", names.len());
            submit_surely(&clients, &padded(&name)).await?;
            names.push(name);
        }
        Ok(names)
    })
}

/// Three masters, of which the first is on a small disk; that is filled while jobs come and `leader`
/// leads.
async fn a_full_disk_while_leads(leader: usize) -> Result {
    let plan = Cluster::new()
        .masters(3)
        .small_disk("master", FOR_A_MASTER_MIB);
    let mut cluster = plan.start().await?;
    let full = 0;
    let folder = cluster.dir_of_master(full);
    let clients = [cluster.client_of(1)?, cluster.client_of(2)?].to_vec();
    cluster.speak_to(1)?;
    if cluster.leader().await? != leader {
        make_lead(&clients[0], &cluster.url_of_master(leader)).await?;
    }

    eventually("it has the framework compiled", async || {
        let code = std::fs::read_dir(folder.join("code"))?.next();
        let file = code.context("not yet")??;
        let name = file.file_name().to_string_lossy().into_owned();
        ensure!(!name.ends_with(".new"), "it is being written: {name}");
        Ok(())
    })
    .await;

    let stop = Arc::new(AtomicBool::new(false));
    let loading = load(clients.clone(), stop.clone());
    cluster.disk(&folder)?.fill(0)?;
    ended_by_the_disk(&mut cluster, full).await;
    cluster.kill_master_at(full);
    // The others take jobs all the while.
    submit_surely(&clients, &Job::command(["true"]).name("without-it")).await?;
    let job = clients[0].ended("without-it").await;
    assert_eq!(job.state, JobState::Finished);
    let next = cluster.leader().await?;
    assert_ne!(next, full);
    // sleep: whatever is taken now is taken without it.
    tokio::time::sleep(Duration::from_millis(200)).await;
    stop.store(true, Ordering::Relaxed);
    let names = loading.await??;
    // Nor does it start before there is room.
    cluster.spawn_master(full)?;
    ended_by_the_disk(&mut cluster, full).await;
    cluster.kill_master_at(full);

    cluster.disk(&folder)?.free()?;
    cluster.start_master_at(full).await?;
    all_vote(&clients[0], 3).await;
    assert!(!names.is_empty(), "something was acknowledged");
    let back = cluster.client_of(full)?;
    for name in &names {
        let job = back.ended(name).await;
        assert_eq!((job.state, job.finished), (JobState::Finished, 1), "{name}");
    }
    assert_eq!(back.tasks("").await?, clients[0].tasks("").await?);
    Ok(())
}

/// Waits until a master has ended, and has said why.
async fn ended_by_the_disk(cluster: &mut Cluster, master: usize) {
    let status = eventually("the master whose disk is full ends", async || {
        cluster.master_ended(master).context("it runs")
    })
    .await;
    assert!(!status.success());
    let said = cluster.log_of_master(master);
    let last = said.lines().last().unwrap_or_default();
    let is_clear = last.contains("No space left on device");
    assert!(is_clear && last.starts_with("tepui-master: "), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_whose_disk_is_full_ends_and_comes_back_once_there_is_room() -> Result {
    a_full_disk_while_leads(1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_disk_is_full_is_replaced_and_nothing_acknowledged_is_lost() -> Result {
    a_full_disk_while_leads(0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_disk_is_full_keeps_its_tasks_and_takes_no_more() -> Result {
    let plan = Cluster::new().small_disk("agent-0", 64);
    let mut cluster = plan.start().await?;
    let client = cluster.client().clone();
    let gate = cluster.dir().join("gate");
    let script = format!("while ! test -e {}; do sleep 0.02; done", gate.display());
    client.submit(&Job::shell(&script).name("held")).await?;
    client.running("held").await;
    let folder = cluster.agent_dir(0);
    cluster.disk(&folder)?.fill(0)?;

    client.submit(&Job::command(["true"]).name("new")).await?;
    eventually("the new task is refused, for a reason", async || {
        let tasks = client.tasks("?search=new").await?;
        let refused = tasks.iter().any(|task| {
            let reason = task.status.reason.as_ref();
            let is_full = reason.is_some_and(|reason| reason.code == reason::AGENT_FULL);
            task.status.state == TaskState::Dropped && is_full
        });
        ensure!(refused, "{tasks:?}");
        Ok(())
    })
    .await;
    let said = cluster.log_of_agent(0);
    assert!(said.contains("the disk is full"), "{said}");
    // What runs goes on to its end, and is counted.
    std::fs::write(&gate, "")?;
    let held = client.ended("held").await;
    assert_eq!((held.state, held.restarts), (JobState::Finished, 0));
    assert!(cluster.agent_ended(0).is_none(), "the agent lives");
    assert!(client.agent("agent-0").await?.connected);

    cluster.disk(&folder)?.free()?;
    let new = client.ended("new").await;
    assert_eq!((new.state, new.restarts), (JobState::Finished, 0));
    Ok(())
}
