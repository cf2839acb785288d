//! `/v1/agents`: the machines, and what operators do with them.

use std::sync::Arc;

use axum::Json;
use axum::extract::State as Extract;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tepui_cluster::state::agents::Agent;
use tepui_cluster::state::drains::{Drain, GoneAgent};
use tepui_cluster::{Accepted, Command, State};
use tepui_types::api::agent::{AgentView, DrainRequest, DrainView};
use tepui_types::api::list::Page;
use tepui_types::api::problem::Problem;
use tepui_types::{AgentId, AgentStatus, TaskSpec};

use crate::Master;
use crate::http::error::ApiError;
use crate::http::page::{self, Paging};
use crate::http::request::{ApiJson, ApiPath, ApiQuery, Caller, read};

/// Filters of the list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    status: Option<AgentStatus>,
    limit: Option<usize>,
    page: Option<String>,
}

/// Held tasks of an agent that are named; the rest are counted.
const HELD_SHOWN: usize = 100;
/// The longest time that a drain may be given, in milliseconds: 30 days.
const MAX_DEADLINE_MS: u64 = 30 * 24 * 60 * 60 * 1000;

/// Lists agents by id; those that are gone as long as they are remembered.
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
    let wanted = |status| filter.status.is_none_or(|wanted| wanted == status);
    let first = AgentId(after.0.saturating_add(1));
    let agents = state.agents.range(first..).map(|(_, agent)| agent);
    let agents = agents.filter(|agent| wanted(agent.standing()));
    let mut views: Vec<_> = agents
        .take(limit + 1)
        .map(|agent| view(&master, agent))
        .collect();
    if wanted(AgentStatus::Gone) {
        let gone = state.gone.range(first..).take(limit + 1);
        views.extend(gone.map(|(_, gone)| gone_view(&master, gone)));
        views.sort_by_key(|view| view.id);
    }
    let (items, next) = page::cut(views, limit, |agent: &AgentView| agent.id);
    let all = state.agents.len() + state.gone.len();
    Ok(Json(Page {
        items,
        next,
        index: state.index,
        total: filter.status.is_none().then_some(all as u64),
    }))
}

/// Shows an agent.
#[utoipa::path(get, path = "/v1/agents/{id}", tag = "agents",
    params(("id" = AgentId, Path)),
    responses((status = 200, body = AgentView), (status = 404, body = Problem)))]
pub async fn show(
    Extract(master): Extract<Arc<Master>>,
    ApiPath(id): ApiPath<AgentId>,
) -> Result<Response, ApiError> {
    let state = read(&master).await?;
    shown(&master, &state, id)
}

/// Offers nothing of an agent; its tasks go on.
#[utoipa::path(post, path = "/v1/agents/{id}/deactivate", tag = "agents",
    params(("id" = AgentId, Path)),
    responses(
        (status = 200, body = AgentView),
        (status = 404, body = Problem),
        (status = 409, description = "It is gone for good", body = Problem),
    ))]
pub async fn deactivate(
    Extract(master): Extract<Arc<Master>>,
    caller: Caller,
    ApiPath(agent): ApiPath<AgentId>,
) -> Result<Response, ApiError> {
    change(&master, caller, agent, Command::DeactivateAgent { agent }).await
}

/// Offers an agent again; takes back a deactivation or a drain.
#[utoipa::path(post, path = "/v1/agents/{id}/reactivate", tag = "agents",
    params(("id" = AgentId, Path)),
    responses(
        (status = 200, body = AgentView),
        (status = 404, body = Problem),
        (status = 409, description = "It is gone for good", body = Problem),
    ))]
pub async fn reactivate(
    Extract(master): Extract<Arc<Master>>,
    caller: Caller,
    ApiPath(agent): ApiPath<AgentId>,
) -> Result<Response, ApiError> {
    change(&master, caller, agent, Command::ReactivateAgent { agent }).await
}

/// Offers nothing of an agent and ends its tasks, each with its grace; `tasks` says how many are
/// left.
#[utoipa::path(post, path = "/v1/agents/{id}/drain", tag = "agents",
    params(("id" = AgentId, Path)),
    request_body = Option<DrainRequest>,
    responses(
        (status = 200, body = AgentView),
        (status = 404, body = Problem),
        (status = 409, description = "It is gone for good", body = Problem),
    ))]
