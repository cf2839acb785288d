//! The layout of the store: which key holds what, in which version.
//!
//! | key | value |
//! |---|---|
//! | `meta` | counters |
//! | `job/NAME` | what was asked for; once filed, also what became of it |
//! | `run/NAME` | what has happened to a job that is not filed yet |
//! | `spec/NAME` | what its tasks run, until it is filed |
//! | `task/NAME/CHUNK` | cells of its tasks |
//! | `end/NUMBER` | names of filed jobs, the oldest first |
//! | `key/USER/KEY` | idempotency keys: the job, and the digest of its request |
//!
//! Every value is in a versioned envelope. A write that does not fit ends the
//! turn with nothing of it done: half of a change must never be kept.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tepui_sdk::{Context, Digest, TaskSpec};
use tepui_types::envelope;

use crate::job::{Job, Progress, Terms};
use crate::tasks::{Chunk, Tasks};

/// The version of every value here.
const VERSION: u8 = 1;
/// Filed jobs that are remembered; older ones are forgotten in order.
pub const MAX_FILED: u64 = 10_000;

/// Counters over all jobs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// The next job's place in the order of submission.
    pub next_sequence: u64,
    /// The number of the oldest filed job that is remembered.
    pub oldest_filed: u64,
    /// The number of the next job that is filed.
    pub next_filed: u64,
}

/// `job/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// What was asked for.
    pub terms: Terms,
    /// What became of it, once it is filed.
    pub outcome: Option<Progress>,
}

/// `key/USER/KEY`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submission {
    /// The job that the key made.
    pub job: String,
    /// Of the request's body, to tell a retry from a mistake.
    pub request: Digest,
}

/// The counters.
pub fn meta(cx: &mut Context<'_>) -> Meta {
    get(cx, "meta").unwrap_or_default()
}

/// Stores the counters.
pub fn set_meta(cx: &mut Context<'_>, meta: &Meta) {
    set(cx, "meta", meta);
}

/// Every job that is not filed, by name.
pub fn living(cx: &mut Context<'_>) -> BTreeMap<String, Job> {
    let mut jobs = BTreeMap::new();
    for (key, value) in cx.scan_all("run/") {
        let progress: Progress = decode(cx, &key, &value);
        let name = key["run/".len()..].to_owned();
        let Some(Record { terms, .. }) = record(cx, &name) else {
            cx.abort(&format!("`{key}` stands in the store without its job"));
        };
        jobs.insert(
            name,
            Job {
                terms,
                progress,
                tasks: Tasks::default(),
                timer: None,
                lines: Default::default(),
            },
        );
    }
    for (key, value) in cx.scan_all("task/") {
        let chunk: Chunk = decode(cx, &key, &value);
        let place = key["task/".len()..].split_once('/');
        let number = place.and_then(|(name, number)| {
            Some((jobs.get_mut(name)?, u32::from_str_radix(number, 16).ok()?))
        });
        match number {
            Some((job, number)) => job.tasks.load(number, chunk),
            None => cx.abort(&format!("`{key}` stands in the store without its job")),
        }
    }
    jobs
}

/// A job's record, filed or not.
pub fn record(cx: &mut Context<'_>, name: &str) -> Option<Record> {
    get(cx, &format!("job/{name}"))
}

/// Records with a name above `after`, ascending, at most `limit` of them.
pub fn page(cx: &mut Context<'_>, after: Option<&str>, limit: usize) -> Vec<(String, Record)> {
    let mut after = after.map(|name| format!("job/{name}"));
    let mut records = Vec::new();
    while records.len() < limit {
        // At most MAX_LIMIT are missing.
        let missing = (limit - records.len()).min(Context::MAX_LIMIT as usize) as u32;
        let found = cx.scan("job/", after.as_deref(), missing);
        let Some((last, _)) = found.last() else { break };
        after = Some(last.clone());
        for (key, value) in found {
            let record = decode(cx, &key, &value);
            records.push((key["job/".len()..].to_owned(), record));
        }
    }
    records
}

