//! What an agent knows after its process died, and the shortest journal that
//! says it.
//!
//! Replaying a journal, or any prefix of one, gives a state from which the
//! agent goes on: tasks that were recorded and never handed over are routed
//! again, executors are looked for, and what they tell settles the rest.

use tepui_types::task::reason;
use tepui_types::wire::agent::TaskLaunch;
use tepui_types::wire::executor::TaskUpdate;
use tepui_types::{Reason, TaskState};

use super::executors::ExecutorId;
use super::tasks::Stage;
use super::{Action, Agent, deaths, report};
use crate::checkpoint::Record;
use crate::sandbox::Layout;

impl Agent {
    /// The agent that wrote `records`, and the boot of the machine it ran in;
    /// none if there are no records.
    pub fn restore(layout: Layout, records: Vec<Record>) -> (Self, Option<String>) {
        let mut agent = Self::new(layout);
        let mut boot_id = None;
        for record in records {
            agent.replay(record, &mut boot_id);
        }
        (agent, boot_id)
    }

    fn replay(&mut self, record: Record, last_boot: &mut Option<String>) {
        match record {
            Record::Opened {
                boot_id,
                next_executor,
            } => {
                *last_boot = Some(boot_id);
                self.executors.reserve(next_executor);
            }
            Record::Term(term) => self.term = self.term.max(term),
            Record::Launched(launch) => {
                let task = launch.task.clone();
                self.tasks.insert(*launch);
                self.tasks.line_up(&task);
            }
            Record::ExecutorStarting { executor, kind } => self.executors.insert(executor, kind),
            Record::ExecutorStarted { executor, identity } => {
                if let Some(known) = self.executors.get_mut(executor) {
                    known.identity = Some(identity);
                }
            }
            Record::Prepared { task, prepared } => {
                if let Some(known) = self.tasks.get_mut(&task) {
                    known.prepared = Some(prepared);
                    known.become_program();
                }
            }
            Record::Handed { task, executor } => {
                self.tasks.leave_line(&task);
                if let Some(known) = self.tasks.get_mut(&task) {
                    known.stage = Stage::Handed {
                        executor,
                        acknowledged: false,
                    };
                    if let Some(process) = self.executors.get_mut(executor) {
                        process.living.insert(task);
                    }
                }
            }
            Record::Ended { report, executor } => {
                let process = executor.and_then(|id| self.executors.get_mut(id));
                if let Some(process) = process {
                    process.living.remove(&report.task);
                    process.ended += 1;
                }
                if self.tasks.end(&report.task).is_none() {
                    self.tasks.insert_ended(report.task.clone(), executor);
                }
                self.tasks.take_line(&report.task);
                self.statuses.set(report);
            }
            Record::Forgotten(task) => {
                let keeper = self.tasks.get(&task).and_then(|known| known.stage.keeper());
                if let Some(process) = keeper.and_then(|id| self.executors.get_mut(id)) {
                    process.ended = process.ended.saturating_sub(1);
                }
                self.statuses.remove(&task);
                self.tasks.forget(&task);
            }
            Record::ExecutorGone(executor) => {
                let living = self.executors.remove(executor).map(|gone| gone.living);
                for task in living.into_iter().flatten() {
                    // It was never there; it goes to another process, unless it has
                    // gone to one already.
                    if let Some(known) = self.tasks.get_mut(&task)
                        && matches!(known.stage, Stage::Handed { executor: at, .. } if at == executor)
                    {
                        known.stage = Stage::Fetching;
                    }
                }
            }
            Record::Unwell { task, why } => {
                if let Some(known) = self.tasks.get_mut(&task) {
                    // Its executor may not have heard it yet.
                    known.kill = known
                        .launch
                        .as_ref()
                        .map(|launch| launch.spec.kill_grace_ms);
                    known.unwell = Some(why);
                }
            }
        }
    }

    /// Takes up what an earlier process of this agent left, in the same boot.
    pub fn on_restart(&mut self, out: &mut Vec<Action>) {
        self.executors.mark_found();
        out.extend(self.executors.iter().map(|(id, _)| Action::Find(id)));
        let unplaced = self
            .tasks
            .iter()
            .filter(|(_, task)| task.stage == Stage::Fetching);
        let unplaced: Vec<_> = unplaced.map(|(id, _)| id.clone()).collect();
        for id in unplaced {
            self.line_up_or_route(out, &id);
        }
    }

    /// The machine was restarted since: no process is left. `exits` are the
    /// records that its executors wrote before.
    pub fn on_reboot(&mut self, out: &mut Vec<Action>, exits: Vec<(ExecutorId, Vec<TaskUpdate>)>) {
        self.tasks.dissolve_lines();
        for (executor, updates) in exits {
            self.on_updates(out, executor, updates);
        }
        let living = self
            .tasks
            .iter()
            .filter(|(_, task)| !matches!(task.stage, Stage::Ended(_)));
        let living: Vec<_> = living.map(|(id, _)| id.clone()).collect();
        for id in living {
            let why = Reason::new(reason::AGENT_REBOOTED, "its agent's machine was restarted");
            let report = match self.was_stopped {
                true => deaths::stopped(&id),
                false => report(&id, TaskState::Gone, Some(why)),
            };
            self.end(out, report);
        }
        let gone: Vec<ExecutorId> = self.executors.iter().map(|(id, _)| id).collect();
        for id in gone {
            self.executors.remove(id);
            out.push(Action::Record(Record::ExecutorGone(id)));
            out.push(Action::Clear(id));
        }
    }

    /// A journal that says all that this agent must remember, and no more.
    pub fn records(&self, boot_id: &str) -> Vec<Record> {
        let next_executor = self.executors.next_number();
        let mut records = vec![
            Record::Opened {
                boot_id: boot_id.to_owned(),
                next_executor,
            },
            Record::Term(self.term),
        ];
        records.extend(self.tasks.forgotten().cloned().map(Record::Forgotten));
        for (executor, known) in self.executors.iter() {
            records.push(Record::ExecutorStarting {
                executor,
                kind: known.kind.clone(),
            });
            if let Some(identity) = known.identity.clone() {
                records.push(Record::ExecutorStarted { executor, identity });
            }
        }
        let mut tasks: Vec<_> = self.tasks.iter().collect();
        // Nobody stands in line before whom it waits for.
        tasks.sort_by_key(|(_, task)| task.launch.as_ref().map(|launch| launch.operation));
        for (id, task) in tasks {
            if let Some(launch) = &task.launch {
                let launch = TaskLaunch {
                    after: task.after.clone(),
                    ..launch.as_ref().clone()
                };
                records.push(Record::Launched(Box::new(launch)));
            }
            if let Some(prepared) = task.prepared.clone() {
                let task = id.clone();
                records.push(Record::Prepared { task, prepared });
            }
            match task.stage {
                Stage::InLine | Stage::Fetching | Stage::Placed(_) => {}
                Stage::Handed { executor, .. } => {
                    records.push(Record::Handed {
                        task: id.clone(),
                        executor,
                    });
                    if let Some(why) = task.unwell.clone() {
                        let task = id.clone();
                        records.push(Record::Unwell { task, why });
                    }
                }
                Stage::Ended(executor) => {
                    let report = self.statuses.get(id).cloned();
                    records.extend(report.map(|report| Record::Ended { report, executor }));
                }
            }
        }
        records
    }
}
