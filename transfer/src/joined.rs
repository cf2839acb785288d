//! Work that several want at once, done once.
//!
//! The first who asks for a key starts the work on a task of its own; all who ask before it ends
//! wait for the same result and hear the same progress. The work is dropped when the last of them is
//! gone, so a download that nobody waits for any longer stops.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::blocking::Interrupted;

type Work<T, E> = BoxFuture<'static, Result<T, E>>;

/// Work under way, by key. `P` is how far it is, `T` what comes of it, `E` why nothing does.
pub struct Joined<K, P, T, E>(Mutex<HashMap<K, Entry<P, T, E>>>)
where
    T: Clone,
    E: Clone;

struct Entry<P, T: Clone, E: Clone> {
    work: WeakShared<Work<T, E>>,
    progress: watch::Receiver<P>,
}

/// One who waits for work.
pub struct Waiting<P, T: Clone, E: Clone> {
    work: Shared<Work<T, E>>,
    progress: watch::Receiver<P>,
    is_joined: bool,
}

/// Where work says how far it is.
#[derive(Debug)]
pub struct Report<P>(watch::Sender<P>);

impl<P> Clone for Report<P> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<P> Report<P> {
    /// So far.
    pub fn say(&self, progress: P) {
        self.0.send_replace(progress);
    }
}

impl<K, P, T: Clone, E: Clone> Default for Joined<K, P, T, E> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K, P, T: Clone, E: Clone> fmt::Debug for Joined<K, P, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Joined")
    }
}

impl<K, P, T, E> Joined<K, P, T, E>
where
    K: Eq + Hash,
    P: Copy + Default + Send + Sync + 'static,
    T: Clone + Send + 'static,
    E: Clone + From<Interrupted> + Send + 'static,
{
    /// Waits for the work of `key`, which is started where it is not under way. `what` is its name
    /// where it ends without a result.
    pub fn join<F>(
        &self,
        key: K,
        what: &str,
        start: impl FnOnce(Report<P>) -> F,
    ) -> Waiting<P, T, E>
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        // Nothing that is done under the lock leaves the map half changed.
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that have ended, and those that nobody waits for: what stays is what runs.
        entries.retain(|_, entry| {
            let work = entry.work.upgrade();
            work.is_some_and(|work| work.peek().is_none())
        });
        if let Some(entry) = entries.get(&key)
            && let Some(work) = entry.work.upgrade()
        {
            return Waiting {
                work,
                progress: entry.progress.clone(),
                is_joined: true,
            };
        }
        let waiting = alone(what, start);
        if let Some(work) = waiting.work.downgrade() {
            let progress = waiting.progress.clone();
            entries.insert(key, Entry { work, progress });
        }
        waiting
    }
}

/// Work that one waits for.
pub fn alone<P, T, E, F>(what: &str, start: impl FnOnce(Report<P>) -> F) -> Waiting<P, T, E>
where
    P: Default,
    T: Clone + Send + 'static,
    E: Clone + From<Interrupted> + Send + 'static,
    F: Future<Output = Result<T, E>> + Send + 'static,
{
    let (sender, progress) = watch::channel(P::default());
    let task = AbortOnDropHandle::new(tokio::spawn(start(Report(sender))));
    let what = what.to_owned();
    let work = async move {
        let ended = task.await;
        ended.unwrap_or_else(|_| Err(E::from(Interrupted { what })))
    };
    Waiting {
        work: work.boxed().shared(),
        progress,
        is_joined: false,
    }
}

impl<P: Copy, T: Clone, E: Clone> Waiting<P, T, E> {
    /// Whether the work had been begun for somebody else.
    pub fn is_joined(&self) -> bool {
        self.is_joined
    }

    /// Waits. What `hear` refuses is not waited for any longer.
    ///
    /// # Errors
    /// Those of the work and of `hear`.
    pub async fn ended(mut self, hear: impl Fn(P) -> Result<(), E>) -> Result<T, E> {
        loop {
            let progress = *self.progress.borrow_and_update();
            hear(progress)?;
            tokio::select! {
                biased;
                result = &mut self.work => {
                    // It may have ended before anybody heard of its last step.
                    let progress = *self.progress.borrow();
                    if result.is_ok() {
                        hear(progress)?;
                    }
                    return result;
                }
                Ok(()) = self.progress.changed() => {}
            }
        }
    }
}

