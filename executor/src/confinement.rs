//! What an executor gives up, and with it every task that it starts: it needs none of it itself, and
//! to do it once costs each task nothing.
//!
//! Of the capabilities(7) of a program that runs as root those stay that decide about its own files,
//! users and ports. System calls for administrators are refused with `EPERM` by a seccomp(2) filter,
//! which is a second wall before the same things, and before parts of the kernel that ordinary
//! programs do not use. Programs of another architecture (32 bits) end there.

use std::collections::BTreeMap;
use std::io;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule,
};

/// Capabilities of a confined root.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SYS_CHROOT);
/// The kernel numbers them below this.
const CAPABILITIES: u32 = 64;

/// System calls with their names.
macro_rules! calls {
    ($($(#[$attribute:meta])* $call:ident),* $(,)?) => {
        &[$($(#[$attribute])* (libc::$call, stringify!($call))),*]
    };
}

/// Refused whatever their arguments are.
const REFUSED: &[(libc::c_long, &str)] = calls![
    // Time, names and the life of the machine.
    SYS_clock_adjtime,
    SYS_clock_settime,
    SYS_adjtimex,
    SYS_settimeofday,
    SYS_sethostname,
    SYS_setdomainname,
    SYS_reboot,
    SYS_kexec_load,
    SYS_kexec_file_load,
    SYS_init_module,
    SYS_finit_module,
    SYS_delete_module,
    SYS_swapon,
    SYS_swapoff,
    SYS_acct,
    SYS_quotactl,
    SYS_quotactl_fd,
    SYS_syslog,
    SYS_vhangup,
    // Mounts and namespaces.
    SYS_mount,
    SYS_umount2,
    SYS_pivot_root,
    SYS_fsopen,
    SYS_fsconfig,
    SYS_fsmount,
    SYS_fspick,
    SYS_move_mount,
    SYS_open_tree,
    SYS_mount_setattr,
    SYS_setns,
    SYS_open_by_handle_at,
    // Parts of the kernel with many doors.
    SYS_add_key,
    SYS_request_key,
    SYS_keyctl,
    SYS_bpf,
    SYS_perf_event_open,
    SYS_userfaultfd,
    SYS_io_uring_setup,
    SYS_io_uring_enter,
    SYS_io_uring_register,
    #[cfg(target_arch = "x86_64")]
    SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    SYS_ioperm,
];
/// Refused where the flags in their first argument ask for a user namespace, in which a program has
/// every capability.
const WITH_FLAGS: &[libc::c_long] = &[libc::SYS_clone, libc::SYS_unshare];

/// Why it could not.
#[derive(Debug, thiserror::Error)]
pub enum ConfinementError {
    /// The kernel did not let it.
    #[error("failed to {step}; `--task-privileges all` of the agent does without")]
    Kernel {
        /// What.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No filter can be written, as on an unknown architecture.
    #[error("failed to make a seccomp filter; `--task-privileges all` of the agent does without")]
    Filter(#[from] BackendError),
    /// The kernel took no filter.
    #[error("failed to be filtered; `--task-privileges all` of the agent does without")]
    Seccomp(#[from] seccompiler::Error),
}

/// Names of the capabilities that a confined root keeps, as capabilities(7) writes them but without
/// `CAP_`.
pub fn capability_names() -> impl Iterator<Item = &'static str> {
    KEPT.iter_names().map(|(name, _)| name)
}

/// Names of those that this process has, which tasks have that are not confined.
///
/// # Errors
/// When the kernel does not say.
pub fn own_capability_names() -> io::Result<impl Iterator<Item = &'static str>> {
    let own = rustix::thread::capabilities(None)?.permitted;
    Ok(own.iter_names().map(|(name, _)| name))
}

/// Names of the system calls that are refused whatever their arguments are.
pub fn refused_names() -> impl Iterator<Item = &'static str> {
    let names = REFUSED.iter().map(|(_, name)| *name);
    names.filter_map(|name| name.strip_prefix("SYS_"))
}

/// Gives up what confined tasks do not have.
///
/// # Errors
/// Every [`ConfinementError`]; some of it may be given up then.
pub fn confine() -> Result<(), ConfinementError> {
    let failed = |step| {
        move |errno: Errno| ConfinementError::Kernel {
            step,
            source: errno.into(),
        }
    };
    // A core would fill the sandbox.
    let none = Rlimit {
        current: Some(0),
        ..rustix::process::getrlimit(Resource::Core)
    };
    rustix::process::setrlimit(Resource::Core, none).map_err(failed("do without cores"))?;
    // Another user has none, and never gains any.
    if rustix::process::geteuid().is_root() {
        give_up_capabilities().map_err(failed("give up capabilities"))?;
    }
    for filter in filters()? {
        seccompiler::apply_filter(&filter)?;
    }
    Ok(())
}

/// Of what it executes: what it has itself, it keeps.
fn give_up_capabilities() -> Result<(), Errno> {
    for number in 0..CAPABILITIES {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if KEPT.contains(one) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(one) {
            // The kernel knows no more.
            Err(Errno::INVAL) => break,
            removed => removed?,
        }
    }
    let sets = CapabilitySets {
        inheritable: CapabilitySet::empty(),
        ..rustix::thread::capabilities(None)?
    };
    rustix::thread::set_capabilities(None, sets)
}

fn filters() -> Result<Vec<BpfProgram>, BackendError> {
    let namespace = SeccompCondition::new(
        0,
        SeccompCmpArgLen::Qword,
        SeccompCmpOp::MaskedEq(libc::CLONE_NEWUSER as u64),
        libc::CLONE_NEWUSER as u64,
    )?;
    let mut refused: BTreeMap<i64, Vec<SeccompRule>> = REFUSED
        .iter()
        .map(|(call, _)| (*call, Vec::new()))
        .collect();
    for call in WITH_FLAGS {
        refused.insert(*call, vec![SeccompRule::new(vec![namespace.clone()])?]);
    }
    // Its flags lie in memory, where no filter sees them. Whoever finds it missing takes `clone`.
    let missing = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let filter = |calls, errno: i32| {
        let arch = std::env::consts::ARCH.try_into()?;
        let answer = SeccompAction::Errno(errno as u32);
        BpfProgram::try_from(SeccompFilter::new(
            calls,
            SeccompAction::Allow,
            answer,
            arch,
        )?)
    };
    Ok(vec![
        filter(refused, libc::EPERM)?,
        filter(missing, libc::ENOSYS)?,
    ])
}
