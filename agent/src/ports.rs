//! Whether tasks listen on ports that are not theirs: those that do are ended.
//!
//! Only tasks in the machine's own network are looked at; who has a network of its own has all of its
//! ports, and Wasm tasks are given theirs by their executor.

use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use tepui_executor::cgroup::{Group, Reach};
use tepui_network::{Lookout, NetworkError, Stray, Tenant};
use tepui_types::resources::PortRanges;
use tepui_types::{Reason, Resources, TaskId, task::reason};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::agent::{Place, Running};
use crate::event_loop::{Event, census};

/// How often is looked: a task that took another's port is told soon, and the look costs less than
/// a thousandth of a core.
const INTERVAL: Duration = Duration::from_secs(2);
/// How many times as long as a look took is waited before the next, where that is longer: on a machine
/// with UDP sockets by the 100,000 they cost no more than a hundredth of a core.
const REST: u32 = 100;
/// The most of a task's ports that a message names.
const NAMED: usize = 8;

/// Where tasks may listen that are in the machine's own network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TaskPorts {
    /// Wherever the machine lets them.
    Any,
    /// On no port that the agent lends, unless it is theirs.
    #[default]
    Unlent,
    /// On theirs alone.
    Own,
}

impl FromStr for TaskPorts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "any" => Ok(Self::Any),
            "unlent" => Ok(Self::Unlent),
            "own" => Ok(Self::Own),
            _ => Err(format!(
                "`{text}` is not `any`, `unlent` (no port that is lent to others) or `own`"
            )),
        }
    }
}

/// Looks at all tasks for as long as the event loop lives.
pub async fn run(rule: TaskPorts, lent: Resources, events: mpsc::Sender<Event>) {
    let lent = ports_of(&lent);
    if rule == TaskPorts::Any || (rule == TaskPorts::Unlent && lent.is_empty()) {
        return;
    }
    let mut lookout = Lookout::default();
    let mut took = Duration::ZERO;
    loop {
        tokio::time::sleep(INTERVAL.max(took * REST)).await;
        let Some(mut running) = census(&events).await else {
            return;
        };
        running.retain(|one| !one.has_own_network && matches!(one.place, Place::Alone(Some(_))));
        if running.is_empty() {
            continue;
        }
        let lent = lent.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let begun = Instant::now();
            let found = look(&mut lookout, rule, &lent, &running);
            (lookout, found, begun.elapsed())
        });
        let Ok((kept, found, so_long)) = looked.await else {
            return;
        };
        (lookout, took) = (kept, so_long);
        match found {
            Ok(found) => {
                for (task, why) in found {
                    // The loop is gone only when the agent ends.
                    let _ = events.send(Event::Unwell(task, why)).await;
                }
            }
            Err(error) => {
                let error = anyhow::Error::from(error);
                tracing::warn!("nobody knows where tasks listen: {error:#}");
            }
        }
    }
}

/// Tasks that listen where they may not, and why they are ended.
fn look(
    lookout: &mut Lookout,
    rule: TaskPorts,
    lent: &PortRanges,
    running: &[Running],
) -> Result<Vec<(TaskId, Reason)>, NetworkError> {
    let is_lent = |port: u16| lent.ranges().iter().any(|(a, b)| (*a..=*b).contains(&port));
    let concerns = |port: u16| rule == TaskPorts::Own || is_lent(port);
    let mut strays = lookout.look(concerns, || running.iter().map(tenant).collect())?;
    // One is enough to end a task.
    strays.dedup_by_key(|stray| stray.tenant);
    let why = |stray: Stray| {
        let launch = &running[stray.tenant].launch;
        (
            launch.task.clone(),
            told(&stray, &ports_of(&launch.resources)),
        )
    };
    Ok(strays.into_iter().map(why).collect())
}

fn tenant(running: &Running) -> Tenant {
    let group = match &running.place {
        Place::Alone(Some(path)) => Group::open(path, Reach::Needed).ok(),
        Place::Alone(None) | Place::Within(_) => None,
    };
    let pids = group.map(|group| group.processes()).unwrap_or_default();
    Tenant {
        pids: pids.iter().map(|pid| pid.unsigned_abs()).collect(),
        ports: ports_of(&running.launch.resources),
    }
}

/// All of them, whatever they are reserved for.
fn ports_of(resources: &Resources) -> PortRanges {
    let pools = resources.pools.iter();
    let special = pools.flat_map(|pool| pool.amounts.ports.ranges());
    let all = resources.ports.ranges().iter().chain(special);
    PortRanges::from_ranges(all.copied().collect())
}

fn told(stray: &Stray, own: &PortRanges) -> Reason {
    let Stray {
        protocol,
        port,
        address,
        ..
    } = stray;
    let mut theirs: Vec<String> = own
        .iter()
        .take(NAMED + 1)
        .map(|port| port.to_string())
        .collect();
    if theirs.len() > NAMED {
        theirs[NAMED] = "…".into();
    }
    let advice = match theirs.is_empty() {
        true => {
            "it has none: ask for some with --ports, and listen on those of $TEPUI_PORTS".into()
        }
        false => format!(
            "its own are {}, which $TEPUI_PORTS names",
            theirs.join(", ")
        ),
    };
    let message =
        format!("it listens on {protocol} port {port} ({address}), which is not its own: {advice}");
    Reason::new(reason::PORT_FOREIGN, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tepui_network::Protocol;

    #[test]
    fn a_rule_is_named_by_a_word() {
        assert_eq!("own".parse(), Ok(TaskPorts::Own));
        let error = "none".parse::<TaskPorts>().unwrap_err();
        assert!(error.contains("`unlent`"), "{error}");
    }

    #[test]
    fn a_reason_names_the_port_and_where_to_listen_instead() {
        let stray = Stray {
            tenant: 0,
            protocol: Protocol::Tcp,
            port: 31_005,
            address: "0.0.0.0".parse().unwrap(),
        };
        let none = told(&stray, &PortRanges::default()).message;
        assert!(
            none.contains("tcp port 31005") && none.contains("--ports"),
            "{none}"
        );
        let two = told(&stray, &PortRanges::from_range(31_000, 31_001)).message;
        assert!(two.contains("31000, 31001, which"), "{two}");
        let many = told(&stray, &PortRanges::from_range(31_000, 31_999)).message;
        assert!(many.contains("31007, …, which"), "{many}");
    }
}
