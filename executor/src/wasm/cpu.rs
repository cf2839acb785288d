//! Processor time of one task among many on a thread.
//!
//! The thread's CPU clock is read around each poll of the task's futures, host calls included; what
//! they wait for is not counted. Before each poll the [gate](crate::gate) is asked, so a task has
//! its share by the same count. Guests yield at each epoch, which makes polls short.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::Duration;

use futures::task::AtomicWaker;
use tepui_types::MilliCpus;

use crate::gate::{Account, Gate, Place};
use crate::line::SeatId;
use crate::meter::Stir;
use crate::throttle::Throttle;

/// How often one that is owed its thread is polled before the runtime may do something else with that. A
/// runtime moves what yields from thread to thread, and the kernel threads from processor to processor:
/// that cost a task beside others a tenth of its time.
const TURNS: u32 = 5;

/// What the futures of one task took together.
#[derive(Clone)]
pub struct Cpu {
    used: Arc<Used>,
}

struct Used {
    nanos: AtomicU64,
    account: Account,
    /// Told of all that is taken.
    stir: Arc<Stir>,
}

impl Used {
    fn charge(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
        self.account.charge(took);
        self.stir.note();
    }
}

impl Cpu {
    /// A task with this guarantee, and no more than the ceiling if there is one.
    pub fn new(
        gate: Arc<Gate>,
        guarantee: MilliCpus,
        ceiling: Option<MilliCpus>,
        throttle: Throttle,
        stir: Arc<Stir>,
    ) -> Self {
        Self {
            used: Arc::new(Used {
                nanos: AtomicU64::new(0),
                account: Account::new(gate, guarantee, ceiling, throttle),
                stir,
            }),
        }
    }

    /// Microseconds so far, rounded up: no task that ran took nothing.
    pub fn micros(&self) -> u64 {
        self.used.nanos.load(Ordering::Relaxed).div_ceil(1000)
    }

    /// Charges what the polls of `future` take, and lets them wait for their turn.
    pub fn charge<'a, T>(&self, future: impl Future<Output = T> + Send + 'a) -> Charged<'a, T> {
        let task = Arc::new(AtomicWaker::new());
        let place = Place::new(&self.used.account, task.clone());
        let bell = Bell {
            task: task.clone(),
            seat: place.seat(),
            used: self.used.clone(),
        };
        Charged {
            inner: Box::pin(future),
            used: self.used.clone(),
            waker: Waker::from(Arc::new(bell)),
            task,
            place,
        }
    }
}

/// A future whose polls are charged.
pub struct Charged<'a, T> {
    inner: Pin<Box<dyn Future<Output = T> + Send + 'a>>,
    used: Arc<Used>,
    waker: Waker,
    /// Whom it is polled by.
    task: Arc<AtomicWaker>,
    place: Place,
}

impl<T> Future for Charged<'_, T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let this = self.get_mut();
        this.task.register(context.waker());
        let used = &this.used;
        let mut context = Context::from_waker(&this.waker);
        let running = ready!(this.place.poll(&used.account, &mut context));
        let mut turns = 0;
        loop {
            let before = thread_time();
            let result = this.inner.as_mut().poll(&mut context);
            // Before its turn is over, for what comes then depends on it.
            used.charge(thread_time().saturating_sub(before));
            turns += 1;
            if result.is_ready() || turns == TURNS || !running.goes_on() {
                return result;
            }
        }
    }
}

impl<T> Drop for Charged<'_, T> {
    fn drop(&mut self) {
        self.place.leave(&self.used.account.gate);
    }
}

/// Wakes the task, and tells the gate of it.
struct Bell {
    task: Arc<AtomicWaker>,
    seat: SeatId,
    used: Arc<Used>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // First: whoever polls it at once is to find it so.
        self.used.account.woken(self.seat);
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
