//! Jobs that are written down.

use tepui_types::api::job::JobRequest;

use crate::endings::{answer, failed};
use crate::master::{Master, job};
use crate::process::Tepui;

const JOB: &str =
    r#"{"name": "t", "workload": {"command": {"argv": ["date"]}}, "max_restarts": 2}"#;

#[tokio::test]
async fn a_job_from_standard_input_goes_to_its_framework() {
    let master = Master::start().await;
    let args = ["job", "submit", "--framework", "mine", "-"];
    let mut tepui = Tepui::start(&master, &args);
    tepui.types(JOB).await;
    tepui.ends_input();
    let asked = master.request().await;
    assert_eq!(asked.line, "post /frameworks/mine/jobs");
    let sent: JobRequest = serde_json::from_slice(&asked.body).unwrap();
    assert_eq!(sent, serde_json::from_str(JOB).unwrap());
    asked.json(&job(0, "running")).await;
    assert_eq!(tepui.rest().await, "t\n");
}

#[tokio::test]
async fn a_job_in_a_file_is_waited_for_and_ends_with_its_code() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("job.json");
    std::fs::write(&file, JOB).unwrap();
    let master = Master::start().await;
    let file = file.to_str().unwrap();
    let tepui = Tepui::start_heard(&master, &["job", "submit", "--wait", file]);
    let (job, task) = failed(7, "disk-limit", "it is full", "it is full: ask for more");
    let (code, said) = tokio::select! {
        ended = tepui.ends() => ended,
        never = answer(&master, &job, &task) => never,
    };
    assert_eq!(code, Some(7));
    assert!(said.contains("job t is submitted"), "{said}");
    assert!(said.contains("it is full: ask for more"), "{said}");
}

#[tokio::test]
async fn what_is_no_job_is_told_by_its_field_and_nobody_is_asked() {
    let master = Master::start().await;
    let mut tepui = Tepui::start_heard(&master, &["job", "submit", "-"]);
    tepui
        .types(r#"{"workload": {"command": {"argv": "date"}}}"#)
        .await;
    tepui.ends_input();
    let (code, said) = tepui.ends().await;
    assert_eq!(code, Some(1));
    assert!(
        said.contains("standard input is no job: `workload.command.argv`"),
        "{said}"
    );
}
