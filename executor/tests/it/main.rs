//! Executors as real processes, with the test as their agent.
//!
//! Each test starts its own executor through the agent's side of the library.
//! What it started is ended when it is over, however it ends.

#![allow(
    clippy::disallowed_methods,
    reason = "the processes under test live in real time"
)]

mod beside;
mod containers;
mod devices;
mod env;
mod groups;
mod guests;
mod hooks;
mod input;
mod lifecycle;
mod logs;
mod mounts;
mod native;
mod native_limits;
mod output;
mod prepared;
mod privileges;
mod programs;
mod restarts;
mod scarce;
mod services;
mod shares;
mod sockets;
mod userns;
mod wasm;
mod wasm_code;
mod wasm_cpu;
mod wasm_disk;
mod wasm_errors;
