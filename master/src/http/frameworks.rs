//! `/v1/frameworks`.

use std::str::FromStr;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State as Extract;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use serde::Deserialize;
use tepui_cluster::state::frameworks::Framework;
use tepui_cluster::{Accepted, Command, State};
use tepui_types::api::framework::{DeployRequest, FrameworkView, LogLine};
use tepui_types::api::list::Page;
use tepui_types::api::problem::Problem;
use tepui_types::{FrameworkId, FrameworkInfo};

use crate::Master;
use crate::http::error::ApiError;
use crate::http::page::{self, Paging};
use crate::http::request::{ApiJson, ApiPath, ApiQuery, Caller, read};

/// Parameters of the list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    limit: Option<usize>,
    page: Option<String>,
}

/// Parameters of the log.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogQuery {
    #[serde(default)]
    follow: bool,
}

/// Lists frameworks by id.
#[utoipa::path(get, path = "/v1/frameworks", tag = "frameworks",
    params(("limit" = Option<usize>, Query), ("page" = Option<String>, Query)),
    responses((status = 200, body = Page<FrameworkView>), (status = 400, body = Problem)))]
pub async fn list(
    Extract(master): Extract<Arc<Master>>,
    ApiQuery(query): ApiQuery<ListQuery>,
) -> Result<Json<Page<FrameworkView>>, ApiError> {
    let paging = Paging::new(query.limit, query.page);
    let limit = paging.limit()?;
    let after: FrameworkId = paging.after()?.unwrap_or(FrameworkId(0));
    let state = read(&master).await?;
    let frameworks = state
        .frameworks
        .range(FrameworkId(after.0.saturating_add(1))..);
    let views = frameworks
        .take(limit + 1)
        .map(|(_, framework)| view(&master, framework))
        .collect();
    let (items, next) = page::cut(views, limit, |framework: &FrameworkView| framework.id);
    let total = Some(state.frameworks.len() as u64);
    Ok(Json(Page {
        items,
        next,
        index: state.index,
        total,
    }))
}

/// Deploys an uploaded component as a framework.
#[utoipa::path(post, path = "/v1/frameworks", tag = "frameworks",
    request_body = DeployRequest,
    responses(
        (status = 201, body = FrameworkView),
        (status = 404, description = "The artifact is not known", body = Problem),
        (status = 409, description = "The name is taken", body = Problem),
        (status = 422, description = "The artifact is not a framework", body = Problem),
    ))]
pub async fn deploy(
    Extract(master): Extract<Arc<Master>>,
    caller: Caller,
    ApiJson(request): ApiJson<DeployRequest>,
) -> Result<Response, ApiError> {
    let roles = request.roles().map_err(ApiError::Unprocessable)?;
    let info = FrameworkInfo {
        name: request.name,
        roles,
        artifact: request.artifact,
        config: request.config,
    };
    info.validate().map_err(ApiError::Unprocessable)?;
    if !read(&master).await?.artifacts.contains_key(&info.artifact) {
        let digest = info.artifact;
        return Err(ApiError::NotFound(format!(
            "artifact {digest} is not known: upload it first"
        )));
    }
    master.frameworks.validate(info.artifact).await?;
    let id = submit(&master, caller, Command::DeployFramework(info)).await?;
    Ok((StatusCode::CREATED, shown(&master, id)?).into_response())
}

/// Shows a framework, by id or name.
#[utoipa::path(get, path = "/v1/frameworks/{id}", tag = "frameworks",
    params(("id" = String, Path, description = "Id or name")),
    responses((status = 200, body = FrameworkView), (status = 404, body = Problem)))]
pub async fn show(
    Extract(master): Extract<Arc<Master>>,
    ApiPath(id): ApiPath<String>,
) -> Result<Response, ApiError> {
    let id = find(&*read(&master).await?, &id)?.id;
    shown(&master, id)
}

/// Ends a framework's tasks, then forgets it.
#[utoipa::path(delete, path = "/v1/frameworks/{id}", tag = "frameworks",
    params(("id" = String, Path, description = "Id or name")),
    responses((status = 202, body = FrameworkView), (status = 404, body = Problem)))]
