//! What the task's callers send it: taken as its command has room, and told to them.

use tepui_types::TaskId;
use tepui_types::wire::executor::{FromExecutor, TaskInput};

use super::Server;
use crate::callers::Room;
use crate::input::Input;
use crate::task::Task;

impl Server {
    /// Someone sends a piece.
    pub(super) fn on_input(&mut self, input: TaskInput) {
        let known = self.task.as_ref().filter(|known| *known.id() == input.task);
        let held = match known {
            Some(_) => self.callers.add(input),
            None => Err(input.caller),
        };
        match held {
            Ok(()) => self.take_input(),
            Err(caller) => self.tell(&FromExecutor::NotTook(caller)),
        }
    }

    /// Takes what the command has room for, and says so.
    pub(super) fn take_input(&mut self) {
        while !self.callers.is_empty() {
            let Some(task) = &mut self.task else {
                return;
            };
            let Some(passed) = self.callers.next(room_of(task)) else {
                return;
            };
            if let (Some(bytes), Some(input)) = (passed.bytes, task.input()) {
                input.send(&bytes);
            }
            self.tell(&FromExecutor::Took(passed.caller));
        }
    }

    /// The command has read.
    pub(super) fn on_input_room(&mut self) {
        if let Some(input) = self.task.as_mut().and_then(Task::input) {
            input.pump();
        }
    }

    /// The task has ended: what waited for it may be another attempt's.
    pub(super) fn end_input(&mut self) {
        for caller in self.callers.end() {
            self.tell(&FromExecutor::NotTook(caller));
        }
    }

    /// What that task is sent, if it reads that.
    pub(super) fn input_of(&mut self, task: &TaskId) -> Option<&mut Input> {
        let known = self.task.as_mut().filter(|known| known.id() == task);
        known.and_then(Task::input)
    }
}

/// Whose command does not run has not begun, or has not closed its input of its own will: what is sent
/// then may be another attempt's.
fn room_of(task: &mut Task) -> Room {
    let room = task.input().map_or(Room::Never, |input| input.room());
    match room {
        Room::Never if !task.does_command_run() => Room::Later,
        room => room,
    }
}
