//! The disks of tasks: what native tasks and containers write, where the kernel keeps its size.
//!
//! With `--sandbox-sizes enforced`, a task that was given a part of the disk has a folder of that size
//! (`tepui-quota`), which holds its sandbox and what its containers write over their images; links lead
//! there from where both are looked for. What is kept of its outputs is outside, and has its own limit.
//!
//! When its task has ended, a disk is laid to rest: one with a file system of its own takes what is in
//! it, and no mount and no device. Some at a time are mounted to be read, while somebody looks at their
//! files. A disk goes with its task's folder, or before, where a new one has no room.
//! docs/decisions/0012-task-disks.md says why. All of this blocks.

use std::collections::{BTreeMap, HashSet};
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tepui_quota::{Bounded, Bounds, BoundsError, Enforce, Kept, Life, Settings, Support, Wanted};
use tepui_tree::remove_folder;
use tepui_types::command::MAIN;
use tepui_types::task::reason;
use tepui_types::wire::agent::TaskLaunch;
use tepui_types::{Bytes, Reason, TaskId, Workload};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::agent::has_disk;
use crate::error::AgentError;
use crate::event_loop::Event;
use crate::sandbox::Layout;
use crate::sizes::Keeping;
use crate::uptime;
use crate::volumes::headroom;

/// Where a task's sandbox is on its disk.
const SANDBOX: &str = "sandbox";
/// Where that is what its containers write over their images, by their names.
const LAYERS: &str = "layers";
/// What overlayfs has of each: as the executor names it.
const PARTS: [&str; 2] = ["upper", "work"];
/// How often is looked which disks are to be laid to rest.
const INTERVAL: Duration = Duration::from_secs(5);
/// How long a disk stays mounted that nobody reads any more: who looks through a sandbox opens one file
/// after another.
const LINGER_MS: u64 = 30_000;
/// Disks that are made at the same time: each writes tables, and the machine has other things to do.
const MAKERS: usize = 8;
/// Disks of ended tasks that are mounted at a time, beside those that are about to be laid to rest: each
/// is a mount that every new container copies, and a device.
const MOST_SHOWN: usize = 16;

/// All disks of this agent's tasks.
#[derive(Debug)]
pub struct TaskDisks {
    layout: Layout,
    bounds: Bounds,
    is_enforced: bool,
    /// Those that may be mounted; all others are at rest.
    uses: Mutex<BTreeMap<TaskId, Use>>,
    /// Held while one is mounted to be read, or laid to rest.
    moving: Mutex<()>,
    /// Held by the one who removes what is at rest: two would make room for one twice.
    clearing: Mutex<()>,
    /// For those that are being made.
    makers: Semaphore,
}

/// What a disk is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// Its task, which has not ended.
    Task,
    /// So many who read what is in it; by the agent's clock, when there was last one.
    Readers(usize, u64),
    /// Nothing.
    None,
}

/// A sandbox that can be read for as long as this lives.
#[derive(Debug)]
pub struct Shown {
    path: PathBuf,
    /// Of whose disk it keeps the mount.
    kept: Option<(Arc<TaskDisks>, TaskId)>,
}

impl Shown {
    /// Where it is; no link.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Some((disks, task)) = &self.kept
            && let Some(Use::Readers(count, last_ms)) = disks.uses().get_mut(task)
        {
            *count = count.saturating_sub(1);
            *last_ms = uptime::now_ms();
        }
    }
}

impl TaskDisks {
    /// Takes up what an earlier process of this agent left, of which these tasks have not ended; to be
    /// called before executors are started, which see mounts only below what was shared before.
    ///
    /// # Errors
    /// Where the agent's disk cannot be written to.
    pub fn open(
        layout: &Layout,
        sizes: Keeping,
        living: &HashSet<TaskId>,
    ) -> Result<Arc<Self>, AgentError> {
        let bounds = Bounds::new(Settings {
            store: layout.task_disks(),
            places: vec![layout.tasks()],
            headroom: headroom(layout.dir()),
            whole_images: true,
            remove_folder,
        });
        let bounds = bounds.map_err(AgentError::TaskDisks)?;
        let kept = bounds.kept().map_err(AgentError::TaskDisks)?;
        let is_enforced = sizes == Keeping::Enforced;
        if (is_enforced || !kept.is_empty())
            && let Support::Measured(error) = bounds.prepare().map_err(AgentError::TaskDisks)?
        {
            let error = anyhow::Error::from(error);
            tracing::warn!("sizes of sandboxes are measured, not enforced: {error:#}");
        }
        let named = kept.iter().filter_map(|it| it.name.parse().ok());
        let uses = named.map(|task: TaskId| {
            let lives = living.contains(&task);
            (task, if lives { Use::Task } else { Use::None })
        });
        let this = Arc::new(Self {
            layout: layout.clone(),
            uses: Mutex::new(uses.collect()),
            bounds,
            is_enforced,
            moving: Mutex::default(),
            clearing: Mutex::default(),
            makers: Semaphore::new(MAKERS),
        });
        let sweeping = this.clone();
        // What is left of a large one takes long to remove, and tasks wait for nothing of it.
        std::thread::spawn(move || sweeping.sweep());
        Ok(this)
    }

