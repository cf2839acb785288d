//! The actor of one framework: it alone drives the framework's instance.
//!
//! It waits until there is something to do, makes a batch of it, calls the
//! guest, commits the turn and only then lets its consequences out: answers to
//! HTTP callers and to the allocator. After a fault, or a turn that did not
//! commit, the instance is dropped and started again from the store.

use std::sync::Arc;
use std::time::Duration;

use tepui_cluster::state::frameworks::Framework;
use tepui_cluster::{Accepted, Command, Envelope, HttpAnswer, Rejection, State, Turn, TurnKind};
use tepui_types::task::reason;
use tepui_types::{FrameworkId, FrameworkPhase, Principal, Reason, Timestamp};
use tokio::time::Instant;

use super::bindings::scheduler;
use super::inbox::{Inbox, Pending, Timers};
use super::instance::{Blueprint, Fault, Instance};
use super::logs::Logs;
use super::mail::Mail;
use super::offers::{Answered, HeldOffers};
use super::turn::{ClosedTurn, OpenTurn, Seen};
use super::{Host, HttpRequest, RequestError};
use crate::proposals::{Committed, Proposals, ProposeError, Request};

/// The first wait after a turn that did not commit; doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest such wait: whatever hindered it may be over by then.
const LAST_PAUSE: Duration = Duration::from_secs(5);
/// How often a turn is proposed again while the leader's queue is full, one
/// pause between each: about two seconds, then it is better done anew.
const QUEUE_TRIES: u32 = 20;
/// The wait for a place in the leader's queue.
const QUEUE_PAUSE: Duration = Duration::from_millis(100);

/// One framework on the leader.
pub struct Actor {
    id: FrameworkId,
    /// The term in which this master leads.
    term: u64,
    host: Arc<Host>,
    mail: Arc<Mail>,
    logs: Logs,
    inbox: Inbox,
    instance: Option<Instance>,
    /// Not before this moment, after something did not commit.
    pause: Option<(Instant, Duration)>,
    /// The last turn was for events: a waiting request goes next.
    request_is_next: bool,
}

/// What to do now.
enum Next {
    /// Begin an instance.
    Start,
    /// Hand over a batch.
    Handle,
    /// Answer a request.
    Request,
    /// Nothing, until mail comes or this time.
    Wait(Option<Timestamp>),
}

/// A turn is not in the log, or not known to be.
enum Lost {
    /// The log refused it.
    Rejected(Rejection),
    /// It was not taken, or its fate is not known.
    Unproposed(ProposeError),
}

impl Actor {
    /// Of a framework that is in the state.
    pub fn new(id: FrameworkId, term: u64, host: Arc<Host>, mail: Arc<Mail>, logs: Logs) -> Self {
        Self {
            id,
            term,
            host,
            mail,
            logs,
            inbox: Inbox::default(),
            instance: None,
            pause: None,
            request_is_next: false,
        }
    }

    /// Runs until the framework is gone; the master aborts it when it no longer
    /// leads.
    pub async fn run(mut self) {
        loop {
            self.mail.collect(&mut self.inbox);
            let state = self.host.view.load();
            let Some(framework) = state.framework(self.id).cloned() else {
                break;
            };
            let now = self.host.clock.now();
            match self.next(&state, &framework, now) {
                Next::Wait(until) => self.wait(until, now).await,
                Next::Start => self.start(&state, &framework, now).await,
                Next::Handle => self.handle(&state, &framework, now).await,
                Next::Request => self.request(&state, &framework, now).await,
            }
        }
        self.give_up_offers();
        self.inbox.refuse(|| RequestError::Gone);
        tracing::info!(framework = %self.id, "framework removed");
    }

    fn next(&mut self, state: &State, framework: &Framework, now: Timestamp) -> Next {
        let incarnation = framework.incarnation;
        if self
            .instance
            .as_ref()
            .is_some_and(|instance| instance.incarnation != incarnation)
        {
            // It was restarted by an operator.
            self.discard();
        }
        match framework.phase {
            FrameworkPhase::Starting => Next::Start,
            FrameworkPhase::Running => self.next_of_running(state, framework, now),
            FrameworkPhase::Backoff if framework.restart_at <= now => Next::Start,
            FrameworkPhase::Backoff => {
                self.rest(framework);
                Next::Wait(Some(framework.restart_at))
            }
            FrameworkPhase::Failed | FrameworkPhase::Removing => {
                self.rest(framework);
                Next::Wait(None)
            }
        }
    }

