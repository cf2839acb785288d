//! The processor time of one call into a guest.
//!
//! A call is a future that many threads may poll; each poll is charged by its
//! thread's own clock, host calls included. wasmtime asks at every tick of the
//! epoch whether the call may go on.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

/// The guest has used all the processor time of its call.
#[derive(Debug, thiserror::Error)]
#[error("it used more than {} s of processor time", .0.as_secs_f32())]
pub struct CpuDeadline(pub Duration);

/// Counts the processor time of calls, one call at a time.
#[derive(Debug, Default)]
pub struct Meter {
    limit_nanos: AtomicU64,
    /// Of the polls that have returned.
    used_nanos: AtomicU64,
    /// The thread's clock when the poll that is going on began.
    poll_began_nanos: AtomicU64,
}

impl Meter {
    /// Runs `call` with this much processor time.
    pub fn run<F: Future>(self: &Arc<Self>, limit: Duration, call: F) -> Metered<F> {
        let limit_nanos = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        self.limit_nanos.store(limit_nanos, Ordering::Relaxed);
        self.used_nanos.store(0, Ordering::Relaxed);
        Metered {
            meter: self.clone(),
            call: Box::pin(call),
        }
    }

    /// Whether the call may go on; asked from within a poll.
    pub fn check(&self) -> Result<(), CpuDeadline> {
        let began = self.poll_began_nanos.load(Ordering::Relaxed);
        let used = self.used_nanos.load(Ordering::Relaxed) + thread_nanos().saturating_sub(began);
        let limit = self.limit_nanos.load(Ordering::Relaxed);
        if used > limit {
            Err(CpuDeadline(Duration::from_nanos(limit)))
        } else {
            Ok(())
        }
    }
}

/// A call whose polls are charged.
pub struct Metered<F> {
    meter: Arc<Meter>,
    call: Pin<Box<F>>,
}

impl<F: Future> Future for Metered<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let began = thread_nanos();
        self.meter.poll_began_nanos.store(began, Ordering::Relaxed);
        let result = self.call.as_mut().poll(context);
        let nanos = thread_nanos().saturating_sub(began);
        self.meter.used_nanos.fetch_add(nanos, Ordering::Relaxed);
        result
    }
}

/// Processor time of this thread since it began.
fn thread_nanos() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a timespec that outlives the call.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(result, 0, "Linux has had this clock since 2.6.12");
    let (seconds, nanos) = (time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs());
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn time_is_charged_over_polls_and_sleep_is_not() {
        let meter = Arc::new(Meter::default());
        let limit = Duration::from_millis(20);
        let spin = async {
            let mut polls = 0;
            while meter.check().is_ok() {
                polls += 1;
                let end = thread_nanos() + 1_000_000;
                while thread_nanos() < end {}
                tokio::task::yield_now().await;
            }
            polls
        };
        let polls = meter.run(limit, spin).await;
        assert!(
            (1..=21).contains(&polls),
            "{polls} polls of at least a millisecond"
        );
        let sleep = async {
            // sleep: that it is not charged is what is tested.
            tokio::time::sleep(3 * limit).await;
            meter.check()
        };
        meter.run(limit, sleep).await.unwrap();
    }
}
