//! What Prometheus sees. Counters are kept; what the state knows is read from
//! it when someone asks.

use std::fmt;
use std::sync::atomic::AtomicU64;

use axum::http::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::Master;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByStatus {
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByState {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByResource {
    resource: &'static str,
}

type Amount = Gauge<u64, AtomicU64>;

/// The master's own counters.
#[derive(Debug, Default)]
pub struct Metrics {
    http_responses: Family<ByStatus, Counter>,
}

impl Metrics {
    /// Counts an answered request.
    pub fn on_response(&self, status: StatusCode) {
        self.http_responses
            .get_or_create(&ByStatus {
                status: status.as_u16(),
            })
            .inc();
    }

    /// The text for Prometheus.
    pub fn encode(&self, master: &Master) -> Result<String, fmt::Error> {
        let mut registry = Registry::with_prefix("tepui_master");
        registry.register(
            "http_responses",
            "Answered requests",
            self.http_responses.clone(),
        );
        registry.register_with_unit(
            "synced_writes",
            "How long synced writes to the database took",
            Unit::Seconds,
            master.storage.syncs().clone(),
        );
        let state = master.view.load();
        let index: Amount = Gauge::default();
        index.set(state.index);
        registry.register("applied_index", "Last applied log index", index);
        let agents = Family::<ByState, Amount>::default();
        let total = Family::<ByResource, Amount>::default();
        let used = Family::<ByResource, Amount>::default();
        for agent in state.agents.values() {
            agents
                .get_or_create(&ByState {
                    state: agent.standing().as_str(),
                })
                .inc();
            let sides = [(&total, &agent.info.resources), (&used, &agent.used)];
            for (family, amounts) in sides {
                let of = |resource| family.get_or_create_owned(&ByResource { resource });
                of("cpus_milli").inc_by(amounts.cpus.0);
                of("mem_bytes").inc_by(amounts.mem.0);
                of("disk_bytes").inc_by(amounts.disk.0);
            }
        }
        registry.register("agents", "Agents by status", agents);
        registry.register("resources_total", "What agents lend", total);
        registry.register("resources_used", "What tasks have", used);
        let frameworks = Family::<ByState, Amount>::default();
        for framework in state.frameworks.values() {
            frameworks
                .get_or_create(&ByState {
                    state: framework.phase.as_str(),
                })
                .inc();
        }
        registry.register("frameworks", "Frameworks by phase", frameworks);
        let tasks = Family::<ByState, Amount>::default();
        for (state, count) in &state.counts {
            tasks
                .get_or_create(&ByState {
                    state: state.as_str(),
                })
                .set(*count);
        }
        registry.register("tasks", "Tasks in the state, by state", tasks);
        let ended = Family::<ByState, Counter>::default();
        for (state, count) in &state.ended_counts {
            ended
                .get_or_create(&ByState {
                    state: state.as_str(),
                })
                .inc_by(*count);
        }
        registry.register("tasks_ended", "Tasks ended since the cluster began", ended);
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }
}
