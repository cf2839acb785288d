//! Between the words of the WIT package and those of `tepui_types`.
//!
//! What comes from a guest is checked here for its shape; errors are sentences
//! for the framework's author.

use std::collections::BTreeMap;

use tepui_cluster::state::tasks::Task;
use tepui_types::api::demand::Explanation;
use tepui_types::constraint::{Constraint, Constraints, Test};
use tepui_types::resources::{MILLI, PortRanges, ResourceRequest};
use tepui_types::task::{CommandWorkload, TaskSigns, WasmWorkload};
use tepui_types::{
    Bytes, Checks, CommandOptions, Container, Demand, Fetch, Gang, GangPart, MilliCpus, Offer,
    OfferId, PartitionPolicy, Reason, Resources, Role, TaskId, TaskSpec, TaskState, TaskStatus,
    WasmOptions, Workload,
};

use super::bindings::{cluster, store, timers, types};
use super::turn::{CallError, GangLaunch, QuotaError, Special, TaskLaunch};

pub use operations::{left_out, special_in, wish_in};

mod operations;

pub fn resources_out(resources: &Resources) -> types::Resources {
    let ranges = resources.ports.ranges().iter();
    types::Resources {
        cpus_milli: resources.cpus.0,
        mem_bytes: resources.mem.0,
        disk_bytes: resources.disk.0,
        ports: ranges
            .map(|&(first, last)| types::PortRange { first, last })
            .collect(),
        gpus: amounts_out(&resources.gpus),
        custom: custom_out(resources),
    }
}

/// Custom scalars, and things that are counted one by one by their number.
fn custom_out(resources: &Resources) -> Vec<types::Amount> {
    let mut custom = resources.custom.clone();
    let items = resources.items.iter();
    custom.extend(items.map(|(name, items)| (name.clone(), items.milli())));
    amounts_out(&custom)
}

pub fn resources_in(resources: types::Resources) -> Result<Resources, String> {
    let ranges: Vec<_> = resources
        .ports
        .iter()
        .map(|range| (range.first, range.last))
        .collect();
    if let Some((first, last)) = ranges.iter().find(|(first, last)| first > last) {
        return Err(format!("port range {first}-{last} is the wrong way round"));
    }
    let named: u64 = ranges
        .iter()
        .map(|(first, last)| u64::from(last - first) + 1)
        .sum();
    let ports = PortRanges::from_ranges(ranges);
    if u64::from(ports.count()) != named {
        return Err("port ranges overlap".into());
    }
    let gpus = amounts_in(resources.gpus)?;
    if let Some((name, milli)) = gpus.iter().find(|(_, milli)| **milli > MILLI) {
        return Err(format!(
            "{milli} thousandths of gpu `{name}`; a device has {MILLI}"
        ));
    }
    Ok(Resources {
        cpus: MilliCpus(resources.cpus_milli),
        mem: Bytes(resources.mem_bytes),
        disk: Bytes(resources.disk_bytes),
        ports,
        gpus,
        custom: amounts_in(resources.custom)?,
        ..Resources::default()
    })
}

pub fn request_in(request: types::Request) -> Result<ResourceRequest, String> {
    Ok(ResourceRequest {
        cpus: MilliCpus(request.cpus_milli),
        mem: Bytes(request.mem_bytes),
        disk: Bytes(request.disk_bytes),
        ports: request.ports.into(),
        gpus_milli: request.gpus_milli,
        custom: amounts_in(request.custom)?,
    })
}

fn amounts_out(amounts: &BTreeMap<String, u64>) -> Vec<types::Amount> {
    let amount = |(name, milli): (&String, &u64)| types::Amount {
        name: name.clone(),
        milli: *milli,
    };
    amounts.iter().map(amount).collect()
}

fn amounts_in(amounts: Vec<types::Amount>) -> Result<BTreeMap<String, u64>, String> {
    let mut map = BTreeMap::new();
    for types::Amount { name, milli } in amounts {
        if map.contains_key(&name) {
            return Err(format!("`{name}` is named twice"));
        }
        if milli > 0 {
            map.insert(name, milli);
        }
    }
    Ok(map)
}

