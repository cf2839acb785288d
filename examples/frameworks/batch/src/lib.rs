//! `batch`, the built-in framework for jobs that run to their end.
//!
//! A job is one task or an array of them. It is submitted, shown and ended over
//! HTTP ([`api`]); what waits is placed on offers by priority, then age
//! ([`queue`], [`placement`]); failed tasks are run again with growing waits
//! ([`job`]). Everything stands in the store ([`records`]): the memory of this
//! instance is a cache that may vanish after any turn.

pub mod api;
pub mod budget;
mod gangs;
pub mod job;
pub mod lines;
pub mod placement;
pub mod queue;
pub mod records;
pub mod tasks;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use tepui_sdk::http::{Request, Response};
use tepui_sdk::{
    Context, Demand, DroppedOperation, Error, Event, Launch, Offer, OfferId, Role, Scheduler,
    StartReason, Successor, Task, TaskSpec, Timestamp,
};

use budget::Budget;
use job::Job;
use placement::{Grant, Want};
use queue::{Queue, Rank};
use records::Meta;

/// The timer that goes on with what a turn had no budget for.
const CONTINUE: &str = "continue";
/// The timers of jobs whose tasks wait for their next attempt.
const RETRY: &str = "retry/";
/// The wait before something is tried again that the host has refused.
const TRY_AGAIN_MS: u64 = 1_000;
/// Launches of one call, at most, and their bytes: the host takes 512 KiB.
const CALL_LAUNCHES: usize = 500;
const CALL_BYTES: usize = 256 * 1024;

/// The scheduler. Its fields are a cache of the store.
#[derive(Default)]
pub struct Batch {
    /// Whether the cache has been filled.
    loaded: bool,
    meta: Meta,
    /// Jobs that are not filed, by name.
    jobs: BTreeMap<String, Job>,
    queue: Queue,
    /// Specifications that were needed lately.
    specs: BTreeMap<String, Rc<TaskSpec>>,
    /// Jobs that this turn has changed, or that an earlier one left unfinished.
    touched: BTreeSet<String>,
}

impl Scheduler for Batch {
    fn start(_: &mut Context<'_>, _: StartReason, config: &str) -> Result<Self, String> {
        if !config.trim().is_empty() {
            return Err("batch takes no configuration: deploy it with an empty one".into());
        }
        Ok(Self::default())
    }

    fn handle(&mut self, cx: &mut Context<'_>, events: Vec<Event>) {
        self.load(cx);
        let now = cx.now().0;
        let mut offers: Vec<Offer> = Vec::new();
        let mut updates = 0;
        for event in events {
            match event {
                Event::Offers(more) => offers.extend(more),
                Event::Rescinded(gone) => offers.retain(|offer| !gone.contains(&offer.id)),
                Event::Update(task) => {
                    updates += 1;
                    self.take_update(&task, now);
                }
                Event::Dropped(dropped) => self.on_dropped(cx, dropped),
                Event::Timer(name) => self.on_timer(cx, &name),
                Event::Continued => self.on_continued(cx),
            }
        }
        self.finish_turn(cx, &offers, Budget::new(updates));
    }

    fn on_timer(&mut self, _: &mut Context<'_>, name: &str) {
        if let Some(job) = name.strip_prefix(RETRY)
            && let Some(record) = self.jobs.get_mut(job)
        {
            record.timer = None;
            self.touched.insert(job.to_owned());
        } else if name == CONTINUE {
            self.touch_unfinished();
        }
    }

    fn on_continued(&mut self, _: &mut Context<'_>) {
        self.touch_unfinished();
    }

    fn on_dropped(&mut self, cx: &mut Context<'_>, dropped: DroppedOperation) {
        if dropped.operation == "gang" {
            if let Some(job) = self.jobs.get_mut(&dropped.subject)
                && job.give_up(&dropped.reason)
            {
                self.touched.insert(dropped.subject);
            }
            return;
        }
        // Of a kill the task's end follows anyway.
        cx.debug(&format!(
            "{} {}: {}",
            dropped.operation, dropped.subject, dropped.reason
        ));
    }

