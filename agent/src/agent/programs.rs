//! Tasks whose image is a WebAssembly program: from when that is known they are as those that named
//! the program themselves.
//!
//! The log keeps what was launched, a command with an image. What the agent has of it is turned once,
//! and so is what it replays: the record of what was prepared says that it is a program.

use std::sync::Arc;

use tepui_types::task::reason;
use tepui_types::wire::agent::TaskLaunch;
use tepui_types::{Digest, Reason, TaskSpec, Workload};

use super::tasks::Task;

/// The launch with a program in place of its command's image; itself if that is done.
///
/// # Errors
/// With what programs do not have and it asks for.
pub fn as_program(launch: &TaskLaunch, digest: Digest) -> Result<TaskLaunch, Reason> {
    let Workload::Command(command) = &launch.spec.workload else {
        return Ok(launch.clone());
    };
    let wasm = command.as_wasm(digest).map_err(str::to_owned);
    let spec = wasm.and_then(|wasm| {
        let spec = TaskSpec {
            workload: Workload::Wasm(wasm),
            ..TaskSpec::clone(&launch.spec)
        };
        spec.validate().map(|()| spec)
    });
    let spec = spec.map_err(|why| {
        let image = command.image().map(ToString::to_string).unwrap_or_default();
        let message = format!("{image} is a WebAssembly program: {why}");
        Reason::new(reason::CONTAINER_REFUSED, message)
    })?;
    Ok(TaskLaunch {
        spec: Arc::new(spec),
        ..launch.clone()
    })
}

impl Task {
    /// Turns its launch if what was prepared for it is a program. What cannot be turned stays a
    /// command: who prepared it has refused it before.
    pub(super) fn become_program(&mut self) {
        let prepared = self.prepared.as_ref();
        let program = prepared.and_then(|prepared| prepared.program.as_ref());
        if let (Some(launch), Some(program)) = (&self.launch, program)
            && let Ok(turned) = as_program(launch, program.digest)
        {
            self.launch = Some(Arc::new(turned));
        }
    }
}
