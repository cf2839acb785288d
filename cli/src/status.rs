//! `tepui status`: the whole cluster at a glance.

use std::collections::BTreeMap;
use std::fmt::Display;

use anyhow::Result;
use tepui_types::api::cluster::ClusterView;

use crate::client::Client;
use crate::output::{self, Fields, Format};

/// Shows the cluster.
pub async fn run(client: &Client, format: Format) -> Result<()> {
    let cluster = client.cluster().await?;
    match format {
        Format::Json => output::json(&cluster),
        Format::Table => show(&cluster, client.base()),
    }
}

fn show(cluster: &ClusterView, address: &str) -> Result<()> {
    let leader = match (cluster.leader, &cluster.leader_url) {
        (Some(leader), Some(url)) => format!("{leader} at {url}"),
        (Some(leader), None) => leader.to_string(),
        (None, _) => "none known".to_owned(),
    };
    let mut fields = Fields::new();
    fields
        .add("cluster", cluster.cluster)
        .add("asked", format!("{address}, release {}", cluster.version))
        .add("masters", cluster.masters)
        .add(
            "leader",
            format!("{leader}, term {}, index {}", cluster.term, cluster.index),
        )
        .add("agents", counts(&cluster.agents))
        .add("frameworks", counts(&cluster.frameworks))
        .add("tasks", counts(&cluster.tasks))
        .add("ended so far", counts(&cluster.ended))
        .add("waiting", cluster.waiting)
        .add("total", output::request(&cluster.total))
        .add("used", output::request(&cluster.used))
        .add("offered", output::request(&cluster.offered));
    for warning in &cluster.warnings {
        fields.add("warning", warning);
    }
    fields.print()
}

fn counts<K: Display>(counts: &BTreeMap<K, u64>) -> String {
    let parts: Vec<_> = counts
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(name, count)| format!("{count} {name}"))
        .collect();
    match parts.is_empty() {
        true => "none".into(),
        false => parts.join(", "),
    }
}
