//! `/v1/cluster`: the whole at a glance.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State as Extract;
use axum::http::HeaderMap;
use tepui_types::api::cluster::ClusterView;
use tepui_types::resources::ResourceRequest;
use tepui_types::{AgentStatus, NodeId};

use crate::Master;
use crate::http::error::ApiError;
use crate::http::forward::FORWARDED_BY;
use crate::http::request::read;
use crate::raft::Leadership;

/// Shows the cluster.
#[utoipa::path(get, path = "/v1/cluster", tag = "cluster",
    responses((status = 200, body = ClusterView)))]
pub async fn show(
    Extract(master): Extract<Arc<Master>>,
    headers: HeaderMap,
) -> Result<Json<ClusterView>, ApiError> {
    let state = read(&master).await?;
    let (mut total, mut used) = (ResourceRequest::default(), ResourceRequest::default());
    let mut agents = BTreeMap::new();
    for agent in state.agents.values() {
        *agents
            .entry(agent.standing().as_str().to_owned())
            .or_default() += 1;
        if agent.status == AgentStatus::Active {
            total.include(&agent.info.resources);
            used.include(&agent.used);
        }
    }
    let mut frameworks = BTreeMap::new();
    let mut waiting = 0;
    for framework in state.frameworks.values() {
        *frameworks
            .entry(framework.phase.as_str().to_owned())
            .or_default() += 1;
        waiting += framework.waiting();
    }
    let (leader, term) = match *master.leadership.borrow() {
        Leadership::Leader { term } => (Some(master.node), term),
        Leadership::Follower { leader } => (leader, state.term),
    };
    Ok(Json(ClusterView {
        cluster: state.cluster,
        node: asked(&headers).unwrap_or(master.node),
        leader,
        leader_url: leader.and_then(|leader| Some(state.master(leader)?.url.clone())),
        masters: state.staying_masters().count() as u64,
        term,
        index: state.index,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        total,
        used,
        offered: master.offers.with(|allocator| allocator.offered_total()),
        agents,
        frameworks,
        tasks: state.counts.clone(),
        ended: state.ended_counts.clone(),
        waiting,
        warnings: master
            .warnings
            .iter()
            .cloned()
            .chain(master.silence.text())
            .collect(),
    }))
}

/// The master that passed the request on to this one.
fn asked(headers: &HeaderMap) -> Option<NodeId> {
    headers.get(FORWARDED_BY)?.to_str().ok()?.parse().ok()
}
