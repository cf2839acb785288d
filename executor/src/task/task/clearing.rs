//! The end of a task: what is left of it is killed, what it has used is told, what the next may have is
//! given on.

use std::path::Path;
use std::time::Instant;

use tepui_executor::cgroup::Counts;
use tepui_executor::log;
use tepui_executor::startup::Startup;
use tepui_types::task::TaskUsage;

use super::{DRAIN_INTERVAL, DRAIN_PATIENCE, Phase, Task};
use crate::folder::SpareFolder;
use crate::member::Member;
use crate::processes;
use crate::spare::Spare;
use crate::verdict::Verdict;

impl Task {
    /// Its members have ended: kills what is left of it, until there is nothing.
    pub(super) fn clear(&mut self, verdict: Verdict, now: Instant) -> bool {
        let (since, account) = match self.phase {
            Phase::Clearing { since, account, .. } => (since, account),
            _ => (now, self.account()),
        };
        if self.is_gone() || now.duration_since(since) > DRAIN_PATIENCE {
            self.end(verdict, Some(account.usage));
            return true;
        }
        self.kill_all();
        self.phase = Phase::Clearing {
            since,
            next: now + DRAIN_INTERVAL,
            account: self.account(),
        };
        false
    }

    /// Whether nothing of it is left; then its cgroup is another's, or removed.
    pub(super) fn is_gone(&mut self) -> bool {
        if self.is_gone {
            return true;
        }
        self.is_gone = match self.group.take() {
            None => !processes::any_left(),
            Some(group) => match group.clear() {
                Ok(spare) => {
                    self.spare.group = spare;
                    true
                }
                Err(group) => {
                    self.group = Some(*group);
                    false
                }
            },
        };
        self.is_gone
    }

    /// What its processes have used and run into.
    pub(super) fn account(&mut self) -> Counts {
        match &mut self.group {
            Some(group) => group.counts(),
            None => Counts {
                usage: processes::usage(),
                ..Counts::default()
            },
        }
    }

    pub(super) fn kill_all(&self) {
        let is_helped = self.members.iter().any(Member::is_helped);
        match &self.group {
            Some(group) if is_helped => group.kill(),
            Some(group) => group.kill_with_strays(),
            None => processes::kill_descendants(),
        }
    }

    pub(super) fn end(&mut self, verdict: Verdict, usage: Option<TaskUsage>) {
        for member in &mut self.members {
            member.finish();
        }
        self.update.state = verdict.state;
        self.update.reason = verdict.reason;
        self.update.exit_code = verdict.exit_code;
        self.update.usage = usage;
        self.phase = Phase::Ended;
        // The agent ends what is left when this process is gone.
        if let Some(group) = &self.group {
            log::say(format_args!("the cgroup {} stays", group.path()));
        }
    }

    /// Whether it has ended and something of it would not.
    pub fn is_left_over(&self) -> bool {
        self.has_ended() && self.group.is_some()
    }

    /// What of it, after its end, the next task may have.
    pub fn take_spare(&mut self, startup: &Startup) -> Spare {
        let is_alone = self.members.len() == 1 && self.is_gone;
        if is_alone && self.members[0].is_on_machine() {
            let sandbox = Path::new(&self.launches[0].sandbox);
            self.spare.folder = SpareFolder::of(sandbox, startup);
        }
        std::mem::take(&mut self.spare)
    }
}
