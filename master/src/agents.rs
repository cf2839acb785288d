//! Agent connections: who is connected, and the way to each.
//!
//! A session carries effects down and statuses up. Losing one is always safe:
//! the agent dials again, sends what the log may not have, and is sent what the
//! state says it is owed. The newest session of an agent is the one that counts.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Extension;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper_util::rt::TokioIo;
use tepui_cluster::State;
use tepui_types::wire::agent::{AgentEffect, MAX_BATCH, MasterFrame, UPGRADE, effect_batches};
use tepui_types::wire::stream::{LogRequest, StreamRequest};
use tepui_types::{AgentId, NodeId, TaskId, TaskState};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::Master;
use crate::http::error::ApiError;
use crate::http::forward::LEADER;
use crate::proposals::ProposeError;
use crate::raft::Leadership;

pub mod departures;
pub mod liveness;
pub mod session;
pub mod streams;

use streams::{Connection, Pending, StreamBytes, StreamError, StreamPieces, Streams};

/// Frames that wait for one agent's connection. A frame carries up to
/// [`MAX_BATCH`] effects, so a connection that is this far behind is dead or
/// hopeless; it is dropped, and the agent is told anew what it is owed.
const SESSION_QUEUE: usize = 256;

/// The connected agents.
#[derive(Debug, Clone, Default)]
pub struct Sessions(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    table: Mutex<Table>,
    streams: Streams,
}

#[derive(Debug, Default)]
struct Table {
    sessions: HashMap<AgentId, Session>,
    /// When each agent was last heard of, by this master.
    heard: HashMap<AgentId, Instant>,
    next: u64,
    term: u64,
}

#[derive(Debug)]
struct Session {
    number: u64,
    /// The agent's process, as it drew it.
    process: u128,
    /// Another process that asks for its place, and since when.
    rival: Option<(u128, Instant)>,
    frames: mpsc::Sender<MasterFrame>,
}

impl Sessions {
    /// Sends effects to an agent, if it is connected. One that is not is sent
    /// what it is owed when it comes.
    pub fn deliver(&self, agent: AgentId, effects: Vec<AgentEffect>) {
        let term = self.lock().term;
        for effects in effect_batches(effects) {
            self.send(agent, MasterFrame::Effects { term, effects });
        }
    }

    /// Tells an agent that the log has these states.
    pub fn recorded(&self, agent: AgentId, tasks: Vec<(TaskId, TaskState)>) {
        for chunk in tasks.chunks(MAX_BATCH) {
            self.send(agent, MasterFrame::Recorded(chunk.to_vec()));
        }
    }

    /// Tells every connected agent where the masters are now.
    pub fn masters_changed(&self, state: &State) {
        let urls: Vec<_> = urls_of_masters(state).collect();
        let agents: Vec<AgentId> = self.lock().sessions.keys().copied().collect();
        for agent in agents {
            self.send(agent, MasterFrame::Masters(urls.clone()));
        }
    }

    /// Whether an agent has a session here.
    pub fn connected(&self, agent: AgentId) -> bool {
        self.lock().sessions.contains_key(&agent)
    }

    /// Sends every connected agent what the state says it is owed.
    pub fn resend_owed(&self, state: &State) {
        let agents: Vec<AgentId> = self.lock().sessions.keys().copied().collect();
        for agent in agents {
            self.deliver(agent, state.owed_to(agent));
        }
    }

    /// A new term: what this leader sends carries it, and every agent has a
    /// whole window to be heard of.
    pub fn lead(&self, term: u64, state: &State) {
        let mut table = self.lock();
        table.term = term;
        let now = Instant::now();
        table.heard = state.agents.keys().map(|agent| (*agent, now)).collect();
    }

    /// Ends every session: this master does not lead any more.
    pub fn stop_leading(&self) {
        self.lock().sessions.clear();
    }

    /// Asks an agent for bytes on a data connection.
    pub async fn open_stream(
        &self,
        agent: AgentId,
        request: StreamRequest,
    ) -> Result<StreamBytes, StreamError> {
        self.ask(agent, request)?.bytes().await
    }

    /// Asks an agent for a task's output.
    pub async fn open_output(
        &self,
        agent: AgentId,
        request: LogRequest,
    ) -> Result<StreamPieces, StreamError> {
        self.ask(agent, StreamRequest::Logs(request))?
            .pieces()
            .await
    }

    /// Asks an agent for a data connection that goes both ways.
    pub async fn open_channel(
        &self,
        agent: AgentId,
        request: StreamRequest,
    ) -> Result<Connection, StreamError> {
        self.ask(agent, request)?.opened().await
    }

    fn ask(&self, agent: AgentId, request: StreamRequest) -> Result<Pending, StreamError> {
        let pending = self.0.streams.expect()?;
        let frame = MasterFrame::OpenStream {
            stream: pending.id(),
            request,
        };
        match self.send(agent, frame) {
            true => Ok(pending),
            false => Err(StreamError::NotConnected(agent)),
        }
    }

    /// The data connections that are waited for.
    pub fn streams(&self) -> &Streams {
        &self.0.streams
    }

    /// Makes a session the agent's own; an older one is hung up on.
    fn open(&self, agent: AgentId, process: u128) -> (u64, mpsc::Receiver<MasterFrame>) {
        let (frames, receiver) = mpsc::channel(SESSION_QUEUE);
        let mut table = self.lock();
        table.next += 1;
        let number = table.next;
        let session = Session {
            number,
            process,
            rival: None,
            frames,
        };
        table.sessions.insert(agent, session);
        table.heard.insert(agent, Instant::now());
        (number, receiver)
    }

