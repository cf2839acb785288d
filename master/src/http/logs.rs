//! `/v1/tasks/{id}/logs/{output}`: a task's output, straight from its agent.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State as Extract;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tepui_types::TaskId;
use tepui_types::api::problem::Problem;
use tepui_types::wire::stream::{LogRequest, Output, StreamRequest};

use crate::Master;
use crate::http::error::ApiError;
use crate::http::request::{ApiPath, ApiQuery, read};
use crate::http::tasks::find_task;

/// Which part.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogQuery {
    #[serde(default)]
    offset: i64,
    #[serde(default)]
    follow: bool,
    member: Option<String>,
}

/// A task's standard output or error.
#[utoipa::path(get, path = "/v1/tasks/{id}/logs/{output}", tag = "tasks",
    params(
        ("id" = TaskId, Path),
        ("output" = Output, Path),
        ("offset" = Option<i64>, Query, description = "Bytes to skip; from the end when negative"),
        ("follow" = Option<bool>, Query, description = "Whether to go on until the task has ended"),
        ("member" = Option<String>, Query, description = "Of which of its commands; of its own when absent"),
    ),
    responses(
        (status = 200, content_type = "application/octet-stream", body = Vec<u8>),
        (status = 404, body = Problem),
        (status = 503, description = "The task's agent is not connected", body = Problem),
    ))]
pub async fn follow(
    Extract(master): Extract<Arc<Master>>,
    ApiPath((id, output)): ApiPath<(TaskId, Output)>,
    ApiQuery(query): ApiQuery<LogQuery>,
) -> Result<Response, ApiError> {
    let task = find_task(&master, &*read(&master).await?, &id)?;
    let request = LogRequest {
        task: id,
        member: query.member,
        output,
        offset: query.offset,
        follow: query.follow,
    };
    let bytes = master
        .sessions
        .open_stream(task.agent, StreamRequest::Logs(request))
        .await;
    let bytes = bytes?;
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream"),
        // Output of a task is not a page of ours.
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    Ok((headers, Body::from_stream(bytes)).into_response())
}