    /// Lays to rest what nobody needs, for as long as the event loop lives.
    pub async fn tend(self: Arc<Self>, events: mpsc::Sender<Event>) {
        let mut interval = interval(INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !events.is_closed() {
            interval.tick().await;
            let this = self.clone();
            // The next look finds what this one has not come to.
            let _ = tokio::task::spawn_blocking(move || this.lay_to_rest(LINGER_MS)).await;
        }
    }

    /// Makes the disk of a task, on a thread that may block; see [`make`](Self::make).
    ///
    /// # Errors
    /// The same.
    pub async fn prepare(
        self: &Arc<Self>,
        launch: Arc<TaskLaunch>,
        released: CancellationToken,
    ) -> Result<(), Reason> {
        if !self.is_enforced || !has_disk(&launch) {
            return Ok(());
        }
        let _permit = self.makers.acquire().await;
        let this = self.clone();
        let made = tokio::task::spawn_blocking(move || this.make(&launch, &released));
        made.await
            .unwrap_or_else(|error| Err(Reason::new(reason::EXECUTOR_FAILED, error.to_string())))
    }

    /// Makes the disk of a task that is to have one and has not been released; where it cannot be
    /// enforced, there is none, and what it writes is measured.
    ///
    /// # Errors
    /// With what keeps the task from being begun here.
    pub fn make(&self, launch: &TaskLaunch, released: &CancellationToken) -> Result<(), Reason> {
        let task = &launch.task;
        let sandbox = self.layout.sandbox(task);
        // One that is there was begun without a disk, and goes on so.
        let is_there = std::fs::symlink_metadata(&sandbox).is_ok_and(|it| it.is_dir());
        if !self.is_enforced || !has_disk(launch) || is_there {
            return Ok(());
        }
        {
            let mut uses = self.uses();
            if released.is_cancelled() {
                return Ok(());
            }
            uses.insert(task.clone(), Use::Task);
        }
        let made = self.make_in_room(launch).map_err(unavailable);
        let _moving = self.moving();
        let lives = self.uses().get(task) == Some(&Use::Task);
        let linked = match made {
            Ok(true) if lives => self.link(launch).map_err(not_linked),
            Ok(false) => {
                self.uses().remove(task);
                return Ok(());
            }
            made => made.map(drop),
        };
        // Of one that has ended meanwhile, whoever looked then found nothing to lay to rest.
        if linked.is_err() || !lives {
            self.uses().insert(task.clone(), Use::None);
        }
        linked
    }

    /// A task has ended: what its containers wrote goes, and its disk is laid to rest, at once or when
    /// nobody has it any more.
    pub fn end(&self, task: &TaskId) {
        match self.uses().get_mut(task) {
            Some(of) if *of == Use::Task => *of = Use::None,
            _ => return,
        }
        self.rest(task, 0);
    }

    /// Whether a task that runs has a disk.
    pub fn keep(&self, task: &TaskId) -> bool {
        self.uses().get(task) == Some(&Use::Task)
    }

    /// What such a task has on its disk.
    pub fn used(&self, task: &TaskId) -> Option<Bytes> {
        if !self.keep(task) {
            return None;
        }
        let room = self.bounds.usage(&task.to_string());
        Some(room.ok()??.used.bytes)
    }

    /// Has a task's sandbox ready to be read, whether the task lives or not.
    ///
    /// # Errors
    /// With what keeps it from that.
    pub fn show(self: &Arc<Self>, task: &TaskId) -> Result<Shown, Reason> {
        let plain = self.layout.sandbox(task);
        if !plain.is_symlink() {
            let (path, kept) = (plain, None);
            return Ok(Shown { path, kept });
        }
        let path = self.layout.task_disk(task).join(SANDBOX);
        let _moving = self.moving();
        match self.uses().get_mut(task) {
            // Whoever reads it has it open.
            Some(Use::Task) => return Ok(Shown { path, kept: None }),
            Some(Use::Readers(count, _)) => {
                *count += 1;
                let kept = Some((self.clone(), task.clone()));
                return Ok(Shown { path, kept });
            }
            Some(Use::None) | None => {}
        }
        self.make_way_to_show()?;
        self.bounds
            .show(&task.to_string())
            .map_err(|error| match error {
                BoundsError::Unknown(_) => Reason::new(
                    "file-missing",
                    "what was in the sandbox is gone: a later task needed its room",
                ),
                error => Reason::new("file-unreadable", said(error)),
            })?;
        let readers = Use::Readers(1, uptime::now_ms());
        self.uses().insert(task.clone(), readers);
        let kept = Some((self.clone(), task.clone()));
        Ok(Shown { path, kept })
    }

    /// Removes the disk of a task that has ended, if it has one.
    ///
    /// # Errors
    /// Those of the system; it can be tried again.
    pub fn remove(&self, task: &TaskId) -> Result<(), BoundsError> {
        self.uses().remove(task);
        self.bounds.remove(&task.to_string())
    }

    /// Lays to rest what nobody needs now: the agent ends.
    pub fn close(&self) {
        self.lay_to_rest(0);
    }

    /// The same of all: their tasks have been ended.
    pub fn close_all(&self) {
        for of in self.uses().values_mut().filter(|of| **of == Use::Task) {
            *of = Use::None;
        }
        self.lay_to_rest(0);
    }

    /// Ends what an earlier process has begun, and removes what no folder of a task leads to.
    fn sweep(&self) {
        let whole = match self.bounds.sweep() {
            Ok(whole) => whole,
            Err(error) => {
                return tracing::warn!(%error, "what is left of tasks' disks stays");
            }
        };
        for task in whole.iter().filter_map(|name| name.parse().ok()) {
            let is_needed = self.uses().get(&task) == Some(&Use::Task);
            if is_needed || self.layout.sandbox(&task).is_symlink() {
                continue;
            }
            if let Err(error) = self.remove(&task) {
                tracing::warn!(%task, "a disk stays: {}", said(error));
            }
        }
    }

    fn make_in_room(&self, launch: &TaskLaunch) -> Result<bool, BoundsError> {
        let task = &launch.task;
        let mut made = self.make_once(launch);
        if matches!(made, Err(BoundsError::Full { .. })) {
            // Those that have just ended have all of their room still.
            self.lay_to_rest(0);
            made = self.make_in_cleared_room(launch);
        }
        match made {
            Ok(made) => {
                tracing::debug!(%task, way = ?made.way, bytes = %made.bytes, "a disk is made");
                Ok(true)
            }
            Err(error) if error.cannot_enforce() => {
                let why = said(error);
                tracing::warn!(%task, "its size is measured, not enforced: {why}");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Makes a disk, and removes others that are at rest where it lacks room.
    fn make_in_cleared_room(&self, launch: &TaskLaunch) -> Result<Bounded, BoundsError> {
        let _clearing = self.clearing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut made = self.make_once(launch);
        let Some(missing) = missing(&made) else {
            return made;
        };
        for oldest in self.at_rest(missing)? {
            tracing::info!(
                task = oldest.name,
                "what was in its sandbox goes: others need the room"
            );
            if let Err(error) = self.bounds.remove(&oldest.name) {
                tracing::warn!(task = oldest.name, "its disk stays: {}", said(error));
                continue;
            }
            made = self.make_once(launch);
            if !matches!(made, Err(BoundsError::Full { .. })) {
                break;
            }
        }
        made
    }

    fn make_once(&self, launch: &TaskLaunch) -> Result<Bounded, BoundsError> {
        self.bounds.make(&Wanted {
            name: &launch.task.to_string(),
            at: &self.layout.task_disk(&launch.task),
            bytes: launch.resources.disk,
            enforce: Enforce::Enforced,
            life: Life::Scratch,
        })
    }

    /// The disks that nobody needs, that first which was written to or shown longest ago; none if all of
    /// them together have less than that.
    fn at_rest(&self, least: Bytes) -> Result<Vec<Kept>, BoundsError> {
        let mut kept = self.bounds.kept()?;
        {
            let uses = self.uses();
            kept.retain(|it| it.name.parse().is_ok_and(|task| !uses.contains_key(&task)));
        }
        kept.sort_by_key(|it| it.changed);
        let all = kept
            .iter()
            .map(|it| it.bytes.0)
            .fold(0, u64::saturating_add);
        if all < least.0 {
            kept.clear();
        }
        Ok(kept)
    }

    /// Has the executors find on the disk what they make beside a task's folder.
    fn link(&self, launch: &TaskLaunch) -> io::Result<()> {
        let Workload::Command(command) = &launch.spec.workload else {
            return Ok(());
        };
        let task = &launch.task;
        let disk = self.layout.task_disk(task);
        link_to(&disk.join(SANDBOX), &self.layout.sandbox(task))?;
        if command.container.is_none() {
            return Ok(());
        }
        let companions = command.companions().iter().map(|companion| {
            let folder = self.layout.companion_container(task, &companion.name);
            (companion.name.as_str(), folder)
        });
        let main = (MAIN, self.layout.container(task));
        for (name, folder) in companions.chain([main]) {
            for part in PARTS {
                link_to(&disk.join(LAYERS).join(name).join(part), &folder.join(part))?;
            }
        }
        Ok(())
    }

    fn lay_to_rest(&self, linger_ms: u64) {
        let tasks: Vec<TaskId> = self.uses().keys().cloned().collect();
        for task in tasks {
            self.rest(&task, linger_ms);
        }
    }

    fn rest(&self, task: &TaskId, linger_ms: u64) {
        if !self.is_due(task, linger_ms) {
            return;
        }
        self.remove_layers(task);
        let _moving = self.moving();
        // Somebody may have come to read it.
        if !self.is_due(task, linger_ms) {
            return;
        }
        match self.bounds.rest(&task.to_string()) {
            Ok(()) | Err(BoundsError::Unknown(_)) => {}
            Err(BoundsError::InUse(_)) => {
                return tracing::debug!(%task, "somebody has its disk still");
            }
            Err(error) => tracing::warn!(%task, "its disk stays mounted: {}", said(error)),
        }
        self.uses().remove(task);
    }

    /// What a task's containers wrote over their images is for nobody after its end.
    fn remove_layers(&self, task: &TaskId) {
        match remove_folder(&self.layout.task_disk(task).join(LAYERS)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::debug!(%task, %error, "a container's files go with its disk");
            }
            _ => {}
        }
    }

    fn is_due(&self, task: &TaskId, linger_ms: u64) -> bool {
        match self.uses().get(task) {
            Some(Use::None) => true,
            Some(Use::Readers(0, last_ms)) => uptime::now_ms() >= last_ms.saturating_add(linger_ms),
            Some(Use::Readers(..) | Use::Task) | None => false,
        }
    }

    /// Sees that one more disk may be mounted to be read; who was read longest ago makes way.
    fn make_way_to_show(&self) -> Result<(), Reason> {
        let oldest = {
            let uses = self.uses();
            let shown = uses.iter().filter_map(|(task, of)| match of {
                Use::Readers(count, last_ms) => Some((*count, *last_ms, task.clone())),
                Use::Task | Use::None => None,
            });
            let shown: Vec<_> = shown.collect();
            if shown.len() < MOST_SHOWN {
                return Ok(());
            }
            shown.into_iter().min()
        };
        if let Some((0, _, task)) = oldest
            && self.bounds.rest(&task.to_string()).is_ok()
        {
            self.uses().remove(&task);
            return Ok(());
        }
        let message = format!(
            "the sandboxes of {MOST_SHOWN} ended tasks are being read on this agent: try again in a moment"
        );
        Err(Reason::new("file-unreadable", message))
    }

    fn uses(&self) -> MutexGuard<'_, BTreeMap<TaskId, Use>> {
        // What it says is whole whatever panicked.
        self.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn moving(&self) -> MutexGuard<'_, ()> {
        self.moving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes a folder, and a link to it; one that is there is as good.
fn link_to(folder: &Path, link: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o755).create(folder)?;
    if let Some(above) = link.parent() {
        builder.create(above)?;
    }
    match symlink(folder, link) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            match std::fs::read_link(link)? == folder {
                true => Ok(()),
                false => Err(error),
            }
        }
        linked => linked,
    }
}

/// What there is too little for a disk, if it is room that it lacks.
fn missing(made: &Result<Bounded, BoundsError>) -> Option<Bytes> {
    let Err(BoundsError::Full {
        wanted,
        free,
        headroom,
        ..
    }) = made
    else {
        return None;
    };
    let needed = wanted.0.saturating_add(headroom.0);
    Some(Bytes(needed.saturating_sub(free.0)))
}

/// Why a task is not begun here: another agent may have what it needs.
fn unavailable(error: BoundsError) -> Reason {
    let code = match &error {
        BoundsError::Full { .. } => reason::AGENT_FULL,
        _ => reason::EXECUTOR_FAILED,
    };
    Reason::new(code, format!("its disk cannot be made: {}", said(error)))
}

fn not_linked(error: io::Error) -> Reason {
    let message = format!("its disk cannot be used: {error}");
    Reason::new(reason::EXECUTOR_FAILED, message)
}

fn said(error: BoundsError) -> String {
    format!("{:#}", anyhow::Error::from(error))
}