    fn next_of_running(&mut self, state: &State, framework: &Framework, now: Timestamp) -> Next {
        if self.instance.is_none() {
            // That is rare, and the first turn needs them anyway.
            self.inbox.timers = Timers::of(framework);
        }
        let due = self.inbox.due(state, framework, now);
        let has_events = due.is_some_and(|due| due <= now);
        let has_request = self.inbox.has_request();
        if !has_events && !has_request {
            return Next::Wait(due);
        }
        if self.instance.is_none() {
            return Next::Start;
        }
        if has_request && (self.request_is_next || !has_events) {
            Next::Request
        } else {
            Next::Handle
        }
    }

    /// The framework takes no turns now: nothing is held for it.
    fn rest(&mut self, framework: &Framework) {
        self.discard();
        self.give_up_offers();
        let (phase, reason) = (framework.phase, &framework.reason);
        self.inbox.refuse(|| RequestError::NotRunning {
            phase,
            reason: reason.clone(),
        });
    }

    async fn wait(&mut self, until: Option<Timestamp>, now: Timestamp) {
        let Some(until) = until else {
            return self.mail.filled().await;
        };
        if self.inbox.is_gathering() {
            self.mail.gather();
        }
        let duration = Duration::from_millis(until.millis_since(now));
        tokio::select! {
            () = self.mail.filled() => {}
            () = tokio::time::sleep(duration) => {}
        }
    }

    async fn start(&mut self, state: &Arc<State>, framework: &Arc<Framework>, now: Timestamp) {
        self.wait_out_pause().await;
        let incarnation = framework.incarnation + 1;
        let why = match framework.incarnation {
            0 => scheduler::StartReason::Deployed,
            _ => scheduler::StartReason::Recovered,
        };
        let compiled = match self.host.components.load(framework.info.artifact).await {
            Ok(compiled) => compiled,
            Err(error) => {
                let reason = Reason::new(reason::NOT_FRAMEWORK, error.to_string());
                self.logs.write(now, "error", &reason.message);
                return self.stop(incarnation, reason).await;
            }
        };
        let blueprint = Blueprint {
            engine: self.host.engine.clone(),
            compiled,
            logs: self.logs.clone(),
            offers: self.host.offers.clone(),
            incarnation,
        };
        self.inbox.forget_shown();
        let turn = self.open(state, framework, now, Seen::default());
        match Instance::start(blueprint, turn, why).await {
            Err(fault) => self.fault(incarnation, fault, None).await,
            Ok((instance, turn)) => {
                self.instance = Some(instance);
                self.inbox.timers = Timers::of(framework);
                let closed = turn.close(incarnation, 0, TurnKind::Start);
                match self.commit(framework, closed, self.own()).await {
                    Ok(_) => {
                        tracing::info!(framework = %self.id, incarnation, ?why, "framework started");
                    }
                    Err(lost) => self.lose(incarnation, lost).await,
                }
            }
        }
    }

    async fn handle(&mut self, state: &Arc<State>, framework: &Arc<Framework>, now: Timestamp) {
        self.request_is_next = true;
        // Whoever does not put it back has dropped it.
        let Some(mut instance) = self.instance.take() else {
            return;
        };
        let (events, seen) = self.inbox.batch(state, framework, now);
        let turn = self.open(state, framework, now, seen);
        let (incarnation, number) = (instance.incarnation, instance.turns);
        tracing::debug!(framework = %self.id, incarnation, number, events = events.len(), "turn");
        match instance.handle(turn, &events).await {
            Err(fault) => self.fault(incarnation, fault, None).await,
            Ok(turn) => {
                self.instance = Some(instance);
                let closed = turn.close(incarnation, number, TurnKind::Handle);
                if let Err(lost) = self.commit(framework, closed, self.own()).await {
                    self.lose(incarnation, lost).await;
                }
            }
        }
    }

    async fn request(&mut self, state: &Arc<State>, framework: &Arc<Framework>, now: Timestamp) {
        self.request_is_next = false;
        let Some(pending) = self.inbox.next_request() else {
            return;
        };
        let pending = match self.answered_before(state, pending) {
            Some(pending) => pending,
            None => return,
        };
        let Some(mut instance) = self.instance.take() else {
            return;
        };
        let turn = self.open(state, framework, now, Seen::default());
        let (incarnation, number) = (instance.incarnation, instance.turns);
        let (response, turn) = match instance.on_request(turn, &guest_request(&pending)).await {
            Ok(answered) => answered,
            Err(fault) => return self.fault(incarnation, fault, Some(pending)).await,
        };
        let room = turn.room();
        let (answer, bad) = check_answer(response, room);
        let closed = turn.close(incarnation, number, TurnKind::Request(answer.clone()));
        if let Some(why) = bad {
            // Nothing of the turn remains, so neither may what the guest remembers of it.
            if !closed.turn.is_durable() {
                self.instance = Some(instance);
            }
            self.settle(closed.offers, &closed.answered);
            drop(pending.reply.send(Err(RequestError::BadAnswer(why))));
            return;
        }
        self.instance = Some(instance);
        if !closed.turn.is_durable() {
            self.settle(closed.offers, &closed.answered);
            return self.answer_read(answer, pending);
        }
        let author = (pending.principal, pending.idempotency_key);
        let result = match self.commit(framework, closed, author).await {
            Ok(answer) => answer.ok_or(RequestError::Gone),
            Err(lost) => {
                let error = match &lost {
                    Lost::Rejected(rejection) => RequestError::Rejected(rejection.clone()),
                    Lost::Unproposed(error) => RequestError::Propose(*error),
                };
                self.lose(incarnation, lost).await;
                Err(error)
            }
        };
        drop(pending.reply.send(result));
    }