    fn close(&self, agent: AgentId, number: u64) {
        let mut table = self.lock();
        if table
            .sessions
            .get(&agent)
            .is_some_and(|session| session.number == number)
        {
            table.sessions.remove(&agent);
        }
    }

    /// For how long this process has asked for the place of another one of the agent; none unless that
    /// has a session, and was heard of in `window`.
    fn has_asked_for(&self, agent: AgentId, process: u128, window: Duration) -> Option<Duration> {
        let mut table = self.lock();
        let heard = table.heard.get(&agent)?;
        let is_heard = heard.elapsed() < window;
        let session = table.sessions.get_mut(&agent)?;
        if !is_heard || session.process == process {
            return None;
        }
        let rival = session.rival.filter(|(rival, _)| *rival == process);
        let (_, since) = *session
            .rival
            .insert(rival.unwrap_or((process, Instant::now())));
        Some(since.elapsed())
    }

    /// Lets an agent know which of its heartbeats was heard.
    fn acknowledge(&self, agent: AgentId, sent: u64) {
        self.send(agent, MasterFrame::Heard(sent));
    }

    fn hear(&self, agent: AgentId) {
        self.lock().heard.insert(agent, Instant::now());
    }

    /// How long each reachable agent of the state has not been heard of.
    fn silences(&self, state: &State) -> Vec<(AgentId, Duration)> {
        let mut table = self.lock();
        let now = Instant::now();
        let reachable = state
            .agents
            .values()
            .filter(|agent| agent.status == tepui_types::AgentStatus::Active);
        reachable
            .map(|agent| (agent.id, now - *table.heard.entry(agent.id).or_insert(now)))
            .collect()
    }

    /// Whether an agent has not been heard of for `window`.
    fn is_silent(&self, agent: AgentId, window: Duration) -> bool {
        let table = self.lock();
        table
            .heard
            .get(&agent)
            .is_some_and(|heard| heard.elapsed() > window)
    }

    /// Ends the sessions of agents that were given up.
    fn hang_up_gone(&self, state: &State) {
        let is_gone = |agent: &AgentId| state.was_agent(*agent);
        self.lock().sessions.retain(|agent, _| !is_gone(agent));
    }

    /// Ends an agent's session, if it has one: only a new registration makes it
    /// active again.
    fn hang_up(&self, agent: AgentId) {
        self.lock().sessions.remove(&agent);
    }

    fn send(&self, agent: AgentId, frame: MasterFrame) -> bool {
        let mut table = self.lock();
        let Some(session) = table.sessions.get(&agent) else {
            return false;
        };
        if session.frames.try_send(frame).is_ok() {
            return true;
        }
        tracing::warn!(%agent, "the agent's connection is too slow and is dropped");
        table.sessions.remove(&agent);
        false
    }

    fn term(&self) -> u64 {
        self.lock().term
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Table> {
        // The table is whole after every statement, also after a panic.
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `GET /v1/agents/connect`: an agent's control connection.
pub async fn connect(
    Extension(master): Extension<Arc<Master>>,
    mut request: Request,
) -> Result<Response, ApiError> {
    check_upgrade(&request, UPGRADE)?;
    if let Leadership::Follower { leader } = *master.leadership.borrow() {
        return Ok(misdirected(&master, leader));
    }
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(connection) => session::serve(&master, TokioIo::new(connection)).await,
            Err(error) => tracing::debug!(%error, "an agent's upgrade failed"),
        }
    });
    Ok(switching(UPGRADE))
}

/// Agents speak to the leader; whoever else is asked says where that is, if it knows.
fn misdirected(master: &Master, leader: Option<NodeId>) -> Response {
    let mut response = ApiError::Propose(ProposeError::NotLeader { leader }).into_response();
    let state = master.view.load();
    let leader = leader.and_then(|leader| state.master(leader));
    let url = leader.and_then(|leader| HeaderValue::try_from(&leader.url).ok());
    if let Some(url) = url {
        *response.status_mut() = StatusCode::MISDIRECTED_REQUEST;
        response.headers_mut().insert(LEADER, url);
    }
    response
}

/// Where an agent may ask for the leader.
fn urls_of_masters(state: &State) -> impl Iterator<Item = String> {
    state.staying_masters().map(|master| master.url.clone())
}

/// Whether the caller asks for this protocol.
pub(crate) fn check_upgrade(request: &Request, token: &str) -> Result<(), ApiError> {
    let asked = request.headers().get(header::UPGRADE);
    if asked.is_some_and(|asked| asked.as_bytes().eq_ignore_ascii_case(token.as_bytes())) {
        return Ok(());
    }
    Err(ApiError::BadRequest(refused_upgrade(asked, token)))
}

/// Why a connection cannot change to the protocol that it asks for.
fn refused_upgrade(asked: Option<&HeaderValue>, token: &str) -> String {
    let name = |token: &str| token.split('/').next().map(str::to_ascii_lowercase);
    let asked = asked.and_then(|asked| asked.to_str().ok());
    match asked.filter(|asked| name(asked) == name(token)) {
        // What a newer release may speak, an older one does not know.
        Some(other) => format!(
            "this master is of release {} and speaks `{token}`, not `{other}`: run releases that speak the \
             same, masters before agents",
            env!("CARGO_PKG_VERSION")
        ),
        None => format!(
            "this address speaks `Upgrade: {token}` only: it is for masters, agents and `tepui`"
        ),
    }
}

pub(crate) fn switching(token: &'static str) -> Response {
    let headers = [
        (header::CONNECTION, HeaderValue::from_static("upgrade")),
        (header::UPGRADE, HeaderValue::from_static(token)),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}
