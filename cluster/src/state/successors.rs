//! Successors: tasks that wait for the place of another.
//!
//! A framework may launch a task *after* one of its own: on the same agent, with exactly what that one
//! has. It is staged, holds nothing, and gets the place in the very command by which the other ends, so
//! that between two short tasks there is no offer, no turn and no second entry of the log. Several stand
//! in a line, each after the one before; whoever names a task that has ended names its line.
//!
//! A line is a convenience, never a claim. Nobody waits in one while anybody else wants what its agent
//! has, a line is broken when its agent takes no more tasks, and each place is checked again, as a launch
//! is, when it comes free. What does not get it is `dropped`, to be launched from an offer.
//!
//! Where tasks are short, the next ones of a line are *on deck*: their agent has them already, and begins
//! each when the one before has ended, without waiting for the log. They get their place whatever others
//! want by then: they may run already. So they are few, and together worth no more than a brief time.

use std::sync::Arc;

use tepui_types::operation::Launch;
use tepui_types::resources::ResourceRequest;
use tepui_types::{
    AgentId, Demand, FrameworkId, FrameworkPhase, OperationId, Reason, Role, TaskId, TaskSpec,
    TaskState, Workload, task::reason,
};

use crate::feasibility;
use crate::state::State;
use crate::state::agents::Agent;
use crate::state::claims::Taker;
use crate::state::context::Context;
use crate::state::limits;
use crate::state::operations::Entry;
use crate::state::tasks::Task;

/// Demands of a framework that are looked at for whether it wants a place; more count as wanting it.
const DEMANDS: usize = 100;
/// For how many milliseconds a place is promised ahead, if all take as long as the last one that finished:
/// others wait for so much more.
const BRIEF_MS: u64 = 100;
/// Tasks on deck for one place, at most: enough for an agent to report several ends at once, while others
/// run.
const DECK: u64 = 4;

/// Where a line ends.
enum LineEnd {
    /// With this task, which lives.
    After(Arc<Task>),
    /// All of it has ended.
    Nobody,
    /// With a line that is full, or farther away than is looked.
    Far,
}

impl State {
    /// Whether places on this agent may be given away ahead to this framework in this role: the agent takes
    /// tasks, and nobody else waits for resources that it has.
    pub fn hands_on(&self, framework: FrameworkId, role: &Role, agent: AgentId) -> bool {
        self.check_hands_on(framework, role, agent).is_ok()
    }

    fn check_hands_on(
        &self,
        framework: FrameworkId,
        role: &Role,
        agent: AgentId,
    ) -> Result<(), Reason> {
        feasibility::offerable(self, agent)?;
        let record = self.agent(agent);
        if record.is_some_and(|record| self.is_wanted_beside(framework, role, record)) {
            let why = "others want resources, too: what comes free is offered";
            return Err(Reason::new(reason::PLACE_WANTED, why));
        }
        Ok(())
    }

    /// Whether anybody but this framework in this role waits for what this agent has; its own gangs, too,
    /// need more than one place.
    fn is_wanted_beside(&self, framework: FrameworkId, role: &Role, agent: &Agent) -> bool {
        let all = ResourceRequest::from(&agent.info.resources);
        let running = self.frameworks.values();
        let mut running = running.filter(|other| other.phase == FrameworkPhase::Running);
        running.any(|other| {
            if !other.gangs.is_empty() {
                return true;
            }
            if other.roles_are_only(framework, role) {
                return false;
            }
            let wants = |demand: &Demand| {
                let of = other.role_of(demand);
                let is_beside = other.id != framework || of != role;
                let could_use =
                    || demand.request.fits_in(&all) && demand.constraints.hold_of(&agent.info);
                is_beside && other.wants_offers(of) && could_use()
            };
            let mut demands = other.demands.values().map(|entry| &entry.demand);
            other.demands.len() > DEMANDS || demands.any(wants)
        })
    }

    /// Whether the place that a task has or had is handed on without the framework's doing: somebody waits
    /// in line behind whoever of the line has it now.
    pub fn has_line_behind(&self, operation: OperationId) -> bool {
        let line = std::iter::successors(self.tasks.get(&operation), |task| {
            self.tasks.get(&task.next?)
        });
        let mut line = line.take(limits::LINE);
        let head = line.find(|task| task.is_living());
        head.is_some_and(|head| head.next.is_some())
    }

