//! Between the SDK's words and those that wit-bindgen made: one function a
//! word, no decisions.

use std::sync::Arc;

use tepui_types::api::demand::Explanation;
use tepui_types::constraint::{Constraint, Constraints, Test};
use tepui_types::resources::{Bytes, MilliCpus, PortRanges, ResourceRequest};
use tepui_types::task::TaskSigns;
use tepui_types::{
    AgentId, Demand, Gang, GangShare, Offer, OfferId, Reason, Resources, Timestamp, Workload,
};

use crate::bindings::exports::tepui::framework::scheduler as exports;
use crate::bindings::tepui::framework::{
    cluster, log, operations as wit_operations, store, timers, types,
};
use crate::context::{AgentView, Level};
use crate::error::Error;
use crate::http::{Request, Response};
use crate::scheduler::{DroppedOperation, Event};
use crate::task::{GangLaunch, Launch, Successor, Task, TaskClass, TaskId, TaskSpec, TaskStatus};

pub use operations::{is_special, left, operation, operation_status, special};

mod operations;

impl From<cluster::CallError> for Error {
    fn from(error: cluster::CallError) -> Self {
        match error {
            cluster::CallError::OfferUnknown => Self::OfferUnknown,
            cluster::CallError::OfferExceeded(what) => Self::OfferExceeded(what),
            cluster::CallError::Invalid(why) => Self::Invalid(why),
            cluster::CallError::TurnFull => Self::TurnFull,
        }
    }
}

impl From<store::StoreError> for Error {
    fn from(error: store::StoreError) -> Self {
        match error {
            store::StoreError::TooLarge(which) => Self::TooLarge(which),
            store::StoreError::TurnFull => Self::TurnFull,
        }
    }
}

impl From<timers::TimerError> for Error {
    fn from(error: timers::TimerError) -> Self {
        match error {
            timers::TimerError::TooLarge(which) => Self::TooLarge(which),
            timers::TimerError::TurnFull => Self::TurnFull,
        }
    }
}

pub fn event(event: exports::Event) -> Event {
    match event {
        exports::Event::Offers(offers) => Event::Offers(offers_in(offers)),
        exports::Event::Rescinded(offers) => {
            Event::Rescinded(offers.into_iter().map(OfferId).collect())
        }
        exports::Event::Update(update) => Event::Update(task(update)),
        exports::Event::Dropped(dropped) => Event::Dropped(DroppedOperation {
            operation: dropped.operation,
            subject: dropped.subject,
            reason: reason(dropped.reason),
        }),
        exports::Event::Timer(name) => Event::Timer(name),
        exports::Event::Continued => Event::Continued,
    }
}

pub fn request(request: exports::HttpRequest) -> Request {
    let exports::HttpRequest {
        method,
        path,
        query,
        headers,
        body,
        principal,
    } = request;
    let headers = headers
        .into_iter()
        .map(|header| (header.name, header.value))
        .collect();
    Request {
        method,
        path,
        query,
        headers,
        body,
        principal,
    }
}

pub fn response(response: Response) -> exports::HttpResponse {
    let Response {
        status,
        headers,
        body,
    } = response;
    let headers = headers
        .into_iter()
        .map(|(name, value)| exports::Header { name, value });
    exports::HttpResponse {
        status,
        headers: headers.collect(),
        body,
    }
}

pub fn task(task: types::Task) -> Task {
    let types::Task { id, agent, status } = task;
    Task {
        id: task_id(id),
        agent: AgentId(agent),
        status: TaskStatus {
            code: status.code,
            class: match status.class {
                types::TaskClass::Living => TaskClass::Living,
                types::TaskClass::Succeeded => TaskClass::Succeeded,
                types::TaskClass::Failed => TaskClass::Failed,
                types::TaskClass::Killed => TaskClass::Killed,
                types::TaskClass::Lost => TaskClass::Lost,
            },
            reason: status.reason.map(reason),
            exit_code: status.exit_code,
            signs: signs(&status.extensions),
            held_ms: extension(&status.extensions, "held-ms").and_then(|held| held.parse().ok()),
            time: Timestamp(status.time_ms),
        },
    }
}

