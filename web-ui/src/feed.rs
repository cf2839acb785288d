//! One answer of the API, kept up to date: what nearly every page shows.
//!
//! A [`Feed`] reads its path when it is made, when the path changes, and when
//! one of its topics does; bursts of events are folded. What was read stays
//! while a newer answer is on its way or cannot be had.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use leptos::prelude::*;
use leptos::task::spawn_local;
use serde::de::DeserializeOwned;

use crate::api::{self, ApiError};
use crate::live::{self, Connection, Live, Topic};

/// The least time between two reads of one feed, in milliseconds: quick enough
/// to look live, and three reads a second however much happens.
const PERIOD_MS: u64 = 300;

/// What a feed can hold.
pub trait Data: DeserializeOwned + Clone + PartialEq + Send + Sync + 'static {}

impl<T: DeserializeOwned + Clone + PartialEq + Send + Sync + 'static> Data for T {}

/// The latest answer, and what went wrong since.
#[derive(Debug)]
pub struct Feed<T: Data> {
    /// The latest answer to the present path.
    pub data: RwSignal<Option<T>>,
    /// Why there is no newer one.
    pub error: RwSignal<Option<ApiError>>,
    retry: Trigger,
}

impl<T: Data> Clone for Feed<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: Data> Copy for Feed<T> {}

impl<T: Data> Feed<T> {
    /// Follows `path`, anew for every change of it or of `topics`. Without a
    /// path there is nothing to read.
    pub fn new(
        topics: &'static [Topic],
        path: impl Fn() -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        let feed = Self {
            data: RwSignal::new(None),
            error: RwSignal::new(None),
            retry: Trigger::new(),
        };
        let live = expect_context::<Live>();
        let reader = Reader::new(live, Box::new(move |news| feed.on_news(news)));
        let closed = Arc::clone(&reader.0.closed);
        on_cleanup(move || closed.store(true, Ordering::Relaxed));
        let path = Memo::new(move |_| path());
        Effect::new(move |_| {
            live.track(topics);
            feed.retry.track();
            if live.visible.get() {
                reader.read(path.get());
            }
        });
        feed
    }

    /// Reads again now.
    pub fn refresh(&self) {
        self.retry.notify();
    }

    fn on_news(self, news: News) {
        let answer = match news {
            News::Elsewhere => {
                self.data.set(None);
                self.error.set(None);
                return;
            }
            News::Filtered => {
                self.error.set(None);
                return;
            }
            News::Answer(answer) => answer.and_then(|text| api::parse::<T>(&text)),
        };
        match answer {
            Ok(data) => {
                self.error.set(None);
                if self.data.with_untracked(|old| old.as_ref() != Some(&data)) {
                    self.data.set(Some(data));
                }
            }
            Err(error) => {
                // What is gone is not shown as if it were there.
                if matches!(error.status(), Some(404 | 410)) {
                    self.data.set(None);
                }
                self.error.set(Some(error));
            }
        }
    }
}

/// What a reader tells its feed.
enum News {
    /// Another thing altogether is read from now on.
    Elsewhere,
    /// The same list is read under another filter.
    Filtered,
    /// An answer's text.
    Answer(Result<String, ApiError>),
}

/// Reads for one feed: one request at a time, the latest path only. It knows
/// nothing of what the answers say, so that there is one of it for all feeds.
#[derive(Clone)]
struct Reader(Rc<Inner>);

struct Inner {
    live: Live,
    tell: Box<dyn Fn(News)>,
    path: RefCell<Option<String>>,
    started_at: Cell<u64>,
    in_flight: Cell<bool>,
    /// A read is wanted after the one in flight.
    again: Cell<bool>,
    /// A read is set for the period's end.
    scheduled: Cell<bool>,
    /// The page is gone.
    closed: Arc<AtomicBool>,
}

impl Reader {
    fn new(live: Live, tell: Box<dyn Fn(News)>) -> Self {
        Self(Rc::new(Inner {
            live,
            tell,
            path: RefCell::new(None),
            started_at: Cell::new(0),
            in_flight: Cell::new(false),
            again: Cell::new(false),
            scheduled: Cell::new(false),
            closed: Arc::default(),
        }))
    }

    fn read(&self, path: Option<String>) {
        let inner = &self.0;
        if *inner.path.borrow() != path {
            // Another filter keeps the old rows until the new ones come;
            // another thing altogether must not be shown as the old one.
            let is_same_place = place(inner.path.borrow().as_deref()) == place(path.as_deref());
            *inner.path.borrow_mut() = path;
            inner.started_at.set(0);
            (inner.tell)(if is_same_place {
                News::Filtered
            } else {
                News::Elsewhere
            });
        }
        self.wake();
    }

    fn wake(&self) {
        let inner = &self.0;
        if inner.in_flight.get() {
            inner.again.set(true);
            return;
        }
        if inner.closed.load(Ordering::Relaxed) {
            return;
        }
        let passed = live::now().saturating_sub(inner.started_at.get());
        if passed >= PERIOD_MS {
            self.start();
        } else if !inner.scheduled.replace(true) {
            let reader = self.clone();
            let wait = Duration::from_millis(PERIOD_MS - passed);
            set_timeout(
                move || {
                    reader.0.scheduled.set(false);
                    reader.wake();
                },
                wait,
            );
        }
    }

    fn start(&self) {
        let Some(path) = self.0.path.borrow().clone() else {
            return;
        };
        self.0.in_flight.set(true);
        self.0.started_at.set(live::now());
        let reader = self.clone();
        spawn_local(async move {
            let answer = api::get(&path).await;
            reader.on_answer(&path, answer);
        });
    }

    fn on_answer(&self, path: &str, answer: Result<String, ApiError>) {
        let inner = &self.0;
        inner.in_flight.set(false);
        if inner.closed.load(Ordering::Relaxed) {
            return;
        }
        let is_wanted = inner.path.borrow().as_deref() == Some(path);
        // The banner tells that the master is away, for all feeds at once.
        let is_told = matches!(answer, Err(ApiError::Offline))
            && inner.live.connection.get_untracked() == Connection::Lost;
        if is_wanted && !is_told {
            (inner.tell)(News::Answer(answer));
        }
        if inner.again.replace(false) {
            self.wake();
        }
    }
}

/// What a path leads to, whatever the filter.
fn place(path: Option<&str>) -> Option<&str> {
    path.and_then(|path| path.split('?').next())
}
