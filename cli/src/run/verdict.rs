//! How `tepui run` ends: with its task's code, and in words where a code does not say it all.
//!
//! A job's record has the beginning of its reason alone, and what to do about it stands at the end of
//! many, so the whole one is asked of the task.

use std::process::ExitCode;

use tepui_types::TaskState;
use tepui_types::api::job::{JobTask, JobView};
use tepui_types::api::task::TaskView;
use tepui_types::task::{Reason, reason};

use crate::client::{Jobs, TaskFilter};
use crate::job;
use crate::output;

/// What stands where `batch` has cut a message.
const CUT: &str = " […]";
/// Failed tasks of an array that are looked at for the one that gave the reason: the newest, as it is.
const LOOKED_AT: usize = 100;

/// What this process ends with; says on stderr what a code cannot.
pub async fn say(job: &JobView, jobs: &Jobs<'_>) -> ExitCode {
    if job.count > 1 {
        output::note(&format!("tepui: job {}: {}", job.name, job::counts(job)));
        if let (Some(reason), true) = (&job.reason, job.failed > 0) {
            output::note(&format!("tepui: {}", whole(job, reason, jobs).await));
        }
        return match job.finished == job.count {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        };
    }
    let code = code(job.task.as_ref());
    let why = job.reason.as_ref();
    if !is_said_by(code, why) {
        let state = job
            .task
            .as_ref()
            .map_or(TaskState::Killed, |task| task.state);
        let why = match why {
            Some(why) => Some(whole(job, why, jobs).await),
            None => None,
        };
        let why = why.map_or_else(String::new, |why| format!(": {why}"));
        output::note(&format!("tepui: job {} ended as {state}{why}", job.name));
    }
    ExitCode::from(code.unwrap_or(1))
}

/// The task's own code; none where that is not how it ended.
fn code(task: Option<&JobTask>) -> Option<u8> {
    let task = task?;
    match (task.state, task.exit_code) {
        (TaskState::Finished, code) => Some(low_byte(code.unwrap_or(0))),
        (TaskState::Failed, Some(code)) if code != 0 => Some(low_byte(code)),
        _ => None,
    }
}

/// Whether a code is the whole story: the command itself has exited with it, and nothing more is known.
fn is_said_by(code: Option<u8>, why: Option<&Reason>) -> bool {
    code.is_some() && why.is_none_or(is_plain_exit)
}

/// Whether a reason tells a code alone. That of a companion begins with its name, and others have more
/// to tell, too.
fn is_plain_exit(why: &Reason) -> bool {
    let plain = [
        "the command exited with code ",
        "the program exited with code ",
    ];
    let mut rest = plain
        .iter()
        .filter_map(|plain| why.message.strip_prefix(plain));
    why.code == reason::EXIT_CODE && rest.any(|rest| rest.parse::<i32>().is_ok())
}

/// A job's reason as the task has it that gave it, if that can be had.
pub async fn whole(job: &JobView, why: &Reason, jobs: &Jobs<'_>) -> Reason {
    match (job.count, &job.task) {
        (1, Some(task)) => of_task(why, task, jobs).await,
        (1, None) => why.clone(),
        _ => of_array(job, why, jobs).await,
    }
}

/// The reason as the job's task has it, if it can be had.
async fn of_task(why: &Reason, task: &JobTask, jobs: &Jobs<'_>) -> Reason {
    let view = jobs.client().task(&task.id).await;
    let whole = view.ok().and_then(|view| view.status.reason);
    whole.unwrap_or_else(|| why.clone())
}

/// The reason as that task of an array has it which the job's record quotes.
async fn of_array(job: &JobView, why: &Reason, jobs: &Jobs<'_>) -> Reason {
    let Some(begun) = why.message.strip_suffix(CUT) else {
        return why.clone();
    };
    let filter = TaskFilter {
        states: vec![TaskState::Failed, TaskState::Error, TaskState::Dropped],
        framework: Some(jobs.framework().into()),
        search: Some(job.name.clone()),
        ..TaskFilter::default()
    };
    let tasks = jobs.client().tasks(&filter, LOOKED_AT).await;
    let tasks = tasks.map(|(tasks, _)| tasks).unwrap_or_default();
    let whole = tasks.iter().find_map(|task| quoted(begun, &job.name, task));
    let code = why.code.clone();
    whole.map_or_else(|| why.clone(), |message| Reason { code, message })
}

/// A task's message as its job's record has it, if that is how the record's begins.
fn quoted(begun: &str, job: &str, task: &TaskView) -> Option<String> {
    let index = task.id.name.as_str().strip_prefix(job)?.strip_prefix('-')?;
    let reason = task.status.reason.as_ref()?;
    let whole = format!("task {index}: {}", reason.message);
    whole.starts_with(begun).then_some(whole)
}

/// An exit code as the shell can have it; no failure becomes a success.
fn low_byte(code: i32) -> u8 {
    match u8::try_from(code) {
        Ok(code) => code,
        Err(_) => u8::try_from(code & 0xff).unwrap_or(1).max(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_says_it_all_where_the_command_chose_it() {
        let said =
            |message: &str| is_said_by(Some(3), Some(&Reason::new(reason::EXIT_CODE, message)));
        assert!(said("the command exited with code 3"));
        assert!(said("the program exited with code -3"));
        assert!(!said("init `fill`: the command exited with code 3"));
        assert!(!said(
            "the program exited with code 3 after it was refused memory"
        ));
        assert!(is_said_by(Some(0), None));
        assert!(is_said_by(Some(3), None));
        assert!(!is_said_by(None, None));
        let full = Reason::new(reason::DISK_LIMIT, "the command exited with code 3");
        assert!(!is_said_by(Some(3), Some(&full)));
    }

    #[test]
    fn no_failure_becomes_a_success() {
        assert_eq!(low_byte(3), 3);
        assert_eq!(low_byte(256), 1);
        assert_eq!(low_byte(-1), 255);
        assert_eq!(low_byte(i32::MIN), 1);
    }
}
