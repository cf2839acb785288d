//! What tasks find in their sandboxes: fetched before they start, or the reason why they do not.

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use tepui_types::wire::agent::TaskLaunch;
use tepui_types::{Digest, Fetch, TaskState};
use tokio::net::TcpListener;

use crate::master::{FakeMaster, shell};
use crate::process::AgentProcess;

/// Lets tasks fetch from servers of tests.
const LOOPBACK: &[&str] = &["--fetch-allow", "127.0.0.1"];

/// A server with one file; its URL.
async fn server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().route("/some/tool.sh", get(async || "#!/bin/sh\necho fetched\n"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}/some/tool.sh")
}

fn fetching(name: &str, script: &str, fetch: Vec<Fetch>) -> TaskLaunch {
    let mut task = shell(name, script);
    let spec = Arc::make_mut(&mut task.spec);
    spec.fetch = fetch;
    spec.validate().unwrap();
    task
}

/// A tar archive with one file.
fn archive() -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(6);
    header.set_mode(0o644);
    archive
        .append_data(&mut header, "in/file", &b"packed"[..])
        .unwrap();
    archive.into_inner().unwrap()
}

#[tokio::test]
async fn a_task_finds_what_it_fetches_in_its_sandbox() {
    let mut master = FakeMaster::start().await;
    let files = tempfile::tempdir().unwrap();
    std::fs::write(files.path().join("packed"), archive()).unwrap();
    let folder: &str = files.path().to_str().unwrap().to_owned().leak();
    let arguments = [&["--fetch-folder", folder][..], LOOPBACK].concat().leak();
    let agent = AgentProcess::start_with(&master, arguments);
    let mut session = master.session().await;
    let artifact = master.add_artifact(b"an artifact");
    let tool = Fetch {
        executable: true,
        digest: Some(Digest::of(b"#!/bin/sh\necho fetched\n")),
        ..Fetch::new(server().await)
    };
    let packed = Fetch {
        extract: true,
        path: Some("folder".into()),
        ..Fetch::new(format!("file://{folder}/packed"))
    };
    let stored = Fetch {
        path: Some("stored".into()),
        ..Fetch::new(artifact.to_string())
    };
    let script = "./tool.sh && cat folder/in/file stored";
    let task = fetching("a", script, vec![tool, packed, stored]);
    session.launch(&task).await;
    session.until(&task.task, TaskState::Finished).await;
    let output = agent.layout().task(&task.task).join("stdout");
    let output = std::fs::read_to_string(output).unwrap();
    assert_eq!(output, "fetched\npackedan artifact");
}

#[tokio::test]
async fn a_task_whose_files_cannot_be_had_does_not_start_and_says_why() {
    let mut master = FakeMaster::start().await;
    let _agent = AgentProcess::start_with(&master, LOOPBACK);
    let mut session = master.session().await;
    let url = server().await;
    let other = Fetch {
        digest: Some(Digest::of(b"other")),
        ..Fetch::new(&url)
    };
    let packed = Fetch {
        extract: true,
        ..Fetch::new(&url)
    };
    for (name, fetch, code) in [
        (
            "missing",
            Fetch::new(url.replace("tool", "no")),
            "fetch-not-found",
        ),
        ("other", other, "fetch-digest-mismatch"),
        ("packed", packed, "fetch-archive-invalid"),
        ("file", Fetch::new("file:///etc/passwd"), "fetch-outside"),
        (
            "metadata",
            Fetch::new("http://169.254.169.254/latest"),
            "fetch-address-refused",
        ),
    ] {
        let task = fetching(name, "true", vec![fetch]);
        session.launch(&task).await;
        let end = session.until(&task.task, TaskState::Error).await;
        assert_eq!(end.reason.unwrap().code, code, "{name}");
    }
}
