//! What executors and their agent share: framing, exit records, what tasks have used, process
//! identities, cgroups, how much output is kept, and how an executor is started so that it outlives its
//! agent.
//!
//! The two binaries beside this library run the tasks: `tepui-executor-task`
//! one native command after another, `tepui-executor-wasm` many WebAssembly
//! programs of one trust domain. Neither tokio nor wasmtime is used in here, so
//! that the first stays small.

pub mod cgroup;
pub mod confinement;
pub mod descriptors;
pub mod environment;
pub mod exits;
pub mod identity;
pub mod log;
pub mod output;
pub mod packs;
pub mod privileges;
pub mod protocol;
pub mod records;
pub mod runtime;
pub mod spawn;
pub mod startup;
pub mod usage;
pub mod volume;
