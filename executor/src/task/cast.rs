//! The commands of a task, each launched as if it were a task of its own.
//!
//! A pure function of the launch: the command itself first, then its companions as they are listed.
//! A companion has its own program, environment, image and mounts; its network, its names and the
//! namespaces that it shares with the machine are the command's.

use std::sync::Arc;

use tepui_types::Bytes;
use tepui_types::command::{CommandOptions, Companion, CompanionRole, MAIN};
use tepui_types::container::Container;
use tepui_types::task::{CommandWorkload, TaskSpec, Workload};
use tepui_types::wire::agent::TaskLaunch;
use tepui_types::wire::executor::ExecutorLaunch;

use crate::supervision::{Member, Part};

/// One of them.
pub struct Role {
    /// Its name, and when it runs.
    pub member: Member,
    /// Its launch.
    pub launch: ExecutorLaunch,
    /// What it may have of the task's memory, if not all.
    pub mem: Option<Bytes>,
}

/// The commands of that launch; one at least, and one alone where it is of no command.
pub fn of(launch: ExecutorLaunch) -> Vec<Role> {
    let mut companions = Vec::new();
    let mut restart = None;
    if let Workload::Command(command) = &launch.launch.spec.workload {
        let options = command.options.as_ref();
        restart = options.and_then(|options| options.restart);
        let all = command.companions().iter();
        companions.extend(all.map(|companion| role_of(companion, command, &launch)));
    }
    let mut roles = vec![Role {
        member: Member {
            name: MAIN.to_owned(),
            part: Part::Main,
            restart,
        },
        launch,
        mem: None,
    }];
    roles.append(&mut companions);
    roles
}

fn role_of(companion: &Companion, command: &CommandWorkload, launch: &ExecutorLaunch) -> Role {
    let container = container_of(companion, command);
    let image = container.image.as_ref();
    let of_command = launch.image.as_ref().filter(|_| image == command.image());
    let image =
        image.and_then(|image| launch.images.get(image.to_string().as_str()).or(of_command));
    // As much as is kept of the command's output is kept of each companion's.
    let logs = command.options.as_ref().and_then(|options| options.logs);
    let workload = CommandWorkload {
        argv: companion.argv.clone(),
        env: companion.env.clone(),
        pids: command.pids,
        container: Some(Box::new(container)),
        options: logs.map(|logs| {
            Box::new(CommandOptions {
                logs: Some(logs),
                ..CommandOptions::default()
            })
        }),
    };
    let spec = TaskSpec {
        workload: Workload::Command(workload),
        ..TaskSpec::clone(&launch.launch.spec)
    };
    let launch = ExecutorLaunch {
        launch: TaskLaunch {
            spec: Arc::new(spec),
            ..launch.launch.clone()
        },
        image: image.cloned(),
        ..launch.clone()
    };
    Role {
        member: Member {
            name: companion.name.clone(),
            part: match companion.role {
                CompanionRole::Init => Part::Init,
                CompanionRole::Sidecar => Part::Sidecar,
                CompanionRole::Peer => Part::Peer,
            },
            restart: companion.restart(),
        },
        launch,
        mem: companion.mem_bytes,
    }
}

fn container_of(companion: &Companion, command: &CommandWorkload) -> Container {
    let own = companion.container.as_deref().cloned().unwrap_or_default();
    let Some(shared) = &command.container else {
        return own;
    };
    Container {
        network: shared.network.clone(),
        hostname: shared.hostname.clone(),
        share: shared.share.clone(),
        userns: shared.userns,
        ..own
    }
}
