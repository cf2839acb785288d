//! Jobs over HTTP, below `/frameworks/batch`: routes to answers.
//!
//! Bodies are those of `tepui_types::api::job`; errors are problem documents.
//! Everything is checked before anything is changed, because what a turn has
//! written is kept whatever it answers.

use serde::Serialize;
use tepui_sdk::http::{Request, Response};
use tepui_sdk::{Context, Demand, Digest, Gang, Reason, Role};
use tepui_types::api::job::{JobRequest, JobState, JobTask, JobView, MAX_COUNT};
use tepui_types::api::list;
use tepui_types::ids::is_label;
use tepui_types::{TaskId, TaskName, TaskSpec, Workload, envelope};

use crate::Batch;
use crate::job::{Job, Progress, Terms};
use crate::records::{self, Record};
use crate::tasks;

/// The longest name: a task's name is the job's, a `-` and up to five digits,
/// and at most 63 characters.
pub const MAX_NAME: usize = 50;
/// The priorities there are, up and down.
pub const MAX_PRIORITY: i32 = TaskSpec::MAX_PRIORITY;
/// Jobs that have not ended. Each has its demand, of which a framework has
/// 100,000, and its records, for which the store has 64 MiB.
pub const MAX_LIVING: usize = 10_000;
/// Bytes of specifications of jobs that have not ended: a quarter of the store.
pub const MAX_SPEC_BYTES: usize = 16 * 1024 * 1024;
/// Bytes of a job's constraints: they go with every word about its demand, and a
/// turn may have one for thousands of jobs.
const MAX_CONSTRAINTS_BYTES: usize = 512;
/// Custom resources in one request; they stand in every job's record.
const MAX_CUSTOM: usize = 8;
/// Bytes of an idempotency key.
const MAX_KEY: usize = 128;
/// Jobs of one page: an answer shares a turn's 1 MiB.
const MAX_PAGE: usize = 500;
/// Jobs of one page whose waiting is explained: each explanation looks at every
/// agent.
const MAX_EXPLAINED: usize = 100;

/// `GET /jobs`.
#[derive(Debug, Serialize)]
struct JobPage {
    items: Vec<JobView>,
    /// Pass it as `?after=` to go on; none on the last page.
    next: Option<String>,
}

/// The answer to any request.
pub fn answer(batch: &mut Batch, cx: &mut Context<'_>, request: &Request) -> Response {
    let segments = request.segments();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let result = match (request.method.as_str(), segments.as_slice()) {
        ("GET" | "HEAD", []) => Ok(Response::text(200, INDEX)),
        ("GET" | "HEAD", ["jobs"]) => list_jobs(batch, cx, request),
        ("POST", ["jobs"]) => submit(batch, cx, request),
        ("GET" | "HEAD", ["jobs", name]) => show(batch, cx, name),
        ("DELETE", ["jobs", name]) => delete(batch, cx, name, request),
        (_, []) => Err(Response::method_not_allowed(request, "GET")),
        (_, ["jobs"]) => Err(Response::method_not_allowed(request, "GET, POST")),
        (_, ["jobs", _]) => Err(Response::method_not_allowed(request, "GET, DELETE")),
        _ => Err(Response::not_found(request)),
    };
    result.unwrap_or_else(|problem| problem)
}

const INDEX: &str = "batch runs jobs to their end.

