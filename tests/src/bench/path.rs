//! The whole path: from the request to the exit counted, and what an idle
//! cluster costs.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tepui_types::api::job::{JobState, JobView};
use tepui_types::{Bytes, Digest};
use tokio::time::Instant;

use crate::bench::{Report, Row, Samples, report};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::eventually::eventually;
use crate::job::Job;
use crate::process::{self, Process};
use crate::watchdog::Watchdog;

const AGENTS: usize = 3;
const AGENT_RESOURCES: &str = "cpus=4,mem=8GiB,disk=10GiB,ports=31000-31999";
const GUEST: &str = "tasks/exit-code.wasm";
/// Until caches are warm and the executor of this trust domain runs.
const WARM_UP: usize = 50;
/// The pause between two looks at a job.
const LOOK: Duration = Duration::from_micros(100);
const ARRAY: u32 = 1_000;
const ARRAY_RUNS: usize = 7;
const DEV_RUNS: usize = 7;
/// Until what a start sets off has settled.
const SETTLE: Duration = Duration::from_secs(3);

/// Measures; `seconds` each for the idle cluster and for single tasks.
pub async fn run(seconds: u64) -> Result<Report> {
    let mut conditions = report::machine();
    let span = Duration::from_secs(seconds);
    let mut rows = Vec::new();

    let dev = dev_healthy().await?;
    let cluster = Cluster::new()
        .agents(AGENTS)
        .resources(AGENT_RESOURCES)
        .with_memory()
        .start()
        .await?;
    let (rss, cpu) = idle(cluster.master_pid()?, span).await?;
    let artifact = cluster.guest(GUEST).await?;
    let one = single_tasks(cluster.client(), artifact, span).await?;
    let array = arrays(cluster.client(), artifact).await?;

    let note =
        "one Wasm task of 0.1 cpus at a time, POST to batch until batch counts its exit, warm";
    rows.push(Row::median("one_task_ms", "ms", 5.0, &one, note));
    rows.push(Row::new(
        "one_task_p99_ms",
        "ms",
        10.0,
        one.p99(),
        Some(&one),
        note,
    ));
    let note = "1,000 Wasm tasks of 0.01 cpus and 16 MiB, POST until all are counted";
    rows.push(Row::median("array_1000_s", "s", 1.0, &array, note));
    let note = "from the start of `tepui dev` in an empty folder to all agents and batch running";
    rows.push(Row::median("dev_healthy_s", "s", 2.0, &dev, note));
    let note = format!("{AGENTS} idle agents, batch deployed, over {seconds} s");
    rows.push(Row::new("master_rss_mib", "MiB", 100.0, rss, None, &note));
    rows.push(Row::new(
        "master_idle_cpu_percent",
        "% of a core",
        1.0,
        cpu,
        None,
        &note,
    ));

    conditions.insert(
        "cluster".into(),
        format!("1 master, {AGENTS} agents of {AGENT_RESOURCES}"),
    );
    conditions.insert("task".into(), format!("{GUEST}, which exits with 0"));
    Ok(Report {
        bench: "path",
        conditions,
        rows,
    })
}

async fn dev_healthy() -> Result<Samples> {
    let mut samples = Samples::default();
    for _ in 0..DEV_RUNS {
        let dir = tempfile::Builder::new().prefix("tepui-bench-").tempdir()?;
        let _watchdog = Watchdog::over(dir.path())?;
        let log = dir.path().join("dev.log");
        let mut args: Vec<std::ffi::OsString> = vec!["dev".into(), "--agents".into()];
        args.push(AGENTS.to_string().into());
        args.extend([
            "--port".into(),
            "0".into(),
            "--dir".into(),
            dir.path().join("dev").into(),
        ]);
        let program = process::program("tepui")?;
        let begun = Instant::now();
        let mut dev = Process::spawn("dev", &program, &args, &log)?;
        eventually("the cluster runs", async || {
            match (dev.log(), dev.ended()) {
                (log, None) if log.contains("Tepui runs") => Ok(()),
                (log, Some(status)) => panic!("tepui dev ended with {status}: {log}"),
                (log, None) => Err(log),
            }
        })
        .await;
        samples.add(begun.elapsed().as_secs_f64());
        let status = dev.terminate();
        if !status.success() {
            bail!("tepui dev ended with {status}: {}", dev.log());
        }
    }
    Ok(samples)
}

/// Memory in MiB and processor time in percent of a core.
async fn idle(pid: i32, span: Duration) -> Result<(f64, f64)> {
    // sleep: an idle cluster is what is measured.
    tokio::time::sleep(SETTLE).await;
    let begun = Instant::now();
    let before = cpu_seconds(pid)?;
    tokio::time::sleep(span).await;
    let used = cpu_seconds(pid)? - before;
    Ok((rss_mib(pid)?, 100.0 * used / begun.elapsed().as_secs_f64()))
}

/// What a process has run, threads that ended included, in whole ticks: over
/// ten seconds a tick is a tenth of a percent.
fn cpu_seconds(pid: i32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat
        .rsplit_once(')')
        .context("/proc/…/stat has an unknown form")?;
    let fields: Vec<_> = fields.split_ascii_whitespace().collect();
    // Fields 14 and 15 of proc_pid_stat(5); the first here is field 3.
    let user: f64 = fields.get(11).context("utime")?.parse()?;
    let system: f64 = fields.get(12).context("stime")?.parse()?;
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?;
    Ok((user + system) / ticks.context("the kernel names no tick")? as f64)
}

fn rss_mib(pid: i32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.context("VmRSS")?.trim().trim_end_matches("kB").trim();
    Ok(kib.parse::<f64>()? / 1024.0)
}

async fn single_tasks(client: &Client, artifact: Digest, span: Duration) -> Result<Samples> {
    // What `tepui run` asks for when it is told nothing.
    let job = Job::wasm(artifact, &["0"]).cpus(100).mem(Bytes::mib(64));
    for _ in 0..WARM_UP {
        timed(client, &job).await?;
    }
    let mut samples = Samples::default();
    let begun = Instant::now();
    while begun.elapsed() < span {
        samples.add(timed(client, &job).await? * 1000.0);
    }
    Ok(samples)
}

async fn arrays(client: &Client, artifact: Digest) -> Result<Samples> {
    let job = Job::wasm(artifact, &["0"]).count(ARRAY);
    timed(client, &job).await?;
    let mut samples = Samples::default();
    for _ in 0..ARRAY_RUNS {
        samples.add(timed(client, &job).await?);
    }
    Ok(samples)
}

/// Seconds from the request until batch has counted every exit.
async fn timed(client: &Client, job: &Job) -> Result<f64> {
    let begun = Instant::now();
    let mut view: JobView = client.submit(job).await?;
    loop {
        match view.state {
            JobState::Finished => return Ok(begun.elapsed().as_secs_f64()),
            JobState::Waiting | JobState::Running | JobState::Killing => {}
            JobState::Failed | JobState::Killed => bail!("{view:?}"),
        }
        // sleep: between two looks at the job.
        tokio::time::sleep(LOOK).await;
        view = client.job(&view.name).await?;
    }
}