fn pairs_in(what: &str, pairs: Vec<(String, String)>) -> Result<BTreeMap<String, String>, String> {
    let count = pairs.len();
    let map: BTreeMap<_, _> = pairs.into_iter().collect();
    if map.len() == count {
        Ok(map)
    } else {
        Err(format!("a name stands twice in {what}"))
    }
}

fn pairs_out(pairs: &BTreeMap<String, String>) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

pub fn spec_in(spec: types::TaskSpec) -> Result<TaskSpec, String> {
    let mut named = Named::of(spec.extensions)?;
    let workload = match spec.workload {
        types::Workload::Wasm(wasm) => Workload::Wasm(WasmWorkload {
            artifact: wasm
                .artifact
                .parse()
                .map_err(|e| format!("the artifact: {e}"))?,
            args: wasm.args,
            env: pairs_in("env", wasm.env)?,
            options: named.wasm.take(),
        }),
        types::Workload::Command(command) => Workload::Command(CommandWorkload {
            argv: command.argv,
            env: pairs_in("env", command.env)?,
            pids: command.pids,
            container: named.container.take(),
            options: named.command.take(),
        }),
    };
    if named.container.is_some() {
        return Err("a WebAssembly program has no container: leave `container` out".into());
    }
    if named.command.is_some() {
        return Err("`command` is for commands: leave it out for a WebAssembly program".into());
    }
    if named.wasm.is_some() {
        return Err("`wasm` is for WebAssembly programs: leave it out for a command".into());
    }
    Ok(TaskSpec {
        workload,
        kill_grace_ms: spec.kill_grace_ms,
        user: spec.user,
        labels: pairs_in("labels", spec.labels)?,
        partition: named.partition.unwrap_or_default(),
        priority: named.priority.unwrap_or(0),
        time_limit_ms: named.time_limit_ms,
        checks: named.checks,
        fetch: named.fetch.unwrap_or_default(),
    })
}

/// What the extensions of a task's specification say.
#[derive(Debug, Default, PartialEq, Eq)]
struct Named {
    container: Option<Box<Container>>,
    checks: Option<Box<Checks>>,
    command: Option<Box<CommandOptions>>,
    wasm: Option<Box<WasmOptions>>,
    fetch: Option<Vec<Fetch>>,
    partition: Option<PartitionPolicy>,
    priority: Option<i32>,
    time_limit_ms: Option<u64>,
}

impl Named {
    fn of(extensions: Vec<types::Extension>) -> Result<Self, String> {
        let mut named = Self::default();
        for types::Extension { name, value } in extensions {
            let millis = || {
                let millis = value.parse::<u64>();
                millis.map_err(|_| format!("`{name}` is `{value}`, and no milliseconds"))
            };
            let is_again = if name == "priority" {
                let priority = value.parse();
                let priority =
                    priority.map_err(|_| format!("`priority` is `{value}`, and no number"))?;
                named.priority.replace(priority).is_some()
            } else if name == "container" {
                named.container.replace(json(&name, &value)?).is_some()
            } else if name == "checks" {
                named.checks.replace(json(&name, &value)?).is_some()
            } else if name == "command" {
                named.command.replace(json(&name, &value)?).is_some()
            } else if name == "fetch" {
                named.fetch.replace(json(&name, &value)?).is_some()
            } else if name == "wasm" {
                named.wasm.replace(json(&name, &value)?).is_some()
            } else if name == "time-limit-ms" {
                named.time_limit_ms.replace(millis()?).is_some()
            } else if let Some(policy) = PartitionPolicy::named(&name) {
                if named.partition.replace(policy(millis()?)).is_some() {
                    return Err("a task has one of replace-after-ms and stop-after-ms".into());
                }
                false
            } else {
                return Err(format!("this master knows no extension `{name}` of a task"));
            };
            if is_again {
                return Err(format!("a task has one `{name}`"));
            }
        }
        Ok(named)
    }
}

