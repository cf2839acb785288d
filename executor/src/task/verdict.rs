//! What a command's end means: state, reason and exit code.
//!
//! A pure function of how the process ended and what its cgroup counted. Asked
//! for comes first, then the limits, then the command's own word.

use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use tepui_executor::cgroup::Limits;
use tepui_types::task::reason;
use tepui_types::{Reason, TaskState};

/// What is known at a command's end.
pub struct Facts {
    /// How its first process ended.
    pub status: WaitStatus,
    /// The code of the reason for which it was ended, if it was.
    pub asked: Option<&'static str>,
    /// Processes killed for memory.
    pub oom_kills: u64,
    /// Processes refused.
    pub refused_pids: u64,
    /// What it was allowed.
    pub limits: Limits,
}

/// State, reason and exit code.
pub fn of(facts: &Facts) -> (TaskState, Option<Reason>, Option<i32>) {
    let (how, code) = describe(facts.status);
    if let Some(asked) = facts.asked {
        let why = match asked {
            reason::KILL_REQUESTED => "its end was asked for",
            _ => "its executor was told to end",
        };
        return (
            TaskState::Killed,
            Some(Reason::new(asked, format!("{why}; {how}"))),
            code,
        );
    }
    if code == Some(0) {
        return (TaskState::Finished, None, code);
    }
    let (mem, pids) = (facts.limits.mem, facts.limits.pids);
    let reason = if facts.oom_kills > 0 {
        let message = format!("it used more than its memory limit of {mem}; {how}");
        Reason::new(reason::MEMORY_LIMIT, message)
    } else if facts.refused_pids > 0 {
        let message =
            format!("it wanted more than its limit of {pids} processes and threads; {how}");
        Reason::new(reason::PIDS_LIMIT, message)
    } else if code.is_some() {
        Reason::new(reason::EXIT_CODE, how)
    } else {
        Reason::new(reason::SIGNAL, how)
    };
    (TaskState::Failed, Some(reason), code)
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
    use tepui_types::Resources;

    use super::*;

    fn facts(status: WaitStatus) -> Facts {
        let limits = Limits::of(&Resources::default(), Some(8));
        Facts {
            status,
            asked: None,
            oom_kills: 0,
            refused_pids: 0,
            limits,
        }
    }

    fn exited(code: i32) -> WaitStatus {
        WaitStatus::Exited(Pid::from_raw(1), code)
    }

    fn signaled(signal: Signal) -> WaitStatus {
        WaitStatus::Signaled(Pid::from_raw(1), signal, false)
    }

    #[track_caller]
    fn check(facts: Facts, state: TaskState, code: &str, message: &str) {
        let (found, reason, _) = of(&facts);
        let reason = reason.unwrap();
        assert_eq!(
            (found, reason.code.as_str(), reason.message.as_str()),
            (state, code, message)
        );
    }

    #[test]
    fn success_needs_no_reason() {
        assert_eq!(of(&facts(exited(0))), (TaskState::Finished, None, Some(0)));
        // A helper that was killed for memory is the command's own business.
        let survived = Facts {
            oom_kills: 1,
            ..facts(exited(0))
        };
        assert_eq!(of(&survived).0, TaskState::Finished);
    }

    #[test]
    fn failures_name_what_ended_them() {
        use TaskState::{Failed, Killed};
        let code = "the command exited with code 3";
        check(facts(exited(3)), Failed, "exit-code", code);
        let signal = "the command was ended by SIGSEGV";
        check(facts(signaled(Signal::SIGSEGV)), Failed, "signal", signal);
        let oom = Facts {
            oom_kills: 1,
            ..facts(signaled(Signal::SIGKILL))
        };
        let message =
            "it used more than its memory limit of 32 MiB; the command was ended by SIGKILL";
        check(oom, Failed, "memory-limit", message);
        let pids = Facts {
            refused_pids: 2,
            ..facts(exited(3))
        };
        let message = format!("it wanted more than its limit of 8 processes and threads; {code}");
        check(pids, Failed, "pids-limit", &message);
        let asked = Facts {
            asked: Some("kill-requested"),
            ..facts(exited(0))
        };
        let message = "its end was asked for; the command exited with code 0";
        check(asked, Killed, "kill-requested", message);
    }
}
