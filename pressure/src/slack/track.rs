//! One resource's slack over time, in whatever unit it has.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tepui_types::TaskId;

/// What is lent is told in so many steps: noise below a tenth of the most is nobody's concern.
const STEPS: u64 = 10;
/// More is told from so many steps on, except for the last one: use that goes up and down across
/// one step's edge must not be told each time.
const RISE_STEPS: u64 = 2;

/// How careful to be with a resource.
#[derive(Debug)]
pub struct Caution {
    /// In which time half of what a task no longer uses is believed to be free.
    pub half_life: Duration,
    /// What a task may use above its peak, in percent of that.
    pub task_margin_percent: u64,
    /// What is never lent, in percent of the capacity.
    pub machine_margin_percent: u64,
    /// How long a task counts in full.
    pub warm_up: Duration,
    /// How long after a change nothing more is lent.
    pub quiet: Duration,
}

/// A sample of one resource.
#[derive(Debug)]
pub struct Look<'a> {
    /// When.
    pub at: Duration,
    /// What is lent firmly.
    pub capacity: u64,
    /// The most that may be lent besides.
    pub most: u64,
    /// What of the machine nobody uses.
    pub idle: Option<u64>,
    /// Whether no more may be lent than is out.
    pub pressed: bool,
    /// All tasks.
    pub tasks: BTreeMap<&'a TaskId, TrackTask>,
}

/// A task in it.
#[derive(Debug)]
pub struct TrackTask {
    /// What it was given firmly.
    pub firm: u64,
    /// What it was lent.
    pub lent: u64,
    /// Whether it has anything that is lent.
    pub revocable: bool,
    /// What it uses, if that was measured.
    pub used: Option<u64>,
    /// When it started.
    pub started: Duration,
}

/// What is known of one resource.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Track {
    peaks: BTreeMap<TaskId, Peak>,
    /// Of all that the machine does except for tasks on what is lent.
    machine: Option<Peak>,
    /// What is lent, in steps.
    steps: u64,
    /// When that was last changed, or the first sample.
    changed: Option<Duration>,
}

/// The most of a use that goes up and down; sinks towards what it is now.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Peak {
    /// Fractions are kept: whole numbers would never sink in small steps of time.
    value: f64,
    at: Duration,
}

impl Track {
    /// What is lent when the most is that.
    pub fn lent(&self, most: u64) -> u64 {
        part(most, self.steps)
    }

    /// Takes in what was seen, and decides what is lent.
    pub fn observe(&mut self, caution: &Caution, look: &Look<'_>) {
        let changed = *self.changed.get_or_insert(look.at);
        let needed = self.needed(caution, look);
        let elsewhere = self.elsewhere(caution, look);
        let margin = percent(look.capacity, caution.machine_margin_percent);
        let given: u64 = look
            .tasks
            .values()
            .fold(0, |sum, task| sum.saturating_add(task.firm));
        let idle_of_given = given.min(look.capacity).saturating_sub(needed);
        let room = idle_of_given.min(look.capacity.saturating_sub(elsewhere));
        let room = room.saturating_sub(margin).min(look.most);
        let out = look.tasks.values().map(|task| task.lent);
        let out = out.fold(0, u64::saturating_add);
        let room = if look.pressed { room.min(out) } else { room };
        let steps = steps_within(room, look.most);
        let is_clear = steps >= self.steps + RISE_STEPS || steps == STEPS;
        let is_quiet = look.at.saturating_sub(changed) >= caution.quiet;
        let may_rise = is_clear && is_quiet && look.revocable_use().is_some();
        if steps < self.steps || (steps > self.steps && may_rise) {
            (self.steps, self.changed) = (steps, Some(look.at));
        }
    }

