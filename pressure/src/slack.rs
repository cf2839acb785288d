//! How much of what firm tasks were given lies idle, and may be lent.
//!
//! After Borg's reclamation: a task counts with all that it was given until it is known, then with its
//! peak, which jumps up with its use and sinks slowly, and a margin. What is lent is told in tenths of
//! what the operator allows at most: less at once, more only when it is clearly more and nothing has
//! changed for a while. Memory is lent more carefully than processors: too much lent of these costs
//! milliseconds until they are taken back, too much of memory ends somebody's task.
//!
//! Pure: time comes with the samples, by a clock that does not go back while the machine runs. An
//! [`Estimator`] may be stored and go on, as long as that clock does.

mod track;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tepui_types::{Bytes, MilliCpus};

use crate::task::{Amounts, Holding, RunningTask, Used};
use track::{Caution, Look, Track, TrackTask};

/// Processors can be taken back within milliseconds.
const CPU: Caution = Caution {
    // A service that is called every few minutes has not sunk far when it is called again.
    half_life: Duration::from_secs(300),
    // Within a sample of some seconds there are shorter peaks, which its average hides.
    task_margin_percent: 15,
    // For the machine itself, and for tasks that start or wake together.
    machine_margin_percent: 10,
    // As Borg has it: programs load and warm up first.
    warm_up: Duration::from_secs(300),
    // As long as an offer and a task's start take, several times: who is given something has it for
    // a while.
    quiet: Duration::from_secs(60),
};

/// Memory comes back only when its task ends.
const MEM: Caution = Caution {
    // Caches and heaps grow by the hour, and seldom shrink.
    half_life: Duration::from_secs(3600),
    // A burst of requests, or a garbage collector that has not run.
    task_margin_percent: 30,
    // The kernel needs some for files' cache, or all tasks wait for disks.
    machine_margin_percent: 20,
    // Memory fills more slowly than programs start.
    warm_up: Duration::from_secs(900),
    // Ending a task for lack of memory loses its work: lend for longer than most of it takes.
    quiet: Duration::from_secs(600),
};

/// What the agent sees at one time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// When: since the machine's start, for example.
    pub at: Duration,
    /// What is lent firmly, to all tasks together, whether they have taken it or not.
    pub capacity: Amounts,
    /// What of the whole machine nobody uses, where that is known. Use outside of tasks shows in it.
    pub idle: Option<Amounts>,
    /// Whether the machine is short of something: then no more is lent than is out.
    pub pressed: bool,
    /// All tasks that run.
    pub tasks: Vec<RunningTask>,
}

/// Estimates what may be lent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Estimator {
    /// What the operator lends at most.
    most: Amounts,
    cpu: Track,
    mem: Track,
}

impl Estimator {
    /// Lends nothing yet, and never more than `most`.
    pub fn new(most: Amounts) -> Self {
        Self {
            most,
            cpu: Track::default(),
            mem: Track::default(),
        }
    }

    /// What is lent: what is with tasks already, and the rest.
    pub fn lent(&self) -> Amounts {
        Amounts {
            cpus: MilliCpus(self.cpu.lent(self.most.cpus.0)),
            mem: Bytes(self.mem.lent(self.most.mem.0)),
        }
    }

    /// Takes in a sample; tells what is lent from now on if that is something else than before.
    pub fn observe(&mut self, sample: &Sample) -> Option<Amounts> {
        let before = self.lent();
        self.cpu.observe(
            &CPU,
            &look(
                sample,
                self.most,
                |amounts| amounts.cpus.0,
                |used| used.cpus.0,
            ),
        );
        self.mem.observe(
            &MEM,
            &look(
                sample,
                self.most,
                |amounts| amounts.mem.0,
                |used| used.mem.0,
            ),
        );
        Some(self.lent()).filter(|lent| *lent != before)
    }
}

/// A sample of one of the resources.
fn look(
    sample: &Sample,
    most: Amounts,
    amount: impl Fn(&Amounts) -> u64,
    used: impl Fn(&Used) -> u64,
) -> Look<'_> {
    let task = |task: &'_ RunningTask| {
        let Holding {
            firm,
            lent,
            revocable,
        } = &task.holding;
        TrackTask {
            firm: amount(firm),
            lent: amount(lent),
            revocable: *revocable,
            used: task.used.as_ref().map(&used),
            started: task.started,
        }
    };
    let tasks = sample.tasks.iter();
    Look {
        at: sample.at,
        capacity: amount(&sample.capacity),
        most: amount(&most),
        idle: sample.idle.as_ref().map(&amount),
        pressed: sample.pressed,
        tasks: tasks.map(|one| (&one.id, task(one))).collect(),
    }
}