/// Stores a job that was submitted just now, but for its progress.
pub fn submit(
    cx: &mut Context<'_>,
    name: &str,
    terms: &Terms,
    spec: &tepui_types::TaskSpec,
    request: Digest,
) {
    set(
        cx,
        &format!("job/{name}"),
        &Record {
            terms: terms.clone(),
            outcome: None,
        },
    );
    set(cx, &format!("spec/{name}"), spec);
    if let Some(key) = &terms.key {
        let submission = Submission {
            job: name.to_owned(),
            request,
        };
        set(cx, &submission_key(&terms.user, key), &submission);
    }
}

/// The job that a key made, if it is remembered.
pub fn submission(cx: &mut Context<'_>, user: &str, key: &str) -> Option<Submission> {
    get(cx, &submission_key(user, key))
}

/// What a job's tasks run.
pub fn spec(cx: &mut Context<'_>, name: &str) -> TaskSpec {
    let key = format!("spec/{name}");
    match get::<tepui_types::TaskSpec>(cx, &key) {
        Some(spec) => spec.into(),
        None => cx.abort(&format!("`{key}` is missing in the store")),
    }
}

/// Stores what has happened to a job since it was stored last.
pub fn save(cx: &mut Context<'_>, name: &str, job: &mut Job) {
    set(cx, &format!("run/{name}"), &job.progress);
    for (number, chunk) in job.tasks.take_dirty() {
        let key = format!("task/{name}/{number:05x}");
        if chunk.is_empty() {
            delete(cx, &key);
        } else {
            set(cx, &key, &chunk);
        }
    }
}

/// About the bytes that filing a job writes.
pub const FILE_BYTES: usize = 2_048;

/// Files a job that has ended, and forgets the oldest one beyond the bound.
pub fn file(cx: &mut Context<'_>, meta: &mut Meta, name: &str, mut job: Job) {
    for (number, _) in job.tasks.take_dirty() {
        delete(cx, &format!("task/{name}/{number:05x}"));
    }
    delete(cx, &format!("run/{name}"));
    delete(cx, &format!("spec/{name}"));
    let record = Record {
        terms: job.terms,
        outcome: Some(job.progress),
    };
    set(cx, &format!("job/{name}"), &record);
    set(cx, &end_key(meta.next_filed), &name);
    meta.next_filed += 1;
    if meta.next_filed - meta.oldest_filed > MAX_FILED {
        forget(cx, meta.oldest_filed);
        meta.oldest_filed += 1;
    }
    set_meta(cx, meta);
}

fn forget(cx: &mut Context<'_>, number: u64) {
    let key = end_key(number);
    let Some(name) = get::<String>(cx, &key) else {
        return;
    };
    delete(cx, &key);
    if let Some(Record {
        terms: Terms {
            user,
            key: Some(key),
            ..
        },
        ..
    }) = record(cx, &name)
    {
        delete(cx, &submission_key(&user, &key));
    }
    delete(cx, &format!("job/{name}"));
}

fn end_key(number: u64) -> String {
    // Of one width, so that keys are in the order of numbers.
    format!("end/{number:016x}")
}

fn submission_key(user: &str, key: &str) -> String {
    format!("key/{user}/{key}")
}

fn get<T: DeserializeOwned>(cx: &mut Context<'_>, key: &str) -> Option<T> {
    let bytes = cx.get(key)?;
    Some(decode(cx, key, &bytes))
}

fn decode<T: DeserializeOwned>(cx: &mut Context<'_>, key: &str, bytes: &[u8]) -> T {
    match envelope::decode(VERSION, bytes) {
        Ok(value) => value,
        Err(error) => cx.abort(&format!("failed to read `{key}` from the store: {error}")),
    }
}

fn set<T: Serialize + ?Sized>(cx: &mut Context<'_>, key: &str, value: &T) {
    if let Err(error) = cx.set(key, &envelope::encode(VERSION, &value)) {
        cx.abort(&format!("failed to write `{key}` to the store: {error}"));
    }
}

fn delete(cx: &mut Context<'_>, key: &str) {
    if let Err(error) = cx.delete(key) {
        cx.abort(&format!("failed to delete `{key}` from the store: {error}"));
    }
}
