//! What the containers of one task have in common: the network, names, shared memory and queues, and
//! whose the sandbox is.
//!
//! This process makes their namespaces and keeps them open, so that they last from the first of the
//! containers to the last, and end with it. It does not stay in any of them.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::sethostname;
use tepui_types::Reason;
use tepui_types::container::{Container, Namespace, Network};
use tepui_types::task::reason;
use tepui_types::wire::executor::ExecutorLaunch;

use crate::userns::UserNamespace;
use crate::users::Account;
use crate::{root, spec};

/// The folder of their shared memory, beside the sandbox.
const SHM: &str = "shm";
/// The same among what is mounted for users of their own; no member has that name.
const SHM_STAGE: &str = "all.shm";
/// Bytes of shared memory and its mode, as each container has alone.
const SHM_OPTIONS: &str = "mode=1777,size=64m";

/// What they have in common.
pub struct Shared {
    network: Option<OwnedFd>,
    ipc: Option<OwnedFd>,
    uts: Option<OwnedFd>,
    shm: Option<PathBuf>,
    /// Whose the sandbox is.
    owner: Option<(u32, u32)>,
}

impl Shared {
    /// Makes it, for containers like that of the task's command, with these users if they are none of
    /// the machine's own. From now on this process has mounts of its own.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn of(
        launch: &ExecutorLaunch,
        container: &Container,
        users: Option<&UserNamespace>,
    ) -> Result<Self, Reason> {
        let sandbox = Path::new(&launch.sandbox);
        let beside = sandbox.parent().unwrap_or(sandbox);
        let hostname = spec::hostname(&launch.launch, container);
        let made = match users {
            Some(users) => Self::of_users(container, &hostname, users),
            None => Self::of_machine(container, &hostname, beside),
        };
        made.map_err(|error| {
            let message = format!("the containers' network and names: {error}");
            Reason::new(reason::EXECUTOR_FAILED, message)
        })
    }

    fn of_machine(container: &Container, hostname: &str, beside: &Path) -> io::Result<Self> {
        root::leave_mounts()?;
        let is_own = |namespace| !container.share.contains(&namespace);
        let ipc = is_own(Namespace::Ipc).then(|| made(CloneFlags::CLONE_NEWIPC, "ipc", || Ok(())));
        let named = || Ok(sethostname(hostname)?);
        let uts = is_own(Namespace::Uts).then(|| made(CloneFlags::CLONE_NEWUTS, "uts", named));
        let (ipc, uts) = (ipc.transpose()?, uts.transpose()?);
        let network = network_of(container, None)?;
        let shm = || make_shm(beside.join(SHM), (0, 0));
        let shm = ipc.is_some().then(shm).transpose()?;
        Ok(Self {
            network,
            ipc,
            uts,
            shm,
            owner: None,
        })
    }

    /// These share nothing with the machine but its network.
    fn of_users(container: &Container, hostname: &str, users: &UserNamespace) -> io::Result<Self> {
        let flags = CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
        let [ipc, uts] = users.found(flags, ["ipc", "uts"], || Ok(sethostname(hostname)?))?;
        Ok(Self {
            network: network_of(container, Some(users))?,
            ipc: Some(ipc),
            uts: Some(uts),
            shm: Some(make_shm(users.stage(SHM_STAGE), users.root())?),
            owner: None,
        })
    }

    /// The file of their network namespace, where it is theirs alone.
    pub fn network(&self) -> Option<&OwnedFd> {
        self.network.as_ref()
    }

    /// The file of a namespace, unless it is the machine's or each container's own.
    pub fn namespace(&self, namespace: Namespace) -> Option<&OwnedFd> {
        match namespace {
            Namespace::Pid => None,
            Namespace::Ipc => self.ipc.as_ref(),
            Namespace::Uts => self.uts.as_ref(),
        }
    }

    /// The folder that all have as `/dev/shm`.
    pub fn shm(&self) -> Option<&Path> {
        self.shm.as_deref()
    }

    /// Lets one more user write to the sandbox. Where there are several users, each keeps what it
    /// writes from the others, as in `/tmp`.
    pub fn open_sandbox(&mut self, sandbox: &Path, account: &Account) -> io::Result<()> {
        let (uid, gid) = (account.uid, account.gid);
        match self.owner {
            None => chown(sandbox, Some(uid), Some(gid))?,
            Some(owner) if owner == (uid, gid) => return Ok(()),
            Some(_) => {
                // Who owns such a folder may remove what is in it.
                chown(sandbox, Some(0), Some(0))?;
                let mode = std::fs::Permissions::from_mode(0o1777);
                return std::fs::set_permissions(sandbox, mode);
            }
        }
        self.owner = Some((uid, gid));
        Ok(())
    }
}

/// A network with loopback alone, where the container asks for that: the runtimes leave it down, or do
/// not, as they like.
pub fn network_of(
    container: &Container,
    users: Option<&UserNamespace>,
) -> io::Result<Option<OwnedFd>> {
    let flag = CloneFlags::CLONE_NEWNET;
    match (&container.network, users) {
        // The machine's, or one that the agent has made.
        (Network::Host | Network::Named(_), _) => Ok(None),
        (Network::None, None) => made(flag, "net", loopback_up).map(Some),
        (Network::None, Some(users)) => {
            let [network] = users.found(flag, ["net"], loopback_up)?;
            Ok(Some(network))
        }
    }
}

/// A new namespace, in which that was done.
fn made(
    flag: CloneFlags,
    name: &str,
    within: impl FnOnce() -> io::Result<()>,
) -> io::Result<OwnedFd> {
    let present = Path::new("/proc/self/ns").join(name);
    let before = File::open(&present)?;
    unshare(flag)?;
    let new = within().and_then(|()| File::open(&present));
    setns(&before, flag)?;
    Ok(new?.into())
}

/// Lets the loopback device of this process's network be used.
fn loopback_up() -> io::Result<()> {
    // SAFETY: it takes numbers alone; what it gives is nobody else's.
    let socket = unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        match socket {
            0.. => OwnedFd::from_raw_fd(socket),
            _ => return Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: all zeroes are a value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, byte) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *byte as libc::c_char;
    }
    // The device has these two when it is up, and no others that could be lost.
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the structure is the one that this request reads, and outlives the call.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) } {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn make_shm(folder: PathBuf, (uid, gid): (u32, u32)) -> io::Result<PathBuf> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o755).create(&folder)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(
        Some("tmpfs"),
        &folder,
        Some("tmpfs"),
        flags,
        Some(format!("{SHM_OPTIONS},uid={uid},gid={gid}").as_str()),
    )?;
    Ok(folder)
}