pub async fn remove(
    Extract(master): Extract<Arc<Master>>,
    caller: Caller,
    ApiPath(id): ApiPath<String>,
) -> Result<Response, ApiError> {
    let framework = find(&*read(&master).await?, &id)?.clone();
    submit(
        &master,
        caller,
        Command::RemoveFramework {
            framework: framework.id,
        },
    )
    .await?;
    // Without tasks it is gone already; what it was is shown all the same.
    let now = master
        .view
        .load()
        .framework(framework.id)
        .cloned()
        .unwrap_or(framework);
    Ok((StatusCode::ACCEPTED, Json(view(&master, &now))).into_response())
}

/// Starts a framework anew, also one that has failed.
#[utoipa::path(post, path = "/v1/frameworks/{id}/restart", tag = "frameworks",
    params(("id" = String, Path, description = "Id or name")),
    responses((status = 200, body = FrameworkView), (status = 404, body = Problem)))]
pub async fn restart(
    Extract(master): Extract<Arc<Master>>,
    caller: Caller,
    ApiPath(id): ApiPath<String>,
) -> Result<Response, ApiError> {
    let framework = find(&*read(&master).await?, &id)?.id;
    submit(&master, caller, Command::RestartFramework { framework }).await?;
    shown(&master, framework)
}

/// The last lines that a framework logged, as NDJSON.
#[utoipa::path(get, path = "/v1/frameworks/{id}/logs", tag = "frameworks",
    params(
        ("id" = String, Path, description = "Id or name"),
        ("follow" = Option<bool>, Query, description = "Whether to go on with new lines"),
    ),
    responses(
        (status = 200, body = LogLine, content_type = "application/x-ndjson"),
        (status = 404, body = Problem),
    ))]
pub async fn logs(
    Extract(master): Extract<Arc<Master>>,
    ApiPath(id): ApiPath<String>,
    ApiQuery(query): ApiQuery<LogQuery>,
) -> Result<Response, ApiError> {
    let framework = find(&*read(&master).await?, &id)?.id;
    let lines = master.frameworks.logs(framework).lines(query.follow);
    let body = lines.map(|line| {
        let mut bytes = serde_json::to_vec(&line)?;
        bytes.push(b'\n');
        Ok::<_, serde_json::Error>(bytes)
    });
    Ok((
        [(header::CONTENT_TYPE, "application/x-ndjson")],
        Body::from_stream(body),
    )
        .into_response())
}

async fn submit(
    master: &Master,
    caller: Caller,
    command: Command,
) -> Result<FrameworkId, ApiError> {
    match caller.submit(master, command).await?.outcome? {
        Accepted::Framework { framework, .. } => Ok(framework),
        other => Err(ApiError::Internal(format!("unexpected outcome {other:?}"))),
    }
}

fn shown(master: &Master, id: FrameworkId) -> Result<Response, ApiError> {
    let state = master.view.load();
    let framework = state.framework(id);
    let framework =
        framework.ok_or_else(|| ApiError::NotFound(format!("framework {id} is gone")))?;
    let etag = format!("\"{}\"", framework.revision);
    Ok(([(header::ETAG, etag)], Json(view(master, framework))).into_response())
}

/// The framework of this id or name.
pub fn find<'a>(state: &'a State, id: &str) -> Result<&'a Arc<Framework>, ApiError> {
    // Names win: a framework may be called `f1`.
    let named = state.framework_named(id);
    let found = named.or_else(|| {
        FrameworkId::from_str(id)
            .ok()
            .and_then(|id| state.framework(id))
    });
    found.ok_or_else(|| {
        ApiError::NotFound(format!(
            "there is no framework `{id}`: `tepui framework list` names those that there are, and \
             `tepui framework deploy NAME FILE` brings one in (`batch` is `frameworks/batch.wasm` of the \
             release)"
        ))
    })
}

fn view(master: &Master, framework: &Framework) -> FrameworkView {
    let holding = master
        .offers
        .with(|allocator| allocator.holding(framework.id));
    FrameworkView {
        id: framework.id,
        name: framework.info.name.clone(),
        role: framework.info.roles.first().clone(),
        roles: framework.info.roles.iter().cloned().collect(),
        phase: framework.phase,
        reason: framework.reason.clone(),
        artifact: framework.info.artifact,
        incarnation: framework.incarnation,
        turns: framework.turns,
        used: framework.used_in_all(),
        tasks: framework.tasks.len() as u64,
        waiting: framework.waiting(),
        offers: holding.offers,
        offered: holding.resources,
        offered_since: holding.since,
        offers_expired: holding.expired,
        store_keys: framework.store.len() as u64,
        store_bytes: framework.store_bytes,
        deployed_at: framework.deployed_at,
        revision: framework.revision,
    }
}
