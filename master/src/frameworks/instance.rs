//! One instance of a framework: events in, a turn or a fault out.
//!
//! An instance keeps its memory between turns as a cache. After a fault it is
//! dropped, and nothing of the turn remains.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tepui_types::task::reason;
use tepui_types::{Bytes, Reason, Timestamp};
use wasmtime::{Store, Trap, UpdateDeadline};

use super::bindings::{Framework, scheduler};
use super::component::Compiled;
use super::engine::Engine;
use super::host::HostState;
use super::limits;
use super::logs::Logs;
use super::meter::{CpuDeadline, Meter};
use super::offers::HeldOffers;
use super::turn::OpenTurn;
use crate::leader::offers::Offers;

/// A guest that has started.
pub struct Instance {
    engine: Arc<Engine>,
    store: Store<HostState>,
    guest: Framework,
    meter: Arc<Meter>,
    logs: Logs,
    /// Which incarnation of its framework it is.
    pub incarnation: u64,
    /// The number of its next turn.
    pub turns: u64,
}

/// A call that came to no good end.
#[derive(Debug)]
pub struct Fault {
    /// For the operator.
    pub reason: Reason,
    /// The offers, as they were before the turn.
    pub offers: HeldOffers,
}

/// What an instance is made of.
pub struct Blueprint {
    /// Where it runs.
    pub engine: Arc<Engine>,
    /// What it runs.
    pub compiled: Compiled,
    /// What it writes to.
    pub logs: Logs,
    /// Whom to ask why a demand waits.
    pub offers: Offers,
    /// The incarnation that it begins.
    pub incarnation: u64,
}

impl Instance {
    /// Instantiates and calls `start`, all in one turn.
    pub async fn start(
        blueprint: Blueprint,
        turn: OpenTurn,
        why: scheduler::StartReason,
    ) -> Result<(Self, OpenTurn), Fault> {
        let Blueprint {
            engine,
            compiled,
            logs,
            offers,
            incarnation,
        } = blueprint;
        let mut store = Store::new(engine.wasmtime(), HostState::new(logs.clone(), offers));
        store.limiter(|state| &mut state.memory);
        store.set_hostcall_fuel(limits::HOSTCALL_BYTES);
        store.epoch_deadline_callback(|store| {
            store.data().meter.check()?;
            Ok(UpdateDeadline::YieldCustom(
                1,
                Box::pin(tokio::task::yield_now()),
            ))
        });
        let info = turn.framework().info.clone();
        begin(&mut store, turn, incarnation, 0);
        let meter = store.data().meter.clone();
        let call = async {
            let guest = compiled.instantiate_async(&mut store).await?;
            let exports = guest.tepui_framework_scheduler();
            let started = exports.call_start(&mut store, why, &info.config).await?;
            Ok((guest, started))
        };
        let result = run(&engine, &meter, limits::START_CPU, call).await;
        let ((guest, started), turn) = end(&mut store, &logs, "start", result)?;
        if let Err(why) = started {
            let why = if why.is_empty() {
                "`start` failed and did not say why".into()
            } else {
                why
            };
            let reason = Reason::new(reason::START_FAILED, why);
            return Err(Fault {
                reason,
                offers: turn.abandon(),
            });
        }
        Ok((
            Self {
                engine,
                store,
                guest,
                meter,
                logs,
                incarnation,
                turns: 0,
            },
            turn,
        ))
    }

    /// Hands a batch over.
    pub async fn handle(
        &mut self,
        turn: OpenTurn,
        events: &[scheduler::Event],
    ) -> Result<OpenTurn, Fault> {
        begin(&mut self.store, turn, self.incarnation, self.turns);
        let exports = self.guest.tepui_framework_scheduler();
        let call = exports.call_handle(&mut self.store, events);
        let result = run(&self.engine, &self.meter, limits::HANDLE_CPU, call).await;
        let ((), turn) = end(&mut self.store, &self.logs, "handle", result)?;
        Ok(turn)
    }