    fn on_request(&mut self, cx: &mut Context<'_>, request: Request) -> Response {
        self.load(cx);
        let response = api::answer(self, cx, &request);
        if !self.touched.is_empty() {
            self.finish_turn(cx, &[], Budget::new(0));
        }
        response
    }
}

impl Batch {
    /// Fills the cache from the store, once in an instance's life.
    fn load(&mut self, cx: &mut Context<'_>) {
        if self.loaded {
            return;
        }
        let now = cx.now().0;
        self.meta = records::meta(cx);
        self.jobs = records::living(cx);
        for (name, job) in &self.jobs {
            let rank = Rank::new(job.terms.priority, job.terms.sequence);
            self.queue.set(rank, name, job.placeable(now) > 0);
        }
        self.loaded = true;
    }

    /// Looks again at all that an earlier turn had no room for.
    fn touch_unfinished(&mut self) {
        for (name, job) in &self.jobs {
            let progress = &job.progress;
            let unfinished = job.is_ended() || progress.cancelled || progress.retrying > 0;
            // What waits and what was asked for must agree at the end of a turn.
            if unfinished || progress.demanded != job.terms.count - progress.fresh {
                self.touched.insert(name.clone());
            }
        }
    }

    fn take_update(&mut self, task: &Task, now: u64) {
        let Some((name, index)) = self.find(&task.id.name) else {
            return;
        };
        let Some(job) = self.jobs.get_mut(&name) else {
            return;
        };
        if job.on_update(index, task, now) {
            self.touched.insert(name);
        }
    }

    /// The living job and the index of a task with this name.
    fn find(&self, task: &str) -> Option<(String, u32)> {
        if self.jobs.get(task).is_some_and(|job| job.terms.count == 1) {
            return Some((task.to_owned(), 0));
        }
        let (name, index) = tasks::array_task(task)?;
        let count = self.jobs.get(name)?.terms.count;
        (count > 1 && index < count).then(|| (name.to_owned(), index))
    }

    /// Does what follows from what was taken in, as far as the budget goes, and
    /// stores it.
    fn finish_turn(&mut self, cx: &mut Context<'_>, offers: &[Offer], mut budget: Budget) {
        let now = cx.now().0;
        self.kill_cancelled(cx, &mut budget);
        self.requeue(now);
        self.place(cx, offers, now, &mut budget);
        self.requeue(now);
        self.line_up(cx, now, &mut budget);
        self.requeue(now);
        let mut try_again = false;
        for name in std::mem::take(&mut self.touched) {
            let Some(job) = self.jobs.get_mut(&name) else {
                continue;
            };
            match tell(cx, &name, job, now) {
                Ok(()) => {}
                Err(Error::TurnFull) => budget.exhaust(),
                Err(error) => {
                    cx.warn(&format!("the demand of {name} was not taken: {error}"));
                    try_again = true;
                }
            }
            let bytes = records::FILE_BYTES + job.terms.constraints.size();
            let is_wanted = job.progress.demanded > 0 || job.progress.gang_wanted;
            if job.is_ended() && !is_wanted && budget.take(0, bytes) {
                self.specs.remove(&name);
                if let Some(job) = self.jobs.remove(&name) {
                    records::file(cx, &mut self.meta, &name, job);
                }
            } else {
                records::save(cx, &name, job);
            }
        }
        if budget.refused() {
            go_on_after(cx, CONTINUE, 0);
        } else if try_again {
            go_on_after(cx, CONTINUE, TRY_AGAIN_MS);
        }
    }

    /// Puts the touched jobs where they belong in the queue.
    fn requeue(&mut self, now: u64) {
        for name in &self.touched {
            if let Some(job) = self.jobs.get(name) {
                let rank = Rank::new(job.terms.priority, job.terms.sequence);
                self.queue.set(rank, name, job.placeable(now) > 0);
            }
        }
    }

