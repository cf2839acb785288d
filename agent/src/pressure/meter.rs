//! What each task uses, by its cgroup.
//!
//! WebAssembly tasks are parts of one process: each counts with its part of what that uses, by the
//! processors and the memory that it was given.

use std::collections::BTreeMap;
use std::time::Duration;

use tepui_executor::cgroup::{Group, Reach, Usage};
use tepui_pressure::{Amounts, Holding, RunningTask, Used};
use tepui_types::wire::agent::TaskLaunch;
use tepui_types::{Bytes, MilliCpus, TaskId};

use crate::agent::{Place, Running};
use crate::sandbox::Layout;

/// How long what was counted is good for: three times as long as between two measurements of all. What
/// is older says nothing of now, and its cgroup may be another task's.
const OLDEST: Duration = Duration::from_secs(30);

/// What is asked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Which tasks there are: that costs nothing.
    Names,
    /// What those have used until now that may be ended and are new: when all are measured, their use
    /// is known.
    New,
    /// What those use that may be ended: the others' use helps nobody now.
    Revocable,
    /// What all use.
    All,
}

impl Wanted {
    /// Whether a cgroup is looked at, by whether its tasks may be ended and whether it was counted before.
    fn asks(self, is_revocable: bool, is_counted: bool) -> bool {
        match self {
            Self::Names => false,
            Self::New => is_revocable && !is_counted,
            Self::Revocable => is_revocable,
            Self::All => true,
        }
    }
}

/// Remembers what was counted when it last looked.
#[derive(Debug, Default)]
pub struct Meter {
    started: BTreeMap<TaskId, Duration>,
    counted: BTreeMap<String, (Duration, Usage)>,
}

/// What the processes of one cgroup use, and who they are.
#[derive(Debug, Default)]
struct Shared {
    used: Option<Used>,
    given: Amounts,
    /// Whether one of its tasks has something that may be taken back.
    is_revocable: bool,
}

impl Meter {
    /// All of them as they are now; what they use only where that is asked for and was measured a while
    /// before.
    pub fn look(
        &mut self,
        now: Duration,
        layout: &Layout,
        running: &[Running],
        wanted: Wanted,
    ) -> Vec<RunningTask> {
        let ids = running.iter().map(|one| &one.launch.task);
        let started = ids.map(|id| (id.clone(), *self.started.get(id).unwrap_or(&now)));
        self.started = started.collect();
        let mut groups: BTreeMap<String, Shared> = BTreeMap::new();
        for one in running {
            let Some(path) = path_of(layout, one) else {
                continue;
            };
            let given = given(&one.launch);
            let shared = groups.entry(path).or_default();
            shared.given.cpus.0 = shared.given.cpus.0.saturating_add(given.cpus.0);
            shared.given.mem.0 = shared.given.mem.0.saturating_add(given.mem.0);
            shared.is_revocable |= !one.launch.revocable.is_empty();
        }
        self.counted.retain(|_, (then, _)| now <= *then + OLDEST);
        for (path, shared) in &mut groups {
            let is_counted = self.counted.contains_key(path);
            if wanted.asks(shared.is_revocable, is_counted)
                && let Ok(group) = Group::open(path, Reach::All)
            {
                let usage = group.usage();
                let used = self.count(now, path, usage);
                // Who is to end must be known at the first look; what is lent waits for a rate.
                let is_to_rank = wanted == Wanted::Revocable;
                shared.used = used.or_else(|| is_to_rank.then(|| held(&usage)));
            }
        }
        let task = |one: &Running| {
            let id = one.launch.task.clone();
            let path = path_of(layout, one);
            let shared = path.and_then(|path| groups.get(&path));
            RunningTask {
                started: self.started[&id],
                id,
                holding: Holding::new(&one.launch.resources, &one.launch.revocable),
                used: shared.and_then(|shared| shared.part(&given(&one.launch))),
            }
        };
        running.iter().map(task).collect()
    }

    /// Notes what the cgroup of that path has used until now; what it uses, if that is known.
    fn count(&mut self, now: Duration, path: &str, usage: Usage) -> Option<Used> {
        let (then, before) = self.counted.insert(path.to_owned(), (now, usage))?;
        used(now.saturating_sub(then), &before, &usage)
    }
}

