//! Network namespaces with a name: made, kept by a bind mount, entered, removed.
//!
//! A namespace lives for as long as something holds it; here that is a mount of it on a file, so
//! that it outlives every process. Only threads that are made for it and then end are ever in
//! one: no thread of a pool is left in another namespace.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// What kind of file system a mounted namespace is on, by statfs(2).
const NSFS_MAGIC: libc::__fsword_t = 0x6e73_6673;
/// The calling thread's own; `/proc/self` would be the main thread's.
const OWN: &str = "/proc/thread-self/ns/net";

/// What goes wrong with namespaces.
#[derive(Debug, thiserror::Error)]
#[error("failed to {step} the network namespace {path}{}", advice(.source))]
pub struct NamespaceError {
    step: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl NamespaceError {
    fn new(step: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self {
            step,
            path: path.to_owned(),
            source: source.into(),
        }
    }

    /// The system's word.
    pub fn os_error(&self) -> &io::Error {
        &self.source
    }
}

fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => ": run the agent as root, or with CAP_SYS_ADMIN",
        _ => "",
    }
}

/// Makes a namespace with nothing but its `lo`, which is up, and mounts it on this new file.
pub(crate) fn create(path: &Path) -> Result<(), NamespaceError> {
    let error = |source: io::Error| NamespaceError::new("make", path, source);
    let mut options = OpenOptions::new();
    options
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(error)?;
    on_a_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        loopback_up()?;
        open_ports()?;
        mount(
            Some(OWN),
            path,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )?;
        Ok(())
    })
    .map_err(error)
}

/// Whether the file is a namespace: not after the machine was restarted.
pub(crate) fn is_alive(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|stat| stat.f_type == NSFS_MAGIC)
}

/// Takes the file away; the namespace ends with the last process in it. Does nothing if there is
/// none.
pub(crate) fn remove(path: &Path) -> Result<(), NamespaceError> {
    let error = |source: io::Error| NamespaceError::new("remove", path, source);
    if is_alive(path) {
        umount2(path, MntFlags::MNT_DETACH).map_err(|errno| error(errno.into()))?;
    }
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(error(source)),
        _ => Ok(()),
    }
}

/// Runs something in a namespace, on a thread of its own. Blocks until it is done.
pub(crate) fn within<T: Send>(
    path: &Path,
    run: impl FnOnce() -> io::Result<T> + Send,
) -> Result<T, NamespaceError> {
    let error = |source: io::Error| NamespaceError::new("enter", path, source);
    let namespace = File::open(path).map_err(error)?;
    on_a_thread(|| {
        setns(&namespace, CloneFlags::CLONE_NEWNET)?;
        run()
    })
    .map_err(error)
}

fn on_a_thread<T: Send>(run: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("namespace".into());
        let thread = thread.spawn_scoped(scope, run)?;
        let panicked = |_| Err(io::Error::other("its thread panicked"));
        thread.join().unwrap_or_else(panicked)
    })
}

/// Lets whoever is in the calling thread's namespace have any of its ports, and send echo requests: both
/// are its own, and need no privilege there, as other container engines have it.
fn open_ports() -> io::Result<()> {
    let ipv4 = Path::new("/proc/sys/net/ipv4");
    fs::write(ipv4.join("ip_unprivileged_port_start"), "0")?;
    fs::write(ipv4.join("ping_group_range"), "0 2147483647")
}

/// Brings the calling thread's `lo` up; it gets its addresses by that.
fn loopback_up() -> io::Result<()> {
    let any = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // SAFETY: `ifreq` is a C structure of numbers and arrays, for which zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed() as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one `ifreq`, which lives until the call returns, and whose name
    // ends with the zeroes behind it.
    match unsafe { libc::ioctl(any.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
