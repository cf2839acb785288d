//! Where others leave what an actor is to look at.
//!
//! Bounded: offers by the allocator, which has each outstanding once; requests
//! by [`limits::REQUESTS`]; a wake is only a flag.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tepui_cluster::Decision;
use tokio::sync::Notify;

use super::RequestError;
use super::inbox::{Inbox, Pending};
use super::limits;

/// One actor's.
#[derive(Default)]
pub struct Mail {
    content: Mutex<Content>,
    filled: Notify,
}

#[derive(Default)]
struct Content {
    decisions: Vec<Decision>,
    requests: Vec<Pending>,
    /// Requests that the actor has taken and not begun.
    taken: usize,
    /// The actor waits for a time, and until then for what is urgent only.
    is_gathering: bool,
}

impl Mail {
    /// There is something to look at in the state.
    pub fn wake(&self) {
        self.filled.notify_one();
    }

    /// There are updates in the state.
    pub fn wake_for_updates(&self, is_urgent: impl FnOnce() -> bool) {
        let is_gathering = self.content().is_gathering;
        if !is_gathering || is_urgent() {
            self.wake();
        }
    }

    /// The actor will look at updates again by itself; until then, or until it collects, it is not told of
    /// those that can wait.
    pub fn gather(&self) {
        self.content().is_gathering = true;
    }

    /// The allocator has decided.
    pub fn decide(&self, decisions: Vec<Decision>) {
        self.content().decisions.extend(decisions);
        self.wake();
    }

    /// Queues a request.
    pub fn request(&self, pending: Pending) -> Result<(), RequestError> {
        let mut content = self.content();
        if content.requests.len() + content.taken >= limits::REQUESTS {
            return Err(RequestError::Busy);
        }
        content.requests.push(pending);
        drop(content);
        self.wake();
        Ok(())
    }

    /// Empties it into the actor's inbox.
    pub fn collect(&self, inbox: &mut Inbox) {
        let mut content = self.content();
        content.is_gathering = false;
        for decision in content.decisions.drain(..) {
            inbox.decide(decision);
        }
        inbox.requests.extend(content.requests.drain(..));
        content.taken = inbox.requests.len();
    }

    /// Waits for mail that came after the last call.
    pub async fn filled(&self) {
        self.filled.notified().await;
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
