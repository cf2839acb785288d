//! One method for each call of the HTTP API.
//!
//! Lists are read to their end, page by page, where the caller asks for all.

use std::path::Path;
use std::pin::Pin;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use reqwest::{Method, Response, StatusCode};
use serde::de::DeserializeOwned;
use tepui_types::api::agent::{AgentView, DrainRequest};
use tepui_types::api::artifact::ArtifactView;
use tepui_types::api::cluster::ClusterView;
use tepui_types::api::demand::DemandView;
use tepui_types::api::file::FileList;
use tepui_types::api::framework::{DeployRequest, FrameworkView};
use tepui_types::api::list::{MAX_LIMIT, Page};
use tepui_types::api::log;
use tepui_types::api::maintenance::{WindowRequest, WindowView};
use tepui_types::api::master::{InviteRequest, InvitedView, MasterView};
use tepui_types::api::reservation::{OperationView, ResizeRequest, VolumeView};
use tepui_types::api::role::{RoleRequest, RoleView};
use tepui_types::api::task::{KillRequest, TaskHistory, TaskView};
use tepui_types::api::usage::UsageView;
use tepui_types::setting::Settings;
use tepui_types::wish::{ReserveRequest, UnreserveRequest, VolumeRequest};
use tepui_types::{AgentId, Digest, NodeId, Role, TaskId, TaskState, WindowId};

use super::{Body, Client, ClientError, Result};
use crate::logs::Wanted;
use crate::progress::Transfer;

/// An answer's body as it comes.
pub type ByteStream<'a> = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send + 'a>>;

/// Which tasks a list shows.
#[derive(Debug, Default, Clone)]
pub struct TaskFilter {
    /// Only in these states; all when empty.
    pub states: Vec<TaskState>,
    /// Only of this framework, by id or name.
    pub framework: Option<String>,
    /// Only on this agent.
    pub agent: Option<AgentId>,
    /// Only those whose id holds this text.
    pub search: Option<String>,
}

/// One of a task's two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    /// What it said.
    Stdout,
    /// What it complained of.
    Stderr,
}

impl LogStream {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

impl Client {
    /// Whether the master serves: it knows a leader and has caught up with it.
    pub async fn ready(&self) -> Result<()> {
        self.open(self.request(Method::GET, "/readyz"), "/readyz")
            .await?;
        Ok(())
    }

    /// The whole at a glance.
    pub async fn cluster(&self) -> Result<ClusterView> {
        self.get("/v1/cluster").await
    }

    /// All agents.
    pub async fn agents(&self) -> Result<Vec<AgentView>> {
        self.all("/v1/agents", &[]).await
    }

    /// One agent.
    pub async fn agent(&self, id: AgentId) -> Result<AgentView> {
        self.get(&format!("/v1/agents/{id}")).await
    }

    /// Does something to an agent that needs no more words: `deactivate`, `reactivate`, `gone`.
    pub async fn change_agent(&self, id: AgentId, what: &str) -> Result<AgentView> {
        let path = format!("/v1/agents/{id}/{what}");
        self.change(Method::POST, &path, None::<&()>).await
    }

    /// Empties an agent.
    pub async fn drain_agent(&self, id: AgentId, request: &DrainRequest) -> Result<AgentView> {
        let path = format!("/v1/agents/{id}/drain");
        self.change(Method::POST, &path, Some(request)).await
    }

    /// Sets resources of an agent aside for a role.
    pub async fn reserve(&self, id: AgentId, request: &ReserveRequest) -> Result<AgentView> {
        let path = format!("/v1/agents/{id}/reserve");
        self.change(Method::POST, &path, Some(request)).await
    }

    /// Takes a reservation back.
    pub async fn unreserve(&self, id: AgentId, request: &UnreserveRequest) -> Result<AgentView> {
        let path = format!("/v1/agents/{id}/unreserve");
        self.change(Method::POST, &path, Some(request)).await
    }

    /// All persistent volumes.
    pub async fn volumes(&self) -> Result<Vec<VolumeView>> {
        self.all("/v1/volumes", &[]).await
    }

    /// Makes a persistent volume.
    pub async fn create_volume(&self, id: AgentId, request: &VolumeRequest) -> Result<AgentView> {
        let path = format!("/v1/agents/{id}/volumes");
        self.change(Method::POST, &path, Some(request)).await
    }

    /// Ends a volume and what is stored in it.
    pub async fn destroy_volume(&self, id: AgentId, volume: &str) -> Result<AgentView> {
        let path = format!("/v1/agents/{id}/volumes/{volume}");
        self.change(Method::DELETE, &path, None::<&()>).await
    }

