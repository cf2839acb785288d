//! What running tasks use, as a table and as a document.

use serde_json::{Value, json};
use tepui_types::resources::ResourceRequest;
use tepui_types::{Bytes, MilliCpus, Resources};

use crate::master::Master;
use crate::process::Tepui;

/// An agent with so many tasks.
fn agent(id: u64, tasks: u64) -> Value {
    json!({
        "id": tepui_types::AgentId(id), "hostname": "here", "status": "active", "connected": true,
        "total": Resources::default(), "used": Resources::default(),
        "offered": Resources::default(), "attributes": {}, "tasks": tasks, "version": "1",
        "registered_at": 1, "revision": 1,
    })
}

fn page(items: &[Value], next: Option<&str>) -> Value {
    json!({"items": items, "next": next, "index": 1, "total": items.len()})
}

/// What `f1.NAME.0` had used so many milliseconds after the start of its machine.
fn usage(name: &str, at_ms: u64, cpu_micros: u64) -> Value {
    let given = ResourceRequest {
        cpus: MilliCpus(500),
        mem: Bytes::mib(64),
        ..ResourceRequest::default()
    };
    json!({
        "id": format!("f1.{name}.0"), "framework_name": "batch", "given": given,
        "used": {
            "at_ms": at_ms, "cpu_micros": cpu_micros, "mem_bytes": 3 << 20,
            "mem_peak_bytes": 5 << 20, "disk_bytes": null, "pids": 2, "instances": null,
        },
    })
}

/// Answers a look: which agents there are, and two pages of the one that has tasks.
async fn look(master: &Master, at_ms: u64, cpu_micros: [u64; 2]) {
    let asked = master.request().await;
    assert!(asked.line.contains("/v1/agents?"), "{}", asked.line);
    let agents = page(&[agent(1, 2), agent(2, 0)], None);
    asked.json(&agents).await;
    let asked = master.request().await;
    assert!(
        asked.line.contains("/v1/agents/a1/usage?"),
        "{}",
        asked.line
    );
    let first = usage("idle", at_ms, cpu_micros[0]);
    asked.json(&page(&[first], Some("07"))).await;
    let asked = master.request().await;
    assert!(asked.line.contains("page=07"), "{}", asked.line);
    let second = usage("busy", at_ms, cpu_micros[1]);
    asked.json(&page(&[second], None)).await;
}

#[tokio::test]
async fn two_looks_make_one_table_where_nobody_watches() {
    let master = Master::start().await;
    let tepui = Tepui::start(&master, &["top"]);
    look(&master, 1_000, [7, 1_000_000]).await;
    look(&master, 3_000, [7, 4_000_000]).await;
    let text = tepui.rest().await;
    let rows: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(rows.len(), 3, "{text}");
    assert_eq!(rows[0][..4], ["ID", "AGENT", "CPU", "OF"]);
    assert_eq!(rows[1][..4], ["f1.busy.0", "a1", "150.0%", "50.0%"]);
    assert_eq!(rows[1][4..8], ["3", "MiB", "64", "MiB"]);
    assert_eq!(rows[2][..4], ["f1.idle.0", "a1", "0.0%", "50.0%"]);
}

#[tokio::test]
async fn programs_read_a_document_and_watchers_one_after_another() {
    let master = Master::start().await;
    let tepui = Tepui::start(
        &master,
        &["top", "-o", "json", "--sort", "id", "--limit", "1"],
    );
    look(&master, 1_000, [0, 0]).await;
    look(&master, 2_000, [0, 250_000]).await;
    let read: Value = serde_json::from_str(&tepui.rest().await).unwrap();
    assert_eq!(read.as_array().unwrap().len(), 1, "{read}");
    assert_eq!(read[0]["id"], "f1.busy.0");
    assert_eq!(read[0]["agent"], "a1");
    assert_eq!(read[0]["cpus_milli"], 250);
    assert_eq!(read[0]["used"]["cpu_micros"], 250_000);
    assert_eq!(read[0]["given"]["cpus_milli"], 500);

    let mut tepui = Tepui::start(&master, &["top", "-o", "json", "--watch=500ms"]);
    look(&master, 1_000, [0, 0]).await;
    for (at_ms, cpu_micros) in [(2_000, 250_000), (3_000, 750_000)] {
        look(&master, at_ms, [0, cpu_micros]).await;
        let read: Value = serde_json::from_str(&tepui.line().await).unwrap();
        assert_eq!(read[0]["id"], "f1.busy.0");
        assert_eq!(read[0]["used"]["cpu_micros"], cpu_micros);
    }
}
