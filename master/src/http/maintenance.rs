//! `/v1/maintenance`: windows in which machines are empty.

use std::sync::Arc;

use axum::Json;
use axum::extract::State as Extract;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use tepui_cluster::state::limits;
use tepui_cluster::state::maintenance::{Window, WindowPlan};
use tepui_cluster::{Accepted, Command};
use tepui_types::WindowId;
use tepui_types::api::list::Page;
use tepui_types::api::maintenance::{WindowRequest, WindowView};
use tepui_types::api::problem::Problem;

use crate::Master;
use crate::http::error::ApiError;
use crate::http::request::{ApiJson, ApiPath, Caller, read};

/// The longest window, and the longest time before one, in milliseconds: a year.
const MAX_MS: u64 = 365 * 24 * 60 * 60 * 1000;

/// Lists the windows that are planned or have begun, by id.
#[utoipa::path(get, path = "/v1/maintenance", tag = "maintenance",
    responses((status = 200, body = Page<WindowView>)))]
pub async fn list(
    Extract(master): Extract<Arc<Master>>,
) -> Result<Json<Page<WindowView>>, ApiError> {
    let state = read(&master).await?;
    let items: Vec<_> = state.windows.values().map(|window| view(window)).collect();
    Ok(Json(Page {
        total: Some(items.len() as u64),
        items,
        next: None,
        index: state.index,
    }))
}

/// Plans a window: `lead_ms` before its start its agents are drained, at its end they are open
/// again.
#[utoipa::path(post, path = "/v1/maintenance", tag = "maintenance",
    request_body = WindowRequest,
    responses(
        (status = 201, body = WindowView),
        (status = 404, description = "There is no such agent", body = Problem),
        (status = 409, description = "It would be over already", body = Problem),
        (status = 422, body = Problem),
    ))]
pub async fn schedule(
    Extract(master): Extract<Arc<Master>>,
    caller: Caller,
    ApiJson(request): ApiJson<WindowRequest>,
) -> Result<Response, ApiError> {
    let plan = plan(request).map_err(ApiError::Unprocessable)?;
    let command = Command::ScheduleMaintenance(plan);
    let Accepted::Window { window, .. } = caller.submit(&master, command).await?.outcome? else {
        return Err(ApiError::Internal("unexpected outcome".into()));
    };
    let state = master.view.load();
    let Some(window) = state.windows.get(&window) else {
        // It was cancelled in the same moment, or planned long ago under the same key.
        return Err(ApiError::Gone(format!("window {window} is over")));
    };
    let view = view(window);
    let etag = format!("\"{}\"", view.revision);
    Ok((StatusCode::CREATED, [(header::ETAG, etag)], Json(view)).into_response())
}

/// Takes a window back; one that has begun ends now.
#[utoipa::path(delete, path = "/v1/maintenance/{id}", tag = "maintenance",
    params(("id" = WindowId, Path)),
    responses((status = 204), (status = 404, body = Problem)))]
pub async fn cancel(
    Extract(master): Extract<Arc<Master>>,
    caller: Caller,
    ApiPath(window): ApiPath<WindowId>,
) -> Result<StatusCode, ApiError> {
    let command = Command::CancelMaintenance { window };
    caller.submit(&master, command).await?.outcome?;
    Ok(StatusCode::NO_CONTENT)
}

fn plan(request: WindowRequest) -> Result<WindowPlan, String> {
    let mut agents = request.agents;
    agents.sort();
    agents.dedup();
    if agents.is_empty() || agents.len() > limits::WINDOW_AGENTS {
        let most = limits::WINDOW_AGENTS;
        return Err(format!("a window is for 1 to {most} agents"));
    }
    if !(1..=MAX_MS).contains(&request.duration_ms) || request.lead_ms > MAX_MS {
        return Err("a window, and the time before it, has at most a year".into());
    }
    if request.note.len() > limits::WINDOW_NOTE_BYTES {
        let most = limits::WINDOW_NOTE_BYTES;
        return Err(format!("a window's note has at most {most} bytes"));
    }
    Ok(WindowPlan {
        agents,
        start: request.start,
        duration_ms: request.duration_ms,
        lead_ms: request.lead_ms,
        note: request.note,
    })
}

fn view(window: &Window) -> WindowView {
    WindowView {
        id: window.id,
        agents: window.plan.agents.clone(),
        drains_at: window.drains_at(),
        start: window.plan.start,
        end: window.ends_at(),
        has_begun: window.has_begun,
        note: window.plan.note.clone(),
        revision: window.revision,
    }
}
