//! `/v1/tasks/{id}/files/{path}`: what is in a task's sandbox, straight from its agent.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State as Extract;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use futures::stream;
use serde::Deserialize;
use tepui_types::TaskId;
use tepui_types::api::file::FileList;
use tepui_types::api::problem::Problem;
use tepui_types::wire::stream::{FileForm, FileRequest, StreamRequest};

use crate::Master;
use crate::http::error::ApiError;
use crate::http::request::{ApiPath, ApiQuery, read};
use crate::http::tasks::find_task;

/// As what.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileQuery {
    #[serde(default)]
    form: Form,
    #[serde(default)]
    offset: u64,
    #[serde(default)]
    limit: Option<u64>,
}

/// As what something is sent.
#[derive(Debug, Clone, Copy, Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// A folder's entries.
    #[default]
    List,
    /// A file's bytes.
    Bytes,
    /// A file, or a folder with all that is in it.
    Tar,
}

/// The task's sandbox itself.
#[utoipa::path(get, path = "/v1/tasks/{id}/files", tag = "tasks",
    params(
        ("id" = TaskId, Path),
        ("form" = Option<Form>, Query, description = "`list` (the default) or `tar`"),
    ),
    responses(
        (status = 200, description = "A folder's entries, or an archive", body = FileList),
        (status = 404, body = Problem),
        (status = 503, description = "The task's agent is not connected", body = Problem),
    ))]
pub async fn root(
    Extract(master): Extract<Arc<Master>>,
    ApiPath(id): ApiPath<TaskId>,
    ApiQuery(query): ApiQuery<FileQuery>,
) -> Result<Response, ApiError> {
    send(&master, id, String::new(), query).await
}

/// Something in a task's sandbox.
#[utoipa::path(get, path = "/v1/tasks/{id}/files/{path}", tag = "tasks",
    params(
        ("id" = TaskId, Path),
        ("path" = String, Path, description = "Below the sandbox"),
        ("form" = Option<Form>, Query, description = "`list` (the default) of a folder, `bytes` of a file, `tar` of either"),
        ("offset" = Option<u64>, Query, description = "Bytes of a file to skip"),
        ("limit" = Option<u64>, Query, description = "Bytes of a file at most"),
    ),
    responses(
        (status = 200, description = "A folder's entries, a file's bytes, or an archive", body = FileList),
        (status = 404, body = Problem),
        (status = 422, description = "It is not inside, or not of that form", body = Problem),
        (status = 503, description = "The task's agent is not connected", body = Problem),
    ))]
pub async fn below(
    Extract(master): Extract<Arc<Master>>,
    ApiPath((id, path)): ApiPath<(TaskId, String)>,
    ApiQuery(query): ApiQuery<FileQuery>,
) -> Result<Response, ApiError> {
    send(&master, id, path, query).await
}

async fn send(
    master: &Arc<Master>,
    id: TaskId,
    path: String,
    query: FileQuery,
) -> Result<Response, ApiError> {
    let task = find_task(master, &*read(master).await?, &id)?;
    let (form, content_type) = match query.form {
        Form::List => (FileForm::List, "application/json"),
        Form::Tar => (FileForm::Tar, "application/x-tar"),
        Form::Bytes => {
            let bytes = FileForm::Bytes {
                offset: query.offset,
                limit: query.limit,
            };
            (bytes, "application/octet-stream")
        }
    };
    let request = StreamRequest::Files(FileRequest {
        task: id,
        path,
        form,
    });
    let bytes = master.sessions.open_stream(task.agent, request).await?;
    // Of an empty file nothing comes at all.
    let mut bytes = bytes.fuse();
    // What cannot be had is said before anything is sent.
    let first = match bytes.next().await {
        Some(first) => Some(Ok(first?)),
        None => None,
    };
    let headers = [
        (header::CONTENT_TYPE, content_type),
        // A file of a task is not a page of ours.
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, "sandbox"),
    ];
    let body = Body::from_stream(stream::iter(first).chain(bytes));
    Ok((headers, body).into_response())
}
