//! Processor time of one task among many on a thread.
//!
//! The thread's CPU clock is read around each poll of the task's future, host
//! calls included; what it waits for is not counted.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A future that knows how much processor time its polls took.
pub struct Metered<'a, T> {
    inner: Pin<Box<dyn Future<Output = T> + Send + 'a>>,
    nanos: u64,
}

impl<'a, T> Metered<'a, T> {
    /// Measures `future`.
    pub fn new(future: impl Future<Output = T> + Send + 'a) -> Self {
        Self {
            inner: Box::pin(future),
            nanos: 0,
        }
    }

    /// Microseconds so far, rounded up: no task that ran took nothing.
    pub fn micros(&self) -> u64 {
        self.nanos.div_ceil(1000)
    }
}

impl<T> Future for Metered<'_, T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let before = thread_nanos();
        let result = self.inner.as_mut().poll(context);
        self.nanos += thread_nanos().saturating_sub(before);
        result
    }
}

/// Nanoseconds of processor time that the calling thread has used.
fn thread_nanos() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a timespec of our own, written by the call alone.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    if result != 0 {
        return 0;
    }
    (time.tv_sec as u64)
        .saturating_mul(1_000_000_000)
        .saturating_add(time.tv_nsec as u64)
}
