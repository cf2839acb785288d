//! Work that several want at once, done once.
//!
//! The first who asks for a key starts the work on a task of its own; all who ask before it ends wait
//! for the same result and see the same progress. The work is dropped when the last of them is gone,
//! so a pull that nobody waits for any longer stops.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::error::ImageError;

/// Work in progress, by key.
#[derive(Debug)]
pub struct Joined<K, P, T> {
    running: Arc<Mutex<Running<K, P, T>>>,
}

type Running<K, P, T> = HashMap<K, watch::Sender<Step<P, T>>>;

#[derive(Debug)]
enum Step<P, T> {
    Going(P),
    Ended(Result<T, ImageError>),
}

/// Where work says how far it is.
#[derive(Debug)]
pub struct Report<P, T>(watch::Sender<Step<P, T>>);

impl<P, T> Clone for Report<P, T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<P, T> Report<P, T> {
    /// So far.
    pub fn say(&self, progress: P) {
        self.0.send_replace(Step::Going(progress));
    }
}

/// What came of it, and whether the work was begun for this caller.
#[derive(Debug)]
pub struct Outcome<T> {
    /// What came of it.
    pub result: Result<T, ImageError>,
    /// Whether another caller's work was joined.
    pub joined: bool,
}

impl<K, P, T> Default for Joined<K, P, T> {
    fn default() -> Self {
        Self {
            running: Arc::default(),
        }
    }
}

impl<K, P, T> Joined<K, P, T>
where
    K: Clone + Eq + Hash + Send + 'static,
    P: Copy + Default + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// Waits for the work of `key`, which is started with `start` where it is not under way.
    pub async fn run<F>(
        &self,
        key: K,
        name: &str,
        start: impl FnOnce(Report<P, T>) -> F,
        progress: impl Fn(P),
    ) -> Outcome<T>
    where
        F: Future<Output = Result<T, ImageError>> + Send + 'static,
    {
        let (mut steps, joined) = self.join(key, start);
        let interrupted = || ImageError::Interrupted { image: name.into() };
        let result = loop {
            let going = match &*steps.borrow_and_update() {
                Step::Going(now) => *now,
                Step::Ended(result) => break result.clone(),
            };
            progress(going);
            if steps.changed().await.is_err() {
                // Its task panicked, or the runtime is going down.
                break Err(interrupted());
            }
        };
        Outcome { result, joined }
    }

    fn join<F>(
        &self,
        key: K,
        start: impl FnOnce(Report<P, T>) -> F,
    ) -> (watch::Receiver<Step<P, T>>, bool)
    where
        F: Future<Output = Result<T, ImageError>> + Send + 'static,
    {
        let mut running = lock(&self.running);
        if let Some(sender) = running.get(&key) {
            return (sender.subscribe(), true);
        }
        let (sender, receiver) = watch::channel(Step::Going(P::default()));
        running.insert(key.clone(), sender.clone());
        let work = start(Report(sender.clone()));
        let entry = Entry {
            running: self.running.clone(),
            key,
            listed: true,
        };
        tokio::spawn(drive(entry, sender, work));
        (receiver, false)
    }
}

async fn drive<K: Eq + Hash, P, T>(
    mut entry: Entry<K, P, T>,
    sender: watch::Sender<Step<P, T>>,
    work: impl Future<Output = Result<T, ImageError>>,
) {
    let mut work = std::pin::pin!(work);
    let result = loop {
        tokio::select! {
            result = &mut work => break result,
            () = sender.closed() => {
                let mut running = lock(&entry.running);
                // Someone may have joined in this very moment.
                if sender.receiver_count() == 0 {
                    running.remove(&entry.key);
                    entry.listed = false;
                    return;
                }
            }
        }
    };
    // First out of the list: who comes from here on begins anew.
    drop(entry);
    sender.send_replace(Step::Ended(result));
}

/// Takes the key out of the list, also when the work panics.
struct Entry<K: Eq + Hash, P, T> {
    running: Arc<Mutex<Running<K, P, T>>>,
    key: K,
    /// Not once it is taken out: the key may be another's work by then.
    listed: bool,
}

impl<K: Eq + Hash, P, T> Drop for Entry<K, P, T> {
    fn drop(&mut self) {
        if self.listed {
            lock(&self.running).remove(&self.key);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that is done under the lock leaves the map half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn run(
        joined: &Joined<&'static str, u32, u32>,
        work: impl Future<Output = Result<u32, ImageError>> + Send + 'static,
    ) -> Outcome<u32> {
        joined.run("key", "image", |_| work, |_| {}).await
    }

    #[tokio::test]
    async fn a_key_is_free_again_after_its_work_ended_failed_or_panicked() {
        let joined = Joined::default();
        let failed = run(&joined, async { Err(ImageError::invalid("x", "y")) }).await;
        assert_eq!(failed.result.unwrap_err().code(), "image-invalid");
        let panicked = run(&joined, async { panic!("it broke") }).await;
        assert_eq!(panicked.result.unwrap_err().code(), "image-interrupted");
        let ended = run(&joined, async { Ok(7) }).await;
        assert_eq!((ended.result.unwrap(), ended.joined), (7, false));
        assert!(lock(&joined.running).is_empty());
    }

    #[tokio::test]
    async fn who_comes_while_work_is_under_way_hears_how_far_it_is() {
        let joined = Joined::<_, u32, u32>::default();
        let (go, wait) = tokio::sync::oneshot::channel::<()>();
        let start = |report: Report<u32, u32>| async move {
            report.say(3);
            let _ = wait.await;
            Ok(7)
        };
        let first = joined.run("key", "image", start, |_| {});
        let mut go = Some(go);
        let go = Mutex::new(&mut go);
        // The second lets the work end once it has heard of it.
        let hear = |progress| {
            if progress == 3
                && let Some(go) = lock(&go).take()
            {
                let _ = go.send(());
            }
        };
        let second = joined.run("key", "image", |_| async { Ok(8) }, hear);
        let (first, second) = tokio::join!(first, second);
        assert_eq!((first.result.unwrap(), first.joined), (7, false));
        assert_eq!((second.result.unwrap(), second.joined), (7, true));
    }
}
