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
use tepui_types::container::{Container, Namespace, Network};

use crate::root;
use crate::users::Account;

/// The folder of their shared memory, beside the sandbox.
const SHM: &str = "shm";
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
    /// Makes it, for containers like that of the task's command, which has that name. From now on
    /// this process has mounts of its own.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn make(container: &Container, hostname: &str, beside: &Path) -> io::Result<Self> {
        root::leave_mounts()?;
        let is_own = |namespace| !container.share.contains(&namespace);
        let ipc = is_own(Namespace::Ipc).then(|| made(CloneFlags::CLONE_NEWIPC, "ipc", || Ok(())));
        let named = || Ok(sethostname(hostname)?);
        let uts = is_own(Namespace::Uts).then(|| made(CloneFlags::CLONE_NEWUTS, "uts", named));
        let (ipc, uts) = (ipc.transpose()?, uts.transpose()?);
        let network = match container.network {
            Network::None => Some(made(CloneFlags::CLONE_NEWNET, "net", loopback_up)?),
            // The machine's, or one that the agent has made.
            Network::Host | Network::Named(_) => None,
        };
        let shm = ipc.is_some().then(|| make_shm(beside)).transpose()?;
        Ok(Self {
            network,
            ipc,
            uts,
            shm,
            owner: None,
        })
    }

    /// The file of their network namespace, where it is theirs alone.
    pub fn network(&self) -> Option<PathBuf> {
        self.network.as_ref().map(path)
    }

    /// The file of a namespace, unless it is the machine's or each container's own.
    pub fn namespace(&self, namespace: Namespace) -> Option<PathBuf> {
        match namespace {
            Namespace::Pid => None,
            Namespace::Ipc => self.ipc.as_ref().map(path),
            Namespace::Uts => self.uts.as_ref().map(path),
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

/// Who opens it has the namespace.
fn path(namespace: &OwnedFd) -> PathBuf {
    let this = std::process::id();
    PathBuf::from(format!("/proc/{this}/fd/{}", namespace.as_raw_fd()))
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

fn make_shm(beside: &Path) -> io::Result<PathBuf> {
    let folder = beside.join(SHM);
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o755).create(&folder)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(
        Some("tmpfs"),
        &folder,
        Some("tmpfs"),
        flags,
        Some(SHM_OPTIONS),
    )?;
    Ok(folder)
}