    /// Who asks again under the same key gets the answer that was given then.
    fn answered_before(&self, state: &State, pending: Pending) -> Option<Pending> {
        let turn = Turn::new(self.id, 0, 0, TurnKind::Handle);
        let envelope = Envelope {
            request_id: 0,
            principal: pending.principal.clone(),
            idempotency_key: pending.idempotency_key.clone(),
            expected_revision: None,
            term: 0,
            time: state.now,
            body: Command::Turn(turn),
        };
        let Some(answer) = state.answer(&envelope) else {
            return Some(pending);
        };
        let result = match answer {
            Ok(Accepted::Turn {
                answer: Some(answer),
            }) => Ok(answer),
            Ok(_) => Err(RequestError::Rejected(Rejection::KeyReused)),
            Err(rejection) => Err(RequestError::Rejected(rejection)),
        };
        drop(pending.reply.send(result));
        None
    }

    /// A turn that only read may answer once it is known that nobody has led since: a later leader's
    /// frameworks may have said more. That a read index is had does not tell, for followers get it, too.
    fn answer_read(&self, answer: HttpAnswer, pending: Pending) {
        let (proposals, view, term) = (
            self.host.proposals.clone(),
            self.host.view.clone(),
            self.term,
        );
        tokio::spawn(async move {
            let index = proposals.read_index().await;
            let result = match index {
                Ok(_) if view.load().term > term => Err(ProposeError::NotLeader { leader: None }),
                Ok(_) => Ok(answer),
                Err(error) => Err(error),
            };
            drop(pending.reply.send(result.map_err(RequestError::Propose)));
        });
    }

    fn open(
        &mut self,
        state: &Arc<State>,
        framework: &Arc<Framework>,
        now: Timestamp,
        seen: Seen,
    ) -> OpenTurn {
        let offers = std::mem::take(&mut self.inbox.offers);
        OpenTurn::new(state.clone(), framework.clone(), now, seen, offers)
    }

    fn own(&self) -> (Principal, Option<String>) {
        (Principal::Framework(self.id), None)
    }

    /// Commits a turn and lets out what follows from it.
    async fn commit(
        &mut self,
        before: &Framework,
        closed: ClosedTurn,
        (principal, idempotency_key): (Principal, Option<String>),
    ) -> Result<Option<HttpAnswer>, Lost> {
        let ClosedTurn {
            turn,
            offers,
            answered,
            is_full,
        } = closed;
        self.inbox.is_continued |= is_full;
        if !turn.is_durable() {
            self.settle(offers, &answered);
            return Ok(None);
        }
        let expected_revision = None;
        let body = Command::Turn(turn.clone());
        let request = Request {
            principal,
            idempotency_key,
            expected_revision,
            body,
        };
        // Until it is known what became of the turn, the offers are the turn's.
        let result = propose(&self.host.proposals, request).await;
        self.settle(offers, &answered);
        let answer = match result
            .map_err(Lost::Unproposed)?
            .outcome
            .map_err(Lost::Rejected)?
        {
            Accepted::Turn { answer } => answer,
            _ => None,
        };
        self.pause = None;
        self.inbox.timers.committed(before, &turn);
        let state = self.host.view.load();
        let is_mine = state.framework(self.id).is_some_and(|framework| {
            framework.incarnation == turn.incarnation && framework.turns == turn.number + 1
        });
        // An instance has one turn beside its start at least, or it would do nothing.
        let may_discard = turn.kind != TurnKind::Start;
        match &mut self.instance {
            // Another turn was answered under this key, on another master
            // perhaps: this one was not applied.
            Some(_) if !is_mine || (may_discard && self.host.discards_now()) => self.discard(),
            Some(instance) => instance.turns = turn.number + 1,
            None => {}
        }
        Ok(answer)
    }

