//! The tasks that an agent holds, from their launch until the log has their end.
//!
//! `InLine → Fetching → Placed → Handed → Ended`, then forgotten: of a forgotten task
//! only its id is kept for a while, so that a launch that comes late or twice
//! never runs it again.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tepui_types::check::CheckStatus;
use tepui_types::task::MemberStatus;
use tepui_types::wire::agent::TaskLaunch;
use tepui_types::wire::executor::{LocalDevices, LocalImage, LocalNetwork, UserRange};
use tepui_types::{Digest, Reason, TaskId};

use super::executors::ExecutorId;

/// Ids of forgotten tasks that are remembered. The log resends a launch only
/// while it lacks the task's end, so this bounds how late a stray frame may
/// come, not correctness; 10,000 ids are about a megabyte.
pub const MAX_FORGOTTEN: usize = 10_000;
/// How far is looked ahead of a task for one that has not ended; a line has fewer.
const MAX_AHEAD: usize = 1_000;
/// Processes that may die under a task before it was handed over, until the
/// task fails: one that dies at each start is broken.
pub const MAX_PLACEMENTS: u8 = 3;

/// How far a task has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It begins when the one before it has ended.
    InLine,
    /// Its program, or what its container needs, is not here yet.
    Fetching,
    /// It waits for its executor to answer; it cannot have run.
    Placed(ExecutorId),
    /// It was sent, or is about to be.
    Handed {
        /// To whom.
        executor: ExecutorId,
        /// Whether the executor has said anything about it.
        acknowledged: bool,
    },
    /// It has ended; the executor, if it had the task, keeps the end until the
    /// log has it.
    Ended(Option<ExecutorId>),
}

impl Stage {
    /// Whether it has an executor, which has said nothing about it.
    pub fn is_waiting(self) -> bool {
        match self {
            Self::Placed(_) => true,
            Self::Handed { acknowledged, .. } => !acknowledged,
            Self::InLine | Self::Fetching | Self::Ended(_) => false,
        }
    }

    /// The executor that keeps the end of a task that ends in this stage.
    pub fn keeper(self) -> Option<ExecutorId> {
        match self {
            Self::Handed { executor, .. } => Some(executor),
            Self::Ended(keeper) => keeper,
            Self::InLine | Self::Fetching | Self::Placed(_) => None,
        }
    }
}

/// One task.
#[derive(Debug, Clone)]
pub struct Task {
    /// What to run; dropped at its end.
    pub launch: Option<Arc<TaskLaunch>>,
    /// The one after which it begins, or began.
    pub after: Option<TaskId>,
    /// How far it has come.
    pub stage: Stage,
    /// A kill that its executor must hear of, with its grace in milliseconds.
    pub kill: Option<u64>,
    /// Whether it is ended for want of a word from the masters, and by nobody's wish.
    pub stopped: bool,
    /// Processes it was placed on.
    pub placements: u8,
    /// Whether what it needs of its machine is being got, or was.
    pub is_preparing: bool,
    /// What its container needs, once it is there.
    pub prepared: Option<Prepared>,
    /// How its checks stand.
    pub checks: Vec<CheckStatus>,
    /// How its commands are, where there are several or one was started again.
    pub members: Vec<MemberStatus>,
    /// Why it is ended, if its checks say so and nobody else wants it.
    pub unwell: Option<Reason>,
}

/// A WebAssembly program that an image turned out to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalProgram {
    /// The image.
    pub image: Digest,
    /// The program's bytes.
    pub digest: Digest,
    /// Their file.
    pub path: String,
}

/// What a container needs of its machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// Its image.
    pub image: Option<Arc<LocalImage>>,
    /// The images of its companions and its mounts, by their names.
    pub images: BTreeMap<String, Arc<LocalImage>>,
    /// Where the paths of the machine that it mounts really are.
    pub host_paths: BTreeMap<String, String>,
    /// The files of its secrets, by their names.
    pub secrets: BTreeMap<String, String>,
    /// Its devices.
    pub devices: Option<Arc<LocalDevices>>,
    /// Its network.
    pub network: Option<Arc<LocalNetwork>>,
    /// The program that its image is, which runs in no container.
    pub program: Option<Arc<LocalProgram>>,
    /// Its users, where they are none of the machine's own.
    pub users: Option<UserRange>,
}

impl Prepared {
    /// Whether this artifact came with its image, and from no master.
    pub fn holds(&self, artifact: Digest) -> bool {
        let program = self.program.as_ref();
        program.is_some_and(|program| program.digest == artifact)
    }
}

/// What is known of a task id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// It has not ended.
    Living,
    /// It has.
    Ended,
    /// The agent does not know it, or no longer.
    Unknown,
}

/// All tasks.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    held: BTreeMap<TaskId, Task>,
    living: usize,
    /// Who begins when a task has ended.
    lines: BTreeMap<TaskId, Vec<TaskId>>,
    forgotten: VecDeque<TaskId>,
    forgotten_set: HashSet<TaskId>,
}

impl Tasks {
    /// Takes a new task; false if its id is known, also if it was forgotten lately.
    pub fn insert(&mut self, launch: TaskLaunch) -> bool {
        let id = launch.task.clone();
        if self.held.contains_key(&id) || self.forgotten_set.contains(&id) {
            return false;
        }
        let task = Task {
            after: launch.after.clone(),
            launch: Some(Arc::new(launch)),
            stage: Stage::Fetching,
            kill: None,
            stopped: false,
            placements: 0,
            prepared: None,
            is_preparing: false,
            checks: Vec::new(),
            members: Vec::new(),
            unwell: None,
        };
        self.held.insert(id, task);
        self.living += 1;
        true
    }

