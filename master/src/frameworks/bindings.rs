//! The WIT package `tepui:framework@0.1.0`, as Rust.
//!
//! Exports are called asynchronously, so that a guest can be made to yield;
//! imports only read memory and answer at once.
#![allow(missing_docs)]

wasmtime::component::bindgen!({
    path: "../sdk-wasm/wit/0.1",
    world: "framework",
    exports: { default: async },
});

pub use exports::tepui::framework::scheduler;
pub use tepui::framework::{cluster, log, operations, store, timers, types};
