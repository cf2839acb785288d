//! What follows from how much the machine has left: what is lent beyond what is firm, and what tasks
//! on that give back when something is short.
//!
//! Every two seconds the machine is read (`tepui-pressure`), and two pure cores are asked: how much of
//! what firm tasks leave unused may be lent, and what is to be done now. Here it is done: masters are
//! told what is lent; executors let tasks on it have less, one of those at a time is ended, launches
//! are held back, old files are collected.

use std::time::Duration;

use tepui_pressure::{Amounts, Decision, Launches, Readings, Sources, Strain, Strains, Watch};
use tepui_types::{Reason, Resources, task::reason};
use tokio::sync::{mpsc, watch};

use crate::agent::{Running, WHOLE_SHARE};
use crate::event_loop::{Event, census};
use crate::pools::revocable_of;
use crate::sandbox::Layout;
use crate::sizes::DiskUse;
use crate::uptime;
use judge::Judge;
use meter::{Meter, Wanted};

mod judge;
mod meter;

/// How often what tasks use is measured: it costs several files a task, and what is lent follows
/// minutes, not seconds.
const SAMPLE: Duration = Duration::from_secs(10);

/// What is known from the start.
#[derive(Debug)]
pub struct Pressure {
    /// The agent's folder and cgroups.
    pub layout: Layout,
    /// All that it lends when nothing is short and nothing is slack.
    pub lent: Resources,
    /// How much of what firm tasks leave unused is lent at most.
    pub slack: Amounts,
    /// Told how short the disk is: what nobody needs is removed then.
    pub disk: watch::Sender<Strain>,
    /// What tasks have on the disk.
    pub disk_use: DiskUse,
    /// The loop.
    pub events: mpsc::Sender<Event>,
}

/// What is remembered between looks.
#[derive(Debug)]
struct Duty {
    pressure: Pressure,
    judge: Judge,
    meter: Meter,
    sampled: Option<Duration>,
    last: Option<Decision>,
}

/// What one look has led to, for the loop.
#[derive(Debug)]
struct Outcome {
    lent: Option<Resources>,
    decision: Decision,
}

impl Pressure {
    /// Whether anything of the machine may be taken back.
    fn lends_anything(&self) -> bool {
        let nothing = Amounts::default();
        self.slack != nothing || revocable_of(&self.lent) != nothing
    }

    /// Looks at the machine for as long as the event loop lives.
    pub async fn run(self) {
        let events = self.events.clone();
        let sources = Sources::machine(self.layout.dir());
        let (_watch, mut readings) = match Watch::start(&sources, tepui_pressure::INTERVAL) {
            Ok(started) => started,
            Err(error) => {
                return tracing::warn!(%error, "nobody watches what the machine has left");
            }
        };
        let mut duty = Duty::new(self);
        while readings.changed().await.is_ok() {
            let read = *readings.borrow_and_update();
            let Some(running) = census(&events).await else {
                return;
            };
            let looked = tokio::task::spawn_blocking(move || {
                let outcome = duty.look(&read, &running);
                (duty, outcome)
            });
            let Ok((kept, outcome)) = looked.await else {
                return;
            };
            duty = kept;
            if duty.tell(outcome).await.is_err() {
                return;
            }
        }
    }
}

impl Duty {
    fn new(pressure: Pressure) -> Self {
        Self {
            judge: Judge::new(pressure.lent.clone(), pressure.slack),
            meter: Meter::default(),
            sampled: None,
            last: None,
            pressure,
        }
    }

    /// Measures, and has it judged. Blocks.
    fn look(&mut self, readings: &Readings, running: &[Running]) -> Outcome {
        let now = Duration::from_millis(uptime::now_ms());
        let is_due = self.sampled.is_none_or(|last| now >= last + SAMPLE);
        let lends_slack = self.pressure.slack != Amounts::default();
        let samples = is_due && lends_slack;
        if samples {
            self.sampled = Some(now);
        }
        let Pressure {
            layout, disk_use, ..
        } = &self.pressure;
        disk_use.want(self.may_be_strained(readings, |strains| strains.disk));
        let wanted = match samples {
            true => Wanted::All,
            false if self.may_end_one(readings) => Wanted::Revocable,
            false if lends_slack => Wanted::New,
            false => Wanted::Names,
        };
        let mut tasks = self.meter.look(now, layout, running, wanted);
        disk_use.fill_in(&mut tasks);
        self.judge.judge(now, readings, tasks, samples)
    }

    /// Whether a task may have to be ended soon, for what it uses. For want of processors, or of disks'
    /// time, none is.
    fn may_end_one(&self, readings: &Readings) -> bool {
        self.may_be_strained(readings, |strains| {
            strains.memory.max(strains.pids).max(strains.disk)
        })
    }

    /// Whether the machine is short of something, or was at the last look.
    fn may_be_strained(&self, readings: &Readings, of: impl Fn(&Strains) -> Strain) -> bool {
        let before = self.last.as_ref().map(|last| last.strains);
        let mut all = before.into_iter().chain([Strains::reached(readings)]);
        all.any(|strains| of(&strains) > Strain::Calm)
    }

    /// Tells the loop; an error when there is none any more.
    async fn tell(&mut self, outcome: Outcome) -> Result<(), mpsc::error::SendError<Event>> {
        let Outcome { lent, decision } = outcome;
        let events = &self.pressure.events;
        if let Some(lent) = lent {
            events.send(Event::Lends(Box::new(lent))).await?;
        }
        let before = self.last.as_ref();
        if before.map_or(Launches::All, |before| before.launches) != decision.launches {
            events.send(Event::MayLaunch(decision.launches)).await?;
        }
        let share = |decision: &Decision| decision.share_percent;
        if before.map_or(WHOLE_SHARE, share) != share(&decision) {
            events.send(Event::Share(share(&decision))).await?;
        }
        if before.map(|before| before.strains) != Some(decision.strains) {
            self.say(&decision);
        }
        let disk = decision.strains.disk;
        self.pressure
            .disk
            .send_if_modified(|told| std::mem::replace(told, disk) != disk);
        if let Some(end) = &decision.end {
            let why = Reason::new(reason::UNDER_PRESSURE, end.cause.to_string());
            events.send(Event::Unwell(end.task.clone(), why)).await?;
        }
        self.last = Some(decision);
        Ok(())
    }

    fn say(&self, decision: &Decision) {
        let strains = decision.strains;
        match strains.worst() {
            Strain::Calm => tracing::debug!(?strains, "the machine has enough of everything"),
            Strain::Tight if !self.pressure.lends_anything() => {
                tracing::debug!(?strains, "the machine is short of something");
            }
            Strain::Tight => tracing::info!(?strains, "what is lent makes way"),
            Strain::Short | Strain::Critical => {
                tracing::warn!(
                    ?strains,
                    "the machine is short of something: nothing more is started"
                );
            }
        }
    }
}
