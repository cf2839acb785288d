//! How much of their processors tasks get that have some which may be taken back.
//!
//! A cgroup serves one task after another: it is held to less for a task, and given back to the next
//! one at the next look, for the process that runs them knows nothing of it. What was firm is never
//! taken. WebAssembly tasks are not throttled: they share a process with others.

use std::collections::BTreeMap;

use tepui_executor::cgroup::{Group, Limits, Reach};
use tepui_types::MilliCpus;
use tepui_types::wire::agent::TaskLaunch;

use crate::agent::{Place, Running};

/// Remembers which cgroups are held to less than their limits.
#[derive(Debug, Default)]
pub struct Valve {
    held: BTreeMap<String, Hold>,
}

/// Microseconds of each period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hold {
    quota: i64,
    /// What its limits are.
    whole: i64,
}

impl Valve {
    /// Lets tasks have so many percent of what may be taken back. Blocks.
    pub fn turn(&mut self, percent: u8, running: &[Running]) {
        for (path, hold) in self.plan(percent, running) {
            // Where it does not succeed, it is tried again at the next look, or the cgroup is gone.
            let is_set = set(&path, hold.quota);
            if is_set && hold.quota != hold.whole {
                self.held.insert(path, hold);
            } else if is_set || !running.iter().any(|one| path_of(one) == Some(&path)) {
                self.held.remove(&path);
            }
        }
    }

    /// What is to be set, and to what.
    fn plan(&self, percent: u8, running: &[Running]) -> BTreeMap<String, Hold> {
        // Of those that have ended, all is given back to whoever comes next.
        let ended = self.held.iter().map(|(path, hold)| {
            let quota = hold.whole;
            (path.clone(), Hold { quota, ..*hold })
        });
        let mut plan: BTreeMap<String, Hold> = ended.collect();
        for one in running {
            let Some(path) = path_of(one) else { continue };
            let wanted = Hold {
                quota: quota(&one.launch, percent),
                whole: quota(&one.launch, 100),
            };
            let is_so = match self.held.get(path) {
                Some(hold) => hold.quota == wanted.quota,
                None => wanted.quota == wanted.whole,
            };
            match is_so {
                true => drop(plan.remove(path)),
                false => drop(plan.insert(path.clone(), wanted)),
            }
        }
        plan
    }
}

fn path_of(running: &Running) -> Option<&String> {
    match &running.place {
        Place::Alone(path) => path.as_ref(),
        Place::Within(_) => None,
    }
}

fn set(path: &str, quota: i64) -> bool {
    let set = Group::open(path, Reach::Needed).and_then(|group| group.limit_cpu(quota));
    if let Err(error) = &set {
        // It may have ended meanwhile.
        tracing::debug!(cgroup = path, %error, "a task is not throttled");
    }
    set.is_ok()
}

/// The quota of a task that gets so many percent of what may be taken back.
fn quota(launch: &TaskLaunch, percent: u8) -> i64 {
    let all = launch.resources.cpus.0;
    let lent = launch.revocable.cpus.0.min(all);
    let kept =
        (lent / 100).saturating_mul(percent.into()) + (lent % 100) * u64::from(percent) / 100;
    let mut limits = Limits::of(&launch.resources, None);
    if lent > 0 {
        limits.cpus = MilliCpus(all - lent + kept);
    }
    limits.cpu_quota_micros()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tepui_types::task::CommandWorkload;
    use tepui_types::{OperationId, Resources, Role, TaskSpec, Workload};

    use super::*;

    fn running(path: &str, cpus: u64, lent: u64) -> Running {
        let of = |cpus| Resources {
            cpus: MilliCpus(cpus),
            ..Resources::default()
        };
        let command = CommandWorkload::new(vec!["true".into()]);
        let launch = TaskLaunch {
            operation: OperationId {
                index: 1,
                ordinal: 0,
            },
            task: "f1.a.0".parse().unwrap(),
            framework_name: "batch".into(),
            role: Role::default(),
            spec: Arc::new(TaskSpec::new(Workload::Command(command))),
            resources: of(cpus),
            revocable: of(lent),
            volumes: Vec::new(),
            array_index: None,
        };
        Running {
            launch: Arc::new(launch),
            place: Place::Alone(Some(path.into())),
            has_own_network: false,
        }
    }

    #[test]
    fn only_what_may_be_taken_back_is_taken_and_all_is_given_back() {
        let tasks = [running("firm", 1_000, 0), running("mixed", 1_000, 500)];
        let mut valve = Valve::default();
        assert!(valve.plan(100, &tasks).is_empty());
        let plan = valve.plan(10, &tasks);
        let mixed = Hold {
            quota: 55_000,
            whole: 100_000,
        };
        assert_eq!(plan, BTreeMap::from([("mixed".into(), mixed)]));
        valve.held = plan;
        assert!(valve.plan(10, &tasks).is_empty(), "it is so");
        let back = Hold {
            quota: 100_000,
            ..mixed
        };
        let back = BTreeMap::from([("mixed".to_owned(), back)]);
        assert_eq!(valve.plan(100, &tasks), back);
        // It has ended, and whoever has its cgroup next must not suffer.
        assert_eq!(valve.plan(10, &tasks[..1]), back);
        assert_eq!(valve.plan(10, &[running("mixed", 1_000, 0)]), back);
    }
}
