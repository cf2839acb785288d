//! Without a leader: from `kill -9` until a command that was sent after it is committed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{LOOK, MASTERS, commit};
use crate::bench::{Row, Samples};
use crate::cluster::Cluster;

/// Clients that commit while a leader is killed: load, on a machine that has to elect meanwhile.
const BACKGROUND: usize = 4;

/// Kills the leader so often.
pub async fn rows(kills: usize) -> Result<[Row; 2]> {
    let plan = Cluster::new().masters(MASTERS).agents(0).without_batch();
    let gaps = kill_leaders(&mut plan.start().await?, kills).await?;
    let note = format!(
        "kill -9 of the leader of {MASTERS} masters under the load of {BACKGROUND} clients, until a \
         command that was sent after the kill is committed"
    );
    let worst = gaps.quantile(1.0);
    Ok([
        Row::median("kill_to_commit_ms", "ms", 500.0, &gaps, &note),
        Row::new("kill_to_commit_worst_ms", "ms", 2000.0, worst, None, &note),
    ])
}

/// Milliseconds without a commit after each kill.
async fn kill_leaders(cluster: &mut Cluster, kills: usize) -> Result<Samples> {
    let mut gaps = Samples::default();
    for _ in 0..kills {
        let leader = cluster.leader().await?;
        let others = (0..MASTERS).filter(|index| *index != leader);
        let others: Vec<_> = others
            .map(|index| cluster.client_of(index))
            .collect::<Result<_>>()?;
        let stopped = Arc::new(AtomicBool::new(false));
        let mut load = JoinSet::new();
        for number in 0..BACKGROUND {
            let (client, stopped) = (others[number % others.len()].clone(), stopped.clone());
            load.spawn(async move {
                while !stopped.load(Ordering::Relaxed) {
                    if commit(&client).await.is_err() {
                        // sleep: between two tries.
                        tokio::time::sleep(LOOK).await;
                    }
                }
            });
        }
        // sleep: until the load is on its way.
        tokio::time::sleep(Duration::from_millis(200)).await;
        cluster.kill_master_at(leader);
        let begun = Instant::now();
        let mut turn = 0;
        while commit(&others[turn % others.len()]).await.is_err() {
            turn += 1;
            // sleep: between two tries.
            tokio::time::sleep(LOOK).await;
        }
        gaps.add(begun.elapsed().as_secs_f64() * 1000.0);
        stopped.store(true, Ordering::Relaxed);
        load.join_all().await;
        cluster.start_master_at(leader).await?;
    }
    Ok(gaps)
}