    /// How a task comes in that is to run after another.
    pub(super) fn entry_after(
        &self,
        framework: FrameworkId,
        launch: &Launch,
        spec: &TaskSpec,
        after: &TaskId,
    ) -> Entry {
        let entry = self.role_charged(framework, launch, spec).and_then(|role| {
            self.check_hands_on(framework, role, launch.agent)?;
            match self.line_end(after) {
                LineEnd::After(last) => {
                    check_same(&last, framework, role, launch)?;
                    Ok(Entry::After(last.operation))
                }
                LineEnd::Nobody => {
                    let taker = Taker::single(role);
                    let refusal = self.place_refusal(taker, launch.agent, &launch.resources);
                    refusal.map_or(Ok(Entry::Now), Err)
                }
                LineEnd::Far => {
                    let most = limits::LINE;
                    let why = format!("{most} tasks are in line after {after}, or have been");
                    Err(Reason::new(reason::PLACE_WANTED, why))
                }
            }
        });
        entry.unwrap_or_else(Entry::Refused)
    }

    fn line_end(&self, first: &TaskId) -> LineEnd {
        let mut at = self.task(first);
        for _ in 0..limits::LINE {
            match at {
                None => return LineEnd::Nobody,
                Some(task) => match task.next {
                    Some(next) => at = self.tasks.get(&next),
                    None if task.is_living() && self.is_line_full(task) => return LineEnd::Far,
                    None if task.is_living() => return LineEnd::After(task.clone()),
                    None => return LineEnd::Nobody,
                },
            }
        }
        LineEnd::Far
    }

    /// Whether as many wait as may, this one last.
    fn is_line_full(&self, last: &Task) -> bool {
        let before = |task: &&Task| self.tasks.get(&task.after?).map(|task| &**task);
        let waiting = std::iter::successors(Some(last), before);
        let waiting = waiting.filter(|task| task.after.is_some());
        waiting.take(limits::LINE).count() == limits::LINE
    }

    /// Puts a task at the end of a line.
    pub(super) fn wait_in_line(&mut self, operation: OperationId, last: OperationId) {
        if let Some(last) = self.tasks.get_mut(&last) {
            Arc::make_mut(last).next = Some(operation);
        }
    }

    /// Takes a task out of its line that has ended in it.
    pub(super) fn leave_line(&mut self, context: &mut Context, task: &Task, before: OperationId) {
        self.forget_living(task);
        if let Some(before) = self.tasks.get_mut(&before) {
            Arc::make_mut(before).next = task.next;
        }
        if let Some(next) = task.next.and_then(|next| self.tasks.get_mut(&next)) {
            Arc::make_mut(next).after = Some(before);
        }
        if let Some(agent) = self.agents.get_mut(&task.agent).filter(|_| task.on_deck) {
            Arc::make_mut(agent).tasks.remove(&task.operation);
            self.finish_drain(context, task.agent);
        }
    }

    /// Gives what an ended task had to the one that waits for it, if there is one and nothing speaks
    /// against it, or if it is on deck; else nobody of the line gets it.
    pub(super) fn succeed(&mut self, context: &mut Context, ended: &Task) {
        let Some(task) = self.successor_of(ended) else {
            return;
        };
        let refusal = self.check_hands_on(task.id.framework, &task.role, task.agent);
        let refusal = refusal.err();
        let refusal = refusal.or_else(|| {
            let taker = Taker::single(&task.role);
            self.place_refusal(taker, task.agent, &task.resources)
        });
        // One that ends in the command that gave it its place says nothing of how long it had that.
        let pace_ms = context.paces.remove(&ended.operation);
        let pace_ms = pace_ms.or(ended.held_ms()).unwrap_or(u64::MAX);
        context.paces.insert(task.operation, pace_ms);
        match refusal {
            None => {
                self.take_over(context, &task);
                // What fails fast says nothing of those that do not.
                if ended.status.state == TaskState::Finished {
                    self.put_on_deck(context, task, BRIEF_MS / pace_ms.max(1));
                }
            }
            Some(why) if task.on_deck => {
                self.take_over(context, &task);
                self.break_line(context, &task, &why);
            }
            Some(why) => self.break_line(context, ended, &why),
        }
    }

    /// Gives a task the place that it has waited for.
    fn take_over(&mut self, context: &mut Context, task: &Task) {
        let Some(record) = self.tasks.get_mut(&task.operation) else {
            return;
        };
        let record = Arc::make_mut(record);
        (record.after, record.on_deck) = (None, false);
        record.launched_at = context.now;
        record.revision = context.index;
        context.event(Self::task_event(record));
        let launched = record.clone();
        self.give_place(context, task.operation);
        if !task.on_deck {
            self.send_launch(context, &launched);
        }
    }