pub async fn drain(
    Extract(master): Extract<Arc<Master>>,
    ApiPath(agent): ApiPath<AgentId>,
    caller: Caller,
    request: Option<ApiJson<DrainRequest>>,
) -> Result<Response, ApiError> {
    let DrainRequest {
        deadline_ms,
        grace_ms,
        mark_gone,
    } = request.map(|ApiJson(request)| request).unwrap_or_default();
    let bounds = [
        ("deadline_ms", deadline_ms, MAX_DEADLINE_MS),
        ("grace_ms", grace_ms, TaskSpec::MAX_KILL_GRACE_MS),
    ];
    for (name, value, most) in bounds {
        if value.is_some_and(|value| value > most) {
            return Err(ApiError::Unprocessable(format!("{name} is above {most}")));
        }
    }
    let command = Command::DrainAgent {
        agent,
        deadline_ms,
        grace_ms,
        mark_gone,
    };
    change(&master, caller, agent, command).await
}

/// Ends the tasks that an agent runs of a time that a restored backup does not know.
#[utoipa::path(post, path = "/v1/agents/{id}/end-held", tag = "agents",
    params(("id" = AgentId, Path)),
    responses(
        (status = 200, body = AgentView),
        (status = 404, body = Problem),
        (status = 409, description = "It holds none", body = Problem),
    ))]
pub async fn end_held(
    Extract(master): Extract<Arc<Master>>,
    caller: Caller,
    ApiPath(agent): ApiPath<AgentId>,
) -> Result<Response, ApiError> {
    change(&master, caller, agent, Command::EndHeld { agent }).await
}

/// Gives up an agent for good: its tasks end as `gone`, and it is refused if it comes back.
#[utoipa::path(post, path = "/v1/agents/{id}/gone", tag = "agents",
    params(("id" = AgentId, Path)),
    responses((status = 200, body = AgentView), (status = 404, body = Problem)))]
pub async fn gone(
    Extract(master): Extract<Arc<Master>>,
    caller: Caller,
    ApiPath(agent): ApiPath<AgentId>,
) -> Result<Response, ApiError> {
    change(&master, caller, agent, Command::MarkAgentGone { agent }).await
}

async fn change(
    master: &Master,
    caller: Caller,
    agent: AgentId,
    command: Command,
) -> Result<Response, ApiError> {
    match caller.submit(master, command).await?.outcome? {
        Accepted::AgentChanged { .. } => shown(master, &master.view.load(), agent),
        other => Err(ApiError::Internal(format!("unexpected outcome {other:?}"))),
    }
}

/// An agent with its revision.
pub fn shown(master: &Master, state: &State, id: AgentId) -> Result<Response, ApiError> {
    let agent = state.agent(id).map(|agent| view(master, agent));
    let gone = || state.gone_agent(id).map(|gone| gone_view(master, gone));
    let view = agent.or_else(gone);
    let view = view.ok_or_else(|| ApiError::NotFound(format!("there is no agent {id}")))?;
    let etag = format!("\"{}\"", view.revision);
    Ok(([(header::ETAG, etag)], Json(view)).into_response())
}

fn gone_view(master: &Master, gone: &GoneAgent) -> AgentView {
    AgentView {
        status: AgentStatus::Gone,
        gone_since: Some(gone.since),
        ..view(master, &gone.agent)
    }
}

fn view(master: &Master, agent: &Agent) -> AgentView {
    AgentView {
        id: agent.id,
        hostname: agent.info.hostname.clone(),
        status: agent.standing(),
        drain: agent.mode.drain().map(drain_view),
        unreachable_since: agent.unreachable_since,
        gone_since: None,
        connected: master.sessions.connected(agent.id),
        total: agent.total().clone(),
        short: agent.short().map(str::to_owned),
        full: agent.info.full.clone(),
        used: agent.used.clone(),
        offered: master
            .offers
            .with(|allocator| allocator.offered_on(agent.id)),
        attributes: (*agent.info.attributes).clone(),
        tasks: agent.tasks.len() as u64,
        held: agent.held.tasks.len() as u64,
        held_tasks: agent.held.tasks.keys().take(HELD_SHOWN).cloned().collect(),
        version: agent.info.version.clone(),
        registered_at: agent.registered_at,
        revision: agent.revision,
    }
}

fn drain_view(drain: &Drain) -> DrainView {
    DrainView {
        since: drain.since,
        deadline: drain.deadline,
        grace_ms: drain.grace_ms,
        mark_gone: drain.mark_gone,
        window: drain.window,
    }
}
