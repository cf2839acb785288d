//! What waits for one framework: offers, requests, timers.
//!
//! Updates and dropped operations do not wait here: they follow from the state
//! until a turn that saw them has committed.

use std::collections::{BTreeSet, VecDeque};

use tepui_cluster::state::frameworks::Framework;
use tepui_cluster::state::limits as quota;
use tepui_cluster::{Decision, HttpAnswer, State, Turn};
use tepui_types::{OfferId, Principal, Timestamp};
use tokio::sync::oneshot;

use super::bindings::scheduler::{DroppedOperation, Event};
use super::convert;
use super::limits;
use super::offers::HeldOffers;
use super::turn::Seen;
use super::{HttpRequest, RequestError};

/// An HTTP request that waits for its turn.
pub struct Pending {
    /// The request.
    pub request: HttpRequest,
    /// Who asks.
    pub principal: Principal,
    /// Under which key.
    pub idempotency_key: Option<String>,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Result<HttpAnswer, RequestError>>,
}

/// What waits.
#[derive(Default)]
pub struct Inbox {
    /// Offers that are held, seen by the framework or not.
    pub offers: HeldOffers,
    /// Requests, oldest first.
    pub requests: VecDeque<Pending>,
    /// Timers, kept in step with the state's.
    pub timers: Timers,
    /// Offers that the framework has seen and that are gone.
    rescinded: Vec<OfferId>,
    /// The last turn was full.
    pub is_continued: bool,
}

impl Inbox {
    /// Takes a decision of the allocator.
    pub fn decide(&mut self, decision: Decision) {
        match decision {
            Decision::Offer(_, offer) => self.offers.insert(offer),
            Decision::Rescind(_, offer) => {
                if self.offers.rescind(offer) {
                    self.rescinded.push(offer);
                }
            }
        }
    }

    /// The next request whose caller still waits.
    pub fn next_request(&mut self) -> Option<Pending> {
        self.drop_abandoned();
        self.requests.pop_front()
    }

    /// Whether a request waits.
    pub fn has_request(&mut self) -> bool {
        self.drop_abandoned();
        !self.requests.is_empty()
    }

    fn drop_abandoned(&mut self) {
        while self
            .requests
            .front()
            .is_some_and(|pending| pending.reply.is_closed())
        {
            self.requests.pop_front();
        }
    }

    /// Answers all requests with an error.
    pub fn refuse(&mut self, error: impl Fn() -> RequestError) {
        for pending in self.requests.drain(..) {
            // A caller that has gone needs no answer.
            drop(pending.reply.send(Err(error())));
        }
    }

    /// Whether there is anything for `handle`. Rescinded offers alone are not
    /// worth a turn: accepting one fails all the same.
    pub fn has_events(&self, framework: &Framework, now: Timestamp) -> bool {
        self.is_continued
            || self.offers.has_new()
            || self.rescinded.len() >= quota::TURN_OFFERS
            || !framework.pending.is_empty()
            || !framework.notices.is_empty()
            || self.timers.next().is_some_and(|due| due <= now)
    }

    /// Empties what fits into one turn; updates and notices stay in the state.
    pub fn batch(
        &mut self,
        state: &State,
        framework: &Framework,
        now: Timestamp,
    ) -> (Vec<Event>, Seen) {
        let (mut events, mut seen) = (Vec::new(), Seen::default());
        if std::mem::take(&mut self.is_continued) {
            events.push(Event::Continued);
        }
        if !self.rescinded.is_empty() {
            let rescinded = std::mem::take(&mut self.rescinded);
            events.push(Event::Rescinded(
                rescinded.into_iter().map(|offer| offer.0).collect(),
            ));
        }
        for operation in framework.pending.iter().take(quota::TURN_UPDATES) {
            let Some(task) = state.tasks.get(operation) else {
                continue;
            };
            seen.acknowledged.push((task.id.clone(), task.sequence));
            events.push(Event::Update(convert::task_out(task)));
        }
        for (number, notice) in framework.notices.iter().take(quota::TURN_UPDATES) {
            seen.notices.push(*number);
            events.push(Event::Dropped(DroppedOperation {
                operation: notice.operation.clone(),
                subject: notice.subject.clone(),
                reason: convert::reason_out(&notice.reason),
            }));
        }
        for (due, name) in self.timers.due(now) {
            seen.timers.push((name.clone(), due));
            events.push(Event::Timer(name));
        }
        // Last, when the framework knows what has become of its tasks.
        let offers = self.offers.show(quota::TURN_OFFERS);
        if !offers.is_empty() {
            events.push(Event::Offers(
                offers.iter().map(convert::offer_out).collect(),
            ));
        }
        (events, seen)
    }

    /// The instance is gone, and with it what it knew of offers.
    pub fn forget_shown(&mut self) {
        self.offers.hide();
        self.rescinded.clear();
    }

    /// Notes that the framework will not be able to use these any more.
    pub fn rescind_quietly(&mut self, offers: Vec<OfferId>) {
        self.rescinded.extend(offers);
    }
}

/// A framework's timers by when they are due.
#[derive(Debug, Default)]
pub struct Timers(BTreeSet<(Timestamp, String)>);

impl Timers {
    /// Those of the state.
    pub fn of(framework: &Framework) -> Self {
        Self(
            framework
                .timers
                .iter()
                .map(|(name, due)| (*due, name.to_string()))
                .collect(),
        )
    }

    /// When the next one is due.
    pub fn next(&self) -> Option<Timestamp> {
        self.0.first().map(|(due, _)| *due)
    }

    /// Those that are due, at most a turn's worth. They stay until the turn
    /// that saw them has committed.
    fn due(&self, now: Timestamp) -> Vec<(Timestamp, String)> {
        let due = self.0.iter().take_while(|(due, _)| *due <= now);
        due.take(limits::TURN_TIMERS).cloned().collect()
    }

    /// Follows a turn that has committed on `before`.
    pub fn committed(&mut self, before: &Framework, turn: &Turn) {
        for (name, due) in &turn.timers_fired {
            self.0.remove(&(*due, name.clone()));
        }
        for (name, due) in &turn.timers {
            if let Some(old) = before.timers.get(name.as_str()) {
                self.0.remove(&(*old, name.clone()));
            }
            if let Some(due) = due {
                self.0.insert((*due, name.clone()));
            }
        }
    }
}
