//! What is to be done about a machine that is short of something.
//!
//! Tasks on what is lent make way. For want of processors, memory or time of disks they are throttled, a
//! step at a time. Where memory, processes or room on disk become few, nothing more is launched on what
//! is lent, then nothing at all; and where the machine would fail otherwise, one task is ended, and the
//! next only when the end of that one has shown its effect. A task that runs on what is its own is
//! never chosen.
//!
//! A [`Decision`] says each time how all is to be, so that losing one does no harm; only an end is said
//! once. Pure: the agent gives time, readings and tasks, and does what is decided.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tepui_types::TaskId;

use crate::readings::Readings;
use crate::strain::{Strain, Strains};
use crate::task::{RunningTask, Used};

/// What tasks on what is lent may have of their processors, in percent, from step to step. Halves are
/// felt at once, and a tenth still lets a program answer its checks and end in order.
const SHARES_PERCENT: [u8; 4] = [100, 50, 25, 10];
/// Between steps down: the kernel's shortest average is over ten seconds, and shows a step's effect
/// after that.
const DOWN: Duration = Duration::from_secs(10);
/// Calm for so long before a step up: three of these averages.
const UP: Duration = Duration::from_secs(30);
/// The most that is waited for a step up, after many that were too early.
const MAX_UP: Duration = Duration::from_secs(480);
/// After a task has ended, before another is: until that shows in the readings. If everybody waited all
/// the time and nobody does now, the average over ten seconds still says 22 % then.
const SETTLE: Duration = Duration::from_secs(15);
/// How long a task may take to end before another one is chosen: longer than what most are given to
/// end in order, and a process that the kernel cannot end must not be waited for forever.
const PATIENCE: Duration = Duration::from_secs(30);

/// What may be launched.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Launches {
    /// Everything.
    #[default]
    All,
    /// Only what does without what is lent.
    FirmOnly,
    /// Nothing: it would fail, and others with it.
    Nothing,
}

/// Why a task is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// Memory is short.
    Memory,
    /// The kernel can have few more processes.
    Pids,
    /// The agent's disk is nearly full.
    Disk,
}

/// A task that is to end.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct End {
    /// Which.
    pub task: TaskId,
    /// Why.
    pub cause: Cause,
}

/// How all is to be from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Of what the machine is short.
    pub strains: Strains,
    /// What tasks on what is lent may have of their processors, in percent; 100 leaves them alone.
    pub share_percent: u8,
    /// What may be launched.
    pub launches: Launches,
    /// A task that is to end now. It is said once.
    pub end: Option<End>,
}

/// Decides, and remembers what is under way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Relief {
    strains: Strains,
    throttle: Throttle,
    ending: Option<Ending>,
    /// Tasks that were told to end, and run.
    told: BTreeSet<TaskId>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Throttle {
    /// Which of the shares.
    step: usize,
    /// When the step was last changed, and whether up.
    changed: Option<(Duration, bool)>,
    /// When it was last not calm.
    disturbed: Duration,
    /// How long calm lasts before a step up.
    wait: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Ending {
    task: TaskId,
    told: Duration,
    /// When it was seen to have ended.
    gone: Option<Duration>,
}

/// Which task is ended first: the greatest. The largest one gives back most, and of two such the
/// younger one has lost less.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank<'a> {
    has: u64,
    started: Duration,
    id: Reverse<&'a TaskId>,
}

impl Decision {
    /// Whether the machine is short of anything: then no more is to be lent than is out.
    pub fn is_pressed(&self) -> bool {
        self.strains.worst() > Strain::Calm || self.share_percent < SHARES_PERCENT[0]
    }
}

impl Relief {
    /// Takes in what was read at a time, by a clock that does not go back, and all tasks that run.
    pub fn decide(
        &mut self,
        now: Duration,
        readings: &Readings,
        tasks: &[RunningTask],
    ) -> Decision {
        self.strains = self.strains.after(readings);
        let Strains {
            cpu,
            memory,
            io,
            pids,
            disk,
        } = self.strains;
        let is_slow = cpu.max(memory).max(io) >= Strain::Tight;
        let share_percent = self.throttle.turn(now, is_slow);
        // One more throttled task hurts nobody, and a refusal would come back as another launch.
        let launches = match memory.max(pids).max(disk) {
            Strain::Calm => Launches::All,
            Strain::Tight => Launches::FirmOnly,
            Strain::Short | Strain::Critical => Launches::Nothing,
        };
        // Where a level is only being left, one end was enough.
        let now_critical = Strains::reached(readings);
        let causes = [
            (now_critical.memory, Cause::Memory),
            (now_critical.pids, Cause::Pids),
            (now_critical.disk, Cause::Disk),
        ];
        let causes = causes.into_iter();
        let causes = causes.filter(|(strain, _)| *strain == Strain::Critical);
        Decision {
            strains: self.strains,
            share_percent,
            launches,
            end: self.end(now, causes.map(|(_, cause)| cause), tasks),
        }
    }