/// What the extensions of a status say; those of a later master that this does not know are left.
fn signs(extensions: &[types::Extension]) -> TaskSigns {
    let signs = extension(extensions, "signs");
    let signs = signs.and_then(|signs| serde_json::from_str(signs).ok());
    signs.unwrap_or_default()
}

fn extension<'a>(extensions: &'a [types::Extension], name: &str) -> Option<&'a str> {
    let mut extensions = extensions.iter();
    let found = extensions.find(|extension| extension.name == name);
    found.map(|extension| extension.value.as_str())
}

pub fn task_id(id: types::TaskId) -> TaskId {
    TaskId {
        name: id.name,
        attempt: id.attempt,
    }
}

pub fn task_id_out(id: &TaskId) -> types::TaskId {
    types::TaskId {
        name: id.name.clone(),
        attempt: id.attempt,
    }
}

pub fn successor(task: &Successor) -> cluster::Successor {
    cluster::Successor {
        name: task.name.clone(),
        array_index: task.array_index,
    }
}

pub fn launch(launch: &Launch) -> cluster::TaskLaunch {
    cluster::TaskLaunch {
        name: launch.name.clone(),
        resources: resources_out(&launch.resources.flat(false)),
        array_index: launch.array_index,
    }
}

pub fn spec(spec: &TaskSpec) -> types::TaskSpec {
    let pairs = |map: &std::collections::BTreeMap<String, String>| {
        map.iter()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect::<Vec<_>>()
    };
    let partition = spec.partition.extension();
    let partition = partition.map(|(name, millis)| (name, millis.to_string()));
    let priority = (spec.priority != 0).then(|| ("priority", spec.priority.to_string()));
    let limit = spec.time_limit_ms;
    let limit = limit.map(|millis| ("time-limit-ms", millis.to_string()));
    let (container, command, wasm) = match &spec.workload {
        Workload::Command(command) => (command.container.as_ref(), command.options.as_ref(), None),
        Workload::Wasm(wasm) => (None, None, wasm.options.as_ref()),
    };
    let container = container.map(|container| ("container", json(container)));
    let command = command.map(|options| ("command", json(options)));
    let wasm = wasm.map(|options| ("wasm", json(options)));
    let checks = spec.checks.as_ref().map(|checks| ("checks", json(checks)));
    let fetch = (!spec.fetch.is_empty()).then(|| ("fetch", json(&spec.fetch)));
    let extensions = [
        partition, priority, limit, container, command, wasm, checks, fetch,
    ];
    let extensions = extensions.into_iter().flatten();
    let extensions = extensions.map(|(name, value)| types::Extension {
        name: name.to_owned(),
        value,
    });
    types::TaskSpec {
        workload: match &spec.workload {
            Workload::Wasm(wasm) => types::Workload::Wasm(types::WasmWorkload {
                artifact: wasm.artifact.to_string(),
                args: wasm.args.clone(),
                env: pairs(&wasm.env),
            }),
            Workload::Command(command) => types::Workload::Command(types::CommandWorkload {
                argv: command.argv.clone(),
                env: pairs(&command.env),
                pids: command.pids,
            }),
        },
        kill_grace_ms: spec.kill_grace_ms,
        user: spec.user.clone(),
        labels: pairs(&spec.labels),
        extensions: extensions.collect(),
    }
}

/// A part of a specification as the host reads it. Nothing in one can fail to be written.
fn json(part: &impl serde::Serialize) -> String {
    serde_json::to_string(part).unwrap_or_default()
}

pub fn gang(gang: Option<&Gang>) -> (Vec<cluster::GangPart>, cluster::GangOptions) {
    let parts = gang.into_iter().flat_map(|gang| &gang.parts);
    let parts = parts.map(|part| cluster::GangPart {
        count: part.count,
        request: resource_request(&part.request),
        groups: constraints(&part.constraints),
    });
    let role = gang.and_then(|gang| gang.role.as_ref());
    let options = cluster::GangOptions {
        role: role.map(|role| role.to_string()),
        wait_ms: gang.and_then(|gang| gang.wait_ms),
        extensions: Vec::new(),
    };
    (parts.collect(), options)
}

