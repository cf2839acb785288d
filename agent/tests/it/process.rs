//! An agent process in a folder of its own. Whatever happens to the test, its
//! executors, tasks and cgroups are gone at the end.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tepui_agent::identity::Identity;
use tepui_agent::sandbox::Layout;
use tepui_executor::packs;
use tepui_quota::{Bounds, Settings};
use tepui_types::wire::executor::ProcessIdentity;
use tepui_types::wire::stream;
use tepui_types::{Bytes, TaskId};

use crate::master::{FakeMaster, eventually};

/// A data folder with, mostly, a living agent.
pub struct AgentProcess {
    place: TempDir,
    /// Its data folder, where that is elsewhere.
    elsewhere: Option<PathBuf>,
    arguments: &'static [&'static str],
    /// A script that it is started by, in mounts of its own.
    machine: Option<&'static str>,
    child: Option<Child>,
}

/// The binary under test.
pub fn command(dir: &Path, master: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tepui-agent"));
    command.arg("--dir").arg(dir).args(["--master", master]);
    command.args(["--resources", "cpus=2,mem=1GiB,disk=1GiB"]);
    command.env_remove("TEPUI_MASTER").env("TEPUI_LOG", "debug");
    command
}

/// The same command, executed by a shell that has mounts of its own and has run this script in them.
fn in_own_mounts(command: &Command, script: &str) -> Command {
    let mut unshare = Command::new("unshare");
    let script = format!("{script}\nexec \"$0\" \"$@\"");
    unshare.args(["--mount", "sh", "-c", &script]);
    unshare.arg(command.get_program()).args(command.get_args());
    unshare.env_remove("TEPUI_MASTER").env("TEPUI_LOG", "debug");
    unshare
}

impl AgentProcess {
    pub fn start(master: &FakeMaster) -> Self {
        Self::start_with(master, &[])
    }