    /// A held task.
    pub fn get(&self, id: &TaskId) -> Option<&Task> {
        self.held.get(id)
    }

    /// A held task, to be changed; its end goes through [`end`](Self::end).
    pub fn get_mut(&mut self, id: &TaskId) -> Option<&mut Task> {
        self.held.get_mut(id)
    }

    /// Takes a task whose end is all that is known of it.
    pub fn insert_ended(&mut self, id: TaskId, executor: Option<ExecutorId>) {
        let task = Task {
            launch: None,
            after: None,
            stage: Stage::Ended(executor),
            kill: None,
            stopped: false,
            placements: 0,
            prepared: None,
            is_preparing: false,
            checks: Vec::new(),
            members: Vec::new(),
            unwell: None,
        };
        self.held.insert(id, task);
    }

    /// Has a new task wait for the end of the one that it is to run after, if that is here. One that has
    /// ended may have done so in line, as one does that is killed there: then it is the one before that one.
    pub fn line_up(&mut self, id: &TaskId) -> bool {
        let before = self.ahead_of(id);
        if let Some((before, task)) = before.zip(self.held.get_mut(id)) {
            task.stage = Stage::InLine;
            task.after = Some(before.clone());
            self.lines.entry(before).or_default().push(id.clone());
            return true;
        }
        false
    }

    /// The nearest one ahead of a task that has not ended.
    pub fn ahead_of(&self, id: &TaskId) -> Option<TaskId> {
        let before = |id: &TaskId| self.held.get(id)?.after.clone();
        let mut ahead = std::iter::successors(before(id), before).take(MAX_AHEAD);
        ahead.find(|ahead| self.life(ahead) == Life::Living)
    }

    /// For whose end a task waits.
    #[cfg(test)]
    pub fn waits_for(&self, id: &TaskId) -> Option<&TaskId> {
        let mut lines = self.lines.iter();
        let line = lines.find(|(_, waiting)| waiting.contains(id));
        line.map(|(before, _)| before)
    }

    /// How many are in line behind a task, one after another.
    pub fn in_line_behind(&self, id: &TaskId) -> usize {
        let next = |id: &TaskId| self.lines.get(id)?.first();
        std::iter::successors(next(id), |id| next(id)).count()
    }

    /// Who waited for this one's end, and may begin now: unless it has ended in line itself, and its place
    /// is another's yet.
    pub fn take_line(&mut self, ended: &TaskId) -> Vec<TaskId> {
        let mut waiting = self.lines.remove(ended).unwrap_or_default();
        for id in &waiting {
            if let Some(task) = self.held.get_mut(id) {
                task.stage = Stage::Fetching;
            }
        }
        waiting.retain(|id| !self.line_up(id));
        waiting
    }

    /// Nobody waits for anybody any more.
    pub fn dissolve_lines(&mut self) {
        let waiting: Vec<_> = self.lines.values().flatten().cloned().collect();
        for id in waiting {
            self.leave_line(&id);
        }
    }

    /// Has a task wait for nobody any more.
    pub fn leave_line(&mut self, id: &TaskId) {
        let task = self.held.get_mut(id);
        let Some(task) = task.filter(|task| task.stage == Stage::InLine) else {
            return;
        };
        task.stage = Stage::Fetching;
        let Some(before) = &task.after else { return };
        if let Some(waiting) = self.lines.get_mut(before) {
            waiting.retain(|other| other != id);
            if waiting.is_empty() {
                self.lines.remove(before);
            }
        }
    }

    /// Marks a task as ended and answers where it was. `None` if it is unknown
    /// or had ended before.
    pub fn end(&mut self, id: &TaskId) -> Option<Stage> {
        let before = self.held.get(id)?.stage;
        if matches!(before, Stage::Ended(_)) {
            return None;
        }
        self.leave_line(id);
        let task = self.held.get_mut(id)?;
        task.stage = Stage::Ended(before.keeper());
        task.launch = None;
        task.prepared = None;
        task.kill = None;
        task.unwell = None;
        self.living -= 1;
        Some(before)
    }

    /// Forgets an ended task but for its id.
    pub fn forget(&mut self, id: &TaskId) {
        self.held.remove(id);
        self.remember(id.clone());
    }

    /// Whether only its id is known any more. Only a log that has lost the task's end, as one that was
    /// restored, launches it again in earnest.
    pub fn is_forgotten(&self, id: &TaskId) -> bool {
        self.forgotten_set.contains(id)
    }

    /// Keeps the id of a task that was forgotten.
    pub fn remember(&mut self, id: TaskId) {
        if self.forgotten_set.insert(id.clone()) {
            self.forgotten.push_back(id);
        }
        if self.forgotten.len() > MAX_FORGOTTEN
            && let Some(oldest) = self.forgotten.pop_front()
        {
            self.forgotten_set.remove(&oldest);
        }
    }

    /// What is known of an id.
    pub fn life(&self, id: &TaskId) -> Life {
        match self.held.get(id) {
            Some(Task {
                stage: Stage::Ended(_),
                ..
            }) => Life::Ended,
            Some(_) => Life::Living,
            None if self.forgotten_set.contains(id) => Life::Ended,
            None => Life::Unknown,
        }
    }

    /// All held tasks, by id.
    pub fn iter(&self) -> impl Iterator<Item = (&TaskId, &Task)> {
        self.held.iter()
    }

    /// Ids that are only remembered, oldest first.
    pub fn forgotten(&self) -> impl Iterator<Item = &TaskId> {
        self.forgotten.iter()
    }

    /// How many have not ended.
    pub fn living(&self) -> usize {
        self.living
    }
}
