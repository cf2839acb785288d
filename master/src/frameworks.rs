//! The frameworks: schedulers that run in this master while it leads.
//!
//! Each framework has an actor of its own, and guests have threads of their
//! own, so no framework slows another. All that a framework does is a turn that
//! goes through the log; see [`actor`].

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tepui_cluster::{Changes, Decision, HttpAnswer, Rejection, State};
use tepui_types::{Digest, FrameworkId, FrameworkPhase, Principal, Reason};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::artifacts::Artifacts;
use crate::clock::Clock;
use crate::leader::offers::Offers;
use crate::proposals::{Proposals, ProposeError};
use crate::view::View;

mod actor;
mod bindings;
mod code;
pub mod compiler;
mod component;
mod convert;
mod engine;
mod host;
mod inbox;
mod instance;
pub mod limits;
mod logs;
mod mail;
mod memory;
mod meter;
mod offers;
pub mod readiness;
#[cfg(test)]
mod tests;
mod turn;
mod wasi;

use actor::Actor;
pub use compiler::Compiler;
pub use component::ComponentError;
use component::Components;
use engine::Engine;
pub use engine::EngineError;
use inbox::Pending;
pub use logs::LogTail;
use logs::Logs;
use mail::Mail;
pub use offers::Answered;

/// A request for a framework's `on-request`, without credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRequest {
    /// `GET`, `POST`…
    pub method: String,
    /// Below `/frameworks/{name}`, with a leading `/`.
    pub path: String,
    /// What stood after `?`.
    pub query: Option<String>,
    /// Lower-case names, and values.
    pub headers: Vec<(String, String)>,
    /// At most [`limits::REQUEST_BYTES`].
    pub body: Vec<u8>,
}

/// Why a framework did not answer.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// There is no such framework, or not any more.
    #[error("the framework is gone")]
    Gone,
    /// It takes no turns now.
    #[error("the framework {}{}", state_of(*.phase), because(.reason))]
    NotRunning {
        /// How far it is.
        phase: FrameworkPhase,
        /// Why.
        reason: Option<Reason>,
    },
    /// Too many requests wait for it.
    #[error(
        "{} requests wait for the framework already: try again in a moment",
        limits::REQUESTS
    )]
    Busy,
    /// The request is too large for a turn.
    #[error("a framework takes bodies of at most {} bytes", limits::REQUEST_BYTES)]
    TooLarge,
    /// It trapped on the request; nothing of what it did remains.
    #[error("the framework failed on this request: {0}")]
    Trapped(Reason),
    /// It was stopped on the request; nothing of what it did remains.
    #[error("the framework took too long for this request: {0}")]
    Deadline(Reason),
    /// Its answer cannot be passed on; nothing of what it did remains.
    #[error("{0}")]
    BadAnswer(String),
    /// The turn could not be committed, or nobody knows whether it was.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// The turn was refused.
    #[error(transparent)]
    Rejected(#[from] Rejection),
}

fn state_of(phase: FrameworkPhase) -> &'static str {
    match phase {
        FrameworkPhase::Starting => "is starting",
        FrameworkPhase::Running => "is running",
        FrameworkPhase::Backoff => "stopped and is started again in a moment",
        FrameworkPhase::Failed => "has failed and waits for an operator to restart it",
        FrameworkPhase::Removing => "is being removed",
    }
}

fn because(reason: &Option<Reason>) -> String {
    match reason {
        Some(reason) => format!(": {reason}"),
        None => String::new(),
    }
}

/// How frameworks are made and treated.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder of compiled components.
    pub code: PathBuf,
    /// What makes them.
    pub compiler: Compiler,
    /// Drop an instance after one turn in so many, at random, so that an author
    /// who keeps something only in memory learns it at once.
    pub discard_instances: Option<u32>,
}

/// All frameworks; clones share them.
#[derive(Clone)]
pub struct Frameworks(Arc<Shared>);

struct Shared {
    host: Arc<Host>,
    actors: Mutex<Actors>,
}

/// What actors share.
struct Host {
    engine: Arc<Engine>,
    components: Components,
    clock: Clock,
    view: View,
    proposals: Proposals,
    offers: Offers,
    discard_instances: Option<u32>,
}

impl Host {
    /// Whether an instance is to be dropped after this turn.
    fn discards_now(&self) -> bool {
        let one_in = self.discard_instances.filter(|one_in| *one_in > 0);
        one_in.is_some_and(|one_in| getrandom::u32().is_ok_and(|random| random % one_in == 0))
    }
}

#[derive(Default)]
struct Actors {
    /// The term in which this master leads.
    term: Option<u64>,
    running: BTreeMap<FrameworkId, Handle>,
}

struct Handle {
    mail: Arc<Mail>,
    logs: Logs,
    task: JoinHandle<()>,
}

