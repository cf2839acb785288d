//! `/v1/tasks/{id}/usage` and `/v1/agents/{id}/usage`: what running tasks use, straight from their
//! agent.
//!
//! It is measured when it is asked for, and enters neither the log nor the state.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State as Extract;
use futures::StreamExt;
use serde::Deserialize;
use tepui_types::api::list::Page;
use tepui_types::api::problem::Problem;
use tepui_types::api::usage::{UsageList, UsageView};
use tepui_types::wire::stream::{StreamRequest, UsageRequest};
use tepui_types::{AgentId, Reason, TaskId};

use crate::Master;
use crate::agents::streams::StreamError;
use crate::http::error::ApiError;
use crate::http::page::{self, Paging};
use crate::http::request::{ApiPath, ApiQuery, read};
use crate::http::tasks::find_task;

/// How long an agent may take from its first byte to its last: it waits two seconds at most for
/// executors.
const DEADLINE: Duration = Duration::from_secs(10);
/// The longest answer, in bytes: a page of tasks with as many custom resources as tasks may have.
const MAX_ANSWER: usize = 8 * 1024 * 1024;

/// Which page of the list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsageQuery {
    limit: Option<usize>,
    page: Option<String>,
}

/// What a running task uses.
#[utoipa::path(get, path = "/v1/tasks/{id}/usage", tag = "tasks",
    params(("id" = TaskId, Path)),
    responses(
        (status = 200, body = UsageView),
        (status = 404, body = Problem),
        (status = 409, description = "It has ended: what it used stands in its status", body = Problem),
        (status = 503, description = "The task's agent is not connected", body = Problem),
    ))]
pub async fn of_task(
    Extract(master): Extract<Arc<Master>>,
    ApiPath(id): ApiPath<TaskId>,
) -> Result<Json<UsageView>, ApiError> {
    let task = find_task(&master, &*read(&master).await?, &id)?;
    if task.status.state.is_terminal() {
        let message = "the task has ended: `status.usage` of it tells what it used";
        let ended = Reason::new("task-ended", message);
        return Err(StreamError::Refused(ended).into());
    }
    let list = ask(&master, task.agent, UsageRequest::Task(id)).await?;
    let view = list.tasks.into_iter().next();
    view.map(Json).ok_or_else(|| StreamError::Broken.into())
}

/// What the running tasks of an agent use, by their ids.
#[utoipa::path(get, path = "/v1/agents/{id}/usage", tag = "agents",
    params(
        ("id" = AgentId, Path),
        ("limit" = Option<usize>, Query, description = "1 to 1000; 100 if absent"),
        ("page" = Option<String>, Query, description = "`next` of the page before"),
    ),
    responses(
        (status = 200, body = Page<UsageView>),
        (status = 400, body = Problem),
        (status = 404, body = Problem),
        (status = 503, description = "The agent is not connected", body = Problem),
    ))]
pub async fn of_agent(
    Extract(master): Extract<Arc<Master>>,
    ApiPath(id): ApiPath<AgentId>,
    ApiQuery(query): ApiQuery<UsageQuery>,
) -> Result<Json<Page<UsageView>>, ApiError> {
    let paging = Paging::new(query.limit, query.page);
    let (limit, after) = (paging.limit()?, paging.after()?);
    let index = {
        let state = read(&master).await?;
        if state.agent(id).is_none() {
            return Err(ApiError::NotFound(format!("there is no agent {id}")));
        }
        state.index
    };
    let limit = u32::try_from(limit).unwrap_or(u32::MAX);
    let list = ask(&master, id, UsageRequest::Page { after, limit }).await?;
    let last = list.tasks.last().filter(|_| list.more);
    Ok(Json(Page {
        next: last.map(|last| page::token(&last.id)),
        items: list.tasks,
        index,
        total: Some(list.total),
    }))
}

async fn ask(
    master: &Master,
    agent: AgentId,
    request: UsageRequest,
) -> Result<UsageList, StreamError> {
    let request = StreamRequest::Usage(request);
    let mut bytes = master.sessions.open_stream(agent, request).await?;
    let mut json = Vec::new();
    let reading = async {
        while let Some(chunk) = bytes.next().await {
            json.extend_from_slice(&chunk?);
            if json.len() > MAX_ANSWER {
                return Err(StreamError::Broken);
            }
        }
        Ok(())
    };
    let read = tokio::time::timeout(DEADLINE, reading).await;
    read.map_err(|_| StreamError::Timeout)??;
    serde_json::from_slice(&json).map_err(|_| StreamError::Broken)
}
