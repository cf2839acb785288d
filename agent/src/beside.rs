//! Commands beside tasks: whoever wants one waits here for its end.
//!
//! The event loop knows which process has the task, and sends it there. What an executor does not
//! answer any more, because it is gone or its connection is, has ended in a way that nobody knows.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tepui_types::TaskId;
use tepui_types::wire::executor::{Look, RunBeside};
use tokio::sync::mpsc::error::TrySendError;
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
pub type Ran = Result<i32, NotRan>;

/// Why a command has no code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotRan {
    /// What it was to run beside does not run now, or cannot be asked: that says nothing of it.
    #[error("{0}")]
    NotNow(&'static str),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

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
        let ask = |id| {
            run.command.id = id;
            Event::RunWanted(run)
        };
        self.ask(ask).await
    }

    /// Looks whether a command of a task has run for the last so many milliseconds.
    ///
    /// # Errors
    /// Says that it has not, or why that cannot be known.
    pub async fn look(&self, task: TaskId, member: Option<String>, for_ms: u64) -> Ran {
        let ask = |id| {
            Event::LookWanted(Look {
                id,
                task,
                member,
                for_ms,
            })
        };
        self.ask(ask).await
    }

    async fn ask(&self, event: impl FnOnce(u64) -> Event) -> Ran {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting {
            answer,
            executor: None,
        };
        self.waiting().insert(id, waiting);
        let _forget = Forget { beside: self, id };
        // The loop is gone only when the agent ends.
        let _ = self.events.send(event(id)).await;
        let answer = answered.await;
        answer.unwrap_or(Err(NotRan::NotNow("the agent is ending")))
    }

    /// A command is about to be sent to this process; false if nobody waits for it any more.
    pub fn on_sent(&self, id: u64, executor: ExecutorId) -> bool {
        match self.waiting().get_mut(&id) {
            Some(waiting) => {
                waiting.executor = Some(executor);
                true
            }
            None => false,
        }
    }

    /// A command has ended, or could not be run.
    pub fn on_ran(&self, id: u64, ran: Ran) {
        if let Some(waiting) = self.waiting().remove(&id) {
            // Whoever asked may have given up.
            let _ = waiting.answer.send(ran);
        }
    }

    /// A process answers no more for what it was sent; tells what that was.
    pub fn on_lost(&self, executor: ExecutorId) -> Vec<u64> {
        let mut waiting = self.waiting();
        let lost = waiting.extract_if(|_, one| one.executor == Some(executor));
        let answered = lost.map(|(id, one)| {
            let why = NotRan::NotNow("the task's executor does not answer");
            // Whoever asked may have given up.
            let _ = one.answer.send(Err(why));
            id
        });
        answered.collect()
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
            let event = Event::Abandoned(executor, self.id);
            if let Err(TrySendError::Full(event)) = self.beside.events.try_send(event) {
                let events = self.beside.events.clone();
                // The loop is gone only when the agent ends.
                tokio::spawn(async move { events.send(event).await.ok() });
            }
        }
    }
}
