//! A command: one instance, from its place to its end.
//!
//! A kill ends it wherever it is: a guest that spins at its next yield, one that waits at once.

use wasmtime::{AsContextMut, InstancePre, Store};
use wasmtime_wasi::p2::bindings::CommandPre;

use crate::cpu::Charged;
use crate::guest::Guest;
use crate::kill::Kill;
use crate::limits::MemoryLimiter;
use crate::program::{ComponentState, ModuleState};
use crate::verdict::{self, Verdict};

/// What a command's entry gives: the inner result is `wasi:cli/run`'s.
type Ended = wasmtime::Result<Result<(), ()>>;

/// The kinds of command.
#[derive(Clone, Copy)]
pub enum Command<'a> {
    /// A WASI preview 1 module.
    Module(&'a InstancePre<ModuleState>),
    /// A `wasi:cli/command`.
    Component(&'a CommandPre<ComponentState>),
}

/// Runs it to its end.
pub async fn run(guest: &Guest, command: Command<'_>, kill: &Kill) -> Verdict {
    let _place = tokio::select! {
        biased;
        () = kill.asked() => return verdict::killed(kill.reason()),
        place = guest.host.places.acquire() => place,
    };
    let mut wasi = match guest.wasi_of_command() {
        Ok(wasi) => wasi,
        Err(reason) => return verdict::error(reason),
    };
    match command {
        Command::Module(code) => {
            let state = ModuleState {
                wasi: wasi.build_p1(),
                files: guest.module_files(),
                memory: guest.limiter(),
            };
            let mut store = guest.store(state, |state| &mut state.memory);
            let run = guest
                .counters
                .cpu
                .charge(run_module(guest, code, &mut store));
            let result = drive(guest, kill, run).await;
            judge(result, kill, &store.data().memory)
        }
        Command::Component(code) => {
            let mut store = guest.store(guest.component_state(wasi), |state| &mut state.memory);
            let run = guest
                .counters
                .cpu
                .charge(run_component(guest, code, &mut store));
            let result = drive(guest, kill, run).await;
            judge(result, kill, &store.data().memory)
        }
    }
}

/// The guest's result; none if it was killed.
async fn drive(guest: &Guest, kill: &Kill, run: Charged<'_, Ended>) -> Option<Ended> {
    guest.say_running().await;
    tokio::select! {
        biased;
        () = kill.asked() => None,
        result = run => Some(result),
    }
}

fn judge(result: Option<Ended>, kill: &Kill, memory: &MemoryLimiter) -> Verdict {
    match result {
        Some(result) => verdict::of(result, memory),
        None => verdict::killed(kill.reason()),
    }
}

async fn run_module(
    guest: &Guest,
    code: &InstancePre<ModuleState>,
    store: &mut Store<ModuleState>,
) -> Ended {
    let instance = code.instantiate_async(store.as_context_mut()).await?;
    guest.counters.add_instance();
    let start = instance.get_typed_func::<(), ()>(store.as_context_mut(), "_start")?;
    start.call_async(store, ()).await.map(Ok)
}

async fn run_component(
    guest: &Guest,
    code: &CommandPre<ComponentState>,
    store: &mut Store<ComponentState>,
) -> Ended {
    let command = code.instantiate_async(store.as_context_mut()).await?;
    guest.counters.add_instance();
    command.wasi_cli_run().call_run(store).await
}
