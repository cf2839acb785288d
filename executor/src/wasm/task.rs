//! One task, from its launch to its end, as a future on the guests' threads.
//!
//! It waits for its program, runs as the kind of program that this is, and returns what became of
//! it.

use std::path::PathBuf;
use std::sync::Arc;

use tepui_types::task::{TaskUsage, WasmWorkload, Workload, reason};
use tepui_types::wire::executor::{ExecutorLaunch, TaskUpdate};
use tepui_types::{Reason, TaskId, TaskState};

use crate::command::{self, Command};
use crate::guest::Guest;
use crate::host::Host;
use crate::kill::Kill;
use crate::meter::Meter;
use crate::program::{Code, Program};
use crate::service;
use crate::throttle::Throttle;
use crate::verdict::{self, Verdict};

/// An update without anything but the state.
pub fn plain(task: TaskId, state: TaskState) -> TaskUpdate {
    TaskUpdate {
        task,
        state,
        reason: None,
        exit_code: None,
        usage: None,
        members: Vec::new(),
    }
}

/// Runs the task, and returns its end.
pub async fn run(
    host: Arc<Host>,
    launch: Box<ExecutorLaunch>,
    kill: Kill,
    throttle: Throttle,
    meter: Meter,
) -> TaskUpdate {
    let task = launch.launch.task.clone();
    let started = tokio::select! {
        biased;
        () = kill.asked() => Err(verdict::killed(kill.reason())),
        prepared = Box::pin(prepare(&host, &launch)) => prepared.map_err(verdict::error),
    };
    let (verdict, usage) = match started {
        Ok((program, workload)) => {
            let guest = Arc::new(Guest::new(host, launch, workload, program, throttle));
            meter.begin(guest.counters.clone());
            let (verdict, usage) = run_guest(&guest, &kill).await;
            (verdict, Some(usage))
        }
        Err(verdict) => (verdict, None),
    };
    let (state, reason, exit_code) = verdict;
    TaskUpdate {
        task,
        state,
        reason,
        exit_code,
        usage,
        members: Vec::new(),
    }
}

async fn run_guest(guest: &Arc<Guest>, kill: &Kill) -> (Verdict, TaskUsage) {
    // In boxes: tasks that wait are many, and each would have room for what it is not.
    let verdict = match &guest.program.code {
        Code::Module(code) => Box::pin(command::run(guest, Command::Module(code), kill)).await,
        Code::Component(code) => {
            Box::pin(command::run(guest, Command::Component(code), kill)).await
        }
        Code::Service(code) => Box::pin(service::run(guest, code, kill)).await,
    };
    guest.finish_outputs();
    (verdict, guest.counters.usage())
}

async fn prepare(
    host: &Host,
    launch: &ExecutorLaunch,
) -> Result<(Arc<Program>, WasmWorkload), Reason> {
    let failed = |message: &str| Reason::new(reason::EXECUTOR_FAILED, message);
    let Workload::Wasm(workload) = &launch.launch.spec.workload else {
        return Err(failed("this executor runs WebAssembly alone"));
    };
    let Some(path) = &launch.program else {
        return Err(failed("the agent named no program file"));
    };
    let program = host
        .programs
        .get(workload.artifact, PathBuf::from(path))
        .await?;
    Ok((program, workload.clone()))
}
