//! Gangs: what frameworks want at once, and the operation that launches all of it or nothing.
//!
//! A gang that waits holds nothing. When its deadline comes it is given up, and its framework is told
//! as of a dropped operation.

use std::sync::Arc;

use tepui_types::api::event::EventBody;
use tepui_types::operation::Launch;
use tepui_types::{FrameworkId, Reason, task::reason};

use crate::command::Turn;
use crate::state::State;
use crate::state::context::Context;
use crate::state::deadlines::Deadline;
use crate::state::frameworks::GangEntry;
use crate::state::operations::Entry;

impl State {
    /// Takes in what a turn says of gangs.
    pub(super) fn want_gangs(&mut self, context: &mut Context, turn: &Turn) {
        for (key, gang) in &turn.gangs {
            let key: Arc<str> = key.as_str().into();
            let Some(framework) = self.frameworks.get_mut(&turn.framework) else {
                return;
            };
            let framework = Arc::make_mut(framework);
            let before = framework.gangs.get(&key);
            if before.map(|before| &*before.gang) == gang.as_ref() {
                continue;
            }
            let before = before.cloned();
            let entry = gang.as_ref().map(|gang| GangEntry {
                gang: Arc::new(gang.clone()),
                since: context.now,
                deadline: gang.wait_ms.map(|millis| context.now.after_millis(millis)),
            });
            match &entry {
                Some(entry) => _ = framework.gangs.insert(key.clone(), entry.clone()),
                None => _ = framework.gangs.remove(&key),
            }
            if let Some(gang) = gang {
                let role = framework.role_of_gang(gang).clone();
                context.changes.revived.insert((turn.framework, role));
            }
            context.changes.frameworks.insert(turn.framework);
            context.event(EventBody::Demand {
                framework: turn.framework,
                key: key.to_string(),
                count: gang.as_ref().map_or(0, |gang| gang.count()),
            });
            if let Some(before) = &before {
                self.forget_gang_deadline(turn.framework, before);
                self.end_gang_claims(context, turn.framework, &key);
            }
            if let Some(at) = entry.and_then(|entry| entry.deadline) {
                self.deadlines.insert((at, Deadline::Gangs(turn.framework)));
            }
        }
    }

    /// Another gang of the framework may be due at the same time.
    pub(super) fn forget_gang_deadline(&mut self, framework: FrameworkId, gone: &GangEntry) {
        let Some(at) = gone.deadline else {
            return;
        };
        let record = self.frameworks.get(&framework);
        let mut gangs = record.into_iter().flat_map(|record| record.gangs.values());
        if !gangs.any(|entry| entry.deadline == Some(at)) {
            self.deadlines.remove(&(at, Deadline::Gangs(framework)));
        }
    }

    /// Gives up the gangs of a framework whose deadline has come.
    pub(super) fn give_up_gangs(&mut self, context: &mut Context, framework: FrameworkId) {
        let Some(record) = self.frameworks.get(&framework) else {
            return;
        };
        let is_due = |entry: &GangEntry| entry.deadline.is_some_and(|at| at <= context.now);
        let due = record.gangs.iter().filter(|(_, entry)| is_due(entry));
        let due: Vec<_> = due
            .map(|(key, entry)| (key.clone(), entry.clone()))
            .collect();
        for (key, entry) in due {
            if let Some(record) = self.frameworks.get_mut(&framework) {
                Arc::make_mut(record).gangs.remove(&key);
            }
            self.forget_gang_deadline(framework, &entry);
            self.end_gang_claims(context, framework, &key);
            let waited = context.now.millis_since(entry.since);
            let why = format!(
                "its {} tasks did not fit at once within {waited} ms",
                entry.gang.count()
            );
            let why = Reason::new(reason::GANG_OVERDUE, why);
            self.notice(context, framework, "gang", key.to_string(), why);
            context.changes.frameworks.insert(framework);
            let key = key.to_string();
            context.event(EventBody::GangOverdue { framework, key });
        }
    }

    /// Launches all of these, or records all of them as dropped.
    pub(super) fn launch_gang(&mut self, context: &mut Context, turn: &Turn, launches: &[Launch]) {
        let refusal = self.gang_refusal(turn, launches);
        let entry = refusal.map_or(Entry::Now, Entry::Refused);
        for launch in launches {
            if let Some(spec) = turn.specs.get(launch.spec as usize) {
                self.launch(context, turn.framework, launch, spec, entry.clone());
            }
        }
    }

    /// Why not all of these can be launched: they are tried one after another on a copy, which costs
    /// only what they change.
    fn gang_refusal(&self, turn: &Turn, launches: &[Launch]) -> Option<Reason> {
        let mut trial = self.clone();
        let mut context = Context::trial(self.index, self.now);
        launches.iter().find_map(|launch| {
            let spec = turn.specs.get(launch.spec as usize)?;
            let refusal = trial.launch_refusal(turn.framework, launch, spec, true);
            if let Some(why) = refusal {
                let why = format!("task `{}` of its gang: {}", launch.name, why.message);
                return Some(Reason::new(reason::GANG_INCOMPLETE, why));
            }
            trial.launch(&mut context, turn.framework, launch, spec, Entry::Now);
            None
        })
    }
}
