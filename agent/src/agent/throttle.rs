//! Tasks on what may be taken back get less of their processors while the machine is short of them.
//!
//! Their executors hold them to it. What is firm of a task is never taken. An executor that was away
//! is told anew: it may have missed that it is over.

use tepui_types::wire::agent::TaskLaunch;
use tepui_types::wire::executor::ToExecutor;
use tepui_types::{MilliCpus, TaskId};

use super::executors::ExecutorId;
use super::tasks::Stage;
use super::{Action, Agent};

/// Percent of who is not throttled.
pub const WHOLE_SHARE: u8 = 100;

impl Agent {
    /// From now on tasks get so many percent of what may be taken back.
    pub fn on_share(&mut self, out: &mut Vec<Action>, percent: u8) {
        if self.share_percent == percent {
            return;
        }
        self.share_percent = percent;
        let handed = self.tasks.iter().filter_map(|(id, task)| match task.stage {
            Stage::Handed { executor, .. } => Some((id.clone(), executor)),
            Stage::InLine | Stage::Fetching | Stage::Placed(_) | Stage::Ended(_) => None,
        });
        let handed: Vec<(TaskId, ExecutorId)> = handed.collect();
        for (id, executor) in handed {
            self.send_share(out, &id, executor);
        }
    }

    /// Tells an executor what a task gets that has something which may be taken back.
    pub(super) fn send_share(&self, out: &mut Vec<Action>, id: &TaskId, executor: ExecutorId) {
        let launch = self.tasks.get(id).and_then(|task| task.launch.as_ref());
        if let Some(launch) = launch.filter(|launch| launch.revocable.cpus.0 > 0) {
            let most = (self.share_percent < WHOLE_SHARE).then(|| most(launch, self.share_percent));
            let task = id.clone();
            self.send(out, executor, ToExecutor::Throttle { task, most });
        }
    }
}

/// What is firm, and so many percent of the rest.
fn most(launch: &TaskLaunch, percent: u8) -> MilliCpus {
    let all = launch.resources.cpus.0;
    let lent = launch.revocable.cpus.0.min(all);
    let part = u128::from(lent) * u128::from(percent) / u128::from(WHOLE_SHARE);
    let part = u64::try_from(part).unwrap_or(lent);
    MilliCpus(all - lent + part)
}