    /// `grow`s or `shrink`s a volume.
    pub async fn resize_volume(
        &self,
        id: AgentId,
        volume: &str,
        how: &str,
        request: &ResizeRequest,
    ) -> Result<AgentView> {
        let path = format!("/v1/agents/{id}/volumes/{volume}/{how}");
        self.change(Method::POST, &path, Some(request)).await
    }

    /// All operations on resources that are remembered, oldest first.
    pub async fn operations(&self) -> Result<Vec<OperationView>> {
        self.all("/v1/operations", &[]).await
    }

    /// All maintenance windows.
    pub async fn windows(&self) -> Result<Vec<WindowView>> {
        self.all("/v1/maintenance", &[]).await
    }

    /// Plans a maintenance window.
    pub async fn schedule_window(&self, request: &WindowRequest) -> Result<WindowView> {
        self.change(Method::POST, "/v1/maintenance", Some(request))
            .await
    }

    /// Takes a maintenance window back.
    pub async fn cancel_window(&self, id: WindowId) -> Result<()> {
        let path = format!("/v1/maintenance/{id}");
        self.send(Method::DELETE, &path, Body::None).await.map(drop)
    }

    /// Roles that are set or used.
    pub async fn roles(&self) -> Result<Vec<RoleView>> {
        self.all("/v1/roles", &[]).await
    }

    /// One role.
    pub async fn role(&self, role: &Role) -> Result<RoleView> {
        self.get(&format!("/v1/roles/{role}")).await
    }

    /// Sets a role, whole.
    ///
    /// # Errors
    /// Besides the usual, when it is not as it was in `revision` any more.
    pub async fn set_role(
        &self,
        role: &Role,
        request: &RoleRequest,
        revision: u64,
    ) -> Result<RoleView> {
        let path = format!("/v1/roles/{role}");
        let expected = format!("\"{revision}\"");
        self.change_if(&expected, Method::PUT, &path, request).await
    }

    /// Forgets what was set of a role.
    pub async fn remove_role(&self, role: &Role) -> Result<()> {
        let path = format!("/v1/roles/{role}");
        self.send(Method::DELETE, &path, Body::None).await.map(drop)
    }

    /// What is decided for the whole cluster, and its tag.
    pub async fn settings(&self) -> Result<(Settings, String)> {
        self.get_tagged("/v1/settings").await
    }

    /// Sets it, whole.
    ///
    /// # Errors
    /// Besides the usual, when it is not what had this tag any more.
    pub async fn set_settings(&self, settings: &Settings, tag: &str) -> Result<Settings> {
        self.change_if(tag, Method::PUT, "/v1/settings", settings)
            .await
    }

    /// All masters.
    pub async fn masters(&self) -> Result<Vec<MasterView>> {
        self.all("/v1/masters", &[]).await
    }

    /// Removes a master for good.
    pub async fn remove_master(&self, id: NodeId) -> Result<()> {
        let path = format!("/v1/masters/{id}");
        self.send(Method::DELETE, &path, Body::None).await.map(drop)
    }

    /// Invites the master at this address, which waits to be added.
    pub async fn invite_master(&self, url: &str) -> Result<InvitedView> {
        let request = InviteRequest {
            url: url.to_owned(),
        };
        let path = "/v1/masters/invitations";
        self.change(Method::POST, path, Some(&request)).await
    }

    /// Hands the lead to a master.
    pub async fn lead_master(&self, id: NodeId) -> Result<()> {
        let path = format!("/v1/masters/{id}/lead");
        self.send(Method::POST, &path, Body::None).await.map(drop)
    }

    /// All frameworks.
    pub async fn frameworks(&self) -> Result<Vec<FrameworkView>> {
        self.all("/v1/frameworks", &[]).await
    }

    /// One framework, by id or name.
    pub async fn framework(&self, name: &str) -> Result<FrameworkView> {
        self.get(&format!("/v1/frameworks/{}", encode(name))).await
    }

    /// Deploys a framework.
    pub async fn deploy(&self, request: &DeployRequest) -> Result<FrameworkView> {
        self.change(Method::POST, "/v1/frameworks", Some(request))
            .await
    }

    /// Begins to remove a framework.
    pub async fn remove_framework(&self, name: &str) -> Result<FrameworkView> {
        let path = format!("/v1/frameworks/{}", encode(name));
        self.change(Method::DELETE, &path, None::<&()>).await
    }

    /// Starts a framework anew.
    pub async fn restart_framework(&self, name: &str) -> Result<FrameworkView> {
        let path = format!("/v1/frameworks/{}/restart", encode(name));
        self.change(Method::POST, &path, None::<&()>).await
    }

