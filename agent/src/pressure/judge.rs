//! What is lent and what is to be done, from readings of the machine and its tasks: the two cores of
//! `tepui-pressure`, brought together. Pure.

use std::time::Duration;

use tepui_pressure::{Amounts, Decision, Estimator, Readings, Relief, RunningTask, Sample};
use tepui_types::{Bytes, MilliCpus, Resources};

use super::Outcome;
use crate::pools::{firm_of, revocable_of, with_revocable};

/// Remembers what was seen and told.
#[derive(Debug)]
pub struct Judge {
    /// All that is lent when nothing is short and nothing is slack.
    lent: Resources,
    relief: Relief,
    estimator: Estimator,
    told: Amounts,
}

impl Judge {
    /// Lends `lent` and at most so much slack.
    pub fn new(lent: Resources, slack: Amounts) -> Self {
        Self {
            relief: Relief::default(),
            estimator: Estimator::new(slack),
            told: revocable_of(&lent),
            lent,
        }
    }

    /// Takes in a look. What tasks use counts for what is lent where it was just measured.
    pub fn judge(
        &mut self,
        now: Duration,
        readings: &Readings,
        tasks: Vec<RunningTask>,
        samples: bool,
    ) -> Outcome {
        let decision = self.relief.decide(now, readings, &tasks);
        let out = tasks.iter().map(|task| task.holding.lent);
        let out = out.fold(Amounts::default(), sum);
        if samples {
            self.estimator.observe(&Sample {
                at: now,
                capacity: firm_of(&self.lent),
                idle: idle(readings),
                pressed: decision.is_pressed(),
                tasks,
            });
        }
        Outcome {
            lent: self.lend(&decision, out),
            decision,
        }
    }

    /// All that is lent from now on, if that is something else than before: under pressure no more of
    /// what may be taken back than tasks have.
    fn lend(&mut self, decision: &Decision, out: Amounts) -> Option<Resources> {
        let mut amounts = sum(revocable_of(&self.lent), self.estimator.lent());
        if decision.is_pressed() {
            amounts.cpus = amounts.cpus.min(out.cpus);
            amounts.mem = amounts.mem.min(out.mem);
        }
        if amounts == self.told {
            return None;
        }
        self.told = amounts;
        with_revocable(&self.lent, amounts)
            .inspect_err(|why| tracing::warn!(why, "what is lent stays as it is"))
            .ok()
    }
}

fn sum(one: Amounts, other: Amounts) -> Amounts {
    Amounts {
        cpus: MilliCpus(one.cpus.0.saturating_add(other.cpus.0)),
        mem: Bytes(one.mem.0.saturating_add(other.mem.0)),
    }
}

/// What of the whole machine nobody uses.
fn idle(readings: &Readings) -> Option<Amounts> {
    Some(Amounts {
        cpus: readings.cpu?.idle(),
        mem: readings.mem?.available,
    })
}

#[cfg(test)]
mod tests {
    use tepui_pressure::{CpuUse, Holding, Launches, Mem, Used};

    use super::*;

    const MINUTE: u64 = 60;

    fn amounts(cpus: u64, gib: u64) -> Amounts {
        Amounts {
            cpus: MilliCpus(cpus),
            mem: Bytes::gib(gib),
        }
    }

    /// A machine of four processors and 16 GiB.
    fn machine(busy: u64, free_gib: u64) -> Readings {
        Readings {
            cpu: Some(CpuUse {
                all: MilliCpus(4_000),
                busy: MilliCpus(busy),
            }),
            mem: Some(Mem {
                total: Bytes::gib(16),
                available: Bytes::gib(free_gib),
            }),
            ..Readings::default()
        }
    }

    fn task(id: &str, firm: Amounts, lent: Amounts, cpus: u64) -> RunningTask {
        RunningTask {
            id: id.parse().unwrap(),
            started: Duration::ZERO,
            holding: Holding {
                firm,
                lent,
                revocable: lent != Amounts::default(),
            },
            used: Some(Used {
                cpus: MilliCpus(cpus),
                mem: Bytes::gib(1),
                ..Used::default()
            }),
        }
    }

    /// A judge who has watched a task that uses a tenth of its three processors for an hour, and what is
    /// lent then.
    fn after_an_hour(slack: Amounts) -> (Judge, RunningTask, Amounts) {
        let lent = Resources {
            cpus: MilliCpus(4_000),
            mem: Bytes::gib(16),
            ..Resources::default()
        };
        let mut judge = Judge::new(lent, slack);
        let firm = task("f1.firm.0", amounts(3_000, 8), Amounts::default(), 300);
        let mut last = Amounts::default();
        for second in (0..60 * MINUTE).step_by(10) {
            let now = Duration::from_secs(second);
            let outcome = judge.judge(now, &machine(300, 14), vec![firm.clone()], true);
            assert_eq!(outcome.decision.launches, Launches::All);
            if let Some(lent) = outcome.lent {
                assert_eq!(lent.cpus, MilliCpus(4_000), "what is firm stays");
                last = revocable_of(&lent);
            }
        }
        (judge, firm, last)
    }

    #[test]
    fn what_a_task_leaves_unused_is_lent_up_to_what_the_operator_allows() {
        let (_, _, lent) = after_an_hour(amounts(1_000, 0));
        assert_eq!(lent, amounts(1_000, 0));
        let (_, _, lent) = after_an_hour(amounts(4_000, 0));
        assert!(
            lent.cpus > MilliCpus(1_000) && lent.cpus < MilliCpus(3_000),
            "some is kept for its peaks: {lent:?}"
        );
        let (_, _, lent) = after_an_hour(Amounts::default());
        assert_eq!(lent, Amounts::default());
    }

    #[test]
    fn under_pressure_no_more_is_lent_than_tasks_have_and_the_largest_of_them_goes() {
        let (mut judge, firm, _) = after_an_hour(amounts(1_000, 0));
        let cheap = task("f1.cheap.0", Amounts::default(), amounts(400, 0), 400);
        let tasks = vec![firm, cheap.clone()];
        let now = Duration::from_secs(60 * MINUTE);
        // A thirty-second of its memory is left.
        let mut short = machine(700, 0);
        short.mem = Some(Mem {
            total: Bytes::gib(16),
            available: Bytes::mib(512),
        });
        let outcome = judge.judge(now, &short, tasks.clone(), true);
        assert_eq!(outcome.decision.launches, Launches::Nothing);
        assert_eq!(outcome.decision.end.unwrap().task, cheap.id);
        assert_eq!(revocable_of(&outcome.lent.unwrap()), amounts(400, 0));
        // Its memory is free again: after a while so is what was lent.
        let mut lent = None;
        for second in (10..10 * MINUTE).step_by(2) {
            let now = now + Duration::from_secs(second);
            let tasks = tasks[..1].to_vec();
            let outcome = judge.judge(now, &machine(300, 14), tasks, second % 10 == 0);
            lent = outcome.lent.or(lent);
            assert_eq!(outcome.decision.end, None);
        }
        assert_eq!(revocable_of(&lent.unwrap()), amounts(1_000, 0));
    }
}
