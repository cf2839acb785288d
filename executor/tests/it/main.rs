//! Executors as real processes, with the test as their agent.
//!
//! Each test starts its own executor through the agent's side of the library.
//! What it started is ended when it is over, however it ends.

mod env;
mod figures;
mod lifecycle;
mod native;
mod native_limits;
mod programs;
mod wasm;
mod wasm_errors;
