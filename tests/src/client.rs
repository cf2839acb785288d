//! A master as a test sees it: typed calls, and raw ones for what no well-made
//! client would send.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderName};
use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tepui_types::api::agent::AgentView;
use tepui_types::api::artifact::ArtifactView;
use tepui_types::api::cluster::ClusterView;
use tepui_types::api::demand::DemandView;
use tepui_types::api::framework::{DeployRequest, FrameworkView};
use tepui_types::api::job::{JobState, JobView};
use tepui_types::api::list::Page;
use tepui_types::api::master::MasterView;
use tepui_types::api::problem::{CONTENT_TYPE, Problem};
use tepui_types::api::task::TaskView;
use tepui_types::{AgentId, Digest, TaskId};

use crate::eventually::{DEADLINE, eventually};
use crate::job::Job;

/// A master, by its address.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
}

/// An answer, whatever it is.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Vec<u8>,
}

impl Answer {
    /// An answer as it stands on the wire, once it is whole. Its length is given or it has no body.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>> {
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
            return Ok(None);
        };
        let head = std::str::from_utf8(&bytes[..end])?;
        let (status, fields) = head.split_once("\r\n").unwrap_or((head, ""));
        let status = status.split(' ').nth(1).context("no status")?.parse()?;
        let mut headers = HeaderMap::new();
        for field in fields.lines() {
            let (name, value) = field.split_once(": ").context("no header")?;
            headers.append(HeaderName::try_from(name)?, value.parse()?);
        }
        let length = headers.get(CONTENT_LENGTH);
        let length = length.map_or(Ok(0), |length| {
            length.to_str()?.parse::<usize>().context("no length")
        })?;
        let body = bytes.get(end + 4..end + 4 + length);
        Ok(body.map(|body| Self {
            status,
            headers,
            body: body.to_vec(),
        }))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON of a good answer.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        if !self.status.is_success() {
            bail!("{}: {}", self.status, self.text());
        }
        serde_json::from_slice(&self.body).with_context(|| format!("unreadable: {}", self.text()))
    }

    /// The problem of a bad answer; panics where it is none, or not well formed.
    #[track_caller]
    pub fn problem(&self) -> Problem {
        let media = self
            .headers
            .get("content-type")
            .map(|value| value.to_str().unwrap());
        assert_eq!(
            media,
            Some(CONTENT_TYPE),
            "{}: {}",
            self.status,
            self.text()
        );
        let problem: Problem = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(problem.status, self.status.as_u16());
        assert!(problem.kind.ends_with(&problem.code), "{problem:?}");
        assert!(!problem.detail.is_empty());
        problem
    }
}

impl Client {
    /// A client of the master at this address.
    pub fn new(base: &str) -> Result<Self> {
        Self::with_headers(base, HeaderMap::new())
    }

    /// A client that proves itself by a token.
    pub fn with_token(base: &str, token: &str) -> Result<Self> {
        let token = format!("Bearer {token}").parse()?;
        Self::with_headers(base, HeaderMap::from_iter([(AUTHORIZATION, token)]))
    }

    fn with_headers(base: &str, headers: HeaderMap) -> Result<Self> {
        let http = reqwest::Client::builder()
            .default_headers(headers)
            .no_proxy()
            .timeout(DEADLINE)
            .build()?;
        Ok(Self {
            http,
            base: base.to_owned(),
        })
    }

