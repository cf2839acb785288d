//! What `/metrics` shows, in the text format of Prometheus.
//!
//! The event loop and the fetcher count here; the values are atomics, so that
//! counting never waits.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// By how a task or fetch ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// A state of tasks; `ok` or a reason's code for fetches.
    pub outcome: String,
}

/// All that an agent counts.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Tasks that have not ended.
    pub tasks_living: Gauge,
    /// Tasks that ended, by state.
    pub tasks_ended: Family<Outcome, Counter>,
    /// Executor processes.
    pub executors: Gauge,
    /// 1 while a master has the agent.
    pub registered: Gauge,
    /// Sessions with masters so far.
    pub sessions: Counter,
    /// Statuses that were sent.
    pub statuses_sent: Counter,
    /// The journal's size.
    pub journal_bytes: Gauge<i64>,
    /// Volumes in use whose file systems take no writes.
    pub volumes_stopped: Gauge,
    /// Fetched artifacts, by outcome.
    pub fetches: Family<Outcome, Counter>,
    /// Bytes of output that were streamed.
    pub streamed_bytes: Counter<u64, AtomicU64>,
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("tepui_agent");
        let this = Self {
            tasks_living: Gauge::default(),
            tasks_ended: Family::default(),
            executors: Gauge::default(),
            registered: Gauge::default(),
            sessions: Counter::default(),
            statuses_sent: Counter::default(),
            journal_bytes: Gauge::default(),
            volumes_stopped: Gauge::default(),
            fetches: Family::default(),
            streamed_bytes: Counter::default(),
            registry: Registry::default(),
        };
        registry.register(
            "tasks_living",
            "Tasks that have not ended",
            this.tasks_living.clone(),
        );
        registry.register(
            "tasks_ended",
            "Tasks that ended, by state",
            this.tasks_ended.clone(),
        );
        registry.register("executors", "Executor processes", this.executors.clone());
        registry.register(
            "registered",
            "1 while a master has the agent",
            this.registered.clone(),
        );
        registry.register("sessions", "Sessions with masters", this.sessions.clone());
        registry.register("statuses_sent", "Statuses sent", this.statuses_sent.clone());
        registry.register(
            "journal_bytes",
            "The journal's size",
            this.journal_bytes.clone(),
        );
        registry.register(
            "volumes_stopped",
            "Volumes in use that take no writes since an error",
            this.volumes_stopped.clone(),
        );
        registry.register(
            "fetches",
            "Fetched artifacts, by outcome",
            this.fetches.clone(),
        );
        registry.register(
            "streamed_bytes",
            "Bytes of output sent",
            this.streamed_bytes.clone(),
        );
        Self { registry, ..this }
    }

    /// Counts a task's end.
    pub fn task_ended(&self, state: tepui_types::TaskState) {
        self.tasks_ended
            .get_or_create(&Outcome {
                outcome: state.to_string(),
            })
            .inc();
    }

    /// Counts a fetch.
    pub fn fetched(&self, outcome: &str) {
        self.fetches
            .get_or_create(&Outcome {
                outcome: outcome.to_owned(),
            })
            .inc();
    }

    /// The text of `/metrics`.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
