//! What a command's end means: success, or a reason and an exit code.
//!
//! A pure function of how the process ended and what its cgroup counted. The limits come first, then
//! the command's own word. What that means for its task is [`supervision`](crate::supervision)'s.

use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use tepui_types::task::reason;
use tepui_types::{Bytes, Reason, TaskState};

/// What is known at a command's end.
pub struct Facts {
    /// How its first process ended.
    pub status: WaitStatus,
    /// Processes killed for memory.
    pub oom_kills: u64,
    /// Processes refused.
    pub refused_pids: u64,
    /// The memory that it was allowed.
    pub mem: Bytes,
    /// The processes and threads that it was allowed.
    pub pids: u32,
    /// What it was given of the disk, if its sandbox is full.
    pub full_disk: Option<Bytes>,
}

/// How a command has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Why that is no success; none where it is one.
    pub reason: Option<Reason>,
    /// The same in words, also of a success.
    pub how: String,
    /// The code it exited with, if it exited.
    pub exit_code: Option<i32>,
}

/// How a task has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Its last state.
    pub state: TaskState,
    /// Why, where that is not plain.
    pub reason: Option<Reason>,
    /// The code it exited with, if it exited.
    pub exit_code: Option<i32>,
}

/// What a command's end was.
pub fn of(facts: &Facts) -> End {
    let (how, exit_code) = describe(facts.status);
    let reason = match exit_code {
        Some(0) => None,
        _ => Some(failure(facts, &how, exit_code)),
    };
    End {
        how: reason.as_ref().map_or(how, |reason| reason.message.clone()),
        reason,
        exit_code,
    }
}

fn failure(facts: &Facts, how: &str, exit_code: Option<i32>) -> Reason {
    let (mem, pids) = (facts.mem, facts.pids);
    if facts.oom_kills > 0 {
        let message = format!("it used more than its memory limit of {mem}; {how}");
        Reason::new(reason::MEMORY_LIMIT, message)
    } else if facts.refused_pids > 0 {
        let message =
            format!("it wanted more than its limit of {pids} processes and threads; {how}");
        Reason::new(reason::PIDS_LIMIT, message)
    } else if let Some(disk) = facts.full_disk {
        let message = format!(
            "its sandbox is full, with {disk} that it was given of the disk: ask for more (`--disk`), or \
             have it remove what it does not need; {how}"
        );
        Reason::new(reason::DISK_LIMIT, message)
    } else if exit_code.is_some() {
        Reason::new(reason::EXIT_CODE, how)
    } else {
        Reason::new(reason::SIGNAL, how)
    }
}

/// Why a command was not started, which may be that processes of it were killed for memory: whoever starts
/// it often knows no more than that they are gone.
pub fn refused(reason: Reason, oom_kills: u64, mem: Bytes) -> Reason {
    match (oom_kills, reason.code.as_str()) {
        (1.., _) | (_, reason::MEMORY_LIMIT) => too_little(mem),
        (0, _) => reason,
    }
}

/// The reason of what has too little memory to be started.
pub fn too_little(mem: Bytes) -> Reason {
    let message = format!(
        "its memory limit of {mem} is too small to start the command: ask for more (`--mem`)"
    );
    Reason::new(reason::MEMORY_LIMIT, message)
}

/// The reason of an end that was asked for by that code; `how` is how the command itself ended, if
/// it had begun.
pub fn asked_for(code: &str, how: Option<&str>) -> Reason {
    let why = match code {
        reason::KILL_REQUESTED => "its end was asked for",
        _ => "its executor was told to end",
    };
    let how = how.unwrap_or("the command did not run");
    Reason::new(code, format!("{why}; {how}"))
}

fn describe(status: WaitStatus) -> (String, Option<i32>) {
    match status {
        WaitStatus::Exited(_, code) => (format!("the command exited with code {code}"), Some(code)),
        WaitStatus::Signaled(_, signal, core) => {
            let core = if core { " and left a core" } else { "" };
            (
                format!("the command was ended by {}{core}", name(signal)),
                None,
            )
        }
        other => (
            format!("the command ended in an unknown way ({other:?})"),
            None,
        ),
    }
}

fn name(signal: Signal) -> &'static str {
    signal.as_str()
}

#[cfg(test)]
mod tests {
    use nix::unistd::Pid;

    use super::*;

    fn facts(status: WaitStatus) -> Facts {
        Facts {
            status,
            oom_kills: 0,
            refused_pids: 0,
            mem: Bytes::mib(32),
            pids: 8,
            full_disk: None,
        }
    }

    fn exited(code: i32) -> WaitStatus {
        WaitStatus::Exited(Pid::from_raw(1), code)
    }

    fn signaled(signal: Signal) -> WaitStatus {
        WaitStatus::Signaled(Pid::from_raw(1), signal, false)
    }

    #[track_caller]
    fn check(facts: Facts, code: &str, message: &str) {
        let reason = of(&facts).reason.unwrap();
        assert_eq!(
            (reason.code.as_str(), reason.message.as_str()),
            (code, message)
        );
    }

    #[test]
    fn success_needs_no_reason() {
        let end = of(&facts(exited(0)));
        assert_eq!((end.reason, end.exit_code), (None, Some(0)));
        assert_eq!(end.how, "the command exited with code 0");
        // A helper that was killed for memory is the command's own business.
        let survived = Facts {
            oom_kills: 1,
            ..facts(exited(0))
        };
        assert_eq!(of(&survived).reason, None);
    }

    #[test]
    fn failures_name_what_ended_them() {
        let code = "the command exited with code 3";
        check(facts(exited(3)), "exit-code", code);
        let signal = "the command was ended by SIGSEGV";
        check(facts(signaled(Signal::SIGSEGV)), "signal", signal);
        let oom = Facts {
            oom_kills: 1,
            ..facts(signaled(Signal::SIGKILL))
        };
        let message =
            "it used more than its memory limit of 32 MiB; the command was ended by SIGKILL";
        check(oom, "memory-limit", message);
        let pids = Facts {
            refused_pids: 2,
            ..facts(exited(3))
        };
        let message = format!("it wanted more than its limit of 8 processes and threads; {code}");
        check(pids, "pids-limit", &message);
        let full = |status| Facts {
            full_disk: Some(Bytes::gib(1)),
            ..facts(status)
        };
        let message = format!(
            "its sandbox is full, with 1 GiB that it was given of the disk: ask for more (`--disk`), or \
             have it remove what it does not need; {code}"
        );
        check(full(exited(3)), "disk-limit", &message);
        assert_eq!(of(&full(exited(0))).reason, None);
    }

    #[test]
    fn a_start_that_was_killed_for_memory_says_so() {
        let lost = Reason::new(reason::EXECUTOR_FAILED, "BrokenChannel");
        assert_eq!(refused(lost.clone(), 0, Bytes::mib(1)), lost);
        let killed = refused(lost, 2, Bytes(64 * 1024));
        assert_eq!(killed.code, reason::MEMORY_LIMIT);
        assert!(killed.message.contains("64 KiB is too small"), "{killed}");
    }

    #[test]
    fn an_end_that_was_asked_for_says_how_it_came() {
        let reason = asked_for("kill-requested", Some("the command exited with code 0"));
        let message = "its end was asked for; the command exited with code 0";
        assert_eq!(
            (reason.code.as_str(), reason.message.as_str()),
            ("kill-requested", message)
        );
    }
}