    /// A framework's log lines, as lines of JSON.
    pub async fn framework_logs(&self, name: &str, follow: bool) -> Result<ByteStream<'_>> {
        let path = format!("/v1/frameworks/{}/logs", encode(name));
        self.stream(&path, &[("follow", follow.to_string())]).await
    }

    /// The newest tasks that the filter leaves, and whether there are more.
    pub async fn tasks(&self, filter: &TaskFilter, limit: usize) -> Result<(Vec<TaskView>, bool)> {
        let mut query = filter.query();
        query.push(("limit", limit.min(MAX_LIMIT).to_string()));
        let page: Page<TaskView> = self.get(&with_query("/v1/tasks", &query)).await?;
        Ok((page.items, page.next.is_some()))
    }

    /// All tasks that the filter leaves.
    pub async fn all_tasks(&self, filter: &TaskFilter) -> Result<Vec<TaskView>> {
        self.all("/v1/tasks", &filter.query()).await
    }

    /// One task.
    pub async fn task(&self, id: &TaskId) -> Result<TaskView> {
        self.get(&format!("/v1/tasks/{id}")).await
    }

    /// What a running task uses. Asked once: who shows it has other things to show.
    pub async fn task_usage(&self, id: &TaskId) -> Result<UsageView> {
        self.get_once(&format!("/v1/tasks/{id}/usage")).await
    }

    /// What the running tasks of an agent use, of at most `most` of them, and how many run in all.
    /// Asked once.
    pub async fn agent_usage(&self, id: AgentId, most: usize) -> Result<(Vec<UsageView>, u64)> {
        let path = format!("/v1/agents/{id}/usage");
        let (mut items, mut next) = (Vec::new(), None::<String>);
        loop {
            let limit = MAX_LIMIT.min(most.saturating_sub(items.len()).max(1));
            let mut query = vec![("limit", limit.to_string())];
            query.extend(next.take().map(|next| ("page", next)));
            let page: Page<UsageView> = self.get_once(&with_query(&path, &query)).await?;
            items.extend(page.items);
            match page.next {
                Some(token) if items.len() < most => next = Some(token),
                _ => return Ok((items, page.total.unwrap_or(0))),
            }
        }
    }

    /// All attempts of a task's name.
    pub async fn task_history(&self, id: &TaskId) -> Result<TaskHistory> {
        self.get(&format!("/v1/tasks/{id}/history")).await
    }

    /// Asks for a task's end.
    pub async fn kill_task(&self, id: &TaskId, request: &KillRequest) -> Result<TaskView> {
        self.change(Method::POST, &format!("/v1/tasks/{id}/kill"), Some(request))
            .await
    }

    /// A task's output, and where it begins. Where `exact` it breaks off rather than to leave something
    /// out.
    pub async fn task_logs(
        &self,
        wanted: Wanted<'_>,
        exact: bool,
    ) -> Result<(u64, ByteStream<'_>)> {
        let (id, stream) = (wanted.task, wanted.stream.as_str());
        let path = format!("/v1/tasks/{id}/logs/{stream}");
        let mut query = vec![
            ("offset", wanted.offset.to_string()),
            ("follow", wanted.follow.to_string()),
        ];
        query.extend(exact.then(|| (log::EXACT, exact.to_string())));
        query.extend(wanted.member.map(|member| ("member", member.to_owned())));
        let request = self.request(Method::GET, &with_query(&path, &query));
        let response = self.open(request, &path).await?;
        let begins = response.headers().get(log::OFFSET_HEADER);
        let begins = begins.and_then(|begins| begins.to_str().ok()?.parse().ok());
        // A master of an earlier release does not say.
        let begins = begins.unwrap_or(wanted.offset);
        Ok((begins, self.bytes_of(response)))
    }

    /// What is in a folder of a task's sandbox.
    pub async fn task_files(&self, id: &TaskId, path: &str) -> Result<FileList> {
        self.get(&files_path(id, path)).await
    }