impl Frameworks {
    /// Nothing runs before [`Frameworks::lead`]. Must be called in a runtime that has I/O.
    pub fn new(
        proposals: &Proposals,
        clock: &Clock,
        view: &View,
        offers: &Offers,
        artifacts: &Artifacts,
        options: Options,
    ) -> Result<Self, EngineError> {
        let engine = Arc::new(Engine::new()?);
        let artifacts = artifacts.clone();
        let components =
            Components::new(engine.clone(), artifacts, options.compiler, &options.code)?;
        let host = Host {
            engine,
            components,
            clock: clock.clone(),
            view: view.clone(),
            proposals: proposals.clone(),
            offers: offers.clone(),
            discard_instances: options.discard_instances,
        };
        Ok(Self(Arc::new(Shared {
            host: Arc::new(host),
            actors: Mutex::default(),
        })))
    }

    /// Whether an artifact can run as a framework here; compiles it, too.
    pub async fn validate(&self, digest: Digest) -> Result<(), ComponentError> {
        self.0.host.components.load(digest).await.map(drop)
    }

    /// This master leads: frameworks run. Their instances begin when there is
    /// something for them to do.
    pub fn lead(&self, term: u64) {
        let mut actors = self.0.actors();
        actors.term = Some(term);
        let state = self.0.host.view.load();
        for framework in state.frameworks.keys() {
            actors.ensure(&self.0.host, *framework);
        }
    }

    /// This master no longer leads: all turns that go on are dropped.
    pub fn stop_leading(&self) {
        *self.0.actors() = Actors::default();
    }

    /// What has changed in the state.
    pub fn on_changes(&self, changes: &Changes) {
        let state = self.0.host.view.load();
        let mut actors = self.0.actors();
        for id in changes.frameworks.union(&changes.inboxes) {
            let Some(framework) = state.framework(*id) else {
                if let Some(handle) = actors.running.remove(id) {
                    handle.end();
                }
                continue;
            };
            let Some(handle) = actors.ensure(&self.0.host, *id) else {
                continue;
            };
            let is_other = changes.frameworks.contains(id);
            let is_urgent = || is_other || inbox::is_urgent(&state, framework);
            handle.mail.wake_for_updates(is_urgent);
        }
    }

    /// What the allocator has decided.
    pub fn on_decisions(&self, decisions: Vec<Decision>) {
        let mut by_framework = BTreeMap::<FrameworkId, Vec<Decision>>::new();
        for decision in decisions {
            let (Decision::Offer(framework, _) | Decision::Rescind(framework, _)) = &decision;
            by_framework.entry(*framework).or_default().push(decision);
        }
        let mut actors = self.0.actors();
        for (framework, decisions) in by_framework {
            // Offers to one that is gone are rescinded by the allocator.
            if let Some(handle) = actors.ensure(&self.0.host, framework) {
                handle.mail.decide(decisions);
            }
        }
    }

    /// Hands a request to a framework and waits for its answer, which is
    /// committed.
    pub async fn request(
        &self,
        framework: FrameworkId,
        request: HttpRequest,
        principal: Principal,
        idempotency_key: Option<String>,
    ) -> Result<HttpAnswer, RequestError> {
        if request.body.len() > limits::REQUEST_BYTES {
            return Err(RequestError::TooLarge);
        }
        let (reply, answer) = oneshot::channel();
        let pending = Pending {
            request,
            principal,
            idempotency_key,
            reply,
        };
        {
            let mut actors = self.0.actors();
            if actors.term.is_none() {
                return Err(ProposeError::NotLeader { leader: None }.into());
            }
            self.0.exists(framework)?;
            let handle = actors
                .ensure(&self.0.host, framework)
                .ok_or(RequestError::Gone)?;
            handle.mail.request(pending)?;
        }
        // The actor is dropped without an answer when this master stops leading.
        answer
            .await
            .unwrap_or(Err(RequestError::Propose(ProposeError::Unknown)))
    }

    /// What a framework has logged on this leader.
    pub fn logs(&self, framework: FrameworkId) -> LogTail {
        let actors = self.0.actors();
        let handle = actors.running.get(&framework);
        handle.map_or_else(|| Logs::default().tail(), |handle| handle.logs.tail())
    }
}

impl Shared {
    fn actors(&self) -> MutexGuard<'_, Actors> {
        self.actors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn exists(&self, framework: FrameworkId) -> Result<(), RequestError> {
        let state: Arc<State> = self.host.view.load();
        state
            .framework(framework)
            .map(drop)
            .ok_or(RequestError::Gone)
    }
}

impl Actors {
    /// The framework's actor, begun if this master leads.
    fn ensure(&mut self, host: &Arc<Host>, framework: FrameworkId) -> Option<&Handle> {
        let term = self.term?;
        // An actor ends with its framework, or by a fault of the host: then another takes over.
        let handle = self.running.get(&framework);
        if handle.is_some_and(|handle| handle.task.is_finished()) {
            self.running.remove(&framework);
        }
        let handle = self.running.entry(framework).or_insert_with(|| {
            let (mail, logs) = (Arc::<Mail>::default(), Logs::default());
            let actor = Actor::new(framework, term, host.clone(), mail.clone(), logs.clone());
            let task = host.engine.spawn(actor.run());
            Handle { mail, logs, task }
        });
        Some(handle)
    }
}

impl Handle {
    /// Lets the actor see that its framework is gone, and end by itself.
    fn end(self) {
        self.mail.wake();
    }
}

impl Drop for Actors {
    fn drop(&mut self) {
        for handle in self.running.values() {
            handle.task.abort();
        }
    }
}
