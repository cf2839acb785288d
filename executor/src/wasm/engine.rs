//! The wasmtime engine of this process, and the clock by which guests yield.
//!
//! Guests yield at each epoch, so that one that spins shares its thread and can
//! be ended.

use std::num::NonZeroUsize;

use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, WasmBacktraceDetails,
};

/// Tasks that have an instance at once; later ones wait. About three mappings
/// each stay far below the kernel's default of 65,530 a process.
pub const MAX_INSTANCES: usize = 2_000;
/// Requests of all services that have an instance at once; later ones wait.
pub const MAX_REQUESTS: usize = 1_000;

/// A component has core instances for its adapters beside its own.
const CORE_INSTANCES_PER_TASK: u32 = 8;
const TABLES_PER_TASK: u32 = 4;
/// Elements of one table: large programs have tens of thousands of functions
/// in theirs. It is address space until it is used.
const MAX_TABLE_ELEMENTS: usize = 200_000;
/// What stays in memory of an ended instance: page faults cost more than
/// clearing this much.
const KEEP_RESIDENT: usize = 64 * 1024;
/// Slots that stay warm: some turnover of short tasks without much memory held.
const WARM_SLOTS: u32 = 64;
/// Frames of a trap's backtrace: only the innermost ones are told.
// invariant: eight is not zero, and the compiler checks it.
const BACKTRACE_FRAMES: NonZeroUsize = NonZeroUsize::new(8).unwrap();

/// The engine: instances from a pool, or where the address space for one is not
/// to be had, each on its own.
pub fn new() -> wasmtime::Result<Engine> {
    let pooled = Engine::new(config().allocation_strategy(pool()));
    pooled.or_else(|error| {
        tracing::warn!(%error, "no instance pool; every instance maps its own memory");
        Engine::new(&config())
    })
}

/// One that compiles for the engine of executors, and runs nothing.
pub fn for_compiling() -> wasmtime::Result<Engine> {
    Engine::new(&config())
}

fn config() -> Config {
    let mut config = Config::new();
    config.epoch_interruption(true);
    config.wasm_backtrace_details(WasmBacktraceDetails::Disable);
    config.wasm_backtrace_max_frames(Some(BACKTRACE_FRAMES));
    config
}

fn pool() -> InstanceAllocationStrategy {
    let instances = (MAX_INSTANCES + MAX_REQUESTS) as u32;
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_core_instances(instances * CORE_INSTANCES_PER_TASK)
        .total_memories(instances + instances / 4)
        .total_tables(instances * TABLES_PER_TASK)
        .total_stacks(instances)
        .max_memories_per_module(4)
        .max_tables_per_module(8)
        .table_elements(MAX_TABLE_ELEMENTS)
        .max_unused_warm_slots(WARM_SLOTS)
        .linear_memory_keep_resident(KEEP_RESIDENT)
        .table_keep_resident(KEEP_RESIDENT);
    InstanceAllocationStrategy::Pooling(pool)
}
