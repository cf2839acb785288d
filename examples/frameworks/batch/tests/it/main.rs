//! The whole framework against the scripted cluster, every scenario in two
//! modes: one instance for all turns, and a new instance for every turn.

mod api;
mod gangs;
mod lifecycle;
mod scale;

use serde_json::Value;
use tepui_batch::Batch;
use tepui_sdk::TaskState;
use tepui_sdk::http::{Request, Response};
use tepui_sdk::resources::{Bytes, MilliCpus, Resources};
use tepui_sdk::testing::Cluster;
use tepui_types::api::job::JobView;

/// Runs a scenario in both modes.
fn both(scenario: impl Fn(Cluster<Batch>)) {
    scenario(Cluster::deploy(""));
    scenario(Cluster::deploy("").discard_every_turn());
}

fn machine(cpus: u64) -> Resources {
    Resources {
        cpus: MilliCpus(cpus * 1000),
        mem: Bytes::gib(4096),
        ..Resources::default()
    }
}

fn send(cluster: &mut Cluster<Batch>, method: &str, path: &str, body: &str) -> Response {
    send_with_key(cluster, method, path, body, None)
}

fn send_with_key(
    cluster: &mut Cluster<Batch>,
    method: &str,
    path: &str,
    body: &str,
    key: Option<&str>,
) -> Response {
    let (path, query) = path
        .split_once('?')
        .map_or((path, None), |(p, q)| (p, Some(q.to_owned())));
    let key = key.map(|key| ("idempotency-key".to_owned(), key.to_owned()));
    cluster.send(Request {
        method: method.into(),
        path: path.into(),
        query,
        headers: key.into_iter().collect(),
        body: body.into(),
        principal: "ann".into(),
    })
}

/// Submits a job that runs a command, with more fields of the body in `more`.
fn submit(cluster: &mut Cluster<Batch>, name: &str, more: &str) -> JobView {
    let body = job_body(name, more);
    let response = send(cluster, "POST", "/jobs", &body);
    assert_eq!(
        response.status,
        201,
        "{}",
        String::from_utf8_lossy(&response.body)
    );
    serde_json::from_slice(&response.body).unwrap()
}

fn job_body(name: &str, more: &str) -> String {
    let workload = r#"{"command": {"argv": ["true"]}}"#;
    let comma = if more.is_empty() { "" } else { ", " };
    format!(r#"{{"name": "{name}", "workload": {workload}{comma}{more}}}"#)
}

fn view(cluster: &mut Cluster<Batch>, name: &str) -> JobView {
    let response = send(cluster, "GET", &format!("/jobs/{name}"), "");
    assert_eq!(
        response.status,
        200,
        "{}",
        String::from_utf8_lossy(&response.body)
    );
    serde_json::from_slice(&response.body).unwrap()
}

fn problem(response: &Response) -> Value {
    let problem: Value = serde_json::from_slice(&response.body).unwrap();
    assert_eq!(problem["status"], response.status);
    problem
}

/// Offers all that is wanted and free, and takes the turns that follow.
fn offer(cluster: &mut Cluster<Batch>) {
    cluster.offer_all();
    cluster.settle();
    cluster.advance(std::time::Duration::ZERO);
    cluster.settle();
}

/// Moves every living task to its end in `state`, in one batch of updates.
fn end_all(cluster: &mut Cluster<Batch>, state: TaskState) -> usize {
    let names: Vec<String> = cluster.tasks().keys().cloned().collect();
    names.iter().for_each(|name| cluster.update(name, state));
    cluster.settle();
    names.len()
}
