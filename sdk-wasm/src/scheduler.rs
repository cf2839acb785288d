//! What an author writes: a scheduler, called by the host in turns.
//!
//! One call is one turn, and a turn is a transaction: all that it does through
//! its [`Context`] (store writes, timers, launches, demand, the HTTP answer)
//! happens together after the call has returned, or not at all if it panics.

use tepui_types::{Offer, OfferId, Reason};

use crate::context::Context;
use crate::http::{Request, Response};
use crate::task::Task;

/// Why [`Scheduler::start`] is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StartReason {
    /// The framework was deployed just now.
    Deployed,
    /// The instance was lost with all its memory: a new leader, a panic, a restart.
    Recovered,
}

/// Something that happened. Updates and dropped operations are delivered until
/// a turn that saw them has committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Free resources, one agent's each.
    Offers(Vec<Offer>),
    /// Offers that are no longer good.
    Rescinded(Vec<OfferId>),
    /// A task has moved. States in between may be left out, the last never.
    Update(Task),
    /// An operation of an earlier turn, other than a launch, did not fit.
    Dropped(DroppedOperation),
    /// A timer is due.
    Timer(String),
    /// The turn before this one was full; go on.
    Continued,
}

/// An operation that did not fit when its turn was committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DroppedOperation {
    /// `kill`; may grow.
    pub operation: String,
    /// What it was about: a task's id.
    pub subject: String,
    /// Why.
    pub reason: Reason,
}

/// A framework. Every method but `start` has a default that is safe, if idle.
///
/// The value may be thrown away after any turn and made anew by `start`, from
/// what stands in the store: its fields are a cache.
pub trait Scheduler: Sized + 'static {
    /// Makes the scheduler; called first on every instance. `config` is the
    /// text given at the deployment. An error is shown to the operator, and the
    /// framework is started again later.
    fn start(cx: &mut Context<'_>, reason: StartReason, config: &str) -> Result<Self, String>;

    /// Free resources that this framework has demand for. What is not accepted
    /// before the turn ends should be declined; unanswered offers are held
    /// until they expire.
    fn on_offers(&mut self, cx: &mut Context<'_>, offers: Vec<Offer>) {
        let ids: Vec<OfferId> = offers.iter().map(|offer| offer.id).collect();
        // A full turn leaves them to expire, which is as good.
        let _ = cx.decline(&ids, None);
    }

    /// Offers that are no longer good; of interest to who keeps offers.
    fn on_rescinded(&mut self, _cx: &mut Context<'_>, _offers: Vec<OfferId>) {}

    /// A task has moved.
    fn on_update(&mut self, _cx: &mut Context<'_>, _task: Task) {}

    /// An operation of an earlier turn did not fit.
    fn on_dropped(&mut self, cx: &mut Context<'_>, dropped: DroppedOperation) {
        let DroppedOperation {
            operation,
            subject,
            reason,
        } = dropped;
        cx.warn(&format!(
            "the {operation} of {subject} was dropped: {reason}"
        ));
    }

    /// A timer is due. It fires once.
    fn on_timer(&mut self, _cx: &mut Context<'_>, _name: &str) {}

    /// The turn before this one was full: go on where a call answered
    /// [`TurnFull`](crate::Error::TurnFull).
    fn on_continued(&mut self, _cx: &mut Context<'_>) {}

    /// Someone asks at `/frameworks/{name}{path}`. The answer is sent after the
    /// turn has committed, so that a 2xx is durable.
    fn on_request(&mut self, _cx: &mut Context<'_>, request: Request) -> Response {
        Response::not_found(&request)
    }

    /// A batch of events, one turn. Override it where a whole batch is cheaper
    /// to handle than its events one by one.
    fn handle(&mut self, cx: &mut Context<'_>, events: Vec<Event>) {
        for event in events {
            match event {
                Event::Offers(offers) => self.on_offers(cx, offers),
                Event::Rescinded(offers) => self.on_rescinded(cx, offers),
                Event::Update(task) => self.on_update(cx, task),
                Event::Dropped(dropped) => self.on_dropped(cx, dropped),
                Event::Timer(name) => self.on_timer(cx, &name),
                Event::Continued => self.on_continued(cx),
            }
        }
    }
}