    /// Hands an HTTP request over.
    pub async fn on_request(
        &mut self,
        turn: OpenTurn,
        request: &scheduler::HttpRequest,
    ) -> Result<(scheduler::HttpResponse, OpenTurn), Fault> {
        begin(&mut self.store, turn, self.incarnation, self.turns);
        let exports = self.guest.tepui_framework_scheduler();
        let call = exports.call_on_request(&mut self.store, request);
        let result = run(&self.engine, &self.meter, limits::HANDLE_CPU, call).await;
        end(&mut self.store, &self.logs, "on-request", result)
    }
}

/// Why a call was stopped.
enum Stop {
    /// By wasmtime, or by what the host answered.
    Error(wasmtime::Error),
    /// By the clock on the wall.
    Wall(Duration),
}

fn begin(store: &mut Store<HostState>, turn: OpenTurn, incarnation: u64, number: u64) {
    store.set_epoch_deadline(1);
    // Who runs this turn again draws the same numbers.
    let seed = turn.framework().id.0 << 48 ^ incarnation << 32 ^ number;
    store.data_mut().begin(turn, seed);
}

async fn run<T>(
    engine: &Engine,
    meter: &Arc<Meter>,
    limit: Duration,
    call: impl Future<Output = wasmtime::Result<T>>,
) -> Result<T, Stop> {
    let wall = limit * limits::WALL_FACTOR;
    match tokio::time::timeout(wall, engine.ticking(meter.run(limit, call))).await {
        Ok(result) => result.map_err(Stop::Error),
        Err(_) => Err(Stop::Wall(wall)),
    }
}

fn end<T>(
    store: &mut Store<HostState>,
    logs: &Logs,
    name: &str,
    result: Result<T, Stop>,
) -> Result<(T, OpenTurn), Fault> {
    // invariant: `begin` put a turn there, and only `end` takes it.
    let turn = store.data_mut().end().expect("a turn that began ends once");
    match result {
        Ok(value) => Ok((value, turn)),
        Err(stop) => {
            let said = logs.last_error();
            let reason = explain(name, &stop, store.data().memory.refused(), said);
            log_fault(logs, turn.now(), &reason, &stop);
            Err(Fault {
                reason,
                offers: turn.abandon(),
            })
        }
    }
}

/// `refused` is the memory that the call asked for in vain, `said` the last error
/// that the guest logged: a panic's message.
fn explain(name: &str, stop: &Stop, refused: Option<usize>, said: Option<String>) -> Reason {
    let error = match stop {
        Stop::Wall(wall) => {
            let why = format!(
                "`{name}` was stopped: it took longer than {} s",
                wall.as_secs()
            );
            return Reason::new(reason::DEADLINE, why);
        }
        Stop::Error(error) => error,
    };
    if let Some(deadline) = error.downcast_ref::<CpuDeadline>() {
        return Reason::new(
            reason::DEADLINE,
            format!("`{name}` was stopped: {deadline}"),
        );
    }
    if let Some(bytes) = refused {
        let why = format!(
            "`{name}` wanted {} of memory, and an instance has at most {}",
            Bytes(bytes as u64),
            limits::MEMORY
        );
        return Reason::new(reason::MEMORY_LIMIT, why);
    }
    if let Some(exit) = error.downcast_ref::<wasmtime_wasi::I32Exit>() {
        let why = format!(
            "`{name}` called exit({}): a framework returns instead",
            exit.0
        );
        return Reason::new(reason::WASM_TRAP, why);
    }
    let why = match (error.downcast_ref::<Trap>(), said) {
        (Some(Trap::UnreachableCodeReached), Some(said)) => {
            // A panic's place and message stand on two lines.
            format!("`{name}` trapped: {}", said.replace('\n', " "))
        }
        (Some(trap), _) => format!("`{name}` trapped: {trap}"),
        (None, _) => format!("`{name}` failed: {}", error.root_cause()),
    };
    Reason::new(reason::WASM_TRAP, why)
}

/// The author gets the whole story: wasmtime's text has the guest's backtrace.
fn log_fault(logs: &Logs, now: Timestamp, reason: &Reason, stop: &Stop) {
    logs.write(now, "error", &reason.to_string());
    if let Stop::Error(error) = stop {
        logs.write(now, "error", &format!("{error:?}"));
    }
}
