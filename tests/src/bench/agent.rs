//! What an agent's executors cost: how soon a task runs, and what waits beside it.
//!
//! Executors are started and spoken to as agents do. Every comparison is made in the same run, by
//! turns, on the same files.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tepui_executor::cgroup;
use tepui_types::TaskState;
use tokio::time::Instant;

use crate::bench::{Report, Row, Samples, report};
use executor::{Executor, Image, Kind};

mod executor;
mod log;

/// Until caches are warm.
const WARM_UP: usize = 20;
/// Starts of a native command.
const NATIVE: usize = 500;
/// Starts of a container; each has an executor of its own.
const CONTAINERS: usize = 60;
/// Debian's.
const RUNC: &str = "/usr/sbin/runc";

/// Measures.
///
/// # Errors
/// When this machine has no cgroups, or a task fails.
pub async fn run() -> Result<Report> {
    let mut report = tokio::task::spawn_blocking(measure).await??;
    let exits = log::exits().await?;
    let note = "a native task's last act until a client that follows events is told of its end, one at a \
                time; the master's log on this disk";
    let row = Row::median("exit_to_log_ms", "ms", 5.0, &exits, note);
    report.rows.push(row);
    Ok(report)
}

fn measure() -> Result<Report> {
    cgroup::available().context("this benchmark needs cgroups, and root")?;
    let dir = tempfile::tempdir()?;
    let mut rows = Vec::new();
    let (native, forked) = native(dir.path())?;
    let pairs = native.iter().zip(&forked);
    let over: Vec<f64> = pairs.map(|(native, forked)| native - forked).collect();
    let over = Samples::from(over);
    let note = format!(
        "/bin/true from the launch sent to its end told, less fork, exec and wait of the same \
         (median {:.2} ms)",
        Samples::from(forked).median()
    );
    rows.push(Row::median("native_over_fork_ms", "ms", 2.0, &over, &note));

    let image = Image::make(dir.path())?;
    let (containers, runc) = containers(dir.path(), &image)?;
    let runc = Samples::from(runc);
    let note = "/bin/true of a busybox image: executor started, container made, its end told";
    let containers = Samples::from(containers);
    rows.push(Row::median(
        "oci_start_ms",
        "ms",
        runc.median(),
        &containers,
        note,
    ));
    let note = "`runc run` of the same specification on the same files";
    rows.push(Row::median(
        "runc_start_ms",
        "ms",
        // Nobody's goal: what the row before is held against.
        runc.median().ceil(),
        &runc,
        note,
    ));

    let idle = Executor::start(dir.path(), Kind::Native)?;
    let note = "an executor of native commands that waits for one (smaps_rollup)";
    rows.push(Row::new(
        "native_executor_pss_mib",
        "MiB",
        3.0,
        idle.pss_mib()?,
        None,
        note,
    ));
    let mut beside = Executor::start(dir.path(), Kind::Container)?;
    beside.launch(&["/bin/sleep", "1000"], Some(&image))?;
    beside.until(|state| state == TaskState::Running)?;
    let note = "an executor beside a container that runs";
    rows.push(Row::new(
        "container_executor_pss_mib",
        "MiB",
        3.0,
        beside.pss_mib()?,
        None,
        note,
    ));
    Ok(Report {
        bench: "agent",
        conditions: report::machine(),
        rows,
    })
}

/// Milliseconds of each of our starts, and of a plain one in its turn.
fn native(dir: &Path) -> Result<(Vec<f64>, Vec<f64>)> {
    let mut executor = Executor::start(dir, Kind::Native)?;
    let (mut ours, mut plain) = (Vec::new(), Vec::new());
    for round in 0..WARM_UP + NATIVE {
        let begun = Instant::now();
        executor.launch(&["/bin/true"], None)?;
        let state = executor.until(TaskState::is_terminal)?;
        let took = millis(begun);
        ensure!(state == TaskState::Finished, "/bin/true is {state}");
        let begun = Instant::now();
        let status = Command::new("/bin/true").stdin(Stdio::null()).status()?;
        ensure!(status.success(), "/bin/true: {status}");
        if round >= WARM_UP {
            ours.push(took);
            plain.push(millis(begun));
        }
    }
    Ok((ours, plain))
}

fn containers(dir: &Path, image: &Image) -> Result<(Vec<f64>, Vec<f64>)> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let mut bundle = None;
    let group = format!("tepui-bench-{}-runc", std::process::id());
    for round in 0..WARM_UP / 4 + CONTAINERS {
        let begun = Instant::now();
        let mut executor = Executor::start(dir, Kind::Container)?;
        executor.launch(&["/bin/true"], Some(image))?;
        let state = executor.until(TaskState::is_terminal)?;
        let took = millis(begun);
        ensure!(state == TaskState::Finished, "the container is {state}");
        let bundle = match &bundle {
            Some(bundle) => bundle,
            None => bundle.insert(executor.bundle_for(dir, image, &group)?),
        };
        drop(executor);
        let begun = Instant::now();
        let status = Command::new(RUNC)
            .args(["run", "--bundle"])
            .arg(bundle)
            .arg(format!("tepui-bench-{round}"))
            .stdin(Stdio::null())
            .status()
            .with_context(|| format!("{RUNC}: Debian's package runc"))?;
        ensure!(status.success(), "runc: {status}");
        if round >= WARM_UP / 4 {
            ours.push(took);
            theirs.push(millis(begun));
        }
    }
    // runc removes its own, and leaves the one above.
    cgroup::destroy(&group, Duration::from_secs(10))?;
    Ok((ours, theirs))
}

fn millis(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() * 1e3
}
