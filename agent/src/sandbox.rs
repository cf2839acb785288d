//! Where everything lies in the agent's data folder.
//!
//! The agent makes the folders that all tasks share; a task's own folder is
//! made by its executor when the task first writes something, so that short
//! silent tasks leave nothing behind.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tepui_folder::FolderError;
use tepui_types::command::MAIN;
use tepui_types::wire::agent::TaskVolume;
use tepui_types::wire::stream::Output;
use tepui_types::{Digest, TaskId};

use crate::agent::ExecutorId;

/// What keeps the sizes of the volumes on an agent's own disk.
pub fn sizes_folder(dir: &Path) -> PathBuf {
    dir.join("sizes")
}

/// What keeps the sizes of the sandboxes of tasks there, where the kernel does.
pub fn task_disks_folder(dir: &Path) -> PathBuf {
    dir.join("task-disks")
}

/// Paths below one data folder, and below the agent's cgroup if it has one.
#[derive(Debug, Clone)]
pub struct Layout {
    dir: PathBuf,
    cgroup: Option<String>,
    /// Whether native tasks are kept from devices.
    is_guarded: bool,
    /// Where the agent's volumes lie on disks beside the one with this folder.
    disks: BTreeMap<String, PathBuf>,
}

impl Layout {
    /// The layout of `dir`, which should be absolute: executors have another
    /// working folder.
    pub fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            cgroup: None,
            is_guarded: false,
            disks: BTreeMap::new(),
        }
    }

    /// The same with the agent's cgroup, below the hierarchy's root.
    pub fn with_cgroup(mut self, cgroup: Option<String>) -> Self {
        self.cgroup = cgroup;
        self
    }

    /// The same, where native tasks are kept from devices.
    pub fn with_guard(mut self, is_guarded: bool) -> Self {
        self.is_guarded = is_guarded;
        self
    }

    /// The same with other disks, each by its name and where it is mounted. What lies there is in a
    /// folder of this agent's own, for two agents may have one disk.
    pub fn with_disks(mut self, disks: BTreeMap<String, PathBuf>, nonce: u128) -> Self {
        let disks = disks.into_iter();
        let volumes = |path: PathBuf| path.join(format!("tepui-volumes-{nonce:032x}"));
        self.disks = disks.map(|(id, path)| (id, volumes(path))).collect();
        self
    }

    /// Makes the folders that all tasks share, in a folder that is this agent's.
    pub fn create(&self) -> Result<(), FolderError> {
        let checks = self.dir.join("checks");
        for path in [self.tasks(), self.artifacts(), self.executors(), checks] {
            std::fs::create_dir_all(&path)
                .map_err(|source| FolderError::io("create", &path, source))?;
        }
        Ok(())
    }

    /// The data folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Who the agent is.
    pub fn identity(&self) -> PathBuf {
        self.dir.join("identity")
    }

    /// Locked by the living agent.
    pub fn lock(&self) -> PathBuf {
        self.dir.join("lock")
    }

    /// The journal.
    pub fn checkpoint(&self) -> PathBuf {
        self.dir.join("checkpoint")
    }

    /// The agent's own URL, once it is registered.
    pub fn address(&self) -> PathBuf {
        self.dir.join("address")
    }

    /// Left by whoever has stopped the agent and ended all its tasks with it, such as `tepui dev`, for
    /// the next one.
    pub fn stopped(&self) -> PathBuf {
        self.dir.join("stopped")
    }

    /// When the masters were last known to hear the agent.
    pub fn contact(&self) -> PathBuf {
        self.dir.join("contact")
    }

    /// The folders of all tasks.
    pub fn tasks(&self) -> PathBuf {
        self.dir.join("tasks")
    }

    /// All of one task: its sandbox and its output.
    pub fn task(&self, task: &TaskId) -> PathBuf {
        self.tasks().join(task.to_string())
    }

    /// What keeps the sizes of tasks' disks.
    pub fn task_disks(&self) -> PathBuf {
        task_disks_folder(&self.dir)
    }

    /// What a task has of the disk, where the kernel keeps its size: its sandbox is in there then, and
    /// a link to it where it would be otherwise.
    pub fn task_disk(&self, task: &TaskId) -> PathBuf {
        self.task(task).join("disk")
    }

    /// The folder that the task itself sees.
    pub fn sandbox(&self, task: &TaskId) -> PathBuf {
        self.task(task).join("sandbox")
    }

    /// What a task's container writes over its image.
    pub fn container(&self, task: &TaskId) -> PathBuf {
        self.task(task).join("container")
    }

    /// What the container of a task's companion writes over its image.
    pub fn companion_container(&self, task: &TaskId, companion: &str) -> PathBuf {
        self.task(task)
            .join("members")
            .join(companion)
            .join("container")
    }

    /// The output of a task's command; of a companion where one is named.
    pub fn output(&self, task: &TaskId, member: Option<&str>, output: Output) -> PathBuf {
        let folder = match member.filter(|name| *name != MAIN) {
            Some(name) => self.task(task).join("members").join(name),
            None => self.task(task),
        };
        folder.join(output.as_str())
    }

    /// All artifacts.
    pub fn artifacts(&self) -> PathBuf {
        self.dir.join("artifacts")
    }

    /// One artifact's bytes.
    pub fn artifact(&self, digest: &Digest) -> PathBuf {
        self.artifacts().join(digest.hex())
    }

    /// All images.
    pub fn images(&self) -> PathBuf {
        self.dir.join("images")
    }

    /// Small outputs of ended tasks, many in a file.
    pub fn packs(&self) -> PathBuf {
        self.dir.join("packs")
    }

    /// Downloads that are kept for later tasks.
    pub fn fetched(&self) -> PathBuf {
        self.dir.join("fetched")
    }

    /// Machine code of WebAssembly programs; its executors make it.
    pub fn code_cache(&self) -> PathBuf {
        self.dir.join("code")
    }

    /// What containers are attached to.
    pub fn networks(&self) -> PathBuf {
        self.dir.join("networks")
    }

    /// What is known of a task's checks.
    pub fn checks_of(&self, task: &TaskId) -> PathBuf {
        self.dir.join("checks").join(task.to_string())
    }

    /// Where volumes lie: for each disk by its name, that of the data folder first, the folder that holds
    /// them and that of what keeps their sizes, which is beside it.
    pub fn volume_disks(&self) -> impl Iterator<Item = (Option<String>, PathBuf, PathBuf)> + '_ {
        let own = (None, self.dir.join("volumes"), sizes_folder(&self.dir));
        let disks = self.disks.iter().map(|(id, folder)| {
            let sizes = format!("{}-sizes", folder.to_string_lossy());
            (Some(id.clone()), folder.clone(), sizes.into())
        });
        std::iter::once(own).chain(disks)
    }

    /// What is stored in a volume. A disk that is not there any more is a folder that cannot be
    /// made, and so the task's failure.
    pub fn volume(&self, volume: &TaskVolume) -> PathBuf {
        let name = volume.made_by.to_string();
        match &volume.disk {
            None => self.dir.join("volumes").join(name),
            Some(disk) => match self.disks.get(disk) {
                Some(folder) => folder.join(name),
                None => Path::new("/dev/null").join(disk).join(name),
            },
        }
    }

    /// The folders of all executors.
    pub fn executors(&self) -> PathBuf {
        self.dir.join("executors")
    }

    /// One executor's socket, exit records and identity.
    pub fn executor(&self, executor: ExecutorId) -> PathBuf {
        self.executors().join(executor.to_string())
    }

    /// The agent's cgroup.
    pub fn cgroup(&self) -> Option<&str> {
        self.cgroup.as_deref()
    }

    /// An executor process's cgroup.
    pub fn executor_cgroup(&self, executor: ExecutorId) -> Option<String> {
        let parent = self.cgroup.as_ref()?;
        Some(format!("{parent}/{executor}"))
    }

    /// The cgroup that its native tasks have, one after another.
    pub fn task_cgroup(&self, executor: ExecutorId) -> Option<String> {
        let outer = self.outer_task_cgroup(executor)?;
        Some(match self.is_guarded {
            // It is the executor's, which may make it anew; what holds there is said by the agent.
            true => format!("{outer}/own"),
            false => outer,
        })
    }

    /// That cgroup, or the one that it lies in and which says what devices its tasks may use.
    pub fn outer_task_cgroup(&self, executor: ExecutorId) -> Option<String> {
        let parent = self.cgroup.as_ref()?;
        Some(format!("{parent}/{executor}-task"))
    }

    /// Both, its tasks' first: whatever an executor that is gone has left.
    pub fn cgroups_of(&self, executor: ExecutorId) -> impl Iterator<Item = String> + use<> {
        let cgroups = [
            self.outer_task_cgroup(executor),
            self.executor_cgroup(executor),
        ];
        cgroups.into_iter().flatten()
    }
}
