//! Work that several want at once, done once.
//!
//! The first who asks for a key starts the work on a task of its own; all who ask before it ends
//! wait for the same result and hear the same progress. The work is dropped when the last of them is
//! gone, so a download that nobody waits for any longer stops.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::error::FetchError;
use crate::progress::Far;

type Result<T> = std::result::Result<T, FetchError>;
type Work<T> = BoxFuture<'static, Result<T>>;

/// Work in progress, by key.
pub(crate) struct Joined<K, T: Clone>(Mutex<HashMap<K, Entry<T>>>);

struct Entry<T: Clone> {
    work: WeakShared<Work<T>>,
    far: watch::Receiver<Far>,
}

/// One who waits for work.
pub(crate) struct Waiting<T: Clone> {
    work: Shared<Work<T>>,
    far: watch::Receiver<Far>,
}

impl<K, T: Clone> Default for Joined<K, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash, T: Clone + Send + 'static> Joined<K, T> {
    /// Waits for the work of `key`, which is started where it is not under way.
    pub fn join<F>(
        &self,
        key: K,
        what: &str,
        start: impl FnOnce(watch::Sender<Far>) -> F,
    ) -> Waiting<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        // Nothing that is done under the lock leaves the map half changed.
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that have ended, and those that nobody waits for: what stays is what runs.
        entries.retain(|_, entry| {
            entry
                .work
                .upgrade()
                .is_some_and(|work| work.peek().is_none())
        });
        if let Some(entry) = entries.get(&key)
            && let Some(work) = entry.work.upgrade()
        {
            let far = entry.far.clone();
            return Waiting { work, far };
        }
        let waiting = alone(what, start);
        if let Some(work) = waiting.work.downgrade() {
            let far = waiting.far.clone();
            entries.insert(key, Entry { work, far });
        }
        waiting
    }
}

/// Work that one waits for.
pub(crate) fn alone<T, F>(what: &str, start: impl FnOnce(watch::Sender<Far>) -> F) -> Waiting<T>
where
    T: Clone + Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    let (sender, far) = watch::channel(Far::default());
    let task = AbortOnDropHandle::new(tokio::spawn(start(sender)));
    let what = what.to_owned();
    let work = async move {
        // Its task panicked, or the runtime is going down.
        let interrupted = |_| Err(FetchError::Interrupted { what });
        task.await.unwrap_or_else(interrupted)
    };
    let work = work.boxed().shared();
    Waiting { work, far }
}

impl<T: Clone> Waiting<T> {
    /// Waits. What `hear` refuses is not waited for any longer.
    pub async fn ended(mut self, hear: impl Fn(Far) -> Result<()>) -> Result<T> {
        loop {
            let far = *self.far.borrow_and_update();
            hear(far)?;
            tokio::select! {
                biased;
                result = &mut self.work => {
                    // It may have ended before anybody heard of its last step.
                    let far = *self.far.borrow();
                    if result.is_ok() {
                        hear(far)?;
                    }
                    return result;
                }
                Ok(()) = self.far.changed() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_is_free_again_after_its_work_ended_failed_or_panicked() {
        let joined = Joined::<_, u32>::default();
        let hear = |_| Ok(());
        let fail = |_| async { Err(FetchError::invalid("x", "y")) };
        let failed = joined.join("key", "it", fail).ended(hear).await;
        assert_eq!(failed.unwrap_err().code(), "fetch-invalid");
        let panicked = joined.join("key", "it", |_| async { panic!("it broke") });
        let panicked = panicked.ended(hear).await;
        assert_eq!(panicked.unwrap_err().code(), "fetch-interrupted");
        let ended = joined.join("key", "it", |_| async { Ok(7) });
        assert_eq!(ended.ended(hear).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn who_comes_meanwhile_gets_the_same_and_who_leaves_stops_nothing() {
        let joined = Joined::<_, u32>::default();
        let (go, wait) = tokio::sync::oneshot::channel::<()>();
        let first = joined.join("key", "it", |_| async {
            let _ = wait.await;
            Ok(7)
        });
        let second = joined.join("key", "it", |_| async { Ok(8) });
        drop(first);
        go.send(()).unwrap();
        assert_eq!(second.ended(|_| Ok(())).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn work_that_nobody_waits_for_is_dropped() {
        let joined = Joined::<_, u32>::default();
        let (held, mut dropped) = tokio::sync::oneshot::channel::<()>();
        let waiting = joined.join("key", "it", |_| async move {
            let _held = held;
            std::future::pending().await
        });
        drop(waiting);
        let ended = tokio::time::timeout(std::time::Duration::from_secs(10), &mut dropped).await;
        assert!(ended.unwrap().is_err(), "what the work held is gone");
    }
}
