//! What of bpf(2) is needed to have a program decide about the devices of a cgroup.
//!
//! Attributes are laid out as `union bpf_attr` of `linux/bpf.h` has them for each command; a kernel takes
//! shorter and longer ones than its own, if what it does not know is zero.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::program::Instruction;

/// Commands of bpf(2).
const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const PROG_DETACH: libc::c_long = 9;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const PROG_QUERY: libc::c_long = 16;
/// `BPF_PROG_TYPE_CGROUP_DEVICE`.
const TYPE_CGROUP_DEVICE: u32 = 15;
/// `BPF_CGROUP_DEVICE`.
const ATTACH_CGROUP_DEVICE: u32 = 6;
/// Others in the cgroup and below it count as well: whoever makes containers in a task's cgroup, if it
/// may, can restrict them further.
const ALLOW_MULTI: u32 = 2;
/// The most programs of a cgroup, says the kernel.
const MAX_PROGRAMS: usize = 64;
/// What the kernel shows of a program, as in `bpftool prog`.
const NAME: &[u8; 16] = b"tepui_devices\0\0\0";
/// For programs that call no function of the kernel's any licence will do.
const LICENCE: &[u8; 11] = b"Apache-2.0\0";

#[repr(C)]
#[derive(Default)]
struct Load {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    licence: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

#[repr(C)]
#[derive(Default)]
struct Attach {
    cgroup: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct Query {
    cgroup: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    _unused: u32,
    program_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// From Linux 6.17 on the kernel writes `revision`, however short the attributes are said to be.
const _: () = assert!(size_of::<Query>() == 64);

#[repr(C)]
#[derive(Default)]
struct GetFd {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// Has the kernel check a program and keep it as long as it is attached, or the descriptor open.
///
/// # Errors
/// Where this process may not, or the kernel knows no such programs.
pub(super) fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    match load_once(program) {
        // Before Linux 5.11 programs count as locked memory.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            with_locked_memory(|| load_once(program))
        }
        loaded => loaded,
    }
}

fn load_once(program: &[Instruction]) -> io::Result<OwnedFd> {
    let mut attributes = Load {
        program_type: TYPE_CGROUP_DEVICE,
        instruction_count: u32::try_from(program.len()).map_err(io::Error::other)?,
        instructions: program.as_ptr() as u64,
        licence: LICENCE.as_ptr() as u64,
        name: *NAME,
        ..Load::default()
    };
    // SAFETY: both pointers lead to what lives until the call returns, of the length that is said or
    // closed by a NUL.
    let fd = unsafe { bpf(PROG_LOAD, &mut attributes) }?;
    // SAFETY: it was just opened, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Has the program decide about that cgroup, and takes away those that did before. Meanwhile both must
/// allow something.
///
/// # Errors
/// When the kernel refuses; earlier ones may still be there then.
pub(super) fn replace(cgroup: &File, program: &OwnedFd) -> io::Result<()> {
    let earlier = attached(cgroup)?;
    change(PROG_ATTACH, cgroup, program, ALLOW_MULTI)?;
    for id in earlier {
        change(PROG_DETACH, cgroup, &open(id)?, 0)?;
    }
    Ok(())
}

/// The programs of that cgroup itself.
fn attached(cgroup: &File) -> io::Result<Vec<u32>> {
    let mut ids = [0_u32; MAX_PROGRAMS];
    let mut attributes = Query {
        cgroup: number(cgroup.as_raw_fd())?,
        attach_type: ATTACH_CGROUP_DEVICE,
        ids: ids.as_mut_ptr() as u64,
        count: MAX_PROGRAMS as u32,
        ..Query::default()
    };
    // SAFETY: the kernel writes at most `count` numbers, for which there is room until the call returns;
    // of the attributes it writes `attach_flags`, `count` and `revision`, all of which `Query` has.
    unsafe { bpf(PROG_QUERY, &mut attributes) }?;
    let count = usize::try_from(attributes.count).unwrap_or(MAX_PROGRAMS);
    Ok(ids.into_iter().take(count).collect())
}

fn open(id: u32) -> io::Result<OwnedFd> {
    let mut attributes = GetFd {
        id,
        ..GetFd::default()
    };
    // SAFETY: there is no pointer in it.
    let fd = unsafe { bpf(PROG_GET_FD_BY_ID, &mut attributes) }?;
    // SAFETY: it was just opened, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn change(command: libc::c_long, cgroup: &File, program: &OwnedFd, flags: u32) -> io::Result<()> {
    let mut attributes = Attach {
        cgroup: number(cgroup.as_raw_fd())?,
        program: number(program.as_raw_fd())?,
        attach_type: ATTACH_CGROUP_DEVICE,
        flags,
    };
    // SAFETY: there is no pointer in it.
    unsafe { bpf(command, &mut attributes) }.map(drop)
}

fn number(fd: RawFd) -> io::Result<u32> {
    u32::try_from(fd).map_err(io::Error::other)
}

/// Calls the kernel.
///
/// # Safety
/// `attributes` must be those of the command as `union bpf_attr` has them, as far as the kernel may write
/// to them, which it does whatever size it is told; and what they point to must be there until this
/// returns, for the kernel to read or to write as the command does.
unsafe fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<RawFd> {
    let attributes: *mut T = attributes;
    // SAFETY: the caller vouches for what they hold and that all that the kernel writes is in them.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    RawFd::try_from(result).map_err(io::Error::other)
}

/// Does it while this process may lock as much memory as it wants, if it can have that. What it starts
/// later inherits nothing of it.
fn with_locked_memory<T>(act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let before = getrlimit(Resource::Memlock);
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };
    setrlimit(Resource::Memlock, unlimited)?;
    let result = act();
    // It was set a moment ago.
    let _ = setrlimit(Resource::Memlock, before);
    result
}