pub fn gang_launch(launches: &GangLaunch) -> cluster::GangLaunch {
    cluster::GangLaunch {
        offer: launches.offer.0,
        spec: u32::try_from(launches.spec).unwrap_or(u32::MAX),
        tasks: launches.tasks.iter().map(launch).collect(),
    }
}

/// When a gang starts that what is launched must not delay.
fn until(detail: &cluster::OfferDetail) -> Option<Timestamp> {
    let mut extensions = detail.extensions.iter();
    let found = extensions.find(|extension| extension.name == "until-ms")?;
    found.value.parse().ok().map(Timestamp)
}

/// An offer's share of a gang, as its detail says it: `0:2 1:3`.
fn gang_share(detail: &cluster::OfferDetail) -> Option<GangShare> {
    let named = |name: &str| {
        let mut extensions = detail.extensions.iter();
        let found = extensions.find(|extension| extension.name == name);
        found.map(|extension| extension.value.as_str())
    };
    let parts = named("gang-parts")?.split(' ').filter_map(|part| {
        let (part, count) = part.split_once(':')?;
        Some((part.parse().ok()?, count.parse().ok()?))
    });
    Some(GangShare {
        key: named("gang")?.to_owned(),
        parts: parts.collect(),
    })
}

pub fn demand_options(demand: &Demand) -> cluster::DemandOptions {
    let extension = |name: &str, value: &str| types::Extension {
        name: name.to_owned(),
        value: value.to_owned(),
    };
    let revocable = demand.revocable.then(|| extension("revocable", "true"));
    let revocable = revocable.into_iter();
    let volumes = demand.volumes.iter();
    let volumes = volumes.map(|volume| extension("volume", volume));
    let limit = demand.time_limit_ms;
    let limit = limit.map(|millis| extension("time-limit-ms", &millis.to_string()));
    cluster::DemandOptions {
        role: demand.role.as_ref().map(|role| role.to_string()),
        groups: constraints(&demand.constraints),
        extensions: revocable.chain(volumes).chain(limit).collect(),
    }
}

fn constraints(constraints: &Constraints) -> Vec<Vec<cluster::Constraint>> {
    let group = |group: &Vec<Constraint>| group.iter().map(constraint).collect();
    constraints.0.iter().map(group).collect()
}

fn constraint(constraint: &Constraint) -> cluster::Constraint {
    use cluster::ConstraintTest as Out;
    let test = match constraint.test.clone() {
        Test::Exists => Out::Exists,
        Test::NotExists => Out::NotExists,
        Test::Equals(text) => Out::Equals(text),
        Test::NotEquals(text) => Out::NotEquals(text),
        Test::Matches(text) => Out::Matches(text),
        Test::NotMatches(text) => Out::NotMatches(text),
    };
    let attribute = constraint.attribute.clone();
    cluster::Constraint { attribute, test }
}

pub fn resource_request(request: &ResourceRequest) -> types::Request {
    types::Request {
        cpus_milli: request.cpus.0,
        mem_bytes: request.mem.0,
        disk_bytes: request.disk.0,
        // A valid request asks for fewer than there are.
        ports: u32::try_from(request.ports).unwrap_or(u32::MAX),
        gpus_milli: request.gpus_milli,
        custom: amounts_out(&request.custom),
    }
}