    /// Keeps the offers that were left alone; tells the allocator of the others.
    fn settle(&mut self, offers: HeldOffers, answered: &Answered) {
        self.inbox.offers = offers;
        self.inbox.rescind_quietly(answered.unseen.clone());
        self.host.offers.settle(answered);
    }

    /// The turn is not in the log: what the instance remembers of it is wrong.
    async fn lose(&mut self, incarnation: u64, lost: Lost) {
        self.discard();
        self.give_up_offers();
        let pause = self
            .pause
            .map_or(FIRST_PAUSE, |(_, pause)| (2 * pause).min(LAST_PAUSE));
        self.pause = Some((Instant::now() + pause, pause));
        match lost {
            Lost::Unproposed(error) => {
                tracing::warn!(framework = %self.id, %error, "turn was not committed");
            }
            Lost::Rejected(rejection @ (Rejection::Fenced(_) | Rejection::NotFound(_))) => {
                tracing::info!(framework = %self.id, %rejection, "turn came too late");
            }
            Lost::Rejected(Rejection::KeyReused) => {}
            Lost::Rejected(rejection) => {
                let reason = Reason::new(reason::TURN_REJECTED, rejection.to_string());
                self.stop(incarnation, reason).await;
            }
        }
    }

    /// The guest trapped or was stopped: its turn never was.
    async fn fault(&mut self, incarnation: u64, fault: Fault, pending: Option<Pending>) {
        let Fault { reason, offers } = fault;
        self.inbox.offers = offers;
        self.stop(incarnation, reason.clone()).await;
        // Who is told of the fault finds it in the state, too.
        if let Some(pending) = pending {
            let error = match reason.code.as_str() {
                reason::DEADLINE => RequestError::Deadline(reason),
                _ => RequestError::Trapped(reason),
            };
            drop(pending.reply.send(Err(error)));
        }
    }

    /// Records why the framework stopped; the state says when it starts again.
    async fn stop(&mut self, incarnation: u64, reason: Reason) {
        self.discard();
        tracing::warn!(framework = %self.id, incarnation, %reason, "framework stopped");
        let body = Command::StopFramework {
            framework: self.id,
            incarnation,
            reason,
        };
        let request = Request::new(Principal::Leader, body);
        let stopped = propose(&self.host.proposals, request).await;
        // Now that it is known to be stopped, it is not offered them again at once.
        self.give_up_offers();
        if let Err(error) = stopped {
            tracing::warn!(framework = %self.id, %error, "the stop was not recorded");
            self.pause = Some((Instant::now() + LAST_PAUSE, LAST_PAUSE));
        }
    }

    async fn wait_out_pause(&mut self) {
        if let Some((until, _)) = self.pause {
            tokio::time::sleep_until(until).await;
        }
    }

    fn discard(&mut self) {
        self.instance = None;
        self.inbox.forget_shown();
    }

    fn give_up_offers(&mut self) {
        let used = self.inbox.offers.give_up();
        if !used.is_empty() {
            self.host.offers.answered(&used);
        }
    }
}

/// Proposes, patiently while the queue is full.
async fn propose(proposals: &Proposals, request: Request) -> Result<Committed, ProposeError> {
    for _ in 0..QUEUE_TRIES {
        match proposals.submit(request.clone()).await {
            Err(ProposeError::QueueFull) => tokio::time::sleep(QUEUE_PAUSE).await,
            result => return result,
        }
    }
    Err(ProposeError::QueueFull)
}

fn guest_request(pending: &Pending) -> scheduler::HttpRequest {
    let HttpRequest {
        method,
        path,
        query,
        headers,
        body,
    } = pending.request.clone();
    let header = |(name, value)| scheduler::Header { name, value };
    scheduler::HttpRequest {
        method,
        path,
        query,
        headers: headers.into_iter().map(header).collect(),
        body,
        principal: pending.principal.to_string(),
    }
}

/// The answer, and what is wrong with it.
fn check_answer(response: scheduler::HttpResponse, room: usize) -> (HttpAnswer, Option<String>) {
    let scheduler::HttpResponse {
        status,
        headers,
        body,
    } = response;
    let headers: Vec<_> = headers
        .into_iter()
        .map(|header| (header.name, header.value))
        .collect();
    let fields = headers
        .iter()
        .map(|(name, value)| name.len() + value.len() + 4);
    let size = fields.sum::<usize>() + body.len();
    let bad = if size > room {
        Some(format!(
            "the framework's answer has {size} bytes, and its turn had room for {room}"
        ))
    } else if !(200..=599).contains(&status) {
        Some(format!("the framework answered with the status {status}"))
    } else {
        None
    };
    (
        HttpAnswer {
            status,
            headers,
            body,
        },
        bad,
    )
}
