//! `/v1/agents/{id}/reserve`, volumes, and `/v1/operations`: what operators make of resources.

use std::sync::Arc;

use axum::Json;
use axum::extract::State as Extract;
use axum::response::Response;
use serde::Deserialize;
use tepui_cluster::state::agents::Agent;
use tepui_cluster::state::conversions::ConversionRecord;
use tepui_cluster::{Accepted, Command, State};
use tepui_types::api::agent::AgentView;
use tepui_types::api::list::Page;
use tepui_types::api::problem::Problem;
use tepui_types::api::reservation::{OperationView, ResizeRequest, VolumeView};
use tepui_types::resources::{Conversion, Pool};
use tepui_types::wish::{ReserveRequest, UnreserveRequest, VolumeRequest};
use tepui_types::{AgentId, OperationId, Principal, Wish};

use crate::Master;
use crate::http::agents;
use crate::http::error::ApiError;
use crate::http::page::{self, Paging};
use crate::http::request::{ApiJson, ApiPath, ApiQuery, Caller, read};

/// Which of an agent's, and which page.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    agent: Option<AgentId>,
    limit: Option<usize>,
    page: Option<String>,
}

/// Sets resources of an agent aside for a role; those that a role above has, with `from`.
#[utoipa::path(post, path = "/v1/agents/{id}/reserve", tag = "reservations",
    params(("id" = AgentId, Path)),
    request_body = ReserveRequest,
    responses(
        (status = 200, body = AgentView),
        (status = 404, body = Problem),
        (status = 409, description = "It is not free, or a limit is in its way", body = Problem),
        (status = 422, body = Problem),
    ))]
pub async fn reserve(
    Extract(master): Extract<Arc<Master>>,
    caller: Caller,
    ApiPath(agent): ApiPath<AgentId>,
    ApiJson(request): ApiJson<ReserveRequest>,
) -> Result<Response, ApiError> {
    operate(&master, caller, agent, Wish::Reserve(request)).await
}

/// Takes a role's reservation on an agent back.
#[utoipa::path(post, path = "/v1/agents/{id}/unreserve", tag = "reservations",
    params(("id" = AgentId, Path)),
    request_body = UnreserveRequest,
    responses(
        (status = 200, body = AgentView),
        (status = 404, body = Problem),
        (status = 409, description = "It is in use, or there is none", body = Problem),
        (status = 422, body = Problem),
    ))]
pub async fn unreserve(
    Extract(master): Extract<Arc<Master>>,
    caller: Caller,
    ApiPath(agent): ApiPath<AgentId>,
    ApiJson(request): ApiJson<UnreserveRequest>,
) -> Result<Response, ApiError> {
    operate(&master, caller, agent, Wish::Unreserve(request)).await
}

/// Makes a persistent volume of disk that is reserved for a role.
#[utoipa::path(post, path = "/v1/agents/{id}/volumes", tag = "reservations",
    params(("id" = AgentId, Path)),
    request_body = VolumeRequest,
    responses(
        (status = 200, body = AgentView),
        (status = 404, body = Problem),
        (status = 409, description = "No disk is free for it, or its name is taken", body = Problem),
        (status = 422, body = Problem),
    ))]
pub async fn create(
    Extract(master): Extract<Arc<Master>>,
    caller: Caller,
    ApiPath(agent): ApiPath<AgentId>,
    ApiJson(request): ApiJson<VolumeRequest>,
) -> Result<Response, ApiError> {
    operate(&master, caller, agent, Wish::Create(request)).await
}

/// Ends a volume and all that is stored in it; its disk stays reserved.
#[utoipa::path(delete, path = "/v1/agents/{id}/volumes/{volume}", tag = "reservations",
    params(("id" = AgentId, Path), ("volume" = String, Path)),
    responses(
        (status = 200, body = AgentView),
        (status = 404, body = Problem),
        (status = 409, description = "A task uses it, or there is none", body = Problem),
    ))]
pub async fn destroy(
    Extract(master): Extract<Arc<Master>>,
    caller: Caller,
    ApiPath((agent, volume)): ApiPath<(AgentId, String)>,
) -> Result<Response, ApiError> {
    let wish = Wish::Exactly(Conversion::Destroy { volume });
    operate(&master, caller, agent, wish).await
}

/// Gives a volume more of the disk that is reserved as its own is.
#[utoipa::path(post, path = "/v1/agents/{id}/volumes/{volume}/grow", tag = "reservations",
    params(("id" = AgentId, Path), ("volume" = String, Path)),
    request_body = ResizeRequest,
    responses(
        (status = 200, body = AgentView),
        (status = 404, body = Problem),
        (status = 409, description = "A task uses it, or no more is free", body = Problem),
    ))]
pub async fn grow(
    Extract(master): Extract<Arc<Master>>,
    caller: Caller,
    ApiPath((agent, volume)): ApiPath<(AgentId, String)>,
    ApiJson(ResizeRequest { by_bytes: by }): ApiJson<ResizeRequest>,
) -> Result<Response, ApiError> {
    let wish = Wish::Exactly(Conversion::Grow { volume, by });
    operate(&master, caller, agent, wish).await
}

/// Takes some of a volume's disk back; it stays reserved.
#[utoipa::path(post, path = "/v1/agents/{id}/volumes/{volume}/shrink", tag = "reservations",
    params(("id" = AgentId, Path), ("volume" = String, Path)),
    request_body = ResizeRequest,
    responses(
        (status = 200, body = AgentView),
        (status = 404, body = Problem),
        (status = 409, description = "A task uses it, or it has no more", body = Problem),
    ))]