    /// The task that is to end for the first of the causes for which that helps.
    fn end(
        &mut self,
        now: Duration,
        mut causes: impl Iterator<Item = Cause>,
        tasks: &[RunningTask],
    ) -> Option<End> {
        let runs = |id: &TaskId| tasks.iter().any(|task| task.id == *id);
        self.told.retain(runs);
        if let Some(ending) = &mut self.ending {
            let is_over = if runs(&ending.task) {
                now.saturating_sub(ending.told) >= PATIENCE
            } else {
                let gone = *ending.gone.get_or_insert(now);
                now.saturating_sub(gone) >= SETTLE
            };
            if !is_over {
                return None;
            }
            self.ending = None;
        }
        let end = causes.find_map(|cause| {
            let task = largest(cause, tasks, &self.told)?;
            Some(End { task, cause })
        })?;
        _ = self.told.insert(end.task.clone());
        self.ending = Some(Ending {
            task: end.task.clone(),
            told: now,
            gone: None,
        });
        Some(end)
    }
}

/// Of the tasks that have something that is lent and were not told to end, that with most of what is
/// short; none if no such task has any of it, for then its end would not help.
fn largest(cause: Cause, tasks: &[RunningTask], told: &BTreeSet<TaskId>) -> Option<TaskId> {
    let may_end = |task: &&RunningTask| task.holding.revocable && !told.contains(&task.id);
    let ranks = tasks.iter().filter(may_end).map(|task| Rank {
        has: cause.amount(task),
        started: task.started,
        id: Reverse(&task.id),
    });
    let greatest = ranks.filter(|rank| rank.has > 0).max()?;
    Some(greatest.id.0.clone())
}

impl Cause {
    /// What the task has of it. One that was not measured has the memory that it was given.
    fn amount(self, task: &RunningTask) -> u64 {
        let given = || {
            let (firm, lent) = (task.holding.firm.mem, task.holding.lent.mem);
            Used {
                mem: tepui_types::Bytes(firm.0.saturating_add(lent.0)),
                pids: 1,
                ..Used::default()
            }
        };
        let used = task.used.unwrap_or_else(given);
        match self {
            Self::Memory => used.mem.0,
            Self::Pids => used.pids,
            Self::Disk => used.disk.0,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = match self {
            Self::Memory => "memory",
            Self::Pids => "processes",
            Self::Disk => "disk",
        };
        write!(
            f,
            "the machine is short of {short}, and the task runs on what may be taken back: give it \
             resources that are not revocable if it must not be ended"
        )
    }
}

impl Default for Throttle {
    fn default() -> Self {
        Self {
            step: 0,
            changed: None,
            disturbed: Duration::ZERO,
            wait: UP,
        }
    }
}

impl Throttle {
    /// The share from now on.
    fn turn(&mut self, now: Duration, is_slow: bool) -> u8 {
        let since = |then: Duration| now.saturating_sub(then);
        let (changed, was_up) = self.changed.unwrap_or_default();
        if is_slow {
            self.disturbed = now;
            let is_time = self.changed.is_none() || since(changed) >= DOWN;
            if is_time && self.step + 1 < SHARES_PERCENT.len() {
                // The last step up was too early: the next one is later.
                if was_up && since(changed) < self.wait {
                    self.wait = (self.wait * 2).min(MAX_UP);
                }
                self.step += 1;
                self.changed = Some((now, false));
            }
        } else if since(self.disturbed.max(changed)) >= self.wait {
            if self.step > 0 {
                self.step -= 1;
                self.changed = Some((now, true));
            } else {
                self.wait = UP;
            }
        }
        SHARES_PERCENT[self.step]
    }
}
