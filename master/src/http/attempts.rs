//! `/v1/tasks/{id}/history`: every attempt of a task's name, the offer that each took, and its
//! moves.
//!
//! What the state has forgotten is read from this master's history.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State as Extract;
use tepui_cluster::State;
use tepui_cluster::state::tasks::Task;
use tepui_types::TaskId;
use tepui_types::api::problem::Problem;
use tepui_types::api::task::{TaskAttempt, TaskHistory};

use crate::Master;
use crate::http::error::ApiError;
use crate::http::request::{ApiPath, read};
use crate::http::tasks::{find_task, hostname};

/// Attempts that are listed, the newest.
const ATTEMPTS: usize = 100;

/// Lists the attempts of a task's name, newest first.
#[utoipa::path(get, path = "/v1/tasks/{id}/history", tag = "tasks",
    params(("id" = TaskId, Path, description = "Any attempt of the name")),
    responses((status = 200, body = TaskHistory), (status = 404, body = Problem)))]
pub async fn list(
    Extract(master): Extract<Arc<Master>>,
    ApiPath(id): ApiPath<TaskId>,
) -> Result<Json<TaskHistory>, ApiError> {
    let state = read(&master).await?;
    // History is read from disk.
    let found = tokio::task::spawn_blocking(move || collect(&master, &state, id));
    let found = found
        .await
        .map_err(|error| ApiError::Internal(error.to_string()))??;
    Ok(Json(found))
}

fn collect(master: &Master, state: &State, id: TaskId) -> Result<TaskHistory, ApiError> {
    find_task(master, state, &id)?;
    let newest = TaskId {
        attempt: u64::MAX,
        ..id.clone()
    };
    let archived = master.history.attempts_before(&newest, ATTEMPTS + 1);
    let archived = archived.map_err(|error| ApiError::Internal(error.to_string()))?;
    let archived = archived.iter().map(|archived| &archived.task);
    let known = state.attempts(id.framework, &id.name).rev();
    // One that is being archived may be in both.
    let found: BTreeMap<u64, &Arc<Task>> = archived
        .chain(known.take(ATTEMPTS + 1))
        .map(|task| (task.id.attempt, task))
        .collect();
    let newest = found.values().rev().take(ATTEMPTS);
    Ok(TaskHistory {
        attempts: newest.map(|task| view(state, task)).collect(),
        more: found.len() > ATTEMPTS,
    })
}

fn view(state: &State, task: &Task) -> TaskAttempt {
    TaskAttempt {
        id: task.id.clone(),
        agent: task.agent,
        hostname: hostname(state, task.agent),
        role: task.role.clone(),
        resources: task.resources.clone(),
        chosen: task.chosen,
        steps: task.steps(),
        forgotten: task.life.forgotten(),
        exit_code: task.status.exit_code,
    }
}