pub fn explanation(explanation: cluster::Explanation) -> Explanation {
    let more = |name: &str| {
        let mut extensions = explanation.extensions.iter();
        let found = extensions.find(|extension| extension.name == name);
        found.map(|extension| extension.value.clone())
    };
    let count = |name: &str| more(name).and_then(|count| count.parse().ok()).unwrap_or(0);
    Explanation {
        constrained: count("constrained"),
        held: count("held"),
        spared: count("spared"),
        slivers: count("slivers"),
        withheld: count("withheld"),
        behind_gang: count("behind-gang"),
        reserved: count("reserved"),
        disallowed: count("disallowed"),
        lacking: count("lacking"),
        quota: more("quota"),
        volumes: more("volumes"),
        summary: explanation.summary,
        agents: explanation.agents,
        fitting: explanation.fitting,
        busy: explanation.busy.into_iter().collect(),
        too_small: explanation.too_small.into_iter().collect(),
        inactive: explanation.inactive,
        filtered: explanation.filtered,
        // The summary has these.
        largest: Default::default(),
        unmet: Default::default(),
    }
}

pub fn agent(agent: cluster::Agent) -> AgentView {
    AgentView {
        id: AgentId(agent.id),
        hostname: agent.hostname,
        active: agent.active,
        total: resources(agent.total),
        used: resources(agent.used),
        attributes: agent.attributes.into_iter().collect(),
    }
}

pub fn level(level: Level) -> log::Level {
    match level {
        Level::Trace => log::Level::Trace,
        Level::Debug => log::Level::Debug,
        Level::Info => log::Level::Info,
        Level::Warn => log::Level::Warn,
        Level::Error => log::Level::Error,
    }
}

/// Offers with what their records do not say.
fn offers_in(offers: Vec<types::Offer>) -> Vec<Offer> {
    let ids: Vec<u64> = offers.iter().map(|offer| offer.id).collect();
    let details = cluster::offer_details(&ids);
    let left = wit_operations::left(&ids);
    let offers = offers.into_iter().zip(details).zip(left);
    let offers = offers.map(|((one, detail), left)| Offer {
        // What is special in it stands apart.
        resources: left.map_or_else(Resources::default, operations::left_in),
        ..offer(one, detail.as_ref())
    });
    offers.collect()
}

fn offer(offer: types::Offer, detail: Option<&cluster::OfferDetail>) -> Offer {
    let role = detail.and_then(|detail| detail.role.parse().ok());
    Offer {
        id: OfferId(offer.id),
        agent: AgentId(offer.agent),
        hostname: offer.hostname,
        resources: resources(offer.resources),
        attributes: Arc::new(offer.attributes.into_iter().collect()),
        role: role.unwrap_or_default(),
        gang: detail.and_then(gang_share).map(Box::new),
        until: detail.and_then(until),
    }
}

fn reason(reason: types::Reason) -> Reason {
    Reason {
        code: reason.code,
        message: reason.message,
    }
}

type Amounts = std::collections::BTreeMap<String, u64>;

fn resources(resources: types::Resources) -> Resources {
    let amounts = |list: Vec<types::Amount>| {
        list.into_iter()
            .map(|amount| (amount.name, amount.milli))
            .collect::<Amounts>()
    };
    let ports = resources
        .ports
        .iter()
        .map(|range| (range.first, range.last))
        .collect();
    Resources {
        cpus: MilliCpus(resources.cpus_milli),
        mem: Bytes(resources.mem_bytes),
        disk: Bytes(resources.disk_bytes),
        ports: PortRanges::from_ranges(ports),
        gpus: amounts(resources.gpus),
        custom: amounts(resources.custom),
        ..Resources::default()
    }
}

fn resources_out(resources: &Resources) -> types::Resources {
    let ports = resources.ports.ranges().iter();
    types::Resources {
        cpus_milli: resources.cpus.0,
        mem_bytes: resources.mem.0,
        disk_bytes: resources.disk.0,
        ports: ports
            .map(|(first, last)| types::PortRange {
                first: *first,
                last: *last,
            })
            .collect(),
        gpus: amounts_out(&resources.gpus),
        custom: amounts_out(&resources.custom),
    }
}

fn amounts_out(amounts: &Amounts) -> Vec<types::Amount> {
    let amounts = amounts.iter();
    amounts
        .map(|(name, milli)| types::Amount {
            name: name.clone(),
            milli: *milli,
        })
        .collect()
}
