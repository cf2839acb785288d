//! Golden components: what was built for a release is deployed on this master.

use std::path::Path;

use tepui_cluster::Command;
use tepui_types::wire::agent::StatusReport;
use tepui_types::{AgentId, TaskState};

use crate::host::Master;

/// Of `hello`, in every release.
const CONFIG: &str = r#"{"command": {"argv": ["echo", "hello"]}}"#;

#[tokio::test(flavor = "multi_thread")]
async fn components_of_every_release_still_run() {
    // Tests run in their package's folder.
    let golden = Path::new("../tests/golden");
    let mut releases = 0;
    for entry in std::fs::read_dir(golden).unwrap() {
        let release = entry.unwrap().path();
        if release.is_dir() {
            runs(&release.join("hello.wasm")).await;
            releases += 1;
        }
    }
    assert!(releases > 0);
}

/// `hello`'s life: it waits, launches its task on an offer, and tells what became of it.
async fn runs(component: &Path) {
    let bytes = std::fs::read(component);
    let bytes = bytes.unwrap_or_else(|error| panic!("{}: {error}", component.display()));
    let master = Master::start(None).await;
    let framework = master.deploy_component(bytes, "hello", CONFIG).await;
    let page = async |says: &str| {
        let page = master.text(framework, "GET", "/").await;
        assert!(page.contains(says), "{}: {page}", component.display());
    };
    page("it waits").await;
    master.register_agent().await;
    let launched = master
        .until(framework, |record| !record.tasks.is_empty())
        .await;
    let operation = launched.tasks.get_min().unwrap();
    page("it was launched").await;
    let task = master.log.view.load().tasks[operation].id.clone();
    let report = StatusReport {
        task,
        state: TaskState::Running,
        reason: None,
        exit_code: None,
        usage: None,
        signs: None,
    };
    let agent = AgentId(1);
    let reports = vec![report];
    master.submit(Command::ReportTasks { agent, reports }).await;
    master
        .until(framework, |record| record.pending.is_empty())
        .await;
    page("task hello.0 is running on a1").await;
}
