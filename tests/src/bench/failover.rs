//! A group of three masters: how long it is without a leader after `kill -9`, and what it commits.
//!
//! Rows are measured in parts, each on a cluster of its own: how long one goes on changes nothing in
//! another, and any row can be had without the rest.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail};
use reqwest::Method;
use tepui_types::NodeId;
use tokio::time::Instant;

use crate::bench::{Report, Row, report, state};
use crate::client::Client;

mod commits;
mod fleet;
mod kills;
mod offers;
mod tasks;

const MASTERS: usize = 3;
/// Tasks in the state of a master that starts again, and of one that writes an image.
const RESTARTED: u64 = 1_000_000;
const IMAGED: u64 = 2_000_000;
/// The pause between two looks at a job, and between two tries of a commit.
const LOOK: Duration = Duration::from_millis(1);
/// How long a commit may take before it is asked for elsewhere.
const TRY: Duration = Duration::from_secs(2);
/// For how long the disks do nothing before a row is measured, and how long that is waited for.
const QUIET: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(60);

/// Every row, in the order of the table.
const ROWS: [&str; 11] = [
    "kill_to_commit_ms",
    "kill_to_commit_worst_ms",
    "false_elections",
    "kill_to_offers_ms",
    "commits_per_s",
    "http_commits_per_s",
    "cluster_tasks_per_s_1_master",
    "cluster_tasks_per_s_3_masters",
    "cluster_native_tasks_per_s",
    "restart_1m_tasks_s",
    "snapshot_pause_ms",
];

/// How much is measured.
#[derive(Debug, Clone)]
pub struct Options {
    /// How often the leader is killed.
    pub kills: usize,
    /// How long as much as can be is committed.
    pub seconds: u64,
    /// The wanted rows; all of them if there is none.
    pub only: Vec<String>,
}

/// What has been found so far.
struct Findings {
    only: Vec<String>,
    conditions: BTreeMap<String, String>,
    rows: Vec<Row>,
}

impl Findings {
    fn new(only: Vec<String>) -> Result<Self> {
        if let Some(unknown) = only.iter().find(|name| !ROWS.contains(&name.as_str())) {
            bail!(
                "there is no row `{unknown}`; these are there: {}",
                ROWS.join(", ")
            );
        }
        Ok(Self {
            only,
            conditions: report::machine(),
            rows: Vec::new(),
        })
    }

    /// Whether one of these rows is wanted.
    fn wants(&self, rows: &[&str]) -> bool {
        let is_wanted = |row: &&str| self.only.is_empty() || self.only.iter().any(|it| it == row);
        rows.iter().any(is_wanted)
    }

    /// The same before they are measured: says so, and lets the disks finish what others have left them.
    async fn begins(&self, rows: &[&str]) -> bool {
        let wanted = self.wants(rows);
        if wanted {
            eprintln!("measuring {}", rows.join(", "));
            settle().await;
        }
        wanted
    }

    /// Takes what was measured; of it, what is wanted.
    fn add(&mut self, rows: impl IntoIterator<Item = Row>) {
        let only = &self.only;
        let is_wanted = |row: &Row| only.is_empty() || only.iter().any(|it| it == row.name);
        self.rows.extend(rows.into_iter().filter(is_wanted));
    }

    fn report(mut self) -> Report {
        let place = |row: &Row| ROWS.iter().position(|name| *name == row.name);
        self.rows.sort_by_key(place);
        Report {
            bench: "failover",
            conditions: self.conditions,
            rows: self.rows,
        }
    }
}

/// Measures the wanted rows.
pub async fn run(options: Options) -> Result<Report> {
    let Options {
        kills,
        seconds,
        only,
    } = options;
    let mut found = Findings::new(only)?;
    let span = Duration::from_secs(seconds);
    // First, for it makes a folder a task, and a disk on which many were just removed is slow at that.
    if found.begins(&["cluster_native_tasks_per_s"]).await {
        found.add([tasks::native().await?]);
    }
    if found
        .begins(&["false_elections", "http_commits_per_s"])
        .await
    {
        let http = commits::through_http(span).await?;
        found
            .conditions
            .extend(http.conditions("http_commits_per_s"));
        found.add(http.rows_of_http());
    }
    if found.begins(&["commits_per_s"]).await {
        let inside = commits::in_the_leader(span).await?;
        found.conditions.extend(inside.conditions("commits_per_s"));
        found.add([inside.row_of_leader()]);
    }
    if found.begins(&["cluster_tasks_per_s_3_masters"]).await {
        found.add([tasks::wasm("cluster_tasks_per_s_3_masters", MASTERS, 2000.0).await?]);
    }
    if found
        .begins(&["kill_to_commit_ms", "kill_to_commit_worst_ms"])
        .await
    {
        found.add(kills::rows(kills).await?);
    }
    if found.begins(&["kill_to_offers_ms"]).await {
        found.add([offers::row(kills).await?]);
    }
    if found.begins(&["cluster_tasks_per_s_1_master"]).await {
        found.add([tasks::wasm("cluster_tasks_per_s_1_master", 1, 5000.0).await?]);
    }
    if found.begins(&["restart_1m_tasks_s"]).await {
        found.add([restart().await?]);
    }
    if found.begins(&["snapshot_pause_ms"]).await {
        found.add([image().await?]);
    }
    let masters = format!("{MASTERS} on one machine and disk, fsync on, unless a row says one");
    found.conditions.insert("masters".into(), masters);
    Ok(found.report())
}

/// Waits until nothing is written and the disks do nothing: what was removed is given back to them
/// later, which keeps them from others for seconds.
async fn settle() {
    nix::unistd::sync();
    let done = || std::fs::read_to_string("/proc/diskstats").ok();
    let deadline = Instant::now() + PATIENCE;
    let mut before = done();
    while Instant::now() < deadline {
        // sleep: for as long as they are to have done nothing.
        tokio::time::sleep(QUIET).await;
        let now = done();
        if now == before {
            return;
        }
        before = now;
    }
    eprintln!("the disks are busy all the time");
}

async fn restart() -> Result<Row> {
    let took = state::restart(RESTARTED).await?;
    let note = format!("from the start of a master with {RESTARTED} tasks until it is ready");
    let row = Row::new("restart_1m_tasks_s", "s", 10.0, took, None, &note);
    Ok(row)
}

async fn image() -> Result<Row> {
    let [during, before] = state::while_an_image_is_written(IMAGED).await?;
    let (image, longest) = (&during.all, during.all.quantile(1.0));
    let note = format!(
        "the longest of {} commits, one after another, while an image of {IMAGED} tasks is written; \
         median {:.1}, p99 {:.1}; but for the disk's syncs the longest is {:.1}; before the image {:.1} \
         and {:.1}",
        image.count(),
        image.median(),
        image.p99(),
        during.without_sync.quantile(1.0),
        before.all.quantile(1.0),
        before.without_sync.quantile(1.0)
    );
    let row = Row::new("snapshot_pause_ms", "ms", 10.0, longest, None, &note);
    Ok(row)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_wanted_rows_are_measured_and_unknown_ones_are_named() {
        let found = Findings::new(vec!["commits_per_s".into()]).unwrap();
        assert!(found.wants(&["commits_per_s"]) && !found.wants(&["kill_to_offers_ms"]));
        assert!(
            Findings::new(Vec::new())
                .unwrap()
                .wants(&["kill_to_offers_ms"])
        );
        let error = Findings::new(vec!["no_row".into()]).err().unwrap();
        assert!(error.to_string().contains("no_row"), "{error}");
        assert!(error.to_string().contains("commits_per_s"), "{error}");
    }
}
