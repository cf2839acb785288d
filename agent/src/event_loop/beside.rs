//! Commands that are wanted beside tasks, and looks at whether those run: sent to whoever has the task.
//!
//! What cannot be asked is answered at once: that says nothing of the task.

use tepui_types::wire::executor::{Look, ToExecutor};

use super::EventLoop;
use crate::beside::{NotRan, Run};

impl EventLoop {
    /// A command is to be run.
    pub(super) fn on_run_wanted(&mut self, run: Run) {
        let Run { command, files } = run;
        let Some(executor) = self.parts.agent.executor_of(&command.task) else {
            let why = NotRan::NotNow("the task does not run, or its executor does not answer");
            return self.parts.beside.on_ran(command.id, Err(why));
        };
        if !self.parts.beside.on_sent(command.id, executor) {
            return;
        }
        let id = command.id;
        let frame = ToExecutor::Run(command);
        if !self.parts.supervisor.send_with(executor, frame, files) {
            let why = NotRan::NotNow("the task's executor is too far behind");
            self.parts.beside.on_ran(id, Err(why));
        }
    }

    /// It is to be known whether a command of a task has run all the time.
    pub(super) fn on_look_wanted(&mut self, look: Look) {
        let Some(executor) = self.parts.agent.executor_of(&look.task) else {
            let why = NotRan::NotNow("the task does not run, or its executor does not answer");
            return self.parts.beside.on_ran(look.id, Err(why));
        };
        if !self.parts.agent.runs_commands(executor) {
            // Programs are not started again within a task.
            return self.parts.beside.on_ran(look.id, Ok(0));
        }
        if !self.parts.beside.on_sent(look.id, executor) {
            return;
        }
        let id = look.id;
        if !self.parts.supervisor.send(executor, ToExecutor::Look(look)) {
            let why = NotRan::NotNow("the task's executor is too far behind");
            self.parts.beside.on_ran(id, Err(why));
        }
    }
}
