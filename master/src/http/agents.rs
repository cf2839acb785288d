//! `/v1/agents`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State as Extract;
use serde::Deserialize;
use tepui_cluster::state::agents::Agent;
use tepui_types::api::agent::AgentView;
use tepui_types::api::list::Page;
use tepui_types::api::problem::Problem;
use tepui_types::{AgentId, AgentStatus};

use crate::Master;
use crate::http::error::ApiError;
use crate::http::page::{self, Paging};
use crate::http::request::{ApiPath, ApiQuery, read};

/// Filters of the list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    status: Option<AgentStatus>,
    limit: Option<usize>,
    page: Option<String>,
}

/// Lists agents by id.
#[utoipa::path(get, path = "/v1/agents", tag = "agents",
    params(
        ("status" = Option<AgentStatus>, Query, description = "Only agents of this status"),
        ("limit" = Option<usize>, Query, description = "1 to 1000; 100 if absent"),
        ("page" = Option<String>, Query, description = "`next` of the page before"),
    ),
    responses((status = 200, body = Page<AgentView>), (status = 400, body = Problem)))]
pub async fn list(
    Extract(master): Extract<Arc<Master>>,
    ApiQuery(filter): ApiQuery<Filter>,
) -> Result<Json<Page<AgentView>>, ApiError> {
    let paging = Paging::new(filter.limit, filter.page);
    let limit = paging.limit()?;
    let after: AgentId = paging.after()?.unwrap_or(AgentId(0));
    let state = read(&master).await?;
    let wanted = |agent: &&Arc<Agent>| filter.status.is_none_or(|status| status == agent.status);
    let agents = state
        .agents
        .range(AgentId(after.0.saturating_add(1))..)
        .map(|(_, agent)| agent);
    let views = agents
        .filter(wanted)
        .take(limit + 1)
        .map(|agent| view(&master, agent))
        .collect();
    let (items, next) = page::cut(views, limit, |agent: &AgentView| agent.id);
    let total = filter.status.is_none().then_some(state.agents.len() as u64);
    Ok(Json(Page {
        items,
        next,
        index: state.index,
        total,
    }))
}

/// Shows an agent.
#[utoipa::path(get, path = "/v1/agents/{id}", tag = "agents",
    params(("id" = AgentId, Path)),
    responses((status = 200, body = AgentView), (status = 404, body = Problem)))]
pub async fn show(
    Extract(master): Extract<Arc<Master>>,
    ApiPath(id): ApiPath<AgentId>,
) -> Result<Json<AgentView>, ApiError> {
    let state = read(&master).await?;
    let agent = state.agent(id);
    let agent = agent.ok_or_else(|| ApiError::NotFound(format!("there is no agent {id}")))?;
    Ok(Json(view(&master, agent)))
}

fn view(master: &Master, agent: &Agent) -> AgentView {
    AgentView {
        id: agent.id,
        hostname: agent.info.hostname.clone(),
        status: agent.status,
        connected: master.sessions.connected(agent.id),
        total: agent.info.resources.clone(),
        used: agent.used.clone(),
        offered: master
            .offers
            .with(|allocator| allocator.offered_on(agent.id)),
        attributes: agent.info.attributes.clone(),
        tasks: agent.tasks.len() as u64,
        version: agent.info.version.clone(),
        registered_at: agent.registered_at,
        revision: agent.revision,
    }
}
