//! Processor time of one task among many on a thread.
//!
//! The thread's CPU clock is read around each poll of the task's futures, host calls included; what
//! they wait for is not counted. Before each poll the [gate](crate::gate) is asked, so a task has
//! its share by the same count. Guests yield at each epoch, which makes polls short.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::Duration;

use futures::task::AtomicWaker;
use tepui_types::MilliCpus;

use crate::gate::{Account, Gate, Place};
use crate::throttle::Throttle;

/// Not woken since its last poll.
const IDLE: u8 = 0;
/// Woken, and nobody waits for it.
const WOKEN: u8 = 1;
/// Woken, and counted by the gate as one that goes before others.
const COUNTED: u8 = 2;

/// What the futures of one task took together.
#[derive(Clone)]
pub struct Cpu {
    used: Arc<Used>,
}

struct Used {
    nanos: AtomicU64,
    account: Account,
}

impl Cpu {
    /// A task with this guarantee, and no more than the ceiling if there is one.
    pub fn new(
        gate: Arc<Gate>,
        guarantee: MilliCpus,
        ceiling: Option<MilliCpus>,
        throttle: Throttle,
    ) -> Self {
        Self {
            used: Arc::new(Used {
                nanos: AtomicU64::new(0),
                account: Account::new(gate, guarantee, ceiling, throttle),
            }),
        }
    }

    /// Microseconds so far, rounded up: no task that ran took nothing.
    pub fn micros(&self) -> u64 {
        self.used.nanos.load(Ordering::Relaxed).div_ceil(1000)
    }

    /// Charges what the polls of `future` take, and lets them wait for their turn.
    pub fn charge<'a, T>(&self, future: impl Future<Output = T> + Send + 'a) -> Charged<'a, T> {
        let bell = Arc::new(Bell {
            task: AtomicWaker::new(),
            state: AtomicU8::new(IDLE),
            polling: AtomicBool::new(false),
            used: self.used.clone(),
        });
        Charged {
            inner: Box::pin(future),
            waker: Waker::from(bell.clone()),
            bell,
            place: Place::default(),
        }
    }
}

/// A future whose polls are charged.
pub struct Charged<'a, T> {
    inner: Pin<Box<dyn Future<Output = T> + Send + 'a>>,
    bell: Arc<Bell>,
    waker: Waker,
    place: Place,
}

impl<T> Future for Charged<'_, T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let this = self.get_mut();
        this.bell.task.register(context.waker());
        this.bell.answered();
        let used = &this.bell.used;
        let mut context = Context::from_waker(&this.waker);
        let running = ready!(this.place.poll(&used.account, &mut context));
        this.bell.polling.store(true, Ordering::Relaxed);
        let before = thread_time();
        let result = this.inner.as_mut().poll(&mut context);
        let took = thread_time().saturating_sub(before);
        this.bell.polling.store(false, Ordering::Relaxed);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        used.nanos.fetch_add(nanos, Ordering::Relaxed);
        used.account.charge(took);
        drop(running);
        this.bell.reconsider();
        result
    }
}

impl<T> Drop for Charged<'_, T> {
    fn drop(&mut self) {
        self.bell.close();
    }
}

/// Wakes the task, and tells the gate of it.
struct Bell {
    task: AtomicWaker,
    state: AtomicU8,
    /// Who wakes it while it is polled is mostly the future itself, which yields.
    polling: AtomicBool,
    used: Arc<Used>,
}

impl Bell {
    /// The future has its turn, or waits for it in another way.
    fn answered(&self) {
        if self.state.swap(IDLE, Ordering::AcqRel) == COUNTED {
            self.used.account.gate.waits_no_more();
        }
    }

    /// It was woken when the poll that has just been charged was not charged yet.
    fn reconsider(&self) {
        if self.state.load(Ordering::Acquire) != COUNTED || self.used.account.is_within() {
            return;
        }
        let changed =
            self.state
                .compare_exchange(COUNTED, WOKEN, Ordering::AcqRel, Ordering::Acquire);
        if changed.is_ok() {
            self.used.account.gate.waits_no_more();
        }
    }

    /// There will be no other poll, and wakers may be left of it.
    fn close(&self) {
        if self.state.swap(WOKEN, Ordering::AcqRel) == COUNTED {
            self.used.account.gate.waits_no_more();
        }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.load(Ordering::Acquire) == IDLE {
            let account = &self.used.account;
            let woken = if account.is_within() { COUNTED } else { WOKEN };
            // It is counted before anyone can take it off again.
            if woken == COUNTED {
                account.gate.wait(!self.polling.load(Ordering::Relaxed));
            }
            let changed =
                self.state
                    .compare_exchange(IDLE, woken, Ordering::AcqRel, Ordering::Acquire);
            if changed.is_err() && woken == COUNTED {
                account.gate.waits_no_more();
            }
        }
        self.task.wake();
    }
}

/// Processor time that the calling thread has used.
fn thread_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a timespec of our own, written by the call alone.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    if result != 0 {
        return Duration::ZERO;
    }
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
