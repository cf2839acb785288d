//! Where a task goes: to the fetcher if its program is not here, or to whoever prepares its
//! container, then to a process that has room, a new one if need be, and to the process itself once
//! that is connected.
//!
//! `hand` is the point of no return: it is recorded before the launch is sent,
//! and from then on the task may run in that process and in no other.

use std::collections::BTreeMap;
use std::sync::Arc;

use tepui_types::container::MountSource;
use tepui_types::wire::executor::{ExecutorLaunch, ToExecutor, VolumeFolder};
use tepui_types::{TaskId, TaskSpec, TaskState, Workload};

use super::executors::{ExecutorId, ExecutorKind, Phase, TrustDomain};
use super::tasks::Stage;
use super::{Action, Agent, WHOLE_SHARE, report};
use crate::checkpoint::Record;

impl Agent {
    /// Has a new task wait for the one that it runs after, or sends it on its way.
    pub(super) fn line_up_or_route(&mut self, out: &mut Vec<Action>, id: &TaskId) {
        if !self.tasks.line_up(id) {
            self.route(out, id);
        }
    }

    /// The turn of a task has come that has waited in line: it is sent on its way, unless the machine has
    /// no room for it by now.
    pub(super) fn begin(&mut self, out: &mut Vec<Action>, id: &TaskId) {
        let launch = self.tasks.get(id).and_then(|task| task.launch.as_ref());
        match launch.and_then(|launch| self.unfit(launch)) {
            Some(why) => self.end(out, report(id, TaskState::Dropped, Some(why))),
            None => self.route(out, id),
        }
    }

    /// Sends a task on its way: to the fetcher if its program is not here.
    pub(super) fn route(&mut self, out: &mut Vec<Action>, id: &TaskId) {
        let Some(task) = self.tasks.get(id) else {
            return;
        };
        let Some(launch) = task.launch.clone() else {
            return;
        };
        let prepared = task.prepared.clone().unwrap_or_default();
        let is_here = match &launch.spec.workload {
            Workload::Wasm(wasm) => {
                // All are asked for at once.
                let wanted = wasm.artifacts().filter(|digest| !prepared.holds(*digest));
                let missing = wanted.filter(|digest| !self.is_at_hand(out, *digest, id));
                missing.count() == 0
            }
            Workload::Command(_) => true,
        };
        let is_prepared = !self.needs_preparation(&launch) || self.is_prepared(out, &launch);
        if is_here && is_prepared {
            self.place(out, id);
        } else {
            self.statuses.set(report(id, TaskState::Starting, None));
        }
    }

    /// Gives a task whose program is here to a process, a new one if need be.
    pub(super) fn place(&mut self, out: &mut Vec<Action>, id: &TaskId) {
        let Some(launch) = self.tasks.get(id).and_then(|task| task.launch.clone()) else {
            return;
        };
        let domain = TrustDomain::of(&launch);
        let kind = match &launch.spec.workload {
            Workload::Command(command) if command.container.is_some() => {
                ExecutorKind::Container(domain)
            }
            Workload::Command(_) => ExecutorKind::Native(domain),
            Workload::Wasm(_) => ExecutorKind::Wasm(domain),
        };
        let existing = match &kind {
            ExecutorKind::Native(domain) => self.executors.take_spare(domain),
            ExecutorKind::Wasm(domain) => self.executors.with_room(domain),
            ExecutorKind::Container(_) => None,
        };
        let executor = existing.unwrap_or_else(|| self.start(out, kind));
        if let Some(task) = self.tasks.get_mut(id) {
            task.placements += 1;
            task.stage = Stage::Placed(executor);
        }
        if let Some(known) = self.executors.get_mut(executor) {
            known.living.insert(id.clone());
            if known.phase == Phase::Attached {
                self.hand(out, id, executor);
            }
        }
    }

    fn start(&mut self, out: &mut Vec<Action>, kind: ExecutorKind) -> ExecutorId {
        let id = self.executors.add(kind.clone());
        out.push(Action::Record(Record::ExecutorStarting {
            executor: id,
            kind: kind.clone(),
        }));
        out.push(Action::Start(id, kind));
        id
    }

    /// From here on the task may run there.
    pub(super) fn hand(&mut self, out: &mut Vec<Action>, id: &TaskId, executor: ExecutorId) {
        if let Some(task) = self.tasks.get_mut(id) {
            task.stage = Stage::Handed {
                executor,
                acknowledged: false,
            };
            out.push(Action::Record(Record::Handed {
                task: id.clone(),
                executor,
            }));
            self.send_launch(out, id, executor);
            if self.share_percent < WHOLE_SHARE {
                self.send_share(out, id, executor);
            }
        }
    }

    pub(super) fn send_launch(&self, out: &mut Vec<Action>, id: &TaskId, executor: ExecutorId) {
        let task = self.tasks.get(id);
        let Some(launch) = task.and_then(|task| task.launch.as_deref()) else {
            return;
        };
        let prepared = task.and_then(|task| task.prepared.clone());
        let prepared = prepared.unwrap_or_default();
        let ((program, stdin), cgroup) = match &launch.spec.workload {
            Workload::Wasm(wasm) => {
                let mut files = wasm.artifacts().map(|digest| match &prepared.program {
                    Some(program) if program.digest == digest => program.path.clone(),
                    _ => text(self.layout.artifact(&digest)),
                });
                ((files.next(), files.next()), None)
            }
            Workload::Command(_) => ((None, None), self.layout.task_cgroup(executor)),
        };
        let volumes = launch.volumes.iter().map(|volume| VolumeFolder {
            folder: text(self.layout.volume(volume)),
            path: volume.path.clone(),
        });
        let mut launch = launch.clone();
        if !prepared.host_paths.is_empty() {
            name_real_paths(Arc::make_mut(&mut launch.spec), &prepared.host_paths);
        }
        let launch = ExecutorLaunch {
            volumes: volumes.collect(),
            launch,
            sandbox: text(self.layout.sandbox(id)),
            program,
            stdin,
            cgroup,
            image: prepared.image,
            images: prepared.images,
            secrets: prepared.secrets,
            devices: prepared.devices,
            network: prepared.network,
            users: prepared.users,
        };
        self.send(out, executor, ToExecutor::Launch(Box::new(launch)));
    }
}

/// Puts paths of the machine as they were followed when they were allowed: executors follow no link.
fn name_real_paths(spec: &mut TaskSpec, real: &BTreeMap<String, String>) {
    let Workload::Command(command) = &mut spec.workload else {
        return;
    };
    let options = command.options.iter_mut();
    let companions = options.flat_map(|options| options.companions.iter_mut());
    let theirs = companions.filter_map(|companion| companion.container.as_mut());
    for container in command.container.iter_mut().chain(theirs) {
        for mount in &mut container.mounts {
            if let MountSource::Host(path) = &mut mount.source
                && let Some(real) = real.get(path)
            {
                path.clone_from(real);
            }
        }
    }
}

/// A path for the wire; nothing is lost, for the configuration is checked to
/// name a folder in UTF-8.
fn text(path: std::path::PathBuf) -> String {
    path.to_string_lossy().into_owned()
}
