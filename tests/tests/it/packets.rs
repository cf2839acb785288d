//! Links that are bad and not broken: packets that are lost, late, or come through one way only.
//! Work goes on all the while, nothing is lost and nothing is done twice.

use std::time::Duration;

use anyhow::{bail, ensure};
use serde_json::Value;
use tepui_tests::site::{AGENT, MASTERS, Site};
use tepui_tests::{Cluster, Job, eventually};
use tepui_types::api::job::JobState;

use super::Result;
use super::failover::submit_surely;

/// Jobs of a load, one after another.
const JOBS: usize = 15;

/// Runs jobs to their ends, through whichever master answers; each writes a line.
async fn work_goes_on(site: &Site, load: &str) -> anyhow::Result<()> {
    let path = |number: usize| site.path(&format!("{load}-{number}"));
    for number in 0..JOBS {
        let script = format!("echo ran >> {}", path(number).display());
        let name = format!("{load}-{number}");
        // `tepui` sends a request again under its key where it got no answer.
        let run = ["run", "-d", "--name", &name, "--", "sh", "-c", &script];
        eventually("the job is taken", async || {
            match site.tepui(&run).await {
                Ok(_) => Ok(()),
                // A try before this one, of which no answer came.
                Err(error) if error.to_string().contains("named") => Ok(()),
                Err(error) => Err(error),
            }
        })
        .await;
    }
    for number in 0..JOBS {
        let name = format!("{load}-{number}");
        eventually("the job has ended", async || {
            let shown = site.tepui(&["job", "show", &name, "-o", "json"]).await?;
            let job: Value = serde_json::from_str(&shown)?;
            match job["finished"] == 1 {
                true => Ok(()),
                false => bail!("{job}"),
            }
        })
        .await;
        let lines = std::fs::read_to_string(path(number))?.lines().count();
        ensure!(lines == 1, "{name} ran {lines} times");
    }
    Ok(())
}

async fn all_are_there(site: &Site) {
    eventually("all masters are there", async || {
        match site.masters().await? {
            (_, MASTERS) => Ok(()),
            other => bail!("{other:?}"),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn work_goes_on_over_links_that_lose_packets() -> Result {
    let site = Site::start().await?;
    // Half of a per cent is a bad network; this is twenty times worse.
    for host in (0..MASTERS).chain([AGENT]) {
        site.net.lose(host, 10)?;
    }
    work_goes_on(&site, "lossy").await?;
    for host in (0..MASTERS).chain([AGENT]) {
        site.net.mend(host)?;
    }
    all_are_there(&site).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn work_goes_on_over_links_on_which_packets_wait() -> Result {
    let site = Site::start().await?;
    for host in (0..MASTERS).chain([AGENT]) {
        site.net.slow(host)?;
    }
    work_goes_on(&site, "slow").await?;
    for host in (0..MASTERS).chain([AGENT]) {
        site.net.mend(host)?;
    }
    all_are_there(&site).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_heard_and_hears_nobody_does_not_hold_the_others_up() -> Result {
    let site = Site::start().await?;
    let (leader, _) = site.masters().await?;
    for other in (0..MASTERS).filter(|host| *host != leader) {
        site.net.deafen(leader, other)?;
    }
    work_goes_on(&site, "deaf-leader").await?;
    assert_ne!(site.masters().await?.0, leader, "another leads");
    site.net.mend(leader)?;
    all_are_there(&site).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_does_not_hear_its_leader_does_not_disturb_the_group() -> Result {
    let site = Site::start().await?;
    let (leader, _) = site.masters().await?;
    let follower = (leader + 1) % MASTERS;
    site.net.deafen(follower, leader)?;
    work_goes_on(&site, "deaf-follower").await?;
    site.net.mend(follower)?;
    all_are_there(&site).await;
    // It stands for election again and again, and gets no vote while the others hear their leader.
    assert_eq!(site.masters().await?.0, leader);
    work_goes_on(&site, "mended").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn work_goes_on_while_all_that_masters_say_comes_late() -> Result {
    let plan = Cluster::new().masters(MASTERS).behind_proxies();
    let cluster = plan.start().await?;
    let clients: Vec<_> = (0..MASTERS)
        .map(|index| cluster.client_of(index))
        .collect::<anyhow::Result<_>>()?;
    // Another continent; then one master on another planet, which is the leader, too.
    for index in 0..MASTERS {
        cluster.proxy(index)?.delay(Duration::from_millis(50));
    }
    let far = cluster.leader().await?;
    for number in 0..2 * JOBS {
        if number == JOBS {
            cluster.proxy(far)?.delay(Duration::from_millis(700));
        }
        let job = Job::command(["true"]).count(2);
        submit_surely(&clients, &job.name(&format!("late-{number}"))).await?;
    }
    for index in 0..MASTERS {
        cluster.proxy(index)?.delay(Duration::ZERO);
    }
    for number in 0..2 * JOBS {
        let job = clients[0].ended(&format!("late-{number}")).await;
        assert_eq!((job.state, job.finished), (JobState::Finished, 2));
    }
    let tasks = clients[0].tasks("").await?;
    assert_eq!(tasks.len(), 4 * JOBS, "each ran once");
    Ok(())
}