pub async fn shrink(
    Extract(master): Extract<Arc<Master>>,
    caller: Caller,
    ApiPath((agent, volume)): ApiPath<(AgentId, String)>,
    ApiJson(ResizeRequest { by_bytes: by }): ApiJson<ResizeRequest>,
) -> Result<Response, ApiError> {
    let wish = Wish::Exactly(Conversion::Shrink { volume, by });
    operate(&master, caller, agent, wish).await
}

async fn operate(
    master: &Master,
    caller: Caller,
    agent: AgentId,
    wish: Wish,
) -> Result<Response, ApiError> {
    let command = Command::Operate { agent, wish };
    match caller.submit(master, command).await?.outcome? {
        Accepted::Converted { .. } => agents::shown(master, &master.view.load(), agent),
        other => Err(ApiError::Internal(format!("unexpected outcome {other:?}"))),
    }
}

/// Lists persistent volumes by agent and name.
#[utoipa::path(get, path = "/v1/volumes", tag = "reservations",
    params(
        ("agent" = Option<AgentId>, Query, description = "Only of this agent"),
        ("limit" = Option<usize>, Query, description = "1 to 1000; 100 if absent"),
        ("page" = Option<String>, Query, description = "`next` of the page before"),
    ),
    responses((status = 200, body = Page<VolumeView>), (status = 400, body = Problem)))]
pub async fn volumes(
    Extract(master): Extract<Arc<Master>>,
    ApiQuery(filter): ApiQuery<Filter>,
) -> Result<Json<Page<VolumeView>>, ApiError> {
    let paging = Paging::new(filter.limit, filter.page);
    let limit = paging.limit()?;
    let after: Option<(AgentId, String)> = paging.after()?;
    let state = read(&master).await?;
    let first = after.as_ref().map_or(AgentId(0), |(agent, _)| *agent);
    let is_wanted = |agent: AgentId| filter.agent.is_none_or(|wanted| wanted == agent);
    let agents = state.agents.range(first..).map(|(_, agent)| agent);
    let mut views = Vec::new();
    for agent in agents.filter(|agent| is_wanted(agent.id)) {
        let mut of_agent: Vec<_> = agent
            .total()
            .pools
            .iter()
            .filter_map(|pool| volume_view(&state, agent, pool))
            .filter(|view| {
                after
                    .as_ref()
                    .is_none_or(|after| (view.agent, &view.id) > (after.0, &after.1))
            })
            .collect();
        of_agent.sort_by(|one, two| one.id.cmp(&two.id));
        views.extend(of_agent);
        if views.len() > limit {
            break;
        }
    }
    let (items, next) = page::cut(views, limit, |view: &VolumeView| {
        (view.agent, view.id.clone())
    });
    Ok(Json(Page {
        items,
        next,
        index: state.index,
        total: None,
    }))
}

fn volume_view(state: &State, agent: &Agent, pool: &Pool) -> Option<VolumeView> {
    let volume = pool.kind.volume.as_ref()?;
    let tasks = agent.tasks.iter();
    let mut tasks = tasks.filter_map(|operation| state.tasks.get(operation));
    let user = tasks.find(|task| task.resources.pools.volume(&volume.id).is_some());
    Some(VolumeView {
        agent: agent.id,
        hostname: agent.info.hostname.clone(),
        id: volume.id.clone(),
        role: pool.kind.owner().cloned().unwrap_or_default(),
        path: volume.path.clone(),
        shared: volume.shared,
        size_bytes: pool.amounts.disk,
        disk: pool.kind.disk.clone(),
        used_by: user.map(|task| task.id.clone()),
    })
}

/// Lists operations on resources that are remembered, oldest first.
#[utoipa::path(get, path = "/v1/operations", tag = "reservations",
    params(
        ("agent" = Option<AgentId>, Query, description = "Only on this agent"),
        ("limit" = Option<usize>, Query, description = "1 to 1000; 100 if absent"),
        ("page" = Option<String>, Query, description = "`next` of the page before"),
    ),
    responses((status = 200, body = Page<OperationView>), (status = 400, body = Problem)))]
pub async fn operations(
    Extract(master): Extract<Arc<Master>>,
    ApiQuery(filter): ApiQuery<Filter>,
) -> Result<Json<Page<OperationView>>, ApiError> {
    let paging = Paging::new(filter.limit, filter.page);
    let limit = paging.limit()?;
    let after: Option<OperationId> = paging.after()?;
    let state = read(&master).await?;
    let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
    let records = state.conversions.range((from, std::ops::Bound::Unbounded));
    let records = records.map(|(_, record)| record);
    let is_wanted = |agent: AgentId| filter.agent.is_none_or(|wanted| wanted == agent);
    let records = records.filter(|record| is_wanted(record.agent));
    let records: Vec<_> = records.take(limit + 1).cloned().collect();
    let (items, next) = page::cut(records, limit, |record: &Arc<ConversionRecord>| record.id);
    Ok(Json(Page {
        items: items.iter().map(|record| operation_view(record)).collect(),
        next,
        index: state.index,
        total: filter
            .agent
            .is_none()
            .then_some(state.conversions.len() as u64),
    }))
}

fn operation_view(record: &ConversionRecord) -> OperationView {
    OperationView {
        id: record.id.to_string(),
        name: record.name.clone(),
        agent: record.agent,
        framework: match record.by {
            Principal::Framework(framework) => Some(framework),
            _ => None,
        },
        by: record.by.to_string(),
        kind: record.conversion.name().into(),
        operation: record.conversion.clone(),
        state: record.state,
        reason: record.reason.clone(),
        time: record.time,
    }
}