    /// Asks for the end of the launched tasks of cancelled jobs.
    fn kill_cancelled(&mut self, cx: &mut Context<'_>, budget: &mut Budget) {
        /// A call, and the chunk of cells that is stored because of it.
        const KILL_BYTES: usize = 256;
        for name in &self.touched {
            let Some(job) = self.jobs.get_mut(name) else {
                continue;
            };
            if !job.progress.cancelled {
                continue;
            }
            let doomed: Vec<(u32, u64)> = job.tasks.not_killing().collect();
            for (index, attempt) in doomed {
                if !budget.take(1, KILL_BYTES) {
                    return;
                }
                let task = tasks::task_id(name, job.terms.count, index, attempt);
                match cx.kill(&task, None) {
                    Ok(()) => job.kill_sent(index),
                    Err(Error::TurnFull) => return budget.exhaust(),
                    Err(error) => cx.error(&format!("failed to kill {task}: {error}")),
                }
            }
        }
    }

    /// Launches what fits onto the offers, and gives back the rest.
    fn place(&mut self, cx: &mut Context<'_>, offers: &[Offer], now: u64, budget: &mut Budget) {
        if offers.is_empty() {
            return;
        }
        let (shares, offers): (Vec<&Offer>, Vec<&Offer>) =
            offers.iter().partition(|offer| offer.gang.is_some());
        self.place_gangs(cx, &shares, now, budget);
        if offers.is_empty() {
            return;
        }
        let offers: Vec<Offer> = offers.into_iter().cloned().collect();
        let offers = &offers[..];
        let first = cx.roles().into_iter().next().unwrap_or_default();
        let grants = placement::plan(offers, &self.wants(&first, now), Timestamp(now), budget);
        let mut used: BTreeSet<OfferId> = BTreeSet::new();
        for grant in &grants {
            match self.launch(cx, grant, now) {
                Ok(()) => {
                    used.insert(grant.offer);
                }
                Err(Error::TurnFull) => {
                    budget.exhaust();
                    break;
                }
                // Its time was over; another will come.
                Err(Error::OfferUnknown) => {}
                Err(error) => cx.error(&format!("failed to launch {}: {error}", grant.job)),
            }
        }
        for offer in offers {
            // What is left of a used offer may be wanted at once by what comes
            // next. An unused one fits nothing that waits, unless it was the
            // turn that had no room.
            let soon = used.contains(&offer.id) || budget.refused();
            let refuse = soon.then_some(Duration::ZERO);
            if let Err(error) = cx.decline(&[offer.id], refuse) {
                cx.debug(&format!("offer {} was not declined: {error}", offer.id));
            }
        }
    }

    /// What waits, in the order of the queue; `first` is the role of what names none.
    fn wants<'a>(&'a self, first: &'a Role, now: u64) -> Vec<Want<'a>> {
        let jobs = self
            .queue
            .iter()
            .filter_map(|name| Some((name, self.jobs.get(name)?)));
        jobs.map(|(job, record)| Want {
            job,
            request: &record.terms.request,
            constraints: &record.terms.constraints,
            role: record.terms.role.as_ref().unwrap_or(first),
            volumes: &record.terms.volumes,
            revocable: record.terms.revocable,
            time_limit_ms: record.terms.time_limit_ms,
            count: record.singles(now),
            spec_bytes: record.terms.spec_bytes as usize,
        })
        .collect()
    }

    fn launch(&mut self, cx: &mut Context<'_>, grant: &Grant, now: u64) -> Result<(), Error> {
        let spec = self.spec(cx, &grant.job);
        let Some(job) = self.jobs.get_mut(&grant.job) else {
            return Ok(());
        };
        let count = job.terms.count;
        let launch_bytes = job.terms.spec_bytes as usize + placement::LAUNCH_BYTES;
        let per_call = (CALL_BYTES / launch_bytes).clamp(1, CALL_LAUNCHES);
        for resources in grant.resources.chunks(per_call) {
            // A chunk has at most CALL_LAUNCHES.
            let indices = job.candidates(now, resources.len() as u32);
            let launches: Vec<Launch> = indices
                .iter()
                .zip(resources)
                .map(|(index, resources)| Launch {
                    name: tasks::task_name(&grant.job, count, *index),
                    resources: resources.clone(),
                    array_index: (count > 1).then_some(*index),
                })
                .collect();
            let ids = cx.accept(grant.offer, &spec, &launches)?;
            for (index, id) in indices.into_iter().zip(ids) {
                job.launched(index, id.attempt);
                job.lines.begin(index);
            }
            self.touched.insert(grant.job.clone());
        }
        Ok(())
    }

