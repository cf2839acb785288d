//! Leaders that hang, whole or in one thread: others lead by then, and whoever hangs keeps nobody.

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tepui_tests::hung::HungThread;
use tepui_tests::{Client, Cluster, Job, eventually};
use tepui_types::api::job::JobState;
use tepui_types::api::stale::AGE_HEADER;

use super::Result;
use super::failover::submit_surely;

/// Masters that do not count their agents as lost as long as a test runs.
async fn patient_masters() -> anyhow::Result<Cluster> {
    let plan = Cluster::new().masters(3).agents(2);
    plan.master_flag("--agent-timeout-ms", "600000")
        .start()
        .await
}

/// Work gets to the agents through the other masters.
async fn goes_on_without(cluster: &Cluster, hung: usize) -> Result {
    let others = (0..3).filter(|index| *index != hung);
    let others: Vec<_> = others.map(|index| cluster.client_of(index)).collect();
    let others = others.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    submit_surely(&others, &Job::command(["true"]).count(10).name("after")).await?;
    let job = others[0].ended("after").await;
    assert_eq!(
        (job.state, job.finished),
        (JobState::Finished, 10),
        "{job:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_hangs_does_not_keep_its_agents() -> Result {
    let cluster = patient_masters().await?;
    let hung = cluster.leader().await?;
    let pid = Pid::from_raw(cluster.pid_of_master(hung)?);
    kill(pid, Signal::SIGSTOP)?;
    let went_on = goes_on_without(&cluster, hung).await;
    kill(pid, Signal::SIGCONT)?;
    went_on
}

/// All else of it goes on: it hears its agents, and would answer them.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_disk_hangs_does_not_keep_its_agents() -> Result {
    let cluster = patient_masters().await?;
    let hung = cluster.leader().await?;
    let pid = Pid::from_raw(cluster.pid_of_master(hung)?);
    let log = HungThread::of(pid, "log")?;
    goes_on_without(&cluster, hung).await?;
    let client = cluster.client_of(hung)?;
    let answer = client.get_raw("/v1/agents?stale").await?;
    let age = answer.headers.get(AGE_HEADER).context("how old it is")?;
    let age: u64 = age.to_str()?.parse()?;
    assert!(age >= 300, "it has not been heard of for {age} ms only");
    drop(log);
    eventually("it follows", async || {
        ensure!(cluster.leader().await? != hung, "it leads");
        let url = cluster.url_of_master((hung + 1) % 3);
        let masters = Client::new(&url)?.masters().await?;
        let caught_up = masters.iter().all(|it| it.active && it.behind == 0);
        ensure!(caught_up, "{masters:?}");
        Ok(())
    })
    .await;
    Ok(())
}
