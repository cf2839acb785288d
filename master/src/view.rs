//! The applied state, for all who only read.
//!
//! The log's thread publishes after every batch; a reader loads a consistent state for the price of
//! a counter, keeps it as long as it likes and never holds up the log.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tepui_cluster::State;
use tokio::sync::watch;

/// The reader's end; clones share it.
#[derive(Clone)]
pub struct View(Arc<Published>);

struct Published {
    state: ArcSwap<State>,
    /// Raft's applied index: runs ahead of the state's where entries hold no command.
    applied: watch::Sender<u64>,
}

impl View {
    pub(crate) fn new(state: State, applied: u64) -> Self {
        let applied = watch::Sender::new(applied);
        Self(Arc::new(Published {
            state: ArcSwap::from_pointee(state),
            applied,
        }))
    }

    /// The state as of now.
    pub fn load(&self) -> Arc<State> {
        self.0.state.load_full()
    }

    /// The last log index that is in what [`View::load`] gives, or was empty.
    pub fn applied(&self) -> u64 {
        *self.0.applied.borrow()
    }

    /// Waits until the entry at `index` is applied here.
    pub async fn wait_for(&self, index: u64) {
        // The sender lives in `self`, so the channel never closes.
        let mut applied = self.0.applied.subscribe();
        applied.wait_for(|applied| *applied >= index).await.ok();
    }

    pub(crate) fn publish(&self, state: State, applied: u64) {
        self.0.state.store(Arc::new(state));
        self.0.applied.send_replace(applied);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waiters_see_the_state_that_they_waited_for() {
        let mut state = State::new(tepui_types::ClusterId(1));
        let view = View::new(state.clone(), 1);
        view.wait_for(1).await;
        let waiting = tokio::spawn({
            let view = view.clone();
            async move {
                view.wait_for(5).await;
                view.load().index
            }
        });
        state.index = 5;
        view.publish(state, 5);
        assert_eq!(waiting.await.unwrap(), 5);
        assert_eq!(view.applied(), 5);
    }
}