    /// What firm tasks are estimated to need.
    fn needed(&mut self, caution: &Caution, look: &Look<'_>) -> u64 {
        self.peaks.retain(|id, _| look.tasks.contains_key(id));
        let mut needed: u64 = 0;
        for (id, task) in &look.tasks {
            let Some(used) = task.used else {
                needed = needed.saturating_add(task.firm);
                continue;
            };
            if task.revocable {
                // Its firm part is small, and nobody can tell which part it uses.
                needed = needed.saturating_add(task.firm);
                continue;
            }
            let peak = match self.peaks.get_mut(*id) {
                Some(peak) => peak.observe(used, look.at, caution.half_life),
                None => {
                    let peak = Peak::new(used, look.at);
                    _ = self.peaks.insert((*id).clone(), peak);
                    used
                }
            };
            let is_warming = look.at.saturating_sub(task.started) < caution.warm_up;
            let with_margin = peak.saturating_add(percent(peak, caution.task_margin_percent));
            // The margin asks for no more than the task was given, but use above that counts.
            let estimate = if is_warming {
                peak.max(task.firm)
            } else {
                with_margin.min(task.firm.max(peak))
            };
            needed = needed.saturating_add(estimate);
        }
        needed
    }

    /// The peak of what is not free for tasks on what is lent, as the machine itself tells it.
    fn elsewhere(&mut self, caution: &Caution, look: &Look<'_>) -> u64 {
        let Some(idle) = look.idle else { return 0 };
        let own = |theirs: u64| look.capacity.saturating_sub(idle.saturating_add(theirs));
        let used = match (look.revocable_use(), &self.machine) {
            (Some(theirs), _) => own(theirs),
            // The first seconds of a task on what is lent are none of the machine's own use, which
            // would count for as long as a peak lasts: what was known before holds for a while.
            (None, Some(peak)) if peak.is_of_late(look.at, caution.quiet) => {
                return peak.at_least();
            }
            (None, None) => return own(0),
            (None, Some(_)) => own(0),
        };
        let peak = self.machine.get_or_insert(Peak::new(used, look.at));
        peak.observe(used, look.at, caution.half_life)
    }
}

impl Look<'_> {
    /// What tasks on what is lent use above what is their own: it can be taken back, also what they were
    /// not lent. None if one of them was not measured yet.
    fn revocable_use(&self) -> Option<u64> {
        let mut theirs = self.tasks.values().filter(|task| task.revocable);
        theirs.try_fold(0_u64, |sum, task| {
            Some(sum.saturating_add(task.used?.saturating_sub(task.firm)))
        })
    }
}

impl Peak {
    fn new(used: u64, at: Duration) -> Self {
        Self {
            value: used as f64,
            at,
        }
    }

    fn observe(&mut self, used: u64, at: Duration, half_life: Duration) -> u64 {
        let halves = at.saturating_sub(self.at).as_secs_f64() / half_life.as_secs_f64();
        let used_now = used as f64;
        let excess = (self.value - used_now).max(0.0);
        self.value = used_now + excess * (-halves).exp2();
        self.at = self.at.max(at);
        // A float rounds amounts above 2^53; the peak is never below the use.
        self.at_least().max(used)
    }

    /// Whether something was observed within that time.
    fn is_of_late(&self, now: Duration, within: Duration) -> bool {
        now.saturating_sub(self.at) < within
    }

    fn at_least(&self) -> u64 {
        self.value.ceil() as u64
    }
}

fn percent(amount: u64, percent: u64) -> u64 {
    clamp(u128::from(amount) * u128::from(percent) / 100)
}

/// How many whole steps of `most` fit.
fn steps_within(room: u64, most: u64) -> u64 {
    let steps = u128::from(room) * u128::from(STEPS);
    let steps = steps.checked_div(u128::from(most)).unwrap_or(0);
    clamp(steps).min(STEPS)
}

fn part(most: u64, steps: u64) -> u64 {
    clamp(u128::from(most) * u128::from(steps) / u128::from(STEPS))
}

fn clamp(amount: u128) -> u64 {
    u64::try_from(amount).unwrap_or(u64::MAX)
}
