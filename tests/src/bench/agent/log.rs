//! From a task's exit until the master's log has it, in a whole cluster whose master writes to a disk.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use reqwest::{Method, Response};
use tepui_types::TaskId;

use crate::bench::Samples;
use crate::cluster::Cluster;
use crate::job::Job;

/// Until caches are warm and an executor waits.
const WARM_UP: usize = 20;
const TASKS: usize = 300;
/// Its last act is to say the time of day, in nanoseconds; then it exits.
const SCRIPT: &str = "exec date +%s%N";
const DEADLINE: Duration = Duration::from_secs(30);

/// Milliseconds of each task, until a client that follows the events of what was applied has its end.
pub async fn exits() -> Result<Samples> {
    let cluster = Cluster::new().with_memory().start().await?;
    let client = cluster.client();
    let request = client.request(Method::GET, "/v1/events");
    let mut events = Events {
        response: request.send().await?.error_for_status()?,
        text: String::new(),
    };
    let mut samples = Samples::default();
    // With a whole processor: with less, the kernel has it wait before it exits.
    let job = Job::shell(SCRIPT).cpus(1_000);
    for round in 0..WARM_UP + TASKS {
        let job = client.submit(&job).await?;
        let (task, told) = events.end_of(&job.name).await?;
        let said = client.output(&task, "stdout").await?;
        let said = Duration::from_nanos(said.trim().parse().context("a time")?);
        if round >= WARM_UP {
            samples.add(told.saturating_sub(said).as_secs_f64() * 1e3);
        }
    }
    Ok(samples)
}

/// The stream of events, and what of it was not looked at.
struct Events {
    response: Response,
    text: String,
}

impl Events {
    /// The task of a job when it has finished, and the time of day at which that was told.
    async fn end_of(&mut self, job: &str) -> Result<(TaskId, Duration)> {
        loop {
            while let Some((line, rest)) = self.text.split_once('\n') {
                let (line, rest) = (line.to_owned(), rest.to_owned());
                self.text = rest;
                if let Some(task) = finished(&line).filter(|task| task.name.as_str() == job) {
                    return Ok((task, now()?));
                }
            }
            let chunk = tokio::time::timeout(DEADLINE, self.response.chunk()).await??;
            let chunk = chunk.context("the stream of events ended")?;
            self.text.push_str(std::str::from_utf8(&chunk)?);
        }
    }
}

/// The task that an event's line says to have finished.
fn finished(line: &str) -> Option<TaskId> {
    let data: serde_json::Value = serde_json::from_str(line.strip_prefix("data:")?).ok()?;
    let task = data.pointer("/body/task").or_else(|| data.get("task"))?;
    let state = task.get("state")?.as_str()?;
    let id = task.get("task")?.as_str()?;
    (state == "finished").then(|| id.parse().ok()).flatten()
}

#[expect(
    clippy::disallowed_methods,
    reason = "tasks tell the time of day, and this is compared with it"
)]
fn now() -> Result<Duration> {
    Ok(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?)
}
