//! Limits of a container (getrlimit(2)) above those of this process.
//!
//! A runtime sets them as the container's root. That one may only lower what it has where its users are
//! none of the machine's own; and an agent may be less than root as well (CAP_SYS_RESOURCE).

use std::io;

use oci_spec::runtime::{PosixRlimit, Spec};

/// Lets this process, and all that it starts, have as much as the container is given.
///
/// # Errors
/// Says which limit cannot be, and what to do about it.
pub fn raise(spec: &Spec) -> Result<(), String> {
    let process = spec.process().as_ref();
    let limits = process.and_then(|process| process.rlimits().as_ref());
    let mut limits = limits.into_iter().flatten();
    limits.try_for_each(raise_one)
}

fn raise_one(wanted: &PosixRlimit) -> Result<(), String> {
    // They are numbered as the kernel does it.
    let number = wanted.typ() as libc::__rlimit_resource_t;
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: a number, and a structure that outlives the call.
    let read = unsafe { libc::getrlimit(number, &mut limit) };
    let most = limit.rlim_max;
    if read == 0 && most >= wanted.hard() {
        return Ok(());
    }
    limit.rlim_max = wanted.hard();
    // SAFETY: the same.
    if read == 0 && unsafe { libc::setrlimit(number, &limit) } == 0 {
        return Ok(());
    }
    let (name, hard, error) = (wanted.typ(), wanted.hard(), io::Error::last_os_error());
    Err(format!(
        "{name} cannot be {hard}: its agent may give {most} at most ({error}): ask for less, or start the \
         agent with more"
    ))
}
