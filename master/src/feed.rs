//! The last events, in order, for those who watch.
//!
//! The log's thread publishes what each batch did; events and their sequences are the same on every
//! master, and a restart brings back those since its snapshot. A watcher reads at its own pace; one
//! that falls behind what is kept is told so and lists anew.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tepui_types::api::event::{Event, EventBody, Sequence};
use tokio::sync::watch;

/// Events kept: some ten seconds of a busy cluster, minutes of an ordinary one; about 20 MiB.
const RETAINED: usize = 65_536;
/// Events handed over at once, so that a watcher far behind does not copy them all in one go.
const BATCH: usize = 1_000;

/// What a watcher asks for is not kept any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("events up to {oldest} are not kept any more: read the lists anew, then watch on")]
pub struct Gone {
    /// The newest sequence that is not kept.
    pub oldest: Sequence,
}

/// The events; clones share them.
#[derive(Clone)]
pub struct Feed(Arc<Shared>);

struct Shared {
    retained: Mutex<Retained>,
    /// Position after the newest event.
    end: watch::Sender<u64>,
    /// That programs may have changed.
    programs: watch::Sender<()>,
}

struct Retained {
    events: VecDeque<Event>,
    /// Position of the oldest event; positions count all events since this process started.
    first: u64,
    /// The newest sequence that is not kept.
    floor: Sequence,
}

impl Feed {
    /// An empty feed that knows all events after `floor`.
    pub(crate) fn new(floor: Sequence) -> Self {
        let retained = Mutex::new(Retained {
            events: VecDeque::new(),
            first: 0,
            floor,
        });
        Self(Arc::new(Shared {
            retained,
            end: watch::Sender::new(0),
            programs: watch::Sender::new(()),
        }))
    }

    /// Told whenever artifacts or frameworks have come, gone or changed, and when that may have been
    /// missed: for who follows nothing else, and is not to be woken for every task.
    pub fn programs(&self) -> watch::Receiver<()> {
        self.0.programs.subscribe()
    }

    /// Watches events after `after`; those from now on if it is not given.
    pub fn subscribe(&self, after: Option<Sequence>) -> Result<Subscription, Gone> {
        let retained = self.0.retained();
        let position = match after {
            None => retained.first + retained.events.len() as u64,
            Some(after) if after < retained.floor => {
                return Err(Gone {
                    oldest: retained.floor,
                });
            }
            Some(after) => {
                let seen = retained
                    .events
                    .partition_point(|event| event.sequence <= after);
                retained.first + seen as u64
            }
        };
        Ok(Subscription {
            feed: self.clone(),
            position,
            end: self.0.end.subscribe(),
        })
    }

    /// Forgets everything up to `floor`: whoever watches has missed something.
    pub(crate) fn restart(&self, floor: Sequence) {
        let mut retained = self.0.retained();
        // One position is skipped, so that even who has seen all that there was falls behind.
        retained.first += retained.events.len() as u64 + 1;
        retained.events.clear();
        retained.floor = floor;
        self.0.end.send_replace(retained.first);
        self.0.programs.send_replace(());
    }

    pub(crate) fn publish(&self, events: Vec<Event>) {
        if events.is_empty() {
            return;
        }
        let are_programs = events.iter().any(is_of_program);
        let mut retained = self.0.retained();
        retained.events.extend(events);
        while retained.events.len() > RETAINED
            && let Some(oldest) = retained.events.pop_front()
        {
            retained.first += 1;
            retained.floor = oldest.sequence;
        }
        let end = retained.first + retained.events.len() as u64;
        // Whoever is woken takes the lock at once.
        drop(retained);
        self.0.end.send_replace(end);
        if are_programs {
            self.0.programs.send_replace(());
        }
    }
}

fn is_of_program(event: &Event) -> bool {
    matches!(
        event.body,
        EventBody::Artifact { .. } | EventBody::Framework { .. }
    )
}

