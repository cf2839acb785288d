//! The log's thread: takes events from the inbox and gives them to the member, which does the rest.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Instant;

use tokio::sync::oneshot;

use super::inbox::{Event, Inbox};
use super::member::Member;
use super::pulse::Pulse;
use super::world::World;
use super::{TICK, TICK_ALONE};
use crate::error::RaftError;

/// The log's thread, to be watched and stopped.
pub struct LogThread {
    inbox: Arc<Inbox>,
    thread: Option<JoinHandle<()>>,
    ended: oneshot::Receiver<Result<(), RaftError>>,
}

impl LogThread {
    /// Drives a member by its inbox.
    pub(super) fn start(
        member: Member<impl World + Send + 'static>,
        inbox: Arc<Inbox>,
        pulse: Arc<Pulse>,
    ) -> Result<Self, RaftError> {
        let (ended, end) = oneshot::channel();
        let events = inbox.clone();
        let thread = Builder::new()
            .name("log".into())
            .spawn(move || {
                let result = run_to_end(member, &events, &pulse);
                if let Err(error) = &result {
                    tracing::error!(
                        error = error as &dyn std::error::Error,
                        "the log has stopped"
                    );
                }
                ended.send(result).ok();
            })
            .map_err(RaftError::Thread)?;
        Ok(Self {
            inbox,
            thread: Some(thread),
            ended: end,
        })
    }

    /// Waits until the thread ends: by [`LogThread::stop`], or with the error that ended it, upon
    /// which the process should end too.
    pub async fn ended(&mut self) -> Result<(), RaftError> {
        if self.ended.is_terminated() {
            return Ok(());
        }
        match (&mut self.ended).await {
            Ok(result) => result,
            Err(_) => Ok(()),
        }
    }

    /// Ends the thread and waits for it; who still waits for an outcome gets
    /// [`ProposeError::Unknown`](crate::proposals::ProposeError::Unknown). Blocks for as long as a
    /// sync takes.
    pub fn stop(&mut self) {
        self.inbox.stop();
        if let Some(thread) = self.thread.take() {
            // Its own panic was caught; there is nothing more to learn.
            thread.join().ok();
        }
    }
}

impl Drop for LogThread {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Runs until it is stopped or fails; in the end nobody is left waiting.
fn run_to_end(
    mut member: Member<impl World>,
    inbox: &Inbox,
    pulse: &Pulse,
) -> Result<(), RaftError> {
    let result = catch_unwind(AssertUnwindSafe(|| run(&mut member, inbox, pulse)))
        .unwrap_or_else(|panic| Err(RaftError::Panicked(panic_message(panic.as_ref()))));
    inbox.close();
    member.end();
    result
}

fn run<W: World>(member: &mut Member<W>, inbox: &Inbox, pulse: &Pulse) -> Result<(), RaftError> {
    member.begin()?;
    let interval = |member: &Member<W>| if member.is_alone() { TICK_ALONE } else { TICK };
    let mut next_tick = now() + interval(member);
    while let Some(event) = inbox.next(next_tick) {
        if matches!(event, Event::Tick) {
            next_tick = now() + interval(member);
        }
        member.on_event(event)?;
        pulse.beat();
    }
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "this thread has no runtime and its own ticks"
)]
fn now() -> Instant {
    Instant::now()
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".into())
}
