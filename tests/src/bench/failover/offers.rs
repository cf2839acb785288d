//! Without offers: from `kill -9` of the leader until tasks are launched on agents again.
//!
//! A job is submitted after the kill. That a task of it arrives at an agent says that the group has
//! a leader, that agents have come back to it, that the framework runs there and was offered them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::time::{Instant, timeout};

use super::fleet::Fleet;
use super::{LOOK, MASTERS};
use crate::bench::{Row, Samples};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::job::Job;

const AGENTS: usize = 1_000;
/// More kills would say little more: each has a thousand agents.
const MOST_KILLS: usize = 10;
/// Far above what anything here takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// Kills the leader so often, but no more than a few times.
pub async fn row(kills: usize) -> Result<Row> {
    let mut cluster = Cluster::new().masters(MASTERS).agents(0).start().await?;
    let masters: Vec<_> = (0..MASTERS)
        .map(|index| cluster.url_of_master(index))
        .collect();
    let fleet = Fleet::start(AGENTS, &masters)?;
    let (mut first, mut all, mut back) = Default::default();
    for _ in 0..kills.min(MOST_KILLS) {
        until("all agents are connected", || fleet.connected() == AGENTS).await?;
        let gap = timeout(PATIENCE, kill_leader(&mut cluster, &fleet)).await;
        let gap = gap.context("no launch came after a kill")??;
        let add = |samples: &mut Samples, span: Duration| samples.add(span.as_secs_f64() * 1000.0);
        add(&mut first, gap.first);
        add(&mut all, gap.all);
        add(&mut back, gap.back);
    }
    let note = format!(
        "kill -9 of the leader of {MASTERS} masters with {AGENTS} simulated agents, until a task that \
         was submitted after the kill is launched on one; all {AGENTS} tasks of that job after {:.0} (worst {:.0}); \
         all agents are back after {:.0} (worst {:.0})",
        all.median(),
        all.quantile(1.0),
        back.median(),
        back.quantile(1.0)
    );
    Ok(Row::median(
        "kill_to_offers_ms",
        "ms",
        2000.0,
        &first,
        &note,
    ))
}

/// What it took after a kill.
struct Gap {
    /// Until a task was launched.
    first: Duration,
    /// Until as many were launched as there are agents.
    all: Duration,
    /// Until every agent had a session.
    back: Duration,
}

async fn kill_leader(cluster: &mut Cluster, fleet: &Fleet) -> Result<Gap> {
    let leader = cluster.leader().await?;
    let other = cluster.client_of((leader + 1) % MASTERS)?;
    // Nothing of an earlier job is left that could be launched again.
    let before = fleet.launches();
    cluster.kill_master_at(leader);
    let begun = Instant::now();
    // An agent holds one task at a time.
    let job = Job::command(["true"]).cpus(1_000).count(AGENTS as u32);
    let job = submit(&other, &job).await?;
    until("a task is launched", || fleet.launches() > before).await?;
    let first = begun.elapsed();
    let (mut all, mut back) = (None, None);
    until("all tasks are launched and all agents are back", || {
        if fleet.launches() >= before + AGENTS {
            all.get_or_insert(begun.elapsed());
        }
        if fleet.connected() == AGENTS {
            back.get_or_insert(begun.elapsed());
        }
        all.is_some() && back.is_some()
    })
    .await?;
    other.ended(&job).await;
    cluster.start_master_at(leader).await?;
    let spans = all.zip(back).context("both have happened")?;
    Ok(Gap {
        first,
        all: spans.0,
        back: spans.1,
    })
}

/// Submits a job as soon as somebody takes it.
async fn submit(client: &Client, job: &Job) -> Result<String> {
    loop {
        match client.submit(job).await {
            Ok(view) => return Ok(view.name),
            // sleep: between two tries.
            Err(_) => tokio::time::sleep(LOOK).await,
        }
    }
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) -> Result<()> {
    let begun = Instant::now();
    while !is_so() {
        ensure!(begun.elapsed() < PATIENCE, "{what}: not in {PATIENCE:?}");
        // sleep: between two looks.
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}