impl Shared {
    /// What a task of it uses that was given this: its part.
    fn part(&self, given: &Amounts) -> Option<Used> {
        let used = self.used?;
        let part = |used: u64, given: u64, all: u64| {
            let part = u128::from(used) * u128::from(given) / u128::from(all.max(1));
            u64::try_from(part).unwrap_or(u64::MAX)
        };
        Some(Used {
            cpus: MilliCpus(part(used.cpus.0, given.cpus.0, self.given.cpus.0)),
            mem: Bytes(part(used.mem.0, given.mem.0, self.given.mem.0)),
            ..used
        })
    }
}

/// What is held now, without a rate.
fn held(usage: &Usage) -> Used {
    Used {
        mem: Bytes(usage.mem_bytes),
        pids: usage.pids,
        ..Used::default()
    }
}

/// Over so long; nothing over no time, and where the cgroup is another of the same path.
fn used(took: Duration, before: &Usage, now: &Usage) -> Option<Used> {
    let micros = now.cpu_micros.checked_sub(before.cpu_micros)?;
    let milli = u128::from(micros) * 1_000 / took.as_micros().max(1);
    (!took.is_zero()).then(|| Used {
        cpus: MilliCpus(u64::try_from(milli).unwrap_or(u64::MAX)),
        ..held(now)
    })
}

fn path_of(layout: &Layout, running: &Running) -> Option<String> {
    match &running.place {
        Place::Alone(path) => path.clone(),
        Place::Within(executor) => layout.executor_cgroup(*executor),
    }
}

fn given(launch: &TaskLaunch) -> Amounts {
    Amounts {
        cpus: launch.resources.cpus,
        mem: launch.resources.mem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn use_is_what_was_added_over_the_time_between() {
        let at = |cpu_micros| Usage {
            cpu_micros,
            mem_bytes: 7,
            pids: 2,
            ..Usage::default()
        };
        let second = Duration::from_secs(1);
        let found = used(2 * second, &at(1_000_000), &at(2_000_000)).unwrap();
        assert_eq!(found.cpus, MilliCpus(500));
        assert_eq!((found.mem, found.pids), (Bytes(7), 2));
        assert_eq!(used(second, &at(5), &at(4)), None, "it was made anew");
        assert_eq!(used(Duration::ZERO, &at(4), &at(5)), None);
    }

    #[test]
    fn looks_that_measure_nothing_leave_what_was_counted_before() {
        let at = |cpu_micros| Usage {
            cpu_micros,
            ..Usage::default()
        };
        let second = Duration::from_secs;
        let layout = Layout::new("/no/such/agent".into());
        let mut meter = Meter::default();
        assert_eq!(meter.count(second(100), "one", at(0)), None);
        // As between two samples of a machine that is short of nothing.
        for now in [102, 104, 106, 108] {
            assert_eq!(meter.look(second(now), &layout, &[], Wanted::Names), []);
        }
        let used = meter.count(second(110), "one", at(1_000_000)).unwrap();
        assert_eq!(used.cpus, MilliCpus(100));
        // It is forgotten after a while, and so are those that have gone.
        meter.look(second(140), &layout, &[], Wanted::Names);
        meter.look(second(141), &layout, &[], Wanted::Names);
        assert_eq!(meter.count(second(142), "one", at(2_000_000)), None);
    }

    #[test]
    fn who_is_new_and_may_be_ended_is_counted_once_before_all_are() {
        let asked = |wanted: Wanted| {
            [(true, false), (true, true), (false, false), (false, true)]
                .map(|(is_revocable, is_counted)| wanted.asks(is_revocable, is_counted))
        };
        assert_eq!(asked(Wanted::Names), [false; 4]);
        assert_eq!(asked(Wanted::New), [true, false, false, false]);
        assert_eq!(asked(Wanted::Revocable), [true, true, false, false]);
        assert_eq!(asked(Wanted::All), [true; 4]);
    }

    #[test]
    fn who_shares_a_process_counts_with_a_part_of_it() {
        let amounts = |cpus, mem| Amounts {
            cpus: MilliCpus(cpus),
            mem: Bytes(mem),
        };
        let shared = Shared {
            used: Some(Used {
                cpus: MilliCpus(900),
                mem: Bytes(40),
                ..Used::default()
            }),
            given: amounts(3_000, 400),
            is_revocable: false,
        };
        let part = shared.part(&amounts(1_000, 100)).unwrap();
        assert_eq!((part.cpus, part.mem), (MilliCpus(300), Bytes(10)));
        // Nobody was given anything.
        let none = Shared {
            given: Amounts::default(),
            ..shared
        };
        assert_eq!(none.part(&Amounts::default()).unwrap().cpus, MilliCpus(0));
    }
}