/// An extension that has more to say than one word.
fn json<T: serde::de::DeserializeOwned>(name: &str, value: &str) -> Result<T, String> {
    serde_json::from_str(value).map_err(|why| format!("`{name}`: {why}"))
}

pub fn launch_in(task: cluster::TaskLaunch) -> Result<TaskLaunch, String> {
    let resources = resources_in(task.resources);
    let resources = resources.map_err(|why| format!("task `{}`: {why}", task.name))?;
    Ok(TaskLaunch {
        name: task.name,
        resources,
        array_index: task.array_index,
        special: Special::default(),
    })
}

pub fn offer_out(offer: &Offer) -> types::Offer {
    types::Offer {
        id: offer.id.0,
        agent: offer.agent.0,
        hostname: offer.hostname.clone(),
        resources: resources_out(&offer.resources.flat(false)),
        attributes: pairs_out(&offer.attributes),
    }
}

pub fn agent_out(agent: &tepui_cluster::state::agents::Agent) -> cluster::Agent {
    cluster::Agent {
        id: agent.id.0,
        hostname: agent.info.hostname.clone(),
        active: agent.standing() == tepui_types::AgentStatus::Active,
        total: resources_out(&agent.total().flat(false)),
        used: resources_out(&agent.used.flat(false)),
        attributes: pairs_out(&agent.info.attributes),
    }
}

pub fn task_id_out(id: &TaskId) -> types::TaskId {
    types::TaskId {
        name: id.name.to_string(),
        attempt: id.attempt,
    }
}

pub fn task_out(task: &Task) -> types::Task {
    types::Task {
        id: task_id_out(&task.id),
        agent: task.agent.0,
        status: types::TaskStatus {
            code: task.status.state.as_str().to_owned(),
            class: class(&task.status),
            reason: task.status.reason.as_ref().map(reason_out),
            exit_code: task.status.exit_code,
            time_ms: task.status.time.0,
            extensions: {
                let signs = task.status.signs.iter().map(|signs| signs_out(signs));
                signs.chain(task.held_ms().map(held_out)).collect()
            },
        },
    }
}

/// Nothing in it can fail to be written.
fn signs_out(signs: &TaskSigns) -> types::Extension {
    types::Extension {
        name: "signs".into(),
        value: serde_json::to_string(signs).unwrap_or_default(),
    }
}

fn held_out(held_ms: u64) -> types::Extension {
    types::Extension {
        name: "held-ms".into(),
        value: held_ms.to_string(),
    }
}

fn class(status: &TaskStatus) -> types::TaskClass {
    if status.is_lost() {
        return types::TaskClass::Lost;
    }
    match status.state {
        TaskState::Staging
        | TaskState::Starting
        | TaskState::Running
        | TaskState::Killing
        | TaskState::Unreachable
        | TaskState::Unknown => types::TaskClass::Living,
        TaskState::Finished => types::TaskClass::Succeeded,
        TaskState::Failed | TaskState::Error => types::TaskClass::Failed,
        TaskState::Killed => types::TaskClass::Killed,
        TaskState::Dropped | TaskState::Gone => types::TaskClass::Lost,
    }
}

pub fn reason_out(reason: &Reason) -> types::Reason {
    types::Reason {
        code: reason.code.clone(),
        message: reason.message.clone(),
    }
}

pub fn role_in(role: &str) -> Result<Role, String> {
    role.parse().map_err(|error| format!("{error}"))
}

