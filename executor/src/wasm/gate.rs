//! Who goes first: tasks within their guaranteed share of the processors before those beyond it.
//!
//! It is asked before each poll of a task's futures. A future of a task beyond its guarantee needs
//! one of as many passes as there are guest threads, in the order of asking, and then that nobody
//! waits who is within. So however many spin, those who come before them find short queues; and
//! what nobody has a right to is taken all the same.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tepui_types::MilliCpus;
use tokio::sync::futures::OwnedNotified;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::PollSemaphore;

use crate::share::{Share, Turn};
use crate::throttle::Throttle;

/// What all tasks of the process ask.
pub struct Gate {
    started: Instant,
    passes: Arc<Semaphore>,
    /// Futures within their guarantees that were woken and did not have their turn yet.
    waiting: AtomicUsize,
    /// Told when nobody waits any more.
    opened: Arc<Notify>,
    /// Futures beyond that have a thread now.
    beyond: AtomicUsize,
    interrupt: Box<dyn Fn() + Send + Sync>,
}

impl Gate {
    /// A gate to so many threads; `interrupt` makes all guests yield.
    pub fn new(threads: usize, interrupt: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            passes: Arc::new(Semaphore::new(threads)),
            waiting: AtomicUsize::new(0),
            opened: Arc::new(Notify::new()),
            beyond: AtomicUsize::new(0),
            interrupt: Box::new(interrupt),
        })
    }

    /// Another within its guarantee waits. If it was woken from outside, whoever is beyond goes
    /// at once; one that has just yielded waits as all do.
    pub fn wait(&self, from_outside: bool) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        if from_outside && self.beyond.load(Ordering::Relaxed) > 0 {
            (self.interrupt)();
        }
    }

    /// One of those waits no more.
    pub fn waits_no_more(&self) {
        if self.waiting.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.opened.notify_waiters();
        }
    }

    fn is_open(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) == 0
    }
}

/// A task before the gate.
pub struct Account {
    /// The gate.
    pub gate: Arc<Gate>,
    share: Mutex<Share>,
    throttle: Throttle,
}

impl Account {
    /// A task with this guarantee, and no more than the ceiling if there is one.
    pub fn new(
        gate: Arc<Gate>,
        guarantee: MilliCpus,
        ceiling: Option<MilliCpus>,
        throttle: Throttle,
    ) -> Self {
        let share = Share::new(guarantee, ceiling, gate.started.elapsed());
        Self {
            gate,
            share: Mutex::new(share),
            throttle,
        }
    }

    /// Whether it has a right to the processor.
    pub fn is_within(&self) -> bool {
        self.turn() == Turn::Within
    }

    /// It has used so much.
    pub fn charge(&self, used: Duration) {
        let now = self.gate.started.elapsed();
        self.share().charge(used, now);
    }

    fn turn(&self) -> Turn {
        let now = self.gate.started.elapsed();
        let mut share = self.share();
        share.hold(self.throttle.get(), now);
        share.turn(now)
    }

    fn share(&self) -> std::sync::MutexGuard<'_, Share> {
        self.share.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One future's place before the gate: empty while its task is within its guarantee.
#[derive(Default)]
pub struct Place {
    until: Option<Pin<Box<Sleep>>>,
    queue: Option<PollSemaphore>,
    pass: Option<OwnedSemaphorePermit>,
    opened: Option<Pin<Box<OwnedNotified>>>,
}

/// One poll; over when it is dropped.
pub struct Running<'a> {
    beyond: Option<(&'a Gate, Option<OwnedSemaphorePermit>)>,
}

impl Place {
    /// Ready when the future may be polled, once.
    pub fn poll<'a>(
        &mut self,
        account: &'a Account,
        context: &mut Context<'_>,
    ) -> Poll<Running<'a>> {
        loop {
            let until = match account.turn() {
                Turn::Within => {
                    *self = Self::default();
                    return Poll::Ready(Running { beyond: None });
                }
                Turn::Beyond(until) => {
                    if let Poll::Ready(pass) = self.poll_pass(&account.gate, context) {
                        return Poll::Ready(Running::beyond(&account.gate, pass));
                    }
                    until
                }
                Turn::Over(until) => {
                    (self.queue, self.pass, self.opened) = (None, None, None);
                    until
                }
            };
            // Its own time comes, whatever others do.
            let until = account.gate.started + until;
            let sleep = self
                .until
                .get_or_insert_with(|| Box::pin(sleep_until(until)));
            if sleep.deadline() != until {
                sleep.as_mut().reset(until);
            }
            ready!(sleep.as_mut().poll(context));
        }
    }

    /// A pass, and nobody who goes before. The semaphore is never closed.
    fn poll_pass(
        &mut self,
        gate: &Arc<Gate>,
        context: &mut Context<'_>,
    ) -> Poll<Option<OwnedSemaphorePermit>> {
        if self.pass.is_none() {
            let queue = || PollSemaphore::new(gate.passes.clone());
            let queue = self.queue.get_or_insert_with(queue);
            self.pass = ready!(queue.poll_acquire(context));
        }
        while !gate.is_open() {
            let opened = || Box::pin(gate.opened.clone().notified_owned());
            let opened = self.opened.get_or_insert_with(opened);
            // Who opens it between the two looks is heard.
            opened.as_mut().enable();
            if gate.is_open() {
                break;
            }
            ready!(opened.as_mut().poll(context));
            self.opened = None;
        }
        self.opened = None;
        Poll::Ready(self.pass.take())
    }
}

impl<'a> Running<'a> {
    fn beyond(gate: &'a Gate, pass: Option<OwnedSemaphorePermit>) -> Self {
        gate.beyond.fetch_add(1, Ordering::Relaxed);
        Self {
            beyond: Some((gate, pass)),
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Some((gate, _)) = &self.beyond {
            gate.beyond.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
