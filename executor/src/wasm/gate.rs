//! Who goes first: tasks that are owed their guaranteed share of the processors, then those within it,
//! then those beyond it.
//!
//! It is asked before each poll of a task's futures, and told when one of them is woken; what it knows of
//! them is a [line](crate::line).

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::task::AtomicWaker;
use tepui_epoch::Clock;
use tepui_types::MilliCpus;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::line::{Line, Right, SeatId};
use crate::share::{Share, Turn};
use crate::throttle::Throttle;

/// What all tasks of the process ask.
pub struct Gate {
    started: Instant,
    line: Mutex<Line<Arc<AtomicWaker>>>,
    clock: Clock,
}

impl Gate {
    /// A gate to so many threads, whose guests yield to that clock.
    pub fn new(threads: usize, clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            line: Mutex::new(Line::new(threads)),
            clock,
        })
    }

    fn line(&self) -> MutexGuard<'_, Line<Arc<AtomicWaker>>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the line, and wakes whose turn it is by then.
    fn change(&self, change: impl FnOnce(&mut Line<Arc<AtomicWaker>>) -> Option<Arc<AtomicWaker>>) {
        // Not under the lock: a waker may do anything.
        let next = change(&mut self.line());
        if let Some(next) = next {
            next.wake();
        }
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

    fn right(&self) -> Right {
        match self.turn() {
            Turn::Owed => Right::Owed,
            Turn::Within(_) => Right::Within,
            Turn::Beyond(_) | Turn::Over(_) => Right::Beyond,
        }
    }

    /// It has used so much.
    pub fn charge(&self, used: Duration) {
        let now = self.gate.started.elapsed();
        self.share().charge(used, now);
    }

    /// One of its futures was woken; if there is no thread for it, others yield.
    pub fn woken(&self, seat: SeatId) {
        if self.gate.line().woken(seat, || self.right()) {
            self.gate.clock.interrupt();
        }
    }

    fn turn(&self) -> Turn {
        let now = self.gate.started.elapsed();
        let mut share = self.share();
        share.hold(self.throttle.get(), now);
        share.turn(now)
    }

    fn share(&self) -> MutexGuard<'_, Share> {
        self.share.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One future's place before the gate.
pub struct Place {
    seat: SeatId,
    until: Option<Pin<Box<Sleep>>>,
}

/// One poll; over when it is dropped.
pub struct Running<'a> {
    account: &'a Account,
    seat: SeatId,
    _ticks: tepui_epoch::Running<'a>,
}

impl Place {
    /// One of that task's futures, which `waker` wakes.
    pub fn new(account: &Account, waker: Arc<AtomicWaker>) -> Self {
        Self {
            seat: account.gate.line().enter(waker),
            until: None,
        }
    }

    /// By which it is known.
    pub fn seat(&self) -> SeatId {
        self.seat
    }

    /// Ready when the future may be polled, once.
    pub fn poll<'a>(
        &mut self,
        account: &'a Account,
        context: &mut Context<'_>,
    ) -> Poll<Running<'a>> {
        let gate = &*account.gate;
        loop {
            let (is_admitted, until) = match account.turn() {
                Turn::Owed => (self.ask(gate, Right::Owed), Duration::ZERO),
                Turn::Within(until) => (self.ask(gate, Right::Within), until),
                Turn::Beyond(until) => (self.ask(gate, Right::Beyond), until),
                Turn::Over(until) => {
                    gate.change(|line| line.rest(self.seat));
                    (false, until)
                }
            };
            if is_admitted {
                return Poll::Ready(Running {
                    account,
                    seat: self.seat,
                    _ticks: account.gate.clock.run(),
                });
            }
            // Its own time comes, whatever others do.
            let until = gate.started + until;
            let sleep = self
                .until
                .get_or_insert_with(|| Box::pin(sleep_until(until)));
            if sleep.deadline() != until {
                sleep.as_mut().reset(until);
            }
            ready!(sleep.as_mut().poll(context));
        }
    }

    fn ask(&self, gate: &Gate, right: Right) -> bool {
        let mut is_admitted = false;
        gate.change(|line| {
            is_admitted = line.ask(self.seat, right);
            // There may be a thread for another.
            line.call()
        });
        is_admitted
    }

    /// It is not polled again.
    pub fn leave(&self, gate: &Gate) {
        gate.change(|line| line.exit(self.seat));
    }
}

impl Running<'_> {
    /// Whether it may be polled once more at once, for it has yielded and the thread is its own.
    pub fn goes_on(&self) -> bool {
        let account = self.account;
        account.gate.line().goes_on(self.seat, || account.right())
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let account = self.account;
        let gate = &account.gate;
        gate.change(|line| line.ended(self.seat, || account.right()));
    }
}
