//! How a task is asked to end: why, and until when it may finish what it does.
//!
//! A command has nothing to finish: WebAssembly knows no signal to ask politely with, so it ends at
//! once. A service goes on with the requests that it has.

use std::time::Duration;

use tepui_types::task::reason;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// Ends a task, once, and says why.
#[derive(Clone)]
pub struct Kill {
    asked: watch::Sender<Option<Asked>>,
}

#[derive(Clone, Copy)]
struct Asked {
    reason: &'static str,
    deadline: Instant,
}

impl Default for Kill {
    fn default() -> Self {
        Self {
            asked: watch::Sender::new(None),
        }
    }
}

impl Kill {
    /// Asks for the end, for the reason of that code, in so much time. The first reason counts, and
    /// the shortest time.
    pub fn ask(&self, reason: &'static str, grace: Duration) {
        let deadline = Instant::now() + grace;
        self.asked.send_modify(|asked| match asked {
            Some(asked) => asked.deadline = asked.deadline.min(deadline),
            None => *asked = Some(Asked { reason, deadline }),
        });
    }

    /// Waits until the end is asked for.
    pub async fn asked(&self) {
        // The sender is here, so this only ever ends with a wish.
        let _ = self.asked.subscribe().wait_for(Option::is_some).await;
    }

    /// Waits until the end was asked for and its time is over.
    pub async fn forced(&self) {
        let mut asked = self.asked.subscribe();
        loop {
            let deadline = asked.borrow_and_update().map(|asked| asked.deadline);
            let over = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = over => return,
                _ = asked.changed() => {}
            }
        }
    }

    /// The code of the reason.
    pub fn reason(&self) -> &'static str {
        let asked = *self.asked.borrow();
        asked.map_or(reason::KILL_REQUESTED, |asked| asked.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_reason_and_the_shortest_time_count() {
        let kill = Kill::default();
        kill.ask(reason::KILL_REQUESTED, Duration::from_secs(3_600));
        kill.asked().await;
        let forced = kill.clone();
        let forced = tokio::spawn(async move { forced.forced().await });
        kill.ask(reason::EXECUTOR_TERMINATED, Duration::ZERO);
        forced.await.unwrap();
        assert_eq!(kill.reason(), reason::KILL_REQUESTED);
    }
}
