//! What a guest's end means: state, reason and exit code.

use tepui_types::task::reason;
use tepui_types::{Reason, TaskState};
use wasmtime::{Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use crate::limits::MemoryLimiter;
use crate::program::words;

/// Functions of a backtrace that are named.
const NAMED_FRAMES: usize = 3;
/// Names of functions can be very long where they are mangled.
const MAX_NAME: usize = 120;

/// State, reason and exit code.
pub type Verdict = (TaskState, Option<Reason>, Option<i32>);

/// Of a program whose entry returned: the inner result is `wasi:cli/run`'s.
pub fn of(result: wasmtime::Result<Result<(), ()>>, memory: &MemoryLimiter) -> Verdict {
    match result {
        Ok(Ok(())) => exited(0, memory),
        Ok(Err(())) => exited(1, memory),
        Err(error) => match error.downcast_ref::<I32Exit>() {
            Some(I32Exit(code)) => exited(*code, memory),
            None => failed(&error, memory),
        },
    }
}

/// Of a program that could not be started as it was described.
pub fn error(reason: Reason) -> Verdict {
    (TaskState::Error, Some(reason), None)
}

/// Of a program that was ended for the reason of this code.
pub fn killed(code: &str) -> Verdict {
    let message = match code {
        reason::KILL_REQUESTED => "its end was asked for",
        _ => "its executor was told to end",
    };
    (TaskState::Killed, Some(Reason::new(code, message)), None)
}

fn exited(code: i32, memory: &MemoryLimiter) -> Verdict {
    if code == 0 {
        return (TaskState::Finished, None, Some(0));
    }
    let hint = refusal(memory)
        .map(|words| format!(" after {words}"))
        .unwrap_or_default();
    let message = format!("the program exited with code {code}{hint}");
    (
        TaskState::Failed,
        Some(Reason::new(reason::EXIT_CODE, message)),
        Some(code),
    )
}

fn failed(error: &wasmtime::Error, memory: &MemoryLimiter) -> Verdict {
    let trap = error
        .downcast_ref::<Trap>()
        .map(|trap| describe(*trap, error));
    let reason = match (refusal(memory), trap) {
        (Some(refusal), Some(trap)) => Reason::new(
            reason::MEMORY_LIMIT,
            format!("{refusal}, and it gave up: {trap}"),
        ),
        // Without a trap it was refused what it needs to start.
        (Some(refusal), None) => Reason::new(reason::MEMORY_LIMIT, refusal),
        (None, Some(trap)) => Reason::new(reason::WASM_TRAP, trap),
        (None, None) => Reason::new(reason::WASM_TRAP, words(error)),
    };
    (TaskState::Failed, Some(reason), None)
}

fn refusal(memory: &MemoryLimiter) -> Option<String> {
    let wanted = memory.refused()?;
    Some(format!(
        "it wanted {wanted} of memory, and its limit is {}",
        memory.limit()
    ))
}

fn describe(trap: Trap, error: &wasmtime::Error) -> String {
    let mut names = Vec::new();
    if let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() {
        let named = backtrace
            .frames()
            .iter()
            .filter_map(|frame| frame.func_name());
        names.extend(
            named
                .take(NAMED_FRAMES)
                .map(|name| name.chars().take(MAX_NAME).collect::<String>()),
        );
    }
    match names.is_empty() {
        true => trap.to_string(),
        false => format!("{trap}, in {}", names.join(" < ")),
    }
}
