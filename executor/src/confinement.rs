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

/// Refused whatever their arguments are.
const REFUSED: &[libc::c_long] = &[
    // Time, names and the life of the machine.
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_settimeofday,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_reboot,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    // Mounts and namespaces.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_mount_setattr,
    libc::SYS_setns,
    libc::SYS_open_by_handle_at,
    // Parts of the kernel with many doors.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
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
    let mut refused: BTreeMap<i64, Vec<SeccompRule>> =
        REFUSED.iter().map(|call| (*call, Vec::new())).collect();
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
