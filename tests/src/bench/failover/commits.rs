//! What a group commits under full load: through HTTP, and proposed in the leader's process.

use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser as _;
use tepui_cluster::Command;
use tepui_master::config::{Args, Config};
use tepui_master::proposals::Request;
use tepui_master::raft::Leadership;
use tepui_master::{Master, Running};
use tepui_types::{NodeId, Principal};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::{LOOK, MASTERS, commit};
use crate::bench::Row;
use crate::client::Client;
use crate::cluster::{self, Cluster};
use crate::process::{self, Process};

/// Clients that commit at once.
const CLIENTS: usize = 64;
/// After so long without one commit the group is taken for dead. Far above an election.
const DEAD: Duration = Duration::from_secs(60);
/// The sum of the times that synced writes took, as Prometheus has it.
const SYNC_SECONDS: &str = "tepui_master_synced_writes_seconds_sum ";
const SYNCS: &str = "tepui_master_synced_writes_seconds_count ";

/// What a span of full load came to.
pub struct Load {
    seconds: f64,
    commits: u64,
    elections: u64,
    syncs: Syncs,
}

/// Where commands enter.
#[derive(Clone)]
enum Door {
    Http(Client),
    Leader(Arc<Master>),
}

impl Door {
    async fn commit(&self) -> Result<()> {
        match self {
            Self::Http(client) => commit(client).await,
            Self::Leader(master) => {
                let command = Command::RemoveMaster { master: NodeId(1) };
                let request = Request::new(Principal::loopback_operator(), command);
                // What the state says of it is of no interest: it was committed.
                master.proposals.submit(request).await?;
                Ok(())
            }
        }
    }
}

/// A leader's synced writes.
#[derive(Clone, Copy)]
struct Syncs {
    seconds: f64,
    count: f64,
}

impl Load {
    fn per_second(&self) -> f64 {
        self.commits as f64 / self.seconds
    }

    /// What the rows do not say, under the name of one.
    pub fn conditions(&self, name: &str) -> [(String, String); 1] {
        let Syncs { seconds, count } = self.syncs;
        let share = 100.0 * seconds / self.seconds;
        let text = format!(
            "{share:.0} % of the leader's time in {count:.0} synced writes (fsync), {:.1} commands each",
            self.commits as f64 / count.max(1.0)
        );
        [(format!("{name} sync"), text)]
    }

    /// The rows of a load through HTTP.
    pub fn rows_of_http(&self) -> [Row; 2] {
        let span = self.seconds;
        let note = format!("terms that began within {span:.0} s of full load by {CLIENTS} clients");
        let elections = self.elections as f64;
        let elections = Row::new("false_elections", "", 0.0, elections, None, &note);
        let note = format!(
            "small commands by {CLIENTS} clients through the leader's HTTP for {span:.0} s, fsync on"
        );
        let rate = self.per_second();
        let rate = Row::new("http_commits_per_s", "1/s", 3000.0, rate, None, &note);
        [elections, rate.higher()]
    }

    /// The row of a load in the leader's process.
    pub fn row_of_leader(&self) -> Row {
        let note = format!(
            "small commands by {CLIENTS} clients in the leader's process for {:.0} s, {MASTERS} \
             processes, fsync on",
            self.seconds
        );
        let rate = self.per_second();
        Row::new("commits_per_s", "1/s", 20_000.0, rate, None, &note).higher()
    }
}

/// Commands through the leader's HTTP.
pub async fn through_http(span: Duration) -> Result<Load> {
    let plan = Cluster::new().masters(MASTERS).agents(0).without_batch();
    let cluster = plan.start().await?;
    let client = cluster.client_of(cluster.leader().await?)?;
    load(&client, span, Door::Http(client.clone())).await
}

/// Commands that are proposed in the process of the leader, which is this one; the other masters are
/// processes of their own.
pub async fn in_the_leader(span: Duration) -> Result<Load> {
    let place = tempfile::Builder::new().prefix("tepui-bench-").tempdir()?;
    let addresses = cluster::addresses(MASTERS)?;
    let args = |index: usize| -> Vec<OsString> {
        let folder = place.path().join(format!("master-{index}"));
        let mut args: Vec<OsString> = vec!["--dir".into(), folder.into(), "--listen".into()];
        args.push(addresses[index].clone().into());
        args.extend(["--peers".into(), addresses.join(",").into()]);
        args
    };
    let program = process::program("tepui-master")?;
    let mut others = Vec::new();
    for index in 1..MASTERS {
        let log = place.path().join(format!("master-{index}.log"));
        let name = format!("master-{index}");
        others.push(Process::spawn(&name, &program, &args(index), &log)?);
    }
    let own = Args::parse_from([OsString::from("tepui-master")].into_iter().chain(args(0)));
    let started = timeout(DEAD, Running::start(Config::load(&own)?)).await;
    let running = started.context("the masters do not found a cluster")??;
    let client = Client::new(&format!("http://{}", addresses[0]))?;
    take_lead(&running.master, &client).await?;
    let found = load(&client, span, Door::Leader(running.master.clone())).await;
    running.stop().await?;
    found
}

/// Makes the master in this process the leader.
async fn take_lead(master: &Master, client: &Client) -> Result<()> {
    let mut leadership = master.leadership.clone();
    let until = Instant::now() + DEAD;
    let leads = |it: &Leadership| matches!(it, Leadership::Leader { .. });
    while !leads(&leadership.borrow_and_update()) {
        ensure!(
            Instant::now() < until,
            "the lead does not come to this process"
        );
        // Until there is a leader nobody can hand it over.
        let path = format!("/v1/masters/{}/lead", master.node);
        client.post_raw(&path, &()).await.ok();
        timeout(Duration::from_secs(1), leadership.changed())
            .await
            .ok();
    }
    Ok(())
}

/// Lets clients commit one command after another for a while. One that fails, as it does without a
/// leader, tries again.
async fn load(client: &Client, span: Duration, door: Door) -> Result<Load> {
    let (term, syncs) = (client.cluster().await?.term, syncs(client).await?);
    let count = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let (door, count) = (door.clone(), count.clone());
        clients.spawn(async move {
            let mut last = begun;
            while begun.elapsed() < span {
                match door.commit().await {
                    Ok(()) => {
                        last = Instant::now();
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) if last.elapsed() > DEAD => return Err(error),
                    // sleep: between two tries.
                    Err(_) => tokio::time::sleep(LOOK).await,
                }
            }
            Ok(())
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended??;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let after = self::syncs(client).await?;
    Ok(Load {
        seconds,
        commits: count.load(Ordering::Relaxed),
        elections: client.cluster().await?.term - term,
        syncs: Syncs {
            seconds: after.seconds - syncs.seconds,
            count: after.count - syncs.count,
        },
    })
}

/// What a master says of its synced writes.
async fn syncs(client: &Client) -> Result<Syncs> {
    let text = client.get_raw("/metrics").await?.text();
    let value = |name: &str| -> Result<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let value = line.with_context(|| format!("the metrics lack {name}"))?;
        Ok(value.trim().parse()?)
    };
    Ok(Syncs {
        seconds: value(SYNC_SECONDS)?,
        count: value(SYNCS)?,
    })
}
