//! Masters whose clocks are wrong: they do not lead, they say so, and work goes on.

use anyhow::{bail, ensure};
use tepui_tests::{Client, Cluster, Job, eventually};
use tepui_types::api::job::JobState;

use super::Result;
use super::failover::submit_surely;

/// How wrong, in seconds: more than masters bear.
const OFF_S: i64 = 5;

/// Waits until this master's clock is shown as bad, or as good.
async fn shown(client: &Client, url: &str, is_bad: bool) {
    eventually("the clock is shown for what it is", async || {
        let masters = client.masters().await?;
        let master = masters.iter().find(|master| master.url == url);
        match master {
            Some(master) if master.has_bad_clock() == is_bad => Ok(()),
            other => bail!("{other:?}"),
        }
    })
    .await
}

/// A job is taken by whoever leads, and ends.
async fn work_goes_on(clients: &[Client], name: &str) -> anyhow::Result<()> {
    submit_surely(clients, &Job::command(["true"]).count(5).name(name)).await?;
    let job = clients[0].ended(name).await;
    ensure!(
        (job.state, job.finished) == (JobState::Finished, 5),
        "{job:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_whose_clock_is_off_says_so_and_does_not_lead() -> Result {
    let mut cluster = Cluster::new().masters(3).own_clocks().start().await?;
    let leader = cluster.leader().await?;
    let (wrong, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let url = cluster.url_of_master(wrong);
    cluster.set_clock(wrong, OFF_S)?;
    let client = cluster.client_of(other)?;
    shown(&client, &url, true).await;
    // It looks once a second, and may do so after the others.
    eventually("it says so itself", async || {
        let said = cluster.log_of_master(wrong);
        ensure!(said.contains("clock is off"), "{said}");
        Ok(())
    })
    .await;
    let output = tokio::process::Command::new(tepui_tests::process::program("tepui")?)
        .args(["master", "list"])
        .env("TEPUI_MASTER", cluster.url_of_master(other))
        .output()
        .await?;
    let table = String::from_utf8(output.stdout)?;
    let line = table.lines().find(|line| line.contains(&url));
    assert!(line.is_some_and(|line| line.contains("clock")), "{table}");
    work_goes_on(std::slice::from_ref(&client), "while-off").await?;
    // Of two that are left, it is the other one that leads.
    cluster.kill_master_at(leader);
    cluster.speak_to(other)?;
    work_goes_on(std::slice::from_ref(&client), "after-the-leader").await?;
    let masters = client.masters().await?;
    let leads = |url: String| {
        let master = masters.iter().find(|master| master.url == url);
        master.is_some_and(|master| master.role.as_str() == "leader")
    };
    assert!(leads(cluster.url_of_master(other)), "{masters:?}");
    cluster.set_clock(wrong, 0)?;
    shown(&client, &url, false).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_clock_jumps_hands_the_lead_over() -> Result {
    let cluster = Cluster::new().masters(3).own_clocks().start().await?;
    let clients: Vec<_> = (0..3)
        .map(|index| cluster.client_of(index))
        .collect::<anyhow::Result<_>>()?;
    for (round, ahead_s) in [OFF_S, -OFF_S].into_iter().enumerate() {
        let leader = cluster.leader().await?;
        cluster.set_clock(leader, ahead_s)?;
        let next = eventually("another leads", async || match cluster.leader().await? {
            next if next != leader => Ok(next),
            _ => bail!("the same still"),
        })
        .await;
        work_goes_on(&clients, &format!("round-{round}")).await?;
        // It says what is wrong, and does not come back to the lead.
        shown(&clients[next], &cluster.url_of_master(leader), true).await;
        assert_eq!(cluster.leader().await?, next);
        cluster.set_clock(leader, 0)?;
        shown(&clients[next], &cluster.url_of_master(leader), false).await;
    }
    // What the log has given as its time has never gone back.
    let events = clients[0].events(Some("0.0"), |events| events.len() > 20);
    let times = events.await?;
    let times: Vec<_> = times
        .iter()
        .filter_map(|(_, event)| event["time"].as_u64())
        .collect();
    assert!(times.len() > 10 && times.is_sorted(), "{times:?}");
    Ok(())
}
