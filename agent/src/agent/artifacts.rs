//! Which artifacts are here, which are on their way, and which may go.
//!
//! The core asks for an artifact when a task needs it and lets one go only while
//! no task does, so that nobody fetches, removes and runs the same file at the
//! same time. A task that comes during a removal waits and fetches it anew.

use std::collections::{BTreeSet, HashSet};

use tepui_types::{Digest, Fetch, ImageSource, Reason, TaskId, TaskSpec, TaskState, Workload};

use super::{Action, Agent, report};

/// Where an artifact is.
#[derive(Debug, Clone)]
pub(super) enum Artifact {
    /// On its way; these tasks wait for it.
    Fetching(BTreeSet<TaskId>),
    /// Here.
    Present,
    /// Its file is being removed; these tasks came since.
    Removing(BTreeSet<TaskId>),
}

/// The artifacts without which it does not start.
fn needed_by(spec: &TaskSpec) -> Vec<Digest> {
    let mut needed: Vec<_> = spec.fetch.iter().filter_map(Fetch::artifact).collect();
    match &spec.workload {
        Workload::Wasm(wasm) => needed.extend(wasm.artifacts()),
        Workload::Command(command) => {
            let images = command.images();
            needed.extend(images.filter_map(|image| match image.source() {
                ImageSource::Artifact(digest) => Some(digest),
                ImageSource::Registry(_) | ImageSource::Layout { .. } => None,
            }));
        }
    }
    needed
}

impl Agent {
    /// Whether a task's program is here; if not, the task waits for it.
    pub(super) fn is_at_hand(
        &mut self,
        out: &mut Vec<Action>,
        digest: Digest,
        task: &TaskId,
    ) -> bool {
        match self.artifacts.get_mut(&digest) {
            Some(Artifact::Present) => return true,
            Some(Artifact::Fetching(waiting) | Artifact::Removing(waiting)) => {
                waiting.insert(task.clone());
            }
            None => {
                let waiting = BTreeSet::from([task.clone()]);
                self.artifacts.insert(digest, Artifact::Fetching(waiting));
                out.push(Action::Fetch(digest));
            }
        }
        false
    }

    /// A task waits no longer, for it has ended.
    pub(super) fn stop_waiting(&mut self, task: &TaskId) {
        for artifact in self.artifacts.values_mut() {
            if let Artifact::Fetching(waiting) | Artifact::Removing(waiting) = artifact {
                waiting.remove(task);
            }
        }
    }

    /// An artifact is here, or cannot be had.
    pub fn on_fetched(
        &mut self,
        out: &mut Vec<Action>,
        digest: Digest,
        result: Result<(), Reason>,
    ) {
        let Some(Artifact::Fetching(waiting)) = self.artifacts.get_mut(&digest) else {
            return;
        };
        let waiting = std::mem::take(waiting);
        match &result {
            Ok(()) => self.artifacts.insert(digest, Artifact::Present),
            Err(_) => self.artifacts.remove(&digest),
        };
        for id in waiting {
            match &result {
                // It may need another one, too.
                Ok(()) => self.route(out, &id),
                Err(why) => self.end(out, report(&id, TaskState::Error, Some(why.clone()))),
            }
        }
    }

    /// The files of artifacts, with their sizes, take `excess` bytes more than
    /// they may: the first ones that no task needs go, until they do not.
    pub fn on_excess(&mut self, out: &mut Vec<Action>, files: Vec<(Digest, u64)>, excess: u64) {
        let launches = self
            .tasks
            .iter()
            .filter_map(|(_, task)| task.launch.as_ref());
        let needed: HashSet<Digest> = launches
            .flat_map(|launch| needed_by(&launch.spec))
            .collect();
        let mut left = excess;
        for (digest, bytes) in files {
            if left == 0 {
                return;
            }
            let is_still = matches!(self.artifacts.get(&digest), None | Some(Artifact::Present));
            if is_still && !needed.contains(&digest) {
                left = left.saturating_sub(bytes);
                let waiting = BTreeSet::new();
                self.artifacts.insert(digest, Artifact::Removing(waiting));
                out.push(Action::Remove(digest));
            }
        }
    }

    /// The file of an artifact is gone, or could not be removed.
    pub fn on_removed(&mut self, out: &mut Vec<Action>, digest: Digest) {
        let Some(Artifact::Removing(waiting)) = self.artifacts.get_mut(&digest) else {
            return;
        };
        let waiting = std::mem::take(waiting);
        if waiting.is_empty() {
            self.artifacts.remove(&digest);
        } else {
            self.artifacts.insert(digest, Artifact::Fetching(waiting));
            out.push(Action::Fetch(digest));
        }
    }
}