    pub fn start_with(master: &FakeMaster, arguments: &'static [&'static str]) -> Self {
        Self::start_as(master, None, arguments, None)
    }

    /// With a data folder that the caller takes away, or one of its own.
    pub fn start_in(
        master: &FakeMaster,
        elsewhere: Option<PathBuf>,
        arguments: &'static [&'static str],
    ) -> Self {
        Self::start_as(master, elsewhere, arguments, None)
    }

    /// One that sees of its machine what the script has left it of that.
    pub fn start_on(
        master: &FakeMaster,
        machine: &'static str,
        arguments: &'static [&'static str],
    ) -> Self {
        Self::start_as(master, None, arguments, Some(machine))
    }

    fn start_as(
        master: &FakeMaster,
        elsewhere: Option<PathBuf>,
        arguments: &'static [&'static str],
        machine: Option<&'static str>,
    ) -> Self {
        let mut this = Self {
            place: tempfile::tempdir().unwrap(),
            elsewhere,
            arguments,
            machine,
            child: None,
        };
        this.start_again(master);
        this
    }

    pub fn start_again(&mut self, master: &FakeMaster) {
        assert!(self.child.is_none(), "it runs");
        let log = std::fs::File::options()
            .append(true)
            .create(true)
            .open(self.place.path().join("agent.log"))
            .unwrap();
        let mut command = command(&self.dir(), &master.url);
        command.args(self.arguments);
        if let Some(machine) = self.machine {
            command = in_own_mounts(&command, machine);
        }
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    /// Its data folder; its log is not in it.
    pub fn dir(&self) -> PathBuf {
        let own = || self.place.path().join("agent");
        self.elsewhere.clone().unwrap_or_else(own)
    }

    pub fn layout(&self) -> Layout {
        Layout::new(self.dir())
    }

    /// A task's standard output, from its file or out of a pack.
    pub fn stdout(&self, task: &TaskId) -> String {
        String::from_utf8(self.written(task)).unwrap()
    }

    /// The same, byte by byte.
    pub fn written(&self, task: &TaskId) -> Vec<u8> {
        let file = std::fs::read(self.layout().output(task, None, stream::Output::Stdout));
        let packed = || packs::find(&self.layout().packs(), task).ok().flatten();
        let bytes = file.ok().or_else(|| Some(packed()?.stdout));
        bytes.unwrap_or_default()
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.as_ref().unwrap().id() as i32)
    }

    /// kill -9.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// What it is started with from the next time on.
    pub fn set_arguments(&mut self, arguments: &'static [&'static str]) {
        self.arguments = arguments;
    }

    /// SIGTERM; true if it then ends with success.
    pub async fn stop(&mut self) -> bool {
        kill(self.pid(), Signal::SIGTERM).unwrap();
        let mut child = self.child.take().unwrap();
        let mut success = false;
        eventually("the agent ends", || match child.try_wait().unwrap() {
            Some(status) => {
                success = status.success();
                true
            }
            None => false,
        })
        .await;
        success
    }

    /// The living executors.
    pub fn executors(&self) -> Vec<ProcessIdentity> {
        let entries = std::fs::read_dir(self.layout().executors())
            .into_iter()
            .flatten()
            .flatten();
        let identity =
            |entry: std::fs::DirEntry| tepui_executor::identity::read(&entry.path()).ok().flatten();
        entries
            .filter_map(identity)
            .filter(tepui_executor::identity::is_alive)
            .collect()
    }

    /// The processes in the agent's cgroups; none if it has no cgroups.
    pub fn processes_in_cgroups(&self) -> Vec<i32> {
        let name = std::fs::read_to_string(self.layout().dir().join("cgroup"));
        let parent = |root| name.as_ref().ok().map(|name| Path::new(root).join(name));
        let roots = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"];
        let folders = roots.into_iter().filter_map(parent);
        let folders = folders.filter_map(|parent| std::fs::read_dir(parent).ok());
        let folders = folders.flatten().flatten().map(|entry| entry.path());
        let lists =
            folders.filter_map(|dir| std::fs::read_to_string(dir.join("cgroup.procs")).ok());
        lists
            .flat_map(|list| {
                list.lines()
                    .filter_map(|pid| pid.parse().ok())
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.place.path().join("agent.log")).unwrap_or_default()
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        self.kill();
        for executor in self.executors() {
            let _ = kill(Pid::from_raw(executor.pid), Signal::SIGKILL);
        }
        if let Ok(identity) = Identity::load_or_create(&self.layout())
            && let Ok(Some(parent)) = tepui_agent::cgroups::parent(&self.layout(), &identity)
        {
            let _ = tepui_executor::cgroup::destroy(&parent, Duration::from_secs(10));
        }
        let layout = self.layout();
        let disks = (None, layout.tasks(), layout.task_disks());
        for (_, folder, store) in layout.volume_disks().chain([disks]) {
            if store.exists() {
                clear(&folder, &store);
            }
        }
        // Namespaces of tasks that ran to the end of the test; their devices go with them.
        let networks = std::fs::read_dir(self.layout().networks());
        for network in networks.into_iter().flatten().flatten() {
            let _ = umount2(&network.path().join("netns"), MntFlags::MNT_DETACH);
        }
        if std::thread::panicking() {
            eprintln!("--- the agent's log ---\n{}", self.log());
        }
    }
}

/// The folders with a size that are kept there.
pub fn bounds(folder: &Path, store: &Path) -> Bounds {
    Bounds::new(Settings {
        store: store.to_owned(),
        places: vec![folder.to_owned()],
        headroom: Bytes(0),
        whole_images: true,
        remove_folder: |path| std::fs::remove_dir_all(path),
    })
    .unwrap()
}

/// Removes all bounded folders that an agent has left, with their mounts.
pub fn clear(folder: &Path, store: &Path) {
    let bounds = bounds(folder, store);
    for name in bounds.sweep().unwrap_or_default() {
        let _ = bounds.remove(&name);
    }
    let _ = bounds.release();
    // Where somebody is still there.
    let _ = umount2(folder, MntFlags::MNT_DETACH);
}

/// Runs an agent that is expected to end by itself.
pub async fn run_to_end(mut command: Command) -> Output {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut ended = false;
    for _ in 0..600 {
        ended = child.try_wait().unwrap().is_some();
        if ended {
            break;
        }
        // sleep: between two looks.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    if !ended {
        let _ = child.kill();
    }
    let output = child.wait_with_output().unwrap();
    assert!(
        ended,
        "it went on: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Whether a process of this number is alive and no zombie.
pub fn is_alive(pid: i32) -> bool {
    tepui_executor::identity::of(pid).unwrap().is_some()
}