POST   jobs         submit one: {\"workload\": {\"command\": {\"argv\": [\"date\"]}}}
GET    jobs         list them (?limit=100&after=NAME)
GET    jobs/NAME    show one
DELETE jobs/NAME    end one
";

fn list_jobs(
    batch: &mut Batch,
    cx: &mut Context<'_>,
    request: &Request,
) -> Result<Response, Response> {
    let bad = |detail: &str| Response::problem(400, "query-invalid", detail);
    let mut limit = list::DEFAULT_LIMIT;
    let mut after = None;
    for (name, value) in request.parameters() {
        match name.as_str() {
            "limit" => {
                let number = value
                    .parse()
                    .ok()
                    .filter(|n| (1..=list::MAX_LIMIT).contains(n));
                limit = number.ok_or_else(|| bad("`limit` is a number from 1 to 1000"))?;
            }
            "after" => after = Some(value),
            _ => {
                return Err(bad(
                    "jobs are listed by `limit` and `after`; there is nothing else",
                ));
            }
        }
    }
    let limit = limit.min(MAX_PAGE);
    let mut records = records::page(cx, after.as_deref(), limit + 1);
    let more = records.len() > limit;
    records.truncate(limit);
    let next = records
        .last()
        .filter(|_| more)
        .map(|(name, _)| name.clone());
    let mut explained = 0;
    let items = records.into_iter().map(|(name, record)| {
        let may_explain = explained < MAX_EXPLAINED;
        explained += 1;
        view_record(batch, cx, &name, record, may_explain)
    });
    Ok(Response::json(
        200,
        &JobPage {
            items: items.collect(),
            next,
        },
    ))
}

fn show(batch: &mut Batch, cx: &mut Context<'_>, name: &str) -> Result<Response, Response> {
    let record = find(cx, name)?;
    Ok(Response::json(
        200,
        &view_record(batch, cx, name, record, true),
    ))
}

fn delete(
    batch: &mut Batch,
    cx: &mut Context<'_>,
    name: &str,
    request: &Request,
) -> Result<Response, Response> {
    let record = find(cx, name)?;
    if let Some(job) = batch.jobs.get_mut(name)
        && job.cancel(&request.principal)
    {
        batch.touched.insert(name.to_owned());
    }
    Ok(Response::json(
        200,
        &view_record(batch, cx, name, record, false),
    ))
}

fn find(cx: &mut Context<'_>, name: &str) -> Result<Record, Response> {
    let record = if is_label(name) {
        records::record(cx, name)
    } else {
        None
    };
    record.ok_or_else(|| {
        let name: String = name.chars().take(80).collect();
        Response::problem(404, "job-unknown", &format!("there is no job `{name}`"))
    })
}

fn submit(
    batch: &mut Batch,
    cx: &mut Context<'_>,
    request: &Request,
) -> Result<Response, Response> {
    let body: JobRequest = request.json()?;
    let digest = Digest::of(&envelope::encode(1, &body));
    let key = idempotency_key(request)?;
    let user = &request.principal;
    if let Some(key) = &key
        && let Some(before) = records::submission(cx, user, key)
    {
        if before.request != digest {
            return Err(Response::problem(
                422,
                "idempotency-key-reused",
                "this Idempotency-Key came with another job before: draw a new key for a new job",
            ));
        }
        let record = find(cx, &before.job)?;
        let view = view_record(batch, cx, &before.job, record, false);
        return Ok(Response::json(201, &view));
    }
    let spec = check(&body, user)?;
    check_artifact(cx, &spec)?;
    check_role(cx, body.role.as_ref())?;
    let spec_bytes = envelope::encode(1, &spec).len();
    check_room(batch, spec_bytes)?;
    let name = name_for(batch, cx, &body)?;
    let terms = Terms {
        sequence: batch.meta.next_sequence,
        user: user.clone(),
        request: body.resources,
        count: body.count,
        max_restarts: body.max_restarts,
        priority: body.priority,
        // A specification has at most 64 KiB.
        spec_bytes: spec_bytes as u32,
        key,
        constraints: body.constraints,
        gang: body.gang,
        gang_wait_ms: body.gang_wait_ms,
        time_limit_ms: body.time_limit_ms,
        role: body.role,
        volumes: body.volumes,
        revocable: body.revocable,
    };
    batch.meta.next_sequence += 1;
    records::set_meta(cx, &batch.meta);
    records::submit(cx, &name, &terms, &spec, digest);
    let job = Job::new(terms);
    let view = view(cx, &name, &job.terms, &job.progress, None);
    batch.jobs.insert(name.clone(), job);
    batch.touched.insert(name.clone());
    Ok(Response::json(201, &view).header("location", format!("jobs/{name}")))
}

fn idempotency_key(request: &Request) -> Result<Option<String>, Response> {
    let Some(key) = request.header("idempotency-key") else {
        return Ok(None);
    };
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if key.is_empty() || key.len() > MAX_KEY || !key.bytes().all(allowed) {
        return Err(Response::problem(
            400,
            "idempotency-key-invalid",
            "an Idempotency-Key has 1 to 128 letters, digits, `-`, `_` and `.`",
        ));
    }
    Ok(Some(key.to_owned()))
}

/// Checks all that can be checked without looking at other jobs.
fn check(body: &JobRequest, user: &str) -> Result<TaskSpec, Response> {
    let invalid = |detail: String| Response::problem(422, "job-invalid", &detail);
    if !(1..=MAX_COUNT).contains(&body.count) {
        return Err(invalid(format!(
            "count is {}: ask for 1 to {MAX_COUNT} tasks",
            body.count
        )));
    }
    if !(-MAX_PRIORITY..=MAX_PRIORITY).contains(&body.priority) {
        return Err(invalid(format!(
            "priority is {}: it goes from -{MAX_PRIORITY} to {MAX_PRIORITY}",
            body.priority
        )));
    }
    if body.gang {
        let gang = Gang {
            wait_ms: body.gang_wait_ms,
            ..Gang::of(body.count, body.resources.clone())
        };
        if !body.volumes.is_empty() {
            return Err(invalid("a gang's tasks use no volumes".into()));
        }
        if body.revocable {
            return Err(invalid("a gang's tasks take nothing revocable".into()));
        }
        gang.validate()
            .map_err(|why| invalid(format!("gang: {why}")))?;
    } else if body.gang_wait_ms.is_some() {
        return Err(invalid("gang_wait_ms is for gangs: set gang, too".into()));
    }
    body.resources
        .validate()
        .map_err(|why| invalid(format!("resources: {why}")))?;
    body.constraints
        .validate()
        .map_err(|why| invalid(format!("constraints: {why}")))?;
    if body.constraints.size() > MAX_CONSTRAINTS_BYTES {
        return Err(invalid(format!(
            "constraints: a job's have at most {MAX_CONSTRAINTS_BYTES} bytes"
        )));
    }
    let custom = &body.resources.custom;
    if custom.len() > MAX_CUSTOM || custom.keys().any(|name| !is_label(name)) {
        return Err(invalid(format!(
            "resources: custom_milli has at most {MAX_CUSTOM} names, each of 1 to 63 characters \
             out of a-z, 0-9 and `-`"
        )));
    }
    let volumes = &body.volumes;
    let named: std::collections::BTreeSet<_> = volumes.iter().collect();
    if volumes.len() > Demand::MAX_VOLUMES
        || named.len() < volumes.len()
        || !volumes.iter().all(|volume| is_label(volume))
    {
        return Err(invalid(format!(
            "volumes: a job names at most {}, each once and as `tepui volume list` shows it",
            Demand::MAX_VOLUMES
        )));
    }
    let spec = TaskSpec {
        workload: body.workload.clone(),
        kill_grace_ms: body.kill_grace_ms,
        user: user.to_owned(),
        labels: body.labels.clone(),
        partition: body.partition,
        priority: body.priority,
        time_limit_ms: body.time_limit_ms,
        checks: body.checks.clone(),
        fetch: body.fetch.clone(),
    };
    spec.validate().map_err(invalid)?;
    Ok(spec)
}

/// Refuses a job whose every task would fail.
fn check_artifact(cx: &mut Context<'_>, spec: &TaskSpec) -> Result<(), Response> {
    match &spec.workload {
        Workload::Wasm(wasm) if !cx.has_artifact(&wasm.artifact) => {
            let detail = format!(
                "the cluster has no artifact {}: upload it first, as `tepui run FILE.wasm` does",
                wasm.artifact
            );
            Err(Response::problem(422, "artifact-unknown", &detail))
        }
        Workload::Wasm(_) | Workload::Command(_) => Ok(()),
    }
}

fn check_role(cx: &mut Context<'_>, role: Option<&Role>) -> Result<(), Response> {
    let roles = cx.roles();
    let Some(foreign) = role.filter(|role| !roles.contains(role)) else {
        return Ok(());
    };
    let roles: Vec<_> = roles.iter().map(Role::as_str).collect();
    let detail = format!(
        "role `{foreign}` is none of this framework's: choose from {}",
        roles.join(", ")
    );
    Err(Response::problem(422, "job-invalid", &detail))
}

/// Refuses a job for which the store might have no room.
fn check_room(batch: &Batch, spec_bytes: usize) -> Result<(), Response> {
    let specs: usize = batch
        .jobs
        .values()
        .map(|job| job.terms.spec_bytes as usize)
        .sum();
    if batch.jobs.len() < MAX_LIVING && specs + spec_bytes <= MAX_SPEC_BYTES {
        return Ok(());
    }
    let detail = format!(
        "{} jobs have not ended, and no more fit: wait for some, or submit many like tasks as one \
         job with `count`",
        batch.jobs.len()
    );
    Err(Response::problem(503, "too-many-jobs", &detail).header("retry-after", "10"))
}

/// The job's name: the one asked for, if it is free, or the next `job-N`.
fn name_for(batch: &Batch, cx: &mut Context<'_>, body: &JobRequest) -> Result<String, Response> {
    let Some(name) = &body.name else {
        let mut number = batch.meta.next_sequence;
        loop {
            let name = format!("job-{number}");
            if taken(batch, cx, &name, body.count).is_none() {
                return Ok(name);
            }
            number += 1;
        }
    };
    if !is_label(name) || name.len() > MAX_NAME {
        let name: String = name.chars().take(80).collect();
        return Err(Response::problem(
            422,
            "job-invalid",
            &format!(
                "`{name}` is not a job's name: 1 to {MAX_NAME} characters out of a-z, 0-9 and `-`, \
                 with no `-` at either end"
            ),
        ));
    }
    match taken(batch, cx, name, body.count) {
        None => Ok(name.clone()),
        Some(by) => {
            let detail = format!("{by}: choose another name, or leave it out");
            Err(Response::problem(409, "job-name-taken", &detail))
        }
    }
}

/// Why a job of this name cannot be, if so. Tasks of arrays have names of their
/// own that no living task may have, too.
fn taken(batch: &Batch, cx: &mut Context<'_>, name: &str, count: u32) -> Option<String> {
    if let Some(record) = records::record(cx, name) {
        let progress = batch
            .jobs
            .get(name)
            .map(|job| &job.progress)
            .or(record.outcome.as_ref());
        let state = progress.map_or(JobState::Waiting, |p| p.state(record.terms.count));
        let state = match state {
            JobState::Waiting => "waits",
            JobState::Running => "runs",
            JobState::Killing => "is being ended",
            JobState::Finished | JobState::Failed | JobState::Killed => "has ended",
        };
        return Some(format!("a job named `{name}` {state}"));
    }
    let array = |array: &str, index: u32| {
        batch
            .jobs
            .get(array)
            .is_some_and(|job| job.terms.count > 1 && index < job.terms.count)
    };
    if count == 1 {
        let (job, index) = tasks::array_task(name).filter(|(job, index)| array(job, *index))?;
        return Some(format!("task {index} of job `{job}` is named `{name}`"));
    }
    let prefix = format!("{name}-");
    let candidates = batch.jobs.range(prefix.clone()..);
    let clash = candidates
        .take_while(|(other, _)| other.starts_with(&prefix))
        .find(|(other, job)| {
            job.terms.count == 1
                && tasks::array_task(other).is_some_and(|(job, index)| job == name && index < count)
        });
    clash.map(|(other, _)| format!("job `{other}` is named as a task of this array would be"))
}

fn view_record(
    batch: &Batch,
    cx: &mut Context<'_>,
    name: &str,
    record: Record,
    may_explain: bool,
) -> JobView {
    match (batch.jobs.get(name), record.outcome) {
        (Some(job), _) => {
            let progress = &job.progress;
            let waits = may_explain && (progress.demanded > 0 || progress.gang_wanted);
            let waiting = if waits { explain(cx, name) } else { None };
            view(cx, name, &job.terms, &job.progress, waiting)
        }
        (None, outcome) => view(cx, name, &record.terms, &outcome.unwrap_or_default(), None),
    }
}

fn explain(cx: &mut Context<'_>, name: &str) -> Option<Reason> {
    let explanation = cx.explain(name)?;
    Some(Reason::new("waiting-for-resources", explanation.summary))
}

fn view(
    cx: &mut Context<'_>,
    name: &str,
    terms: &Terms,
    progress: &Progress,
    waiting: Option<Reason>,
) -> JobView {
    let state = progress.state(terms.count);
    let reason = match state {
        JobState::Finished => None,
        JobState::Waiting | JobState::Running => waiting.or_else(|| progress.reason.clone()),
        JobState::Killing | JobState::Failed | JobState::Killed => progress.reason.clone(),
    };
    let latest = progress.latest.as_ref();
    let task = latest
        .zip(TaskName::new(name).ok())
        .map(|(latest, name)| JobTask {
            id: TaskId {
                framework: cx.this_framework().id,
                name,
                attempt: latest.attempt,
            },
            state: latest.state,
            exit_code: latest.exit_code,
        });
    JobView {
        name: name.to_owned(),
        user: terms.user.clone(),
        state,
        resources: terms.request.clone(),
        count: terms.count,
        waiting: terms.count - progress.fresh + progress.retrying,
        active: progress.active,
        finished: progress.finished,
        failed: progress.failed,
        killed: progress.killed,
        restarts: progress.restarts,
        priority: terms.priority,
        role: terms.role.clone(),
        constraints: terms.constraints.clone(),
        volumes: terms.volumes.clone(),
        revocable: terms.revocable,
        gang: terms.gang,
        time_limit_ms: terms.time_limit_ms,
        reason,
        task,
    }
}
