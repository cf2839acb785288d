//! `/v1/tasks`: living tasks and those that ended, newest launch first.
//!
//! What the state has forgotten is read from this master's history.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::sync::Arc;

use axum::Json;
use axum::extract::State as Extract;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tepui_cluster::state::tasks::Task;
use tepui_cluster::{Command, State};
use tepui_types::api::list::Page;
use tepui_types::api::problem::Problem;
use tepui_types::api::task::{KillRequest, TaskView};
use tepui_types::operation::Kill;
use tepui_types::{AgentId, FrameworkId, OperationId, TaskId, TaskSpec, TaskState};

use crate::Master;
use crate::http::error::ApiError;
use crate::http::frameworks::find;
use crate::http::page::{self, Paging};
use crate::http::request::{ApiJson, ApiPath, ApiQuery, Caller, read};

/// Tasks looked at for one page: a filter that matches little answers a short
/// page with a token rather than hold the caller up.
const MAX_SCAN: usize = 100_000;
/// Records read from history at once.
const HISTORY_CHUNK: usize = 1_000;

/// Filters of the list, as they come.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    framework: Option<String>,
    state: Option<String>,
    agent: Option<AgentId>,
    search: Option<String>,
    limit: Option<usize>,
    page: Option<String>,
}

/// Filters of the list, understood.
struct Filter {
    framework: Option<FrameworkId>,
    states: BTreeSet<TaskState>,
    agent: Option<AgentId>,
    search: Option<String>,
}

impl Filter {
    fn parse(query: &Query, state: &State) -> Result<Self, ApiError> {
        let framework = match &query.framework {
            // A framework that was removed still has its history.
            Some(text) => Some(match find(state, text) {
                Ok(framework) => framework.id,
                Err(unknown) => FrameworkId::from_str(text).map_err(|_| unknown)?,
            }),
            None => None,
        };
        let states = query.state.iter().flat_map(|states| states.split(','));
        let states: Result<_, String> = states.map(TaskState::from_str).collect();
        Ok(Self {
            framework,
            states: states.map_err(ApiError::BadRequest)?,
            agent: query.agent,
            search: query.search.as_ref().map(|text| text.to_ascii_lowercase()),
        })
    }

    fn matches(&self, task: &Task) -> bool {
        self.framework
            .is_none_or(|framework| framework == task.id.framework)
            && (self.states.is_empty() || self.states.contains(&task.status.state))
            && self.agent.is_none_or(|agent| agent == task.agent)
            && self.search.as_ref().is_none_or(|text| {
                task.id.to_string().contains(text) || task.framework_name.contains(text.as_str())
            })
    }
}

/// Lists tasks, newest launch first.
#[utoipa::path(get, path = "/v1/tasks", tag = "tasks",
    params(
        ("framework" = Option<String>, Query, description = "Only of this one; id or name"),
        ("state" = Option<String>, Query, description = "Only in these states, joined by commas"),
        ("agent" = Option<AgentId>, Query, description = "Only on this one"),
        ("search" = Option<String>, Query, description = "Only with this in their id or framework"),
        ("limit" = Option<usize>, Query), ("page" = Option<String>, Query),
    ),
    responses((status = 200, body = Page<TaskView>), (status = 400, body = Problem)))]
pub async fn list(
    Extract(master): Extract<Arc<Master>>,
    ApiQuery(query): ApiQuery<Query>,
) -> Result<Json<Page<TaskView>>, ApiError> {
    let state = read(&master).await?;
    let filter = Filter::parse(&query, &state)?;
    let paging = Paging::new(query.limit, query.page);
    let (limit, before) = (paging.limit()?, paging.after::<OperationId>()?);
    let index = state.index;
    // History is read from disk.
    let page =
        tokio::task::spawn_blocking(move || collect(&master, &state, &filter, before, limit));
    let (items, next) = page
        .await
        .map_err(|error| ApiError::Internal(error.to_string()))??;
    Ok(Json(Page {
        items,
        next,
        index,
        total: None,
    }))
}

type Items = (Vec<TaskView>, Option<String>);

fn collect(
    master: &Master,
    state: &State,
    filter: &Filter,
    before: Option<OperationId>,
    limit: usize,
) -> Result<Items, ApiError> {
    let mut merged = Merged::new(master, state, before);
    let mut items = Vec::with_capacity(limit.min(HISTORY_CHUNK));
    for _ in 0..MAX_SCAN {
        let Some((task, spec)) = merged.next()? else {
            return Ok((items, None));
        };
        let operation = task.operation;
        if !filter.matches(&task) {
            continue;
        }
        if let Some(spec) = spec.as_ref().or_else(|| state.spec(&task.spec)) {
            items.push(view(state, &task, spec));
        }
        if items.len() == limit {
            let next = merged.next()?.is_some().then(|| page::token(&operation));
            return Ok((items, next));
        }
    }
    Ok((items, merged.last.as_ref().map(page::token)))
}

/// A task, with its specification if the state may not have it any more.
type Found = (Arc<Task>, Option<Arc<TaskSpec>>);

/// The state's tasks and those of history as one list, newest first.
struct Merged<'a> {
    master: &'a Master,
    state: &'a State,
    last: Option<OperationId>,
    history: std::vec::IntoIter<Found>,
    archived: Option<Found>,
    history_ended: bool,
    history_before: Option<OperationId>,
}