impl Shared {
    fn retained(&self) -> MutexGuard<'_, Retained> {
        self.retained.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One watcher's place.
pub struct Subscription {
    feed: Feed,
    position: u64,
    end: watch::Receiver<u64>,
}

impl Subscription {
    /// The next events, at least one; waits until there is one. May be cancelled without loss.
    pub async fn next(&mut self) -> Result<Vec<Event>, Gone> {
        let position = self.position;
        // The sender lives in `self.feed`, so the channel never closes.
        self.end.wait_for(|end| *end > position).await.ok();
        let retained = self.feed.0.retained();
        let Some(skip) = position.checked_sub(retained.first) else {
            return Err(Gone {
                oldest: retained.floor,
            });
        };
        let events: Vec<_> = retained
            .events
            .iter()
            .skip(skip as usize)
            .take(BATCH)
            .cloned()
            .collect();
        self.position += events.len() as u64;
        Ok(events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tepui_types::{Digest, Timestamp};

    fn event(index: u64, ordinal: u32) -> Event {
        Event {
            sequence: Sequence { index, ordinal },
            time: Timestamp(index),
            body: EventBody::Artifact {
                digest: Digest([0; 32]),
            },
        }
    }

    fn sequence(index: u64, ordinal: u32) -> Option<Sequence> {
        Some(Sequence { index, ordinal })
    }

    #[tokio::test]
    async fn watchers_resume_after_what_they_saw() {
        let feed = Feed::new(Sequence {
            index: 1,
            ordinal: 0,
        });
        feed.publish(vec![event(3, 0), event(3, 1), event(5, 0)]);
        let mut from_middle = feed.subscribe(sequence(3, 0)).unwrap();
        assert_eq!(
            from_middle.next().await.unwrap(),
            [event(3, 1), event(5, 0)]
        );
        let mut from_now = feed.subscribe(None).unwrap();
        feed.publish(vec![event(6, 0)]);
        assert_eq!(from_now.next().await.unwrap(), [event(6, 0)]);
        assert_eq!(from_middle.next().await.unwrap(), [event(6, 0)]);
        let mut ahead = feed.subscribe(sequence(9, 0)).unwrap();
        feed.publish(vec![event(10, 0)]);
        assert_eq!(ahead.next().await.unwrap(), [event(10, 0)]);
    }

    #[tokio::test]
    async fn past_the_retention_watchers_are_told() {
        let feed = Feed::new(Sequence {
            index: 7,
            ordinal: 0,
        });
        assert!(feed.subscribe(sequence(6, 0)).is_err());
        let mut slow = feed.subscribe(sequence(7, 0)).unwrap();
        let many = RETAINED as u64 + 1;
        feed.publish((0..many).map(|n| event(8 + n, 0)).collect());
        assert_eq!(
            slow.next().await,
            Err(Gone {
                oldest: Sequence {
                    index: 8,
                    ordinal: 0
                }
            })
        );
        assert!(feed.subscribe(sequence(7, 0)).is_err());
        let mut exact = feed.subscribe(sequence(8, 0)).unwrap();
        assert_eq!(exact.next().await.unwrap().len(), BATCH);
    }

    #[tokio::test]
    async fn who_follows_programs_is_not_woken_for_tasks() {
        let feed = Feed::new(Sequence {
            index: 0,
            ordinal: 0,
        });
        let mut programs = feed.programs();
        let agent = EventBody::Agent {
            agent: tepui_types::AgentId(1),
            status: tepui_types::AgentStatus::Active,
        };
        feed.publish(vec![Event {
            body: agent,
            ..event(1, 0)
        }]);
        assert!(!programs.has_changed().unwrap());
        feed.publish(vec![event(2, 0)]);
        assert!(programs.has_changed().unwrap());
        programs.mark_unchanged();
        // What came with another master's image may be anything.
        feed.restart(sequence(9, 0).unwrap());
        assert!(programs.has_changed().unwrap());
    }
}