pub fn demand_in(
    count: u32,
    request: types::Request,
    options: cluster::DemandOptions,
) -> Result<Demand, String> {
    let (mut revocable, mut volumes, mut time_limit_ms) = (false, Vec::new(), None);
    for types::Extension { name, value } in options.extensions {
        match (name.as_str(), value.as_str()) {
            ("revocable", "true") => revocable = true,
            ("volume", _) => volumes.push(value),
            ("revocable", _) => return Err("`revocable` is `true` or not there".into()),
            ("time-limit-ms", _) => {
                let millis = value.parse();
                let wrong = |_| format!("`{name}` is `{value}`, and no milliseconds");
                time_limit_ms = Some(millis.map_err(wrong)?);
            }
            _ => {
                return Err(format!(
                    "this master knows no extension `{name}` of a demand"
                ));
            }
        }
    }
    let role = options.role.as_deref().map(role_in).transpose()?;
    Ok(Demand {
        constraints: constraints_in(options.groups),
        role,
        revocable,
        volumes,
        time_limit_ms,
        ..Demand::new(count, request_in(request)?)
    })
}

/// A gang; none without parts.
pub fn gang_in(
    parts: Vec<cluster::GangPart>,
    options: cluster::GangOptions,
) -> Result<Option<Gang>, String> {
    if let Some(unknown) = options.extensions.first() {
        let name = &unknown.name;
        return Err(format!("this master knows no extension `{name}` of a gang"));
    }
    if parts.is_empty() {
        return Ok(None);
    }
    let parts = parts.into_iter().map(|part| {
        Ok(GangPart {
            count: part.count,
            request: request_in(part.request)?,
            constraints: constraints_in(part.groups),
        })
    });
    Ok(Some(Gang {
        parts: parts.collect::<Result<_, String>>()?,
        role: options.role.as_deref().map(role_in).transpose()?,
        wait_ms: options.wait_ms,
    }))
}

pub fn gang_launch_in(launch: cluster::GangLaunch) -> Result<GangLaunch, String> {
    let tasks: Result<Vec<_>, _> = launch.tasks.into_iter().map(launch_in).collect();
    Ok(GangLaunch {
        offer: OfferId(launch.offer),
        spec: launch.spec,
        tasks: tasks?,
    })
}

pub fn offer_detail_out(offer: &Offer) -> cluster::OfferDetail {
    let share = offer.gang.iter().flat_map(|share| {
        let parts = share.parts.iter();
        let parts: Vec<_> = parts
            .map(|(part, count)| format!("{part}:{count}"))
            .collect();
        [("gang", share.key.clone()), ("gang-parts", parts.join(" "))]
    });
    let until = offer.until.map(|until| ("until-ms", until.0.to_string()));
    let extensions = share.chain(until).map(|(name, value)| types::Extension {
        name: name.into(),
        value,
    });
    cluster::OfferDetail {
        role: offer.role.to_string(),
        extensions: extensions.collect(),
    }
}

fn constraints_in(groups: Vec<Vec<cluster::Constraint>>) -> Constraints {
    let group = |group: Vec<_>| group.into_iter().map(constraint_in).collect();
    Constraints(groups.into_iter().map(group).collect())
}

fn constraint_in(constraint: cluster::Constraint) -> Constraint {
    use cluster::ConstraintTest as In;
    let test = match constraint.test {
        In::Exists => Test::Exists,
        In::NotExists => Test::NotExists,
        In::Equals(text) => Test::Equals(text),
        In::NotEquals(text) => Test::NotEquals(text),
        In::Matches(text) => Test::Matches(text),
        In::NotMatches(text) => Test::NotMatches(text),
    };
    let attribute = constraint.attribute;
    Constraint { attribute, test }
}

