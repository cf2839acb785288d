//! `/v1/tasks/{id}/exec`, `…/attach`, `…/forward/{port}`: reaching into a task that runs.
//!
//! The master opens a data connection with the task's agent and joins it with the caller's; what they
//! say to each other it only passes on. What cannot be is an ordinary answer, before any upgrade.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{FromRequest, Request, State as Extract};
use axum::response::Response;
use hyper::upgrade::OnUpgrade;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tepui_types::api::problem::Problem;
use tepui_types::api::reach::{AttachBody, ExecBody};
use tepui_types::wire::stream::{
    AttachRequest, ExecRequest, ForwardRequest, StreamRequest, UPGRADE,
};
use tepui_types::{Principal, TaskId};

use crate::Master;
use crate::agents::{check_upgrade, switching};
use crate::http::caller;
use crate::http::error::ApiError;
use crate::http::request::{ApiJson, ApiPath, ApiQuery, read};
use crate::http::tasks::find_task;

/// Runs a command beside a task, with pipes or a terminal.
#[utoipa::path(post, path = "/v1/tasks/{id}/exec", tag = "tasks",
    params(("id" = TaskId, Path)),
    request_body = ExecBody,
    responses(
        (status = 101, description = "Upgraded to `tepui-stream/1`"),
        (status = 404, body = Problem),
        (status = 422, description = "Nothing runs beside this task", body = Problem),
        (status = 503, description = "The task's agent is not connected", body = Problem),
    ))]
pub async fn exec(
    Extract(master): Extract<Arc<Master>>,
    Extension(principal): Extension<Principal>,
    ApiPath(id): ApiPath<TaskId>,
    request: Request,
) -> Result<Response, ApiError> {
    let (body, upgrade) = take::<ExecBody>(&master, request).await?;
    body.validate().map_err(ApiError::Unprocessable)?;
    tracing::info!(task = %id, %principal, program = body.argv.first(), "a command beside a task");
    let wanted = StreamRequest::Exec(ExecRequest {
        task: id.clone(),
        member: body.member,
        argv: body.argv,
        env: body.env.into_iter().collect(),
        terminal: body.terminal,
    });
    join(&master, &id, wanted, upgrade).await
}

/// Speaks to a task's own input, and reads what it writes.
#[utoipa::path(post, path = "/v1/tasks/{id}/attach", tag = "tasks",
    params(("id" = TaskId, Path)),
    request_body = AttachBody,
    responses(
        (status = 101, description = "Upgraded to `tepui-stream/1`"),
        (status = 404, body = Problem),
        (status = 422, description = "The task reads nothing", body = Problem),
        (status = 503, description = "The task's agent is not connected", body = Problem),
    ))]
pub async fn attach(
    Extract(master): Extract<Arc<Master>>,
    Extension(principal): Extension<Principal>,
    ApiPath(id): ApiPath<TaskId>,
    request: Request,
) -> Result<Response, ApiError> {
    let (body, upgrade) = take::<AttachBody>(&master, request).await?;
    tracing::info!(task = %id, %principal, "someone attaches to a task");
    let wanted = StreamRequest::Attach(AttachRequest {
        task: id.clone(),
        terminal: body.terminal,
    });
    join(&master, &id, wanted, upgrade).await
}

/// What goes to a task's port.
#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardProtocol {
    /// The bytes of a connection.
    #[default]
    Tcp,
    /// Datagrams, one in each frame of data.
    Udp,
}

/// How a task's port is reached.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForwardQuery {
    #[serde(default)]
    protocol: ForwardProtocol,
}

/// Connects to a port of a task.
#[utoipa::path(post, path = "/v1/tasks/{id}/forward/{port}", tag = "tasks",
    params(
        ("id" = TaskId, Path),
        ("port" = u16, Path, description = "As the task itself sees it"),
        ("protocol" = Option<String>, Query, description = "`tcp`, which it is when absent, or `udp`"),
    ),
    responses(
        (status = 101, description = "Upgraded to `tepui-stream/1`"),
        (status = 404, body = Problem),
        (status = 422, description = "The port is not the task's, or nobody listens", body = Problem),
        (status = 503, description = "The task's agent is not connected", body = Problem),
    ))]
pub async fn forward(
    Extract(master): Extract<Arc<Master>>,
    ApiPath((id, port)): ApiPath<(TaskId, u16)>,
    ApiQuery(query): ApiQuery<ForwardQuery>,
    mut request: Request,
) -> Result<Response, ApiError> {
    check_upgrade(&request, UPGRADE)?;
    let upgrade = hyper::upgrade::on(&mut request);
    let port = ForwardRequest {
        task: id.clone(),
        port,
    };
    let wanted = match query.protocol {
        ForwardProtocol::Tcp => StreamRequest::Forward(port),
        ForwardProtocol::Udp => StreamRequest::Datagrams(port),
    };
    join(&master, &id, wanted, upgrade).await
}

async fn take<T: DeserializeOwned>(
    master: &Arc<Master>,
    mut request: Request,
) -> Result<(T, OnUpgrade), ApiError> {
    check_upgrade(&request, UPGRADE)?;
    let upgrade = hyper::upgrade::on(&mut request);
    let ApiJson(body) = ApiJson::from_request(request, master).await?;
    Ok((body, upgrade))
}

async fn join(
    master: &Arc<Master>,
    id: &TaskId,
    wanted: StreamRequest,
    upgrade: OnUpgrade,
) -> Result<Response, ApiError> {
    let task = find_task(master, &*read(master).await?, id)?;
    let mut agent = master.sessions.open_channel(task.agent, wanted).await?;
    tokio::spawn(async move {
        match upgrade.await {
            Ok(caller) => caller::join(caller, &mut agent).await,
            Err(error) => tracing::debug!(%error, "a caller's upgrade failed"),
        }
    });
    Ok(switching(UPGRADE))
}
