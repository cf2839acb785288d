//! The user namespace of a task's containers (user_namespaces(7)), and what else has to be its own.
//!
//! Their root is a user of the machine that nobody else is. What a process in there may do, the kernel
//! asks of the namespace that owns the thing: so their other namespaces are made within it, and what
//! belongs to the machine (its network, the files of an image) is entered or mounted before, by who is
//! root of the machine. This process makes it, keeps it open, and stays in none of them.

use std::fs::{self, DirBuilder, File};
use std::io::{self, PipeReader, Read, Write, pipe};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Gid, Pid, Uid, fork, setgroups, setresgid, setresuid};
use oci_spec::runtime::User;
use tepui_types::Reason;
use tepui_types::container::{Container, Userns};
use tepui_types::task::reason;
use tepui_types::wire::executor::{ExecutorLaunch, UserRange};

use crate::root;

/// Where what such containers are given is mounted, in this process's own mounts: their root looks paths
/// up as another user, for whom the agent's folders are closed. On the machine it is an empty folder.
const STAGE: &str = "/run/tepui-containers";
/// The largest file there is nothing, and few folders are.
const STAGE_OPTIONS: &str = "mode=755,size=16m";

/// The namespace.
#[derive(Debug)]
pub struct UserNamespace {
    file: OwnedFd,
    range: UserRange,
}

impl UserNamespace {
    /// That of a task's containers, if their users are to be none of the machine's own.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn of(launch: &ExecutorLaunch, container: &Container) -> Result<Option<Self>, Reason> {
        let failed = |why: String| Reason::new(reason::EXECUTOR_FAILED, why);
        match (container.userns, launch.users) {
            (Userns::Host, _) => Ok(None),
            (Userns::Private, None) => Err(failed("its users were not prepared".into())),
            (Userns::Private, Some(range)) => match Self::make(range) {
                Ok(made) => Ok(Some(made)),
                Err(error) => Err(failed(format!("its user namespace: {error}"))),
            },
        }
    }

    /// Makes one with these users. From now on this process has mounts of its own.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn make(range: UserRange) -> io::Result<Self> {
        root::leave_mounts()?;
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o755).create(STAGE)?;
        let kind = Some("tmpfs");
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(kind, STAGE, kind, flags, Some(STAGE_OPTIONS))?;
        let founder = Founder::make(|| Ok(unshare(CloneFlags::CLONE_NEWUSER)?))?;
        let map = format!("0 {} {}", range.first, range.count);
        for name in ["uid_map", "gid_map"] {
            fs::write(founder.file(name), &map)?;
        }
        let file = File::open(founder.file("ns/user"))?.into();
        Ok(Self { file, range })
    }

    /// Its users.
    pub fn range(&self) -> UserRange {
        self.range
    }

    /// The machine's ids of its root.
    pub fn root(&self) -> (u32, u32) {
        (self.range.first, self.range.first)
    }

    /// The machine's ids of a user and a group of it.
    ///
    /// # Errors
    /// Says which has none.
    pub fn of_machine(&self, uid: u32, gid: u32) -> Result<(u32, u32), String> {
        let of = |what: &str, id| {
            let count = self.range.count;
            let missing = || {
                format!(
                    "{what} {id} is none of the {count} that this container has: run as one below, or \
                     leave out `userns`"
                )
            };
            self.range.of_machine(id).ok_or_else(missing)
        };
        Ok((of("user", uid)?, of("group", gid)?))
    }

    /// Its file.
    pub fn file(&self) -> &OwnedFd {
        &self.file
    }

    /// The folder where a member's things are mounted.
    pub fn stage(&self, member: &str) -> PathBuf {
        Path::new(STAGE).join(member)
    }

    /// New namespaces that are its own, in which that was done: the files of these names.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn found<const N: usize>(
        &self,
        flags: CloneFlags,
        names: [&str; N],
        within: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<[OwnedFd; N]> {
        let founder = Founder::make(|| {
            setns(&self.file, CloneFlags::CLONE_NEWUSER)?;
            unshare(flags)?;
            within()
        })?;
        let mut files = Vec::with_capacity(N);
        for name in names {
            files.push(File::open(founder.file(&format!("ns/{name}")))?.into());
        }
        let wrong = |_| io::Error::other("as many files as names");
        files.try_into().map_err(wrong)
    }
}

/// Has this process, which has one thread, be that user of that namespace from now on.
///
/// # Errors
/// When the kernel refuses.
pub fn join(users: BorrowedFd<'_>, user: &User) -> io::Result<()> {
    setns(users, CloneFlags::CLONE_NEWUSER)?;
    let (uid, gid) = (Uid::from_raw(user.uid()), Gid::from_raw(user.gid()));
    let groups = user.additional_gids().iter().flatten();
    let groups: Vec<_> = groups.copied().map(Gid::from_raw).collect();
    setgroups(&groups)?;
    setresgid(gid, gid, gid)?;
    Ok(setresuid(uid, uid, uid)?)
}

/// A process that is in new namespaces, until they are open elsewhere; ended and reaped when dropped.
struct Founder {
    pid: Pid,
    /// Closed, it ends.
    hold: Option<io::PipeWriter>,
}

impl Founder {
    /// One that has done that.
    fn make(enter: impl FnOnce() -> io::Result<()>) -> io::Result<Self> {
        let (mut said, mut say) = pipe()?;
        let (held, hold) = pipe()?;
        // SAFETY: this process has one thread, so the other may do anything.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => {
                drop(say);
                let founder = Self {
                    pid: child,
                    hold: Some(hold),
                };
                let mut errno = [0; size_of::<i32>()];
                said.read_exact(&mut errno)?;
                match i32::from_ne_bytes(errno) {
                    0 => Ok(founder),
                    errno => Err(io::Error::from_raw_os_error(errno)),
                }
            }
            ForkResult::Child => {
                drop(hold);
                let entered = set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from);
                let entered = entered.and_then(|()| enter());
                let errno = match entered {
                    Ok(()) => 0,
                    Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
                };
                // Who does not read it has ended.
                let _ = say.write_all(&errno.to_ne_bytes());
                wait_for_its_end(held);
                // SAFETY: it ends this process at once: what it shares with the executor is not touched.
                unsafe { libc::_exit(0) }
            }
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        Path::new("/proc").join(self.pid.to_string()).join(name)
    }
}

impl Drop for Founder {
    fn drop(&mut self) {
        self.hold = None;
        // Nobody else waits for children now: this process has one thread.
        let _ = waitpid(self.pid, None);
    }
}

fn wait_for_its_end(mut held: PipeReader) {
    let _ = held.read(&mut [0]);
}