impl<P, T: Clone, E: Clone> fmt::Debug for Waiting<P, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waiting")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    #[derive(Debug, Clone, PartialEq)]
    enum Failed {
        Refused,
        Interrupted(String),
    }

    impl From<Interrupted> for Failed {
        fn from(interrupted: Interrupted) -> Self {
            Self::Interrupted(interrupted.what)
        }
    }

    type Numbers = Joined<&'static str, u32, u32, Failed>;

    fn hear(_: u32) -> Result<(), Failed> {
        Ok(())
    }

    #[tokio::test]
    async fn a_key_is_free_again_after_its_work_ended_failed_or_panicked() {
        let joined = Numbers::default();
        let failed = joined.join("key", "it", |_| async { Err(Failed::Refused) });
        assert_eq!(failed.ended(hear).await, Err(Failed::Refused));
        let panicked = joined.join("key", "it", |_| async { panic!("it broke") });
        let interrupted = Failed::Interrupted("it".into());
        assert_eq!(panicked.ended(hear).await, Err(interrupted));
        let ended = joined.join("key", "it", |_| async { Ok(7) });
        assert!(!ended.is_joined());
        assert_eq!(ended.ended(hear).await, Ok(7));
        let other = joined.join("other", "it", |_| async { Ok(8) });
        assert_eq!(joined.0.lock().unwrap().len(), 1, "what ended is forgotten");
        assert_eq!(other.ended(hear).await, Ok(8));
    }

    #[tokio::test]
    async fn who_comes_while_work_is_under_way_hears_how_far_it_is() {
        let joined = Numbers::default();
        let (go, wait) = oneshot::channel::<()>();
        let first = joined.join("key", "it", |report: Report<u32>| async move {
            report.say(3);
            let _ = wait.await;
            Ok(7)
        });
        let go = Mutex::new(Some(go));
        // The second lets the work end once it has heard of it.
        let hear_three = |progress| {
            if progress == 3
                && let Some(go) = go.lock().unwrap().take()
            {
                let _ = go.send(());
            }
            Ok(())
        };
        let second = joined.join("key", "it", |_| async { Ok(8) });
        assert!(second.is_joined() && !first.is_joined());
        let both = tokio::join!(first.ended(hear), second.ended(hear_three));
        assert_eq!(both, (Ok(7), Ok(7)));
    }

    #[tokio::test]
    async fn who_leaves_stops_nothing_for_who_stays() {
        let joined = Numbers::default();
        let (go, wait) = oneshot::channel::<()>();
        let first = joined.join("key", "it", |_| async {
            let _ = wait.await;
            Ok(7)
        });
        let second = joined.join("key", "it", |_| async { Ok(8) });
        drop(first);
        go.send(()).unwrap();
        assert_eq!(second.ended(hear).await, Ok(7));
    }

    #[tokio::test]
    async fn work_that_nobody_waits_for_is_dropped() {
        let joined = Numbers::default();
        for refused in [false, true] {
            let (held, mut dropped) = oneshot::channel::<()>();
            let waiting = joined.join("key", "it", |_| async move {
                let _held = held;
                std::future::pending().await
            });
            match refused {
                false => drop(waiting),
                true => {
                    let ended = waiting.ended(|_| Err(Failed::Refused)).await;
                    assert_eq!(ended, Err(Failed::Refused));
                }
            }
            let ended = tokio::time::timeout(Duration::from_secs(10), &mut dropped).await;
            assert!(ended.unwrap().is_err(), "what the work held is gone");
        }
    }

    #[tokio::test]
    async fn the_last_step_is_heard_however_fast_the_work_ends() {
        let heard = Mutex::new(0);
        let waiting = alone("it", |report: Report<u32>| async move {
            report.say(9);
            Ok::<_, Failed>(7)
        });
        let hear = |progress| {
            *heard.lock().unwrap() = progress;
            Ok(())
        };
        assert_eq!(waiting.ended(hear).await, Ok(7));
        assert_eq!(*heard.lock().unwrap(), 9);
    }
}
