//! What comes of a job that has ended, or was left.

use serde_json::{Value, json};
use tepui_types::command::CommandStdin;
use tepui_types::wire::stream::StreamFrame;

use crate::master::{Master, job, task};
use crate::process::{OnTerminal, Tepui};

/// Answers whatever is asked of a job, its tasks and their output.
pub async fn answer(master: &Master, job: &Value, task: &Value) -> ! {
    loop {
        let request = master.request().await;
        let line = request.line.clone();
        match () {
            () if line.contains("/jobs") => request.json(job).await,
            () if line.contains("/logs/") => request.bytes(b"").await,
            () if line.contains("/v1/demands") => {
                let page = json!({"items": [], "next": null, "index": 1, "total": 0});
                request.json(&page).await;
            }
            () if line.contains("/v1/tasks?") => {
                let page = json!({"items": [task], "next": null, "index": 1, "total": 1});
                request.json(&page).await;
            }
            () => request.json(task).await,
        }
    }
}

/// How `tepui` ends, and what it says.
async fn ending(args: &[&str], job: &Value, task: &Value) -> (Option<i32>, String) {
    let master = Master::start().await;
    let tepui = Tepui::start_heard(&master, args);
    tokio::select! {
        ended = tepui.ends() => ended,
        never = answer(&master, job, task) => never,
    }
}

/// A job whose task has failed for that reason, of which its record has a part.
pub fn failed(code: i32, why: &str, part: &str, whole: &str) -> (Value, Value) {
    let mut job = job(0, "failed");
    let mut task = task(0, CommandStdin::Nothing);
    (job["active"], job["failed"]) = (json!(0), json!(1));
    job["reason"] = json!({"code": why, "message": part});
    job["task"]["exit_code"] = json!(code);
    task["status"]["state"] = json!("failed");
    task["status"]["exit_code"] = json!(code);
    task["status"]["reason"] = json!({"code": why, "message": whole});
    (job, task)
}

#[tokio::test]
async fn a_code_that_is_not_the_whole_story_comes_with_the_rest_of_it() {
    let whole = "its sandbox is full: ask for more (`--disk`); the command exited with code 1";
    let (job, task) = failed(1, "disk-limit", "its sandbox is […]", whole);
    let (code, said) = ending(&["run", "--", "dd"], &job, &task).await;
    assert_eq!(code, Some(1));
    assert_eq!(
        said,
        format!("tepui: job t ended as failed: {whole} (disk-limit)\n")
    );

    let whole = "init `fill`: the command exited with code 4";
    let (job, task) = failed(4, "exit-code", whole, whole);
    let (code, said) = ending(&["run", "--", "serve"], &job, &task).await;
    assert_eq!(code, Some(4));
    assert!(said.contains(whole), "{said}");

    let whole = "the command exited with code 3";
    let (job, task) = failed(3, "exit-code", whole, whole);
    let ended = ending(&["run", "--", "exit"], &job, &task).await;
    assert_eq!(ended, (Some(3), String::new()));
}

#[tokio::test]
async fn of_an_array_the_reason_is_told_whole_too() {
    let whole = "it is pulled from nowhere: name what is there in `allow` or `registries`";
    let part = "task 1: it is pulled from nowhere […]";
    let (mut job, mut task) = failed(1, "image-address-refused", part, whole);
    (job["count"], job["failed"], job["task"]) = (json!(2), json!(2), Value::Null);
    task["id"] = json!("f1.t-1.0");
    let args = ["run", "--count", "2", "--", "x"];
    let (code, said) = ending(&args, &job, &task).await;
    assert_eq!(code, Some(1));
    assert!(said.contains(&format!("task 1: {whole}")), "{said}");
}

#[tokio::test]
async fn why_a_task_is_run_again_is_told_whole_too() {
    let whole = "it is full: ask for more";
    let (mut job, task) = failed(1, "disk-limit", "it is […]", whole);
    (job["state"], job["failed"], job["waiting"]) = (json!("running"), json!(0), json!(1));
    let master = Master::start().await;
    let mut tepui = Tepui::start_heard(&master, &["run", "--restarts", "9", "--", "dd"]);
    let said = tokio::select! {
        said = tepui.complaint() => said,
        never = answer(&master, &job, &task) => never,
    };
    assert_eq!(
        said,
        format!("tepui: job t waits: to run again what ended: {whole}\n")
    );
}

#[tokio::test]
async fn a_task_that_was_left_is_no_failure() {
    let mut master = Master::start().await;
    master.stdin = CommandStdin::Terminal;
    let mut tepui = OnTerminal::start(&master, &["run", "-it", "--", "sh"]);
    let mut channel = master.until("/attach", 0).await.upgrade().await;
    channel.source().await;
    // What is typed is looked at character by character once the terminal shows what the task writes.
    channel.say(StreamFrame::Data(b"$ ".to_vec())).await;
    tepui.shows("$ ").await;
    tepui.types("\x10\x11");
    let (code, said) = tepui.ends().await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("left f1.t.0, which goes on"), "{said}");
    assert!(!said.contains("ended as"), "{said}");
}