    /// Promises a task's place to so many next ones of its line.
    fn put_on_deck(&mut self, context: &mut Context, mut task: Arc<Task>, most: u64) {
        for _ in 0..most.min(DECK) {
            let next = self.successor_of(&task);
            let Some(next) = next.filter(|next| task.kill.is_none() && self.may_be_on_deck(next))
            else {
                return;
            };
            if !next.on_deck {
                self.promise(context, &next);
            }
            task = next;
        }
    }

    fn promise(&mut self, context: &mut Context, task: &Task) {
        if let Some(agent) = self.agents.get_mut(&task.agent) {
            Arc::make_mut(agent).tasks.insert(task.operation);
        }
        if let Some(task) = self.tasks.get_mut(&task.operation) {
            Arc::make_mut(task).on_deck = true;
        }
        self.send_launch(context, task);
    }

    /// Whether a task needs nothing of its machine that has to be taken from the one before it first: the
    /// network of a container and a disk are given back after an end, not with it.
    fn may_be_on_deck(&self, task: &Task) -> bool {
        let spec = self.specs.get(&task.spec);
        let has_container = spec.is_none_or(|spec| match &spec.workload {
            Workload::Command(command) => {
                command.container.is_some() || !command.companions().is_empty()
            }
            Workload::Wasm(_) => false,
        });
        !has_container && task.resources.disk.0 == 0 && task.resources.pools.is_empty()
    }

    /// The tasks that its agent begins, one after another, when this one has ended.
    pub(super) fn on_deck_behind<'a>(
        &'a self,
        task: &Task,
    ) -> impl Iterator<Item = Arc<Task>> + use<'a> {
        let behind = |task: &Task| self.successor_of(task).filter(|next| next.on_deck);
        std::iter::successors(behind(task), move |task| behind(task))
    }

    /// Whether what a task has comes free soon: its end was asked for, and nobody on deck gets its place.
    pub fn is_leaving(&self, task: &Task) -> bool {
        let is_ending = |task: &Task| task.kill.is_some();
        let mut behind = self.on_deck_behind(task);
        task.has_place() && is_ending(task) && behind.all(|next| is_ending(&next))
    }

    pub(super) fn successor_of(&self, task: &Task) -> Option<Arc<Task>> {
        let next = self.tasks.get(&task.next?)?;
        let waits = next.waits_for() == Some(task.operation);
        waits.then(|| next.clone())
    }

    /// Drops all that wait after a task and are promised nothing.
    pub(super) fn break_line(&mut self, context: &mut Context, head: &Task, why: &Reason) {
        let mut waiting = Vec::new();
        let mut next = self.successor_of(head);
        while let Some(task) = next {
            next = self.successor_of(&task);
            if !task.on_deck {
                waiting.push(task.operation);
            }
        }
        for operation in waiting.into_iter().rev() {
            self.end_task(context, operation, TaskState::Dropped, Some(why.clone()));
        }
    }

    /// Drops all that wait for places of an agent that takes no more tasks.
    pub(super) fn break_lines(&mut self, context: &mut Context, agent: AgentId) {
        let Some(record) = self.agents.get(&agent) else {
            return;
        };
        let tasks = record.tasks.iter();
        let heads = tasks.filter_map(|operation| self.tasks.get(operation));
        let heads = heads.filter(|task| self.successor_of(task).is_some());
        let heads: Vec<_> = heads.cloned().collect();
        let why = format!("agent {agent} takes no more tasks");
        let why = Reason::new(reason::AGENT_UNAVAILABLE, why);
        for head in heads {
            self.break_line(context, &head, &why);
        }
    }

    /// Whoever waits is the next of whom it waits for.
    pub(super) fn check_line(&self, task: &Task) -> Result<(), String> {
        let Some(before) = task.after else {
            return Ok(());
        };
        let before = self.tasks.get(&before);
        let is_next = |before: &&Arc<Task>| {
            let is_same = (before.agent, &before.role) == (task.agent, &task.role)
                && before.resources == task.resources;
            let may_be_next = before.is_told() || before.is_living() && !task.on_deck;
            may_be_next && before.next == Some(task.operation) && is_same
        };
        match before.filter(is_next) {
            Some(_) => Ok(()),
            None => Err(format!("{} waits for nobody's place", task.id)),
        }
    }
}

fn check_same(
    last: &Task,
    framework: FrameworkId,
    role: &Role,
    launch: &Launch,
) -> Result<(), Reason> {
    let is_own = last.id.framework == framework && last.role == *role;
    if is_own && last.agent == launch.agent && last.resources == launch.resources {
        return Ok(());
    }
    let why = format!(
        "it may run after {} of the same framework and role only, on agent {} with {}",
        last.id, last.agent, last.resources
    );
    Err(Reason::new(reason::RESOURCES_TAKEN, why))
}