impl<'a> Merged<'a> {
    fn new(master: &'a Master, state: &'a State, before: Option<OperationId>) -> Self {
        Self {
            master,
            state,
            last: before,
            history: Vec::new().into_iter(),
            archived: None,
            history_ended: false,
            history_before: before,
        }
    }

    fn next(&mut self) -> Result<Option<Found>, ApiError> {
        let known = match self.last {
            Some(last) => self.state.tasks.range(..last).next_back(),
            None => self
                .state
                .tasks
                .get_max()
                .map(|(operation, task)| (operation, task)),
        };
        let known = known.map(|(_, task)| task.clone());
        self.fill_history()?;
        let archived = self.archived.as_ref().map(|(task, _)| task.operation);
        let next = match (known, archived) {
            // A task that is being archived may be seen in both.
            (Some(known), Some(archived)) if known.operation == archived => {
                self.archived = None;
                Some((known, None))
            }
            (Some(known), archived) if archived.is_none_or(|other| known.operation > other) => {
                Some((known, None))
            }
            _ => self.archived.take(),
        };
        self.last = next.as_ref().map(|(task, _)| task.operation).or(self.last);
        Ok(next)
    }

    fn fill_history(&mut self) -> Result<(), ApiError> {
        if self.archived.is_some() {
            return Ok(());
        }
        self.archived = self.history.next();
        if self.archived.is_some() || self.history_ended {
            return Ok(());
        }
        let history = &self.master.history;
        let chunk = history.scan_before(self.history_before, HISTORY_CHUNK);
        let chunk = chunk.map_err(|error| ApiError::Internal(error.to_string()))?;
        self.history_ended = chunk.len() < HISTORY_CHUNK;
        self.history_before = chunk
            .last()
            .map(|archived| archived.task.operation)
            .or(self.history_before);
        let chunk: Vec<_> = chunk
            .into_iter()
            .map(|archived| (archived.task, Some(archived.spec)))
            .collect();
        self.history = chunk.into_iter();
        self.archived = self.history.next();
        Ok(())
    }
}

/// Shows a task, also one of long ago.
#[utoipa::path(get, path = "/v1/tasks/{id}", tag = "tasks",
    params(("id" = TaskId, Path)),
    responses((status = 200, body = TaskView), (status = 404, body = Problem)))]
pub async fn show(
    Extract(master): Extract<Arc<Master>>,
    ApiPath(id): ApiPath<TaskId>,
) -> Result<Response, ApiError> {
    let state = read(&master).await?;
    shown(&master, &state, &id)
}

/// Asks for a task's end.
#[utoipa::path(post, path = "/v1/tasks/{id}/kill", tag = "tasks",
    params(("id" = TaskId, Path)),
    request_body = Option<KillRequest>,
    responses((status = 202, body = TaskView), (status = 404, body = Problem)))]
pub async fn kill(
    Extract(master): Extract<Arc<Master>>,
    ApiPath(id): ApiPath<TaskId>,
    caller: Caller,
    request: Option<ApiJson<KillRequest>>,
) -> Result<Response, ApiError> {
    let grace_ms = request.and_then(|ApiJson(request)| request.grace_ms);
    if grace_ms.is_some_and(|grace_ms| grace_ms > TaskSpec::MAX_KILL_GRACE_MS) {
        let most = TaskSpec::MAX_KILL_GRACE_MS;
        return Err(ApiError::Unprocessable(format!("grace_ms is above {most}")));
    }
    let command = Command::KillTask(Kill {
        task: id.clone(),
        grace_ms,
    });
    caller.submit(&master, command).await?.outcome?;
    let response = shown(&master, &master.view.load(), &id)?;
    Ok((StatusCode::ACCEPTED, response).into_response())
}

fn shown(master: &Master, state: &State, id: &TaskId) -> Result<Response, ApiError> {
    let view = find_task(master, state, id)?;
    let etag = format!("\"{}\"", view.revision);
    Ok(([(header::ETAG, etag)], Json(view)).into_response())
}

/// The task, from the state or from history.
pub fn find_task(master: &Master, state: &State, id: &TaskId) -> Result<TaskView, ApiError> {
    if let Some(task) = state.task(id)
        && let Some(spec) = state.spec(&task.spec)
    {
        return Ok(view(state, task, spec));
    }
    let archived = master
        .history
        .get(id)
        .map_err(|error| ApiError::Internal(error.to_string()))?;
    match archived {
        Some(archived) => Ok(view(state, &archived.task, &archived.spec)),
        None => Err(ApiError::NotFound(format!("there is no task {id}"))),
    }
}

/// The machine of an agent, also of one that is gone; empty where that is forgotten.
pub fn hostname(state: &State, agent: AgentId) -> String {
    let gone = state.gone_agent(agent).map(|gone| &gone.agent);
    let agent = state.agent(agent).or(gone);
    agent
        .map(|agent| agent.info.hostname.clone())
        .unwrap_or_default()
}

fn view(state: &State, task: &Task, spec: &TaskSpec) -> TaskView {
    let before = task.waits_for().and_then(|before| state.tasks.get(&before));
    TaskView {
        id: task.id.clone(),
        framework_name: task.framework_name.to_string(),
        role: task.role.clone(),
        agent: task.agent,
        hostname: hostname(state, task.agent),
        status: task.status.clone(),
        resources: task.resources.clone(),
        spec: spec.clone(),
        array_index: task.array_index,
        after: before.map(|before| before.id.clone()),
        launched_at: task.launched_at,
        started_at: task.started_at,
        ended_at: task.ended_at,
        revision: task.revision,
    }
}
