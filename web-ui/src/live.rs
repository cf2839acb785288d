//! What changes in the cluster, as signals that pages follow.
//!
//! One event stream serves the whole page. An event carries only that a topic
//! changed: each page then reads its own data anew (see `feed`), so that what
//! is shown is always an answer of the API, and a lost event costs nothing
//! once the stream is back. While nobody sees the page it holds no connection:
//! browsers allow six to a host, over all tabs.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use leptos::prelude::*;
use wasm_bindgen::prelude::*;
use web_sys::EventSource;

/// How long after a failure the stream is opened again.
const RECONNECT: Duration = Duration::from_secs(1);
/// How often pages read data anew that changes without an event: offers,
/// connections, counters.
const SLOW_MS: u64 = 5_000;
/// Failures shorter than this are not shown: a master that is restarted by an
/// operator is back within it.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// What an event may be about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    /// Tasks and what they use.
    Tasks,
    /// Agents.
    Agents,
    /// Frameworks.
    Frameworks,
    /// What frameworks want.
    Demands,
}

impl Topic {
    const ALL: [Self; 4] = [Self::Tasks, Self::Agents, Self::Frameworks, Self::Demands];

    /// The stream's name for it.
    fn event(self) -> &'static str {
        match self {
            Self::Tasks => "task",
            Self::Agents => "agent",
            Self::Frameworks => "framework",
            Self::Demands => "demand",
        }
    }
}

/// Whether the master is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// Not known yet.
    Connecting,
    /// Events come.
    Open,
    /// It is tried again every second.
    Lost,
}

/// The signals. All are plain handles to what [`Live::provide`] made.
#[derive(Debug, Clone, Copy)]
pub struct Live {
    /// Whether the master is there.
    pub connection: RwSignal<Connection>,
    /// Whether anyone may be looking.
    pub visible: RwSignal<bool>,
    /// The time in milliseconds since the epoch, every second while visible.
    pub now: RwSignal<u64>,
    changes: [Trigger; 4],
    slow: Trigger,
}

impl Live {
    /// Opens the stream for as long as the page lives.
    pub fn provide() -> Self {
        let live = Self {
            connection: RwSignal::new(Connection::Connecting),
            visible: RwSignal::new(!document().hidden()),
            now: RwSignal::new(now()),
            changes: Topic::ALL.map(|_| Trigger::new()),
            slow: Trigger::new(),
        };
        provide_context(live);
        let stream = Stream::new(live);
        Effect::new(move |_| {
            if live.visible.get() {
                stream.open()
            } else {
                stream.close()
            }
        });
        live.follow_visibility();
        set_interval(move || live.on_second(), Duration::from_secs(1));
        live
    }

    /// Runs the calling effect again when one of `topics` changes, and now and
    /// then besides.
    pub fn track(&self, topics: &[Topic]) {
        for (topic, change) in Topic::ALL.iter().zip(&self.changes) {
            if topics.contains(topic) {
                change.track();
            }
        }
        self.slow.track();
    }

    fn on_second(&self) {
        if self.visible.get_untracked() {
            let time = now();
            self.now.set(time);
            if (time / 1000).is_multiple_of(SLOW_MS / 1000) {
                self.slow.notify();
            }
        }
    }

    fn on_event(&self, topic: Topic) {
        if let Some(change) = self.changes.get(topic as usize) {
            change.notify();
        }
    }

    fn on_open(&self) {
        self.connection.set(Connection::Open);
        // What happened in between is not known.
        self.slow.notify();
    }

    fn follow_visibility(self) {
        let on_change = Closure::<dyn Fn()>::new(move || {
            self.visible.set(!document().hidden());
            self.now.set(now());
        });
        let added = document().add_event_listener_with_callback(
            "visibilitychange",
            on_change.as_ref().unchecked_ref(),
        );
        if added.is_ok() {
            // The page's own life is the listener's.
            on_change.forget();
        }
    }
}

/// The time in milliseconds since the epoch.
pub fn now() -> u64 {
    js_sys::Date::now() as u64
}

/// The connection behind [`Live`]: at most one event source, opened anew by
/// ourselves, because browsers give up for good on some answers.
#[derive(Clone)]
struct Stream(Rc<Inner>);

/// An event's name, and what is called for it.
type Listener = (&'static str, Closure<dyn Fn()>);

struct Inner {
    live: Live,
    source: RefCell<Option<EventSource>>,
    // Listeners are made once and serve every source after another.
    listeners: RefCell<Vec<Listener>>,
}

impl Stream {
    fn new(live: Live) -> Self {
        let inner = Inner {
            live,
            source: RefCell::new(None),
            listeners: RefCell::new(Vec::new()),
        };
        let stream = Self(Rc::new(inner));
        let mut listeners = Vec::new();
        for topic in Topic::ALL {
            listeners.push((
                topic.event(),
                Closure::<dyn Fn()>::new(move || live.on_event(topic)),
            ));
        }
        listeners.push(("open", Closure::<dyn Fn()>::new(move || live.on_open())));
        let failing = stream.clone();
        listeners.push((
            "error",
            Closure::<dyn Fn()>::new(move || failing.on_error()),
        ));
        *stream.0.listeners.borrow_mut() = listeners;
        stream
    }

    fn open(&self) {
        self.close();
        let Ok(source) = EventSource::new("/v1/events") else {
            return;
        };
        for (event, listener) in self.0.listeners.borrow().iter() {
            // It fails only for names that are no text.
            let _ =
                source.add_event_listener_with_callback(event, listener.as_ref().unchecked_ref());
        }
        *self.0.source.borrow_mut() = Some(source);
    }

    fn close(&self) {
        if let Some(source) = self.0.source.borrow_mut().take() {
            for (event, listener) in self.0.listeners.borrow().iter() {
                let _ = source
                    .remove_event_listener_with_callback(event, listener.as_ref().unchecked_ref());
            }
            source.close();
        }
    }

    fn on_error(&self) {
        self.close();
        let live = self.0.live;
        let stream = self.clone();
        set_timeout(
            move || {
                if live.visible.get_untracked() && stream.0.source.borrow().is_none() {
                    stream.open();
                }
            },
            RECONNECT,
        );
        let stream = self.clone();
        set_timeout(
            move || {
                let open = EventSource::OPEN;
                let source = stream.0.source.borrow();
                let is_open = source
                    .as_ref()
                    .is_some_and(|source| source.ready_state() == open);
                if live.visible.get_untracked() && !is_open {
                    live.connection.set(Connection::Lost);
                }
            },
            PATIENCE,
        );
    }
}