pub fn explanation_out(explanation: Explanation) -> cluster::Explanation {
    let counts = [
        ("constrained", explanation.constrained),
        ("held", explanation.held),
        ("spared", explanation.spared),
        ("slivers", explanation.slivers),
        ("withheld", explanation.withheld),
        ("behind-gang", explanation.behind_gang),
        ("reserved", explanation.reserved),
        ("disallowed", explanation.disallowed),
        ("lacking", explanation.lacking),
    ];
    let counts = counts.into_iter().filter(|(_, count)| *count > 0);
    let counts = counts.map(|(name, count)| (name, count.to_string()));
    let sentences = [
        ("quota", explanation.quota),
        ("volumes", explanation.volumes),
    ];
    let sentences = sentences.into_iter();
    let sentences = sentences.filter_map(|(name, words)| Some((name, words?)));
    let extensions = counts
        .chain(sentences)
        .map(|(name, value)| types::Extension {
            name: name.into(),
            value,
        });
    let extensions = extensions.collect();
    cluster::Explanation {
        summary: explanation.summary,
        agents: explanation.agents,
        fitting: explanation.fitting,
        busy: explanation.busy.into_iter().collect(),
        too_small: explanation.too_small.into_iter().collect(),
        inactive: explanation.inactive,
        filtered: explanation.filtered,
        extensions,
    }
}

impl From<CallError> for cluster::CallError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::OfferUnknown => Self::OfferUnknown,
            CallError::OfferExceeded(what) => Self::OfferExceeded(what),
            CallError::Invalid(why) => Self::Invalid(why),
            CallError::TurnFull => Self::TurnFull,
        }
    }
}

impl From<QuotaError> for store::StoreError {
    fn from(error: QuotaError) -> Self {
        match error {
            QuotaError::TooLarge(which) => Self::TooLarge(which),
            QuotaError::TurnFull => Self::TurnFull,
        }
    }
}

impl From<QuotaError> for timers::TimerError {
    fn from(error: QuotaError) -> Self {
        match error {
            QuotaError::TooLarge(which) => Self::TooLarge(which),
            QuotaError::TurnFull => Self::TurnFull,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_specification_says_beside_its_record_comes_as_extensions() {
        let extension = |name: &str, value: &str| types::Extension {
            name: name.into(),
            value: value.into(),
        };
        let read = |pairs: &[(&str, &str)]| {
            let extensions = pairs.iter().map(|(name, value)| extension(name, value));
            Named::of(extensions.collect())
        };
        assert_eq!(read(&[]), Ok(Named::default()));
        let all = [
            ("replace-after-ms", "7"),
            ("priority", "-3"),
            ("time-limit-ms", "9"),
            ("container", r#"{"read_only": true}"#),
            ("checks", r#"{"health": {"probe": {"tcp": {"port": 80}}}}"#),
            ("command", r#"{"cpuset": "0-3"}"#),
            ("fetch", r#"[{"from": "https://example.org/x"}]"#),
        ];
        let container = Container {
            read_only: true,
            ..Container::default()
        };
        let checks = r#"{"health": {"probe": {"tcp": {"port": 80}}}}"#;
        let named = Named {
            wasm: None,
            command: Some(Box::new(CommandOptions {
                cpuset: Some("0-3".into()),
                ..CommandOptions::default()
            })),
            fetch: Some(vec![Fetch::new("https://example.org/x")]),
            container: Some(Box::new(container)),
            checks: Some(serde_json::from_str(checks).unwrap()),
            partition: Some(PartitionPolicy::ReplaceAfter(7)),
            priority: Some(-3),
            time_limit_ms: Some(9),
        };
        assert_eq!(read(&all), Ok(named));
        let bad: [&[(&str, &str)]; 8] = [
            &[("container", "{}"), ("container", "{}")],
            &[("checks", r#"{"helth": {}}"#)],
            &[("priority", "high")],
            &[("priority", "1"), ("priority", "2")],
            &[("time-limit-ms", "-1")],
            &[("replace-after-ms", "soon")],
            &[("color", "red")],
            &[("replace-after-ms", "7"), ("stop-after-ms", "9")],
        ];
        for (pairs, wanted) in bad.into_iter().zip([
            "one `container`",
            "unknown field `helth`",
            "no number",
            "one `pri",
            "no milli",
            "`soon`",
            "`color`",
            "one of",
        ]) {
            assert!(read(pairs).unwrap_err().contains(wanted), "{pairs:?}");
        }
    }
}
