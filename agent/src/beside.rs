//! Commands beside tasks: whoever wants one waits here for its end.
//!
//! The event loop knows which process has the task, and sends it there. What an executor does not
//! answer any more, because it is gone or its connection is, has ended in a way that nobody knows.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tepui_types::wire::executor::RunBeside;
use tokio::sync::{mpsc, oneshot};

use crate::agent::ExecutorId;
use crate::event_loop::Event;
use crate::uptime;

/// A command that is to be run.
#[derive(Debug)]
pub struct Run {
    /// What, and beside which task; its `id` is given by [`Beside`].
    pub command: RunBeside,
    /// What it reads and writes, as its `io` says.
    pub files: Vec<OwnedFd>,
}

/// How a command ended: with a code, or with what kept it from that.
pub type Ran = Result<i32, String>;

/// Those that run.
#[derive(Debug)]
pub struct Beside {
    events: mpsc::Sender<Event>,
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, Waiting>>,
}

#[derive(Debug)]
struct Waiting {
    answer: oneshot::Sender<Ran>,
    /// Who runs it, once it was sent there.
    executor: Option<ExecutorId>,
}

impl Beside {
    /// Nothing runs yet.
    pub fn new(events: mpsc::Sender<Event>) -> Arc<Self> {
        Arc::new(Self {
            events,
            // What an earlier process asked for is answered to nobody.
            next: AtomicU64::new(uptime::now_ms() << 16),
            waiting: Mutex::default(),
        })
    }

    /// Runs one. Dropped before its end, it is ended.
    pub async fn run(&self, mut run: Run) -> Ran {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        run.command.id = id;
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting {
            answer,
            executor: None,
        };
        self.waiting().insert(id, waiting);
        let _forget = Forget { beside: self, id };
        // The loop is gone only when the agent ends.
        let _ = self.events.send(Event::RunWanted(run)).await;
        let answer = answered.await;
        answer.unwrap_or_else(|_| Err("the agent is ending".into()))
    }

    /// A command was sent to this process.
    pub fn on_sent(&self, id: u64, executor: ExecutorId) {
        if let Some(waiting) = self.waiting().get_mut(&id) {
            waiting.executor = Some(executor);
        }
    }

    /// A command has ended, or could not be run.
    pub fn on_ran(&self, id: u64, ran: Ran) {
        if let Some(waiting) = self.waiting().remove(&id) {
            // Whoever asked may have given up.
            let _ = waiting.answer.send(ran);
        }
    }

    /// A process answers no more for what it was sent.
    pub fn on_lost(&self, executor: ExecutorId) {
        let mut waiting = self.waiting();
        let lost = waiting.extract_if(|_, one| one.executor == Some(executor));
        for (_, one) in lost {
            let _ = one
                .answer
                .send(Err("the task's executor does not answer".into()));
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A command that is given up is answered to nobody, and ended.
struct Forget<'a> {
    beside: &'a Beside,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        let waiting = self.beside.waiting().remove(&self.id);
        if let Some(executor) = waiting.and_then(|waiting| waiting.executor) {
            // Where the loop is that far behind, what has a limit ends by that.
            let event = Event::Abandoned(executor, self.id);
            let _ = self.beside.events.try_send(event);
        }
    }
}