    /// The master's address.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// A request to make more of.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base))
    }

    /// Sends a request and takes the answer as it is.
    pub async fn send(&self, request: reqwest::RequestBuilder) -> Result<Answer> {
        let response = request.send().await?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.bytes().await?.to_vec();
        Ok(Answer {
            status,
            headers,
            body,
        })
    }

    /// `GET`, whatever comes back.
    pub async fn get_raw(&self, path: &str) -> Result<Answer> {
        self.send(self.request(Method::GET, path)).await
    }

    /// `GET` as JSON.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.get_raw(path).await?.json()
    }

    /// `POST` of JSON, whatever comes back.
    pub async fn post_raw(&self, path: &str, body: &impl Serialize) -> Result<Answer> {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    /// `POST` of bytes that claim to be JSON.
    pub async fn post_text(&self, path: &str, body: &str) -> Result<Answer> {
        let request = self
            .request(Method::POST, path)
            .header("content-type", "application/json");
        self.send(request.body(body.to_owned())).await
    }

    /// `DELETE`, whatever comes back.
    pub async fn delete_raw(&self, path: &str) -> Result<Answer> {
        self.send(self.request(Method::DELETE, path)).await
    }

    /// The cluster at a glance.
    pub async fn cluster(&self) -> Result<ClusterView> {
        self.get("/v1/cluster").await
    }

    /// All masters.
    pub async fn masters(&self) -> Result<Vec<MasterView>> {
        self.list("/v1/masters").await
    }

    /// All agents.
    pub async fn agents(&self) -> Result<Vec<AgentView>> {
        self.list("/v1/agents").await
    }

    /// The agent of this hostname.
    pub async fn agent(&self, hostname: &str) -> Result<AgentView> {
        let agents = self.agents().await?;
        let agent = agents.into_iter().find(|agent| agent.hostname == hostname);
        agent.with_context(|| format!("there is no {hostname}"))
    }

    /// Does something to an agent: `deactivate`, `drain`…
    pub async fn operate(
        &self,
        agent: AgentId,
        what: &str,
        body: serde_json::Value,
    ) -> Result<AgentView> {
        let path = format!("/v1/agents/{agent}/{what}");
        self.post_raw(&path, &body).await?.json()
    }

    /// All frameworks.
    pub async fn frameworks(&self) -> Result<Vec<FrameworkView>> {
        self.list("/v1/frameworks").await
    }

    /// One framework.
    pub async fn framework(&self, name: &str) -> Result<FrameworkView> {
        self.get(&format!("/v1/frameworks/{name}")).await
    }

    /// One task.
    pub async fn task(&self, id: &TaskId) -> Result<TaskView> {
        self.get(&format!("/v1/tasks/{id}")).await
    }

    /// All tasks of a query such as `?state=running`.
    pub async fn tasks(&self, query: &str) -> Result<Vec<TaskView>> {
        self.list(&format!("/v1/tasks{query}")).await
    }

    /// What frameworks want and do not have.
    pub async fn demands(&self) -> Result<Vec<DemandView>> {
        self.list("/v1/demands").await
    }

    /// Every page of a list.
    pub async fn list<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>> {
        let mut items = Vec::new();
        let separator = if path.contains('?') { '&' } else { '?' };
        let mut at = format!("{path}{separator}limit=1000");
        loop {
            let page: Page<T> = self.get(&at).await?;
            items.extend(page.items);
            match page.next {
                Some(next) => at = format!("{path}{separator}limit=1000&page={next}"),
                None => return Ok(items),
            }
        }
    }

    /// Stores bytes under their digest.
    pub async fn upload(&self, bytes: Vec<u8>) -> Result<Digest> {
        let digest = Digest::of(&bytes);
        let request = self.request(Method::PUT, &format!("/v1/artifacts/{digest}"));
        let view: ArtifactView = self.send(request.body(bytes)).await?.json()?;
        if view.digest != digest {
            bail!("{} was stored as {}", digest, view.digest);
        }
        Ok(digest)
    }

    /// Asks for a deployment, whatever comes back.
    pub async fn deploy_raw(&self, name: &str, artifact: Digest, config: &str) -> Result<Answer> {
        let request = DeployRequest {
            name: name.to_owned(),
            artifact,
            role: None,
            roles: Vec::new(),
            config: config.to_owned(),
        };
        self.post_raw("/v1/frameworks", &request).await
    }

    /// Deploys a framework.
    pub async fn deploy(
        &self,
        name: &str,
        artifact: Digest,
        config: &str,
    ) -> Result<FrameworkView> {
        self.deploy_raw(name, artifact, config).await?.json()
    }

    /// Hands a job to batch.
    pub async fn submit(&self, job: &Job) -> Result<JobView> {
        self.submit_raw(job).await?.json()
    }

    /// Hands a job to another framework of batch's kind.
    pub async fn submit_to(&self, framework: &str, job: &Job) -> Result<JobView> {
        let path = format!("/frameworks/{framework}/jobs");
        self.post_raw(&path, job.request()).await?.json()
    }

    /// Hands a job to batch, whatever comes back.
    pub async fn submit_raw(&self, job: &Job) -> Result<Answer> {
        self.post_raw("/frameworks/batch/jobs", job.request()).await
    }

    /// A job.
    pub async fn job(&self, name: &str) -> Result<JobView> {
        self.get(&format!("/frameworks/batch/jobs/{name}")).await
    }

    /// Waits until a job is over, however.
    pub async fn ended(&self, name: &str) -> JobView {
        eventually(&format!("job {name} ends"), async || {
            let job = self.job(name).await?;
            match job.state {
                JobState::Waiting | JobState::Running | JobState::Killing => bail!("{job:?}"),
                JobState::Finished | JobState::Failed | JobState::Killed => Ok(job),
            }
        })
        .await
    }

    /// Waits until a job's one task is in a living state that `wanted` names,
    /// and gives the task.
    pub async fn running(&self, name: &str) -> TaskId {
        eventually(&format!("job {name} runs"), async || {
            let job = self.job(name).await?;
            match &job.task {
                Some(task) if task.state == tepui_types::TaskState::Running => Ok(task.id.clone()),
                _ => bail!("{job:?}"),
            }
        })
        .await
    }

    /// Submits a job and waits until it is over.
    pub async fn run(&self, job: &Job) -> Result<JobView> {
        let view = self.submit(job).await?;
        Ok(self.ended(&view.name).await)
    }

    /// What a task wrote; `stream` is `stdout` or `stderr`. Waits for all of it.
    pub async fn output(&self, task: &TaskId, stream: &str) -> Result<String> {
        let path = format!("/v1/tasks/{task}/logs/{stream}?follow=true");
        let answer = self.get_raw(&path).await?;
        if !answer.status.is_success() {
            bail!("{}: {}", answer.status, answer.text());
        }
        Ok(answer.text())
    }

    /// Runs a job of one task, which must finish, and gives its output.
    pub async fn output_of(&self, job: &Job) -> Result<String> {
        let view = self.run(job).await?;
        let task = view
            .task
            .clone()
            .with_context(|| format!("no task: {view:?}"))?;
        if view.state != JobState::Finished {
            let complaint = self.output(&task.id, "stderr").await.unwrap_or_default();
            bail!("{view:?}\n{complaint}");
        }
        self.output(&task.id, "stdout").await
    }

    /// Events after a sequence until `enough` says so, as `(id, data)`.
    pub async fn events(
        &self,
        after: Option<&str>,
        enough: impl Fn(&[(String, Value)]) -> bool,
    ) -> Result<Vec<(String, Value)>> {
        let mut request = self.request(Method::GET, "/v1/events");
        if let Some(after) = after {
            request = request.header("Last-Event-ID", after);
        }
        let mut response = request.send().await?.error_for_status()?;
        let mut text = String::new();
        loop {
            let events = parse_events(&text)?;
            if enough(&events) {
                return Ok(events);
            }
            let chunk = tokio::time::timeout(DEADLINE, response.chunk()).await??;
            let chunk = chunk.context("the stream of events ended")?;
            text.push_str(std::str::from_utf8(&chunk)?);
        }
    }

    /// Whether the master serves.
    pub async fn ready(&self) -> bool {
        let request = self
            .request(Method::GET, "/readyz")
            .timeout(Duration::from_secs(5));
        self.send(request)
            .await
            .is_ok_and(|answer| answer.status.is_success())
    }
}

/// The whole records of an event stream.
fn parse_events(text: &str) -> Result<Vec<(String, Value)>> {
    let mut events = Vec::new();
    let Some((whole, _)) = text.rsplit_once("\n\n") else {
        return Ok(events);
    };
    for record in whole.split("\n\n") {
        let field = |name: &str| record.lines().find_map(|line| line.strip_prefix(name));
        if let (Some(id), Some(data)) = (field("id:"), field("data:")) {
            events.push((id.trim().to_owned(), serde_json::from_str(data)?));
        }
    }
    Ok(events)
}