    /// A file of a task's sandbox as `bytes`, or a folder as `tar`.
    pub async fn task_file(&self, id: &TaskId, path: &str, form: &str) -> Result<ByteStream<'_>> {
        let query = [("form", form.to_owned())];
        self.stream(&files_path(id, path), &query).await
    }

    /// What frameworks want and do not have.
    pub async fn demands(&self) -> Result<Vec<DemandView>> {
        self.all("/v1/demands", &[]).await
    }

    /// All artifacts.
    pub async fn artifacts(&self) -> Result<Vec<ArtifactView>> {
        self.all("/v1/artifacts", &[]).await
    }

    /// Whether the cluster holds these bytes.
    pub async fn has_artifact(&self, digest: &Digest) -> Result<bool> {
        let path = format!("/v1/artifacts/{digest}");
        match self.send(Method::HEAD, &path, Body::None).await {
            Ok(_) => Ok(true),
            // An answer to HEAD has no body, so the problem's document is missing.
            Err(ClientError::Unexpected {
                status: StatusCode::NOT_FOUND,
                ..
            }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Stores a file of `size` bytes under its digest.
    pub async fn put_artifact(
        &self,
        digest: &Digest,
        file: &Path,
        size: u64,
        transfer: &Transfer,
    ) -> Result<ArtifactView> {
        let path = format!("/v1/artifacts/{digest}");
        let response = self
            .send(Method::PUT, &path, Body::File(file, size, transfer))
            .await?;
        self.read(&path, response).await
    }

    /// An artifact's bytes.
    pub async fn get_artifact(&self, digest: &Digest) -> Result<ByteStream<'_>> {
        self.stream(&format!("/v1/artifacts/{digest}"), &[]).await
    }

    /// The whole cluster as an archive.
    pub async fn backup(&self) -> Result<ByteStream<'_>> {
        self.stream("/v1/backup", &[]).await
    }

    /// Every page of a list.
    async fn all<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<Vec<T>> {
        let mut items = Vec::new();
        let mut next: Option<String> = None;
        loop {
            let mut query = query.to_vec();
            query.push(("limit", MAX_LIMIT.to_string()));
            query.extend(next.take().map(|next| ("page", next)));
            let page: Page<T> = self.get(&with_query(path, &query)).await?;
            items.extend(page.items);
            match page.next {
                Some(token) => next = Some(token),
                None => return Ok(items),
            }
        }
    }

    async fn stream(&self, path: &str, query: &[(&str, String)]) -> Result<ByteStream<'_>> {
        let request = self.request(Method::GET, &with_query(path, query));
        let response = self.open(request, path).await?;
        Ok(self.bytes_of(response))
    }

    fn bytes_of(&self, response: Response) -> ByteStream<'_> {
        let bytes = Box::pin(response.bytes_stream());
        let silence = Box::pin(self.until_silent());
        let stream = stream::unfold(Some((bytes, silence)), |rest| async {
            let (mut bytes, mut silence) = rest?;
            let item = tokio::select! {
                item = bytes.next() => item?.map_err(|source| self.lost(source)),
                // Whoever reads from a master that hangs would wait for ever.
                silent = &mut silence => Err(silent),
            };
            let rest = item.is_ok().then_some((bytes, silence));
            Some((item, rest))
        });
        Box::pin(stream)
    }
}

impl TaskFilter {
    fn query(&self) -> Vec<(&'static str, String)> {
        let mut query = Vec::new();
        if !self.states.is_empty() {
            let names: Vec<_> = self.states.iter().map(|state| state.as_str()).collect();
            query.push(("state", names.join(",")));
        }
        query.extend(self.framework.clone().map(|name| ("framework", name)));
        query.extend(self.agent.map(|agent| ("agent", agent.to_string())));
        query.extend(self.search.clone().map(|text| ("search", text)));
        query
    }
}

/// `path?name=value&…`, or the bare path without a query.
pub(super) fn with_query(path: &str, query: &[(&str, String)]) -> String {
    let mut text = path.to_owned();
    for (position, (name, value)) in query.iter().enumerate() {
        text.push(if position == 0 { '?' } else { '&' });
        text.push_str(name);
        text.push('=');
        text.push_str(&encode(value));
    }
    text
}

/// Percent-encodes all but the characters that mean themselves everywhere.
fn files_path(id: &TaskId, path: &str) -> String {
    let path = path.trim_matches('/');
    let parts = path.split('/').filter(|part| !part.is_empty());
    let parts: String = parts.map(|part| format!("/{}", encode(part))).collect();
    format!("/v1/tasks/{id}/files{parts}")
}

pub(super) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'*' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_encoded() {
        assert_eq!(with_query("/v1/tasks", &[]), "/v1/tasks");
        let query = [
            ("search", "a b&c".to_owned()),
            ("state", "running,failed".to_owned()),
        ];
        let expected = "/v1/tasks?search=a%20b%26c&state=running%2Cfailed";
        assert_eq!(with_query("/v1/tasks", &query), expected);
    }

    #[test]
    fn a_name_cannot_leave_its_place_in_a_path() {
        assert_eq!(encode("../tasks?x=1"), "..%2Ftasks%3Fx%3D1");
    }
}