    /// Launches tasks of the first job that waits after others of it, where those are short. Other jobs
    /// would be passed over by that, so they get their places from offers.
    fn line_up(&mut self, cx: &mut Context<'_>, now: u64, budget: &mut Budget) {
        let Some(name) = self.queue.iter().next().map(str::to_owned) else {
            return;
        };
        let Some(job) = self.jobs.get_mut(&name).filter(|job| job.may_line_up()) else {
            return;
        };
        let short = job.lines.too_short(job.singles(now));
        if short.is_empty() {
            return;
        }
        let spec = self.spec(cx, &name);
        for (last, most) in short {
            let Some(job) = self.jobs.get_mut(&name) else {
                return;
            };
            let Some(attempt) = job.tasks.attempt(last) else {
                continue;
            };
            let indices = job.candidates(now, most as u32);
            let bytes = job.terms.spec_bytes as usize + indices.len() * placement::LAUNCH_BYTES;
            if indices.is_empty() || !budget.take(indices.len(), bytes) {
                return;
            }
            let count = job.terms.count;
            let successors = indices.iter().map(|index| Successor {
                name: tasks::task_name(&name, count, *index),
                array_index: (count > 1).then_some(*index),
            });
            let successors: Vec<Successor> = successors.collect();
            let before = tasks::task_id(&name, count, last, attempt);
            match cx.launch_after(&before, &spec, &successors) {
                // Others want the place.
                Ok(ids) if ids.is_empty() => return,
                Ok(ids) => {
                    let mut last = last;
                    for (index, id) in indices.into_iter().zip(ids) {
                        job.launched(index, id.attempt);
                        job.lines.follow(last, index);
                        last = index;
                    }
                    self.touched.insert(name.clone());
                }
                Err(Error::TurnFull) => return budget.exhaust(),
                Err(error) => cx.error(&format!("failed to launch {name}: {error}")),
            }
        }
    }

    /// What a job's tasks run, from the cache if it is there.
    fn spec(&mut self, cx: &mut Context<'_>, name: &str) -> Rc<TaskSpec> {
        /// Specifications that are kept: at most 16 MiB of them.
        const KEPT: usize = 256;
        if let Some(spec) = self.specs.get(name) {
            return spec.clone();
        }
        if self.specs.len() >= KEPT {
            self.specs.clear();
        }
        let spec = Rc::new(records::spec(cx, name));
        self.specs.insert(name.to_owned(), spec.clone());
        spec
    }
}

/// Tells the cluster how many tasks of a job wait, and sets the timer for those
/// that wait for their time.
fn tell(cx: &mut Context<'_>, name: &str, job: &mut Job, now: u64) -> Result<(), Error> {
    let due = job.tasks.next_due(now);
    if let Some(due) = due
        && job.timer != Some(due)
    {
        go_on_after(cx, &format!("{RETRY}{name}"), due - now);
        job.timer = Some(due);
    }
    let gang = job.gang(now);
    if gang.is_some() != job.progress.gang_wanted {
        match &gang {
            Some(gang) => cx.demand_gang(name, gang)?,
            None => cx.withdraw_gang(name)?,
        }
        job.progress.gang_wanted = gang.is_some();
    }
    let wanted = job.singles(now);
    if wanted != job.progress.demanded {
        let demand = Demand {
            constraints: job.terms.constraints.clone(),
            role: job.terms.role.clone(),
            volumes: job.terms.volumes.clone(),
            revocable: job.terms.revocable,
            time_limit_ms: job.terms.time_limit_ms,
            ..Demand::new(wanted, job.terms.request.clone())
        };
        cx.demand_with(name, &demand)?;
        job.progress.demanded = wanted;
    }
    Ok(())
}

/// Without its timer a task would wait for ever, so a turn that cannot set it
/// must not be kept.
fn go_on_after(cx: &mut Context<'_>, timer: &str, delay_ms: u64) {
    if let Err(error) = cx.set_timer(timer, Duration::from_millis(delay_ms)) {
        cx.abort(&format!("failed to set the timer `{timer}`: {error}"));
    }
}

tepui_sdk::export!(Batch);
