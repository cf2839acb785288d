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
    /// Since when there is nothing but updates that can wait.
    gathers_since: Option<Timestamp>,
}

/// How long updates are gathered on which nothing hangs, in milliseconds: a turn each would be a write to
/// the disk each.
const GATHER_MS: u64 = 5;
/// So many are worth a turn at once.
const GATHER_MOST: usize = 64;

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

    /// When there is something for `handle`; with what is there now, at `now` or before. Rescinded offers
    /// alone are not worth a turn, for accepting one fails all the same.
    pub fn due(
        &mut self,
        state: &State,
        framework: &Framework,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let is_urgent = self.is_continued
            || self.offers.has_new()
            || self.rescinded.len() >= quota::TURN_OFFERS
            || is_urgent(state, framework);
        // The clock may have been set back.
        let since = self.gathers_since.map_or(now, |since| since.min(now));
        self.gathers_since = (!is_urgent && !framework.pending.is_empty()).then_some(since);
        if is_urgent {
            return Some(now);
        }
        let updates = self
            .gathers_since
            .map(|since| since.after_millis(GATHER_MS));
        updates.into_iter().chain(self.timers.next()).min()
    }

    /// Whether it waits for more updates that can wait.
    pub fn is_gathering(&self) -> bool {
        self.gathers_since.is_some()
    }

    /// Empties what fits into one turn; updates and notices stay in the state.
    pub fn batch(
        &mut self,
        state: &State,
        framework: &Framework,
        now: Timestamp,
    ) -> (Vec<Event>, Seen) {
        self.gathers_since = None;
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

/// Whether something in the state calls for a turn at once. Updates of tasks that have others in line behind
/// them do not, for a while: their places do not wait for an answer.
pub fn is_urgent(state: &State, framework: &Framework) -> bool {
    let mut updates = framework.pending.iter();
    !framework.notices.is_empty()
        || framework.pending.len() >= GATHER_MOST
        || updates.any(|operation| !state.has_line_behind(*operation))
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

#[cfg(test)]
mod tests {
    use tepui_cluster::Command;
    use tepui_types::wire::agent::StatusReport;
    use tepui_types::{AgentId, TaskId, TaskState};

    use super::*;
    use crate::frameworks::tests::*;

    const NOW: Timestamp = Timestamp(10_000);

    /// A task, two in line behind it, and what waits for the framework.
    fn line() -> (Cluster, [TaskId; 3], Inbox) {
        let mut cluster = Cluster::new();
        let mut turn = cluster.open();
        let tasks = vec![task("first", 1000)];
        let first = turn.accept(OfferId(7), spec("a"), tasks).unwrap();
        let after = ("first".to_owned(), first[0].attempt);
        let tasks = ["second", "third"].map(|name| (name.to_owned(), None));
        let line = turn.launch_after(after, spec("a"), tasks.into()).unwrap();
        cluster.commit(turn);
        let [second, third] = line.try_into().unwrap();
        let tasks = [first[0].clone(), second, third];
        (cluster, tasks, Inbox::default())
    }

    fn finish(cluster: &mut Cluster, task: &TaskId) {
        let report = StatusReport {
            task: task.clone(),
            state: TaskState::Finished,
            reason: None,
            exit_code: None,
            usage: None,
            signs: None,
        };
        cluster.apply(Command::ReportTasks {
            agent: AgentId(1),
            reports: vec![report],
        });
    }

    fn due(inbox: &mut Inbox, cluster: &Cluster, now: Timestamp) -> Option<Timestamp> {
        let framework = cluster.state.framework(FRAMEWORK).unwrap();
        inbox.due(&cluster.state, framework, now)
    }

    #[test]
    fn ends_within_a_line_are_gathered_and_its_last_one_is_not() {
        let (mut cluster, tasks, mut inbox) = line();
        assert_eq!(due(&mut inbox, &cluster, NOW), None);
        finish(&mut cluster, &tasks[0]);
        let until = NOW.after_millis(GATHER_MS);
        for now in [NOW, NOW.after_millis(1), until.after_millis(3)] {
            assert_eq!(due(&mut inbox, &cluster, now), Some(until));
        }
        // Nobody waits behind the third one.
        finish(&mut cluster, &tasks[1]);
        assert_eq!(due(&mut inbox, &cluster, NOW), Some(NOW));
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_hold_updates_up() {
        let (mut cluster, tasks, mut inbox) = line();
        finish(&mut cluster, &tasks[0]);
        due(&mut inbox, &cluster, Timestamp(1_000_000));
        let until = NOW.after_millis(GATHER_MS);
        assert_eq!(due(&mut inbox, &cluster, NOW), Some(until));
    }

    #[test]
    fn what_is_due_before_is_not_held_up() {
        let (mut cluster, tasks, mut inbox) = line();
        finish(&mut cluster, &tasks[0]);
        let mut turn = cluster.open();
        turn.set_timer("soon".into(), 1).unwrap();
        cluster.commit(turn);
        inbox.timers = Timers::of(cluster.state.framework(FRAMEWORK).unwrap());
        let timer = inbox.timers.next();
        assert!(timer < Some(NOW));
        assert_eq!(due(&mut inbox, &cluster, NOW), timer);
        inbox.offers.insert(offer(9));
        assert_eq!(due(&mut inbox, &cluster, NOW), Some(NOW));
    }

    #[test]
    fn gathering_begins_anew_after_a_turn() {
        let (mut cluster, tasks, mut inbox) = line();
        finish(&mut cluster, &tasks[0]);
        due(&mut inbox, &cluster, NOW);
        let framework = cluster.state.framework(FRAMEWORK).unwrap().clone();
        let (events, seen) = inbox.batch(&cluster.state, &framework, NOW);
        assert_eq!((events.len(), seen.acknowledged.len()), (1, 1));
        let later = NOW.after_millis(100);
        let until = later.after_millis(GATHER_MS);
        assert_eq!(due(&mut inbox, &cluster, later), Some(until));
    }
}
