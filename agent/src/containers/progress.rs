//! How far a task's preparation is, told not too often.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tepui_types::{Reason, TaskId};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use crate::event_loop::Event;

/// Between two words, each of which is an entry of the log; most preparations are over before the first.
const PAUSE: Duration = Duration::from_secs(2);

/// Tells it of one task.
pub(super) struct Teller<'a> {
    events: &'a mpsc::Sender<Event>,
    task: &'a TaskId,
    state: Mutex<State>,
}

struct State {
    next: Instant,
    /// What came too early, the first of it.
    held_back: Option<Reason>,
}

impl<'a> Teller<'a> {
    pub(super) fn new(events: &'a mpsc::Sender<Event>, task: &'a TaskId) -> Self {
        let state = State {
            next: Instant::now() + PAUSE,
            held_back: None,
        };
        Self {
            events,
            task,
            state: Mutex::new(state),
        }
    }

    /// It is so far now.
    pub(super) fn say(&self, how_far: impl FnOnce() -> Reason) {
        let mut state = self.state();
        if Instant::now() >= state.next {
            self.tell(&mut state, how_far());
        } else if state.held_back.is_none() {
            state.held_back = Some(how_far());
        }
    }

    /// Does what says how far it is. Where nothing more is said for a while, what was said before that is
    /// told late: somebody does not answer, and who waits wants to know whom for.
    pub(super) async fn while_doing<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = sleep(PAUSE) => self.catch_up(),
            }
        }
    }

    fn catch_up(&self) {
        let mut state = self.state();
        if Instant::now() >= state.next
            && let Some(reason) = state.held_back.take()
        {
            self.tell(&mut state, reason);
        }
    }

    fn tell(&self, state: &mut State, reason: Reason) {
        state.next = Instant::now() + PAUSE;
        state.held_back = None;
        // Where the loop is behind, the next word says more.
        let event = Event::Preparing(self.task.clone(), reason);
        let _ = self.events.try_send(event);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tepui_types::{FrameworkId, TaskName};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_followed_by_silence_is_told_late_and_short_work_says_nothing() {
        let (events, mut told) = mpsc::channel(10);
        let task = TaskId {
            framework: FrameworkId(1),
            name: TaskName::new("t").unwrap(),
            attempt: 0,
        };
        let word = |text: &str| Reason::new("preparing", text);
        let teller = Teller::new(&events, &task);
        teller
            .while_doing(async { teller.say(|| word("short")) })
            .await;
        assert!(told.try_recv().is_err());

        let teller = Teller::new(&events, &task);
        let begun = Instant::now();
        let work = async {
            teller.say(|| word("asking"));
            teller.say(|| word("too early as well"));
            // sleep: of a clock that is paused.
            tokio::time::sleep(10 * PAUSE).await;
            teller.say(|| word("going on"));
        };
        let all = async {
            teller.while_doing(work).await;
            begun.elapsed()
        };
        assert_eq!(all.await, 10 * PAUSE);
        for expected in ["asking", "going on"] {
            let Some(Event::Preparing(_, reason)) = told.recv().await else {
                panic!("another event");
            };
            assert_eq!(reason.message, expected);
        }
        assert!(told.try_recv().is_err());
    }
}
