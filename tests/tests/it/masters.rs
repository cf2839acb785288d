//! What operators do with masters.

use anyhow::{Context, bail, ensure};
use tepui_tests::{Cluster, Job, eventually};
use tepui_types::api::master::MasterView;

use super::Result;

#[tokio::test(flavor = "multi_thread")]
async fn masters_that_all_move_at_once_find_each_other_by_the_new_list() -> Result {
    let mut cluster = Cluster::new().masters(3).start().await?;
    let client = cluster.client().clone();
    client
        .submit(&Job::shell("sleep 1000").name("long"))
        .await?;
    let task = client.running("long").await;
    let before = client.masters().await?;
    cluster.kill_agent(0);
    (0..3).for_each(|index| cluster.kill_master_at(index));
    cluster.move_masters()?;
    for index in 0..3 {
        cluster.spawn_master(index)?;
    }
    for index in 0..3 {
        cluster.wait_for_master(index).await?;
    }
    let client = cluster.client().clone();
    let now: Vec<_> = (0..3).map(|index| cluster.url_of_master(index)).collect();
    let after = eventually("the new addresses are recorded", async || {
        let masters = client.masters().await?;
        match masters.iter().all(|master| now.contains(&master.url)) {
            true => Ok(masters),
            false => bail!("{masters:?}"),
        }
    })
    .await;
    let ids = |masters: &[MasterView]| masters.iter().map(|master| master.id).collect::<Vec<_>>();
    assert_eq!(ids(&before), ids(&after), "they are the same masters");
    // The agent, told where the masters are now, still runs what it ran.
    cluster.start_agent(0).await?;
    let job = client.job("long").await?;
    let shown = job.task.clone().context("its task")?;
    assert_eq!(shown.id, task, "{job:?}");
    // And a follower that moves alone, with a list in which only the others are where they were.
    let follower = (cluster.leader().await? + 1) % 3;
    cluster.kill_master_at(follower);
    cluster.move_master(follower)?;
    cluster.start_master_at(follower).await?;
    let url = cluster.url_of_master(follower);
    let client = cluster.client_of((follower + 1) % 3)?;
    eventually("its new address is recorded", async || {
        let masters = client.masters().await?;
        ensure!(
            masters.iter().any(|master| master.url == url),
            "{masters:?}"
        );
        Ok(())
    })
    .await;
    Ok(())
}
