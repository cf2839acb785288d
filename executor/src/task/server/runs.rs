//! Commands that an agent wants beside the task: begun, or answered at once; and whether what they
//! would run beside runs.
//!
//! Each request is answered once, whatever becomes of it; the open files that came with one are never
//! another's.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use tepui_types::wire::executor::{FromExecutor, Look, RunBeside};

use super::Server;
use crate::beside::{Begun, NotRun, Stdio};
use crate::task::Task;

impl Server {
    /// Runs a command beside the task, or says why not.
    pub(super) fn on_run(&mut self, run: &RunBeside) {
        let running = self.task.as_ref().filter(|known| *known.id() == run.task);
        let files = self.agent.as_mut();
        // Taken out also where the command cannot be run: the next frame has its own.
        let files = files.map_or_else(
            || Ok(Vec::new()),
            |agent| agent.take_files(run.io.descriptors()),
        );
        let started = match running {
            Some(running) => self.start_beside(running, run, files),
            None => Err(NotRun::Refused("the task does not run".into())),
        };
        let id = run.id;
        match started {
            Ok(begun) => {
                if let Some(said) = self.beside.add(begun, run, Instant::now()) {
                    self.tell(&said);
                }
            }
            Err(NotRun::Now) => self.tell(&FromExecutor::NotNow(id)),
            Err(NotRun::Refused(why)) => {
                let result = Err(why);
                self.tell(&FromExecutor::Ran { id, result });
            }
        }
    }

    /// Whether a command of the task has run all the time.
    pub(super) fn on_look(&mut self, look: &Look) {
        let running = self.task.as_ref().filter(|known| *known.id() == look.task);
        let since = Instant::now().checked_sub(Duration::from_millis(look.for_ms));
        let looked = match running {
            Some(running) => running.has_run_since(look.member.as_deref(), since),
            None => Err(NotRun::Refused("the task does not run".into())),
        };
        let id = look.id;
        let answer = match looked {
            Err(NotRun::Now) => FromExecutor::NotNow(id),
            Err(NotRun::Refused(why)) => FromExecutor::Ran {
                id,
                result: Err(why),
            },
            Ok(()) => FromExecutor::Ran { id, result: Ok(0) },
        };
        self.tell(&answer);
    }

    fn start_beside(
        &self,
        running: &Task,
        run: &RunBeside,
        files: Result<Vec<OwnedFd>, String>,
    ) -> Result<Begun, NotRun> {
        // A check that finds no place beside commands of people has not failed.
        let is_check = run.timeout_ms.is_some();
        let room = self.beside.has_room().map_err(NotRun::from);
        room.map_err(|why| if is_check { NotRun::Now } else { why })?;
        let stdio = Stdio::of(run.io, files?)?;
        running.run(run, stdio, &self.startup)
    }
}

/// Whether a member of the task may have taken along what runs beside it.
pub(super) fn may_take_along(task: &Option<Task>) -> impl Fn(Option<&str>) -> bool {
    |member| {
        let task = task.as_ref();
        task.is_some_and(|task| task.may_take_along(member))
    }
}
