//! Short tasks a second, from the request for an array until all of it is counted.

use std::time::Duration;

use anyhow::{Result, bail};
use tepui_types::api::job::{JobState, JobView};
use tokio::time::Instant;

use crate::bench::{Row, Samples};
use crate::cluster::Cluster;
use crate::job::Job;

const AGENTS: usize = 2;
const AGENT_RESOURCES: &str = "cpus=64,mem=64GiB,disk=10GiB,ports=31000-31999";
const GUEST: &str = "tasks/exit-code.wasm";
/// Tasks of the array.
const ARRAY: u32 = 5_000;
const ARRAY_RUNS: usize = 3;
/// Between two looks at a job, which takes seconds: more of them would be work of their own.
const LOOK: Duration = Duration::from_millis(20);
/// Native tasks of the array, and the agent that runs two at a time.
const NATIVE: u32 = 2_000;
const TWO_SLOTS: &str = "cpus=2,mem=4GiB,disk=1GiB,ports=31000-31099";

/// Wasm tasks, in a cluster of so many masters.
pub async fn wasm(name: &'static str, masters: usize, goal: f64) -> Result<Row> {
    let plan = Cluster::new().masters(masters).agents(AGENTS).with_memory();
    let cluster = plan.resources(AGENT_RESOURCES).start().await?;
    let artifact = cluster.guest(GUEST).await?;
    let job = Job::wasm(artifact, &["0"]).count(ARRAY);
    let samples = per_second(&cluster, &job).await?;
    let note = format!(
        "an array of {ARRAY} Wasm tasks on {AGENTS} agents of {AGENT_RESOURCES}, from POST to counted"
    );
    Ok(Row::median(name, "1/s", goal, &samples, &note).higher())
}

/// Native tasks, of one master and an agent that runs two at a time.
pub async fn native() -> Result<Row> {
    let bare = starts_per_second()?;
    let plan = Cluster::new().resources(TWO_SLOTS).with_memory();
    let job = Job::command(["/bin/true"]).cpus(1_000).count(NATIVE);
    let samples = per_second(&plan.start().await?, &job).await?;
    let note = format!(
        "an array of {NATIVE} native /bin/true in cgroups of their own, one master, an agent of \
         {TWO_SLOTS}, two at a time; started and waited for one after another, by nobody, {bare:.0}"
    );
    Ok(Row::median("cluster_native_tasks_per_s", "1/s", 1000.0, &samples, &note).higher())
}

/// What the machine itself takes for a process: how many it starts and ends in a second.
fn starts_per_second() -> Result<f64> {
    let begun = Instant::now();
    for _ in 0..NATIVE {
        std::process::Command::new("/bin/true").status()?;
    }
    Ok(f64::from(NATIVE) / begun.elapsed().as_secs_f64())
}

async fn per_second(cluster: &Cluster, job: &Job) -> Result<Samples> {
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
