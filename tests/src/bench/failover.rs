//! A group of three masters: how long it is without a leader after `kill -9`, and what it commits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use reqwest::Method;
use tepui_types::NodeId;
use tepui_types::api::job::{JobState, JobView};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::bench::{Report, Row, Samples, report, state};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::job::Job;

const MASTERS: usize = 3;
const AGENTS: usize = 2;
const AGENT_RESOURCES: &str = "cpus=64,mem=64GiB,disk=10GiB,ports=31000-31999";
const GUEST: &str = "tasks/exit-code.wasm";
/// Clients that commit at once.
const CLIENTS: usize = 64;
/// Clients that commit while a leader is killed: load, on a machine that has to elect meanwhile.
const BACKGROUND: usize = 4;
/// Tasks of the array.
const ARRAY: u32 = 5_000;
const ARRAY_RUNS: usize = 3;
/// Native tasks of the array, and the agent that runs two at a time.
const NATIVE: u32 = 2_000;
const TWO_SLOTS: &str = "cpus=2,mem=4GiB,disk=1GiB,ports=31000-31099";
/// Tasks in the state of a master that starts again, and of one that writes an image.
const RESTARTED: u64 = 1_000_000;
const IMAGED: u64 = 2_000_000;
/// The pause between two looks at a job, and between two tries of a commit.
const LOOK: Duration = Duration::from_millis(1);
/// How long a commit may take before it is asked for elsewhere.
const TRY: Duration = Duration::from_secs(2);

/// Kills the leader `kills` times; commits for `seconds`.
pub async fn run(kills: usize, seconds: u64) -> Result<Report> {
    let mut conditions = report::machine();
    let mut rows = Vec::new();
    let mut cluster = start(MASTERS).await?;
    let (http, elections) = commits(&cluster, Duration::from_secs(seconds)).await?;
    let artifact = cluster.guest(GUEST).await?;
    let tasks = Job::wasm(artifact, &["0"]).count(ARRAY);
    let tasks = tasks_per_second(&cluster, &tasks).await?;
    let gaps = kill_leaders(&mut cluster, kills).await?;
    drop(cluster);
    let alone = start(1).await?;
    let artifact = alone.guest(GUEST).await?;
    let alone = tasks_per_second(&alone, &Job::wasm(artifact, &["0"]).count(ARRAY)).await?;
    let native = Cluster::new().resources(TWO_SLOTS).with_memory().start();
    let job = Job::command(["/bin/true"]).cpus(1_000).count(NATIVE);
    let native = tasks_per_second(&native.await?, &job).await?;
    let restart = state::restart(RESTARTED).await?;
    let image = state::while_an_image_is_written(IMAGED).await?;

    let note = format!(
        "kill -9 of the leader of {MASTERS} masters under the load of {BACKGROUND} clients, until a \
         command that was sent after the kill is committed"
    );
    rows.push(Row::median("kill_to_commit_ms", "ms", 500.0, &gaps, &note));
    let worst = gaps.quantile(1.0);
    let worst_row = Row::new("kill_to_commit_worst_ms", "ms", 2000.0, worst, None, &note);
    rows.push(worst_row);
    let note = format!("terms that began within {seconds} s of full load by {CLIENTS} clients");
    rows.push(Row::new(
        "false_elections",
        "",
        0.0,
        elections as f64,
        None,
        &note,
    ));
    let note = format!("small commands by {CLIENTS} clients through the leader's HTTP, fsync on");
    rows.push(Row::new("http_commits_per_s", "1/s", 3000.0, http, None, &note).higher());
    let note = format!("an array of {ARRAY} Wasm tasks on {AGENTS} agents, from POST to counted");
    let single = Row::median("cluster_tasks_per_s_1_master", "1/s", 5000.0, &alone, &note);
    let group = Row::median(
        "cluster_tasks_per_s_3_masters",
        "1/s",
        2000.0,
        &tasks,
        &note,
    );
    rows.extend([single.higher(), group.higher()]);
    let note = format!(
        "an array of {NATIVE} native /bin/true in cgroups of their own, one master, an agent of \
         {TWO_SLOTS}, two at a time"
    );
    let native = Row::median("cluster_native_tasks_per_s", "1/s", 1000.0, &native, &note);
    rows.push(native.higher());
    let note = format!("from the start of a master with {RESTARTED} tasks until it is ready");
    rows.push(Row::new(
        "restart_1m_tasks_s",
        "s",
        10.0,
        restart,
        None,
        &note,
    ));
    let note = format!(
        "the longest of {} commits, one after another, while an image of {IMAGED} tasks is written; \
         median {:.1}",
        image.count(),
        image.median()
    );
    let longest = image.quantile(1.0);
    rows.push(Row::new(
        "snapshot_pause_ms",
        "ms",
        10.0,
        longest,
        None,
        &note,
    ));

    conditions.insert(
        "cluster".into(),
        format!("{MASTERS} masters on one machine and disk, {AGENTS} agents of {AGENT_RESOURCES}"),
    );
    Ok(Report {
        bench: "failover",
        conditions,
        rows,
    })
}

async fn start(masters: usize) -> Result<Cluster> {
    let plan = Cluster::new().masters(masters).agents(AGENTS).with_memory();
    plan.resources(AGENT_RESOURCES).start().await
}

/// A command that is committed and changes nothing: the removal of a master that nobody knows is
/// refused by the state, after it went the whole way through the log.
async fn commit(client: &Client) -> Result<()> {
    let path = format!("/v1/masters/{}", NodeId(1));
    let request = client.request(Method::DELETE, &path).timeout(TRY);
    let answer = client.send(request).await?;
    match answer.status.as_u16() {
        404 => Ok(()),
        _ => bail!("{}: {}", answer.status, answer.text()),
    }
}

/// Commands a second through HTTP, and elections meanwhile.
async fn commits(cluster: &Cluster, span: Duration) -> Result<(f64, u64)> {
    let client = cluster.client_of(cluster.leader().await?)?;
    let before = client.cluster().await?.term;
    let count = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let (client, count) = (client.clone(), count.clone());
        clients.spawn(async move {
            while begun.elapsed() < span {
                commit(&client).await?;
                count.fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended??;
    }
    let per_second = count.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64();
    Ok((per_second, client.cluster().await?.term - before))
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

/// Short tasks a second, from the request for an array until all of it is counted.
async fn tasks_per_second(cluster: &Cluster, job: &Job) -> Result<Samples> {
    let client = cluster.client_of(cluster.leader().await?)?;
    let mut samples = Samples::default();
    // Once more, so that caches are warm and executors run.
    for run in 0..=ARRAY_RUNS {
        let begun = Instant::now();
        let mut view: JobView = client.submit(job).await?;
        while view.state != JobState::Finished {
            if matches!(view.state, JobState::Failed | JobState::Killed) {
                bail!("{view:?}");
            }
            // sleep: between two looks at the job.
            tokio::time::sleep(LOOK).await;
            view = client.job(&view.name).await?;
        }
        if run > 0 {
            samples.add(f64::from(view.count) / begun.elapsed().as_secs_f64());
        }
    }
    Ok(samples)
}
