//! `/v1/roles`: weights, quotas, and what each role has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::Json;
use axum::extract::State as Extract;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tepui_cluster::allocator::dominant_share;
use tepui_cluster::{Accepted, Command, State};
use tepui_types::api::list::Page;
use tepui_types::api::problem::Problem;
use tepui_types::api::role::{RoleRequest, RoleView};
use tepui_types::resources::ResourceRequest;
use tepui_types::{AgentStatus, Role};

use crate::Master;
use crate::http::error::ApiError;
use crate::http::page::{self, Paging};
use crate::http::request::{ApiJson, ApiPath, ApiQuery, Caller, read};

/// Which page of the list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    limit: Option<usize>,
    page: Option<String>,
}

/// Lists roles that are set or used, and those above them, by path.
#[utoipa::path(get, path = "/v1/roles", tag = "roles",
    params(("limit" = Option<usize>, Query), ("page" = Option<String>, Query)),
    responses((status = 200, body = Page<RoleView>), (status = 400, body = Problem)))]
pub async fn list(
    Extract(master): Extract<Arc<Master>>,
    ApiQuery(query): ApiQuery<Query>,
) -> Result<Json<Page<RoleView>>, ApiError> {
    let paging = Paging::new(query.limit, query.page);
    let limit = paging.limit()?;
    let after: Option<Role> = paging.after()?;
    let state = read(&master).await?;
    let known = state.known_roles();
    let total = Some(known.len() as u64);
    let wanted = known
        .into_iter()
        .filter(|role| after.as_ref().is_none_or(|after| role > after))
        .take(limit + 1)
        .collect();
    let views = views(&master, &state, wanted);
    let (items, next) = page::cut(views, limit, |view: &RoleView| view.role.clone());
    Ok(Json(Page {
        items,
        next,
        index: state.index,
        total,
    }))
}

/// Shows a role; one that nobody has set or uses counts 1 and has nothing.
#[utoipa::path(get, path = "/v1/roles/{role}", tag = "roles",
    params(("role" = String, Path, description = "Its path, such as `eng/web`")),
    responses((status = 200, body = RoleView), (status = 400, body = Problem)))]
pub async fn show(
    Extract(master): Extract<Arc<Master>>,
    ApiPath(role): ApiPath<Role>,
) -> Result<Response, ApiError> {
    let state = read(&master).await?;
    shown(&master, &state, role)
}

/// Sets a role's weight, guarantee and limit, whole.
#[utoipa::path(put, path = "/v1/roles/{role}", tag = "roles",
    params(("role" = String, Path, description = "Its path, such as `eng/web`")),
    request_body = RoleRequest,
    responses(
        (status = 200, body = RoleView),
        (status = 409, description = "It does not fit the roles around it, or the cluster", body = Problem),
        (status = 422, body = Problem),
    ))]
pub async fn set(
    Extract(master): Extract<Arc<Master>>,
    caller: Caller,
    ApiPath(role): ApiPath<Role>,
    ApiJson(request): ApiJson<RoleRequest>,
) -> Result<Response, ApiError> {
    let force = request.force;
    let settings = request.settings();
    settings.validate().map_err(ApiError::Unprocessable)?;
    let command = Command::SetRole {
        role: role.clone(),
        settings,
        force,
    };
    let Accepted::Role { .. } = caller.submit(&master, command).await?.outcome? else {
        return Err(ApiError::Internal("unexpected outcome".into()));
    };
    shown(&master, &master.view.load(), role)
}

/// Forgets what was set of a role: it counts 1, is promised nothing and has no limit.
#[utoipa::path(delete, path = "/v1/roles/{role}", tag = "roles",
    params(("role" = String, Path, description = "Its path, such as `eng/web`")),
    responses(
        (status = 204),
        (status = 404, body = Problem),
        (status = 409, description = "Its children are guaranteed something", body = Problem),
    ))]
pub async fn remove(
    Extract(master): Extract<Arc<Master>>,
    caller: Caller,
    ApiPath(role): ApiPath<Role>,
) -> Result<StatusCode, ApiError> {
    let command = Command::RemoveRole { role };
    caller.submit(&master, command).await?.outcome?;
    Ok(StatusCode::NO_CONTENT)
}

fn shown(master: &Master, state: &State, role: Role) -> Result<Response, ApiError> {
    let Some(view) = views(master, state, vec![role]).pop() else {
        return Err(ApiError::Internal("a role has no view".into()));
    };
    let etag = format!("\"{}\"", view.revision);
    Ok(([(header::ETAG, etag)], Json(view)).into_response())
}

/// Each framework is counted once, for every role of its paths.
fn views(master: &Master, state: &State, roles: Vec<Role>) -> Vec<RoleView> {
    let mut counts: BTreeMap<Role, (u64, u64)> = BTreeMap::new();
    for framework in state.frameworks.values() {
        let mut above = BTreeSet::new();
        for own in framework.info.roles.iter() {
            let waits = framework.waiting_for(own);
            for role in own.upwards() {
                let (frameworks, waiting) = counts.entry(role.clone()).or_default();
                *frameworks += u64::from(above.insert(role));
                *waiting += waits;
            }
        }
    }
    let mut total = ResourceRequest::default();
    let agents = state.agents.values();
    let active = agents.filter(|agent| agent.standing() == AgentStatus::Active);
    active.for_each(|agent| total.include(agent.total()));
    let offered = master.offers.with(|allocator| allocator.offered_to(&roles));
    let views = roles.into_iter().zip(offered);
    views
        .map(|(role, offered)| {
            let (frameworks, waiting) = counts.get(&role).copied().unwrap_or_default();
            let record = state.roles.get(&role);
            let settings = state.role_settings(&role);
            let used = state.role_use(&role);
            RoleView {
                is_set: record.is_some(),
                weight_milli: settings.weight_milli,
                guarantee: settings.guarantee,
                limit: settings.limit,
                preemptible: settings.preemptible,
                claimed: state.claimed_for(&role),
                share_ppm: dominant_share(&used, &total).0,
                used,
                offered,
                frameworks,
                waiting,
                revision: record.map_or(0, |record| record.revision),
                role,
            }
        })
        .collect()
}
