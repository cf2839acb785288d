//! What a guest may use of its host: processor time, memory, queues.
//!
//! What a turn may hold and what a store may keep are quotas of the state, in
//! `tepui_cluster::state::limits`: those hold on every master alike.

use std::time::Duration;

use tepui_types::Bytes;

/// Processor time of `start`.
pub const START_CPU: Duration = Duration::from_secs(10);
/// Processor time of `handle` and of `on-request`.
pub const HANDLE_CPU: Duration = Duration::from_secs(1);
/// A call may take this many times its processor time by the clock on the wall,
/// so that one that sleeps ends too, and a busy machine is forgiven.
pub const WALL_FACTOR: u32 = 10;
/// Linear memory of one instance, all its memories together.
pub const MEMORY: Bytes = Bytes::mib(256);
/// Elements of one instance's tables: function pointers, a few thousand in
/// large programs.
pub const TABLE_ELEMENTS: usize = 1_000_000;
/// What a guest hands over in one call: a turn's bytes, as strings and records
/// take them before they are encoded.
pub const HOSTCALL_BYTES: usize = 16 * 1024 * 1024;
/// WASI resources (streams, pollables) that one instance may hold; a guest
/// without files and sockets needs a handful.
pub const WASI_HANDLES: usize = 1_024;
/// Bytes of a component: the Python and JavaScript interpreters in components
/// take 10 to 40 MiB.
pub const COMPONENT_BYTES: u64 = 64 * 1024 * 1024;
/// Bytes of compiled components kept on disk: some ten interpreters, or hundreds of
/// frameworks in Rust.
pub const CODE_BYTES: u64 = 1024 * 1024 * 1024;
/// Compiled components kept for frameworks that are not running: a deployment
/// validates just before it starts, and restarts reuse.
pub const COMPILED: usize = 16;
/// Requests that wait for one framework: some seconds' worth of turns.
pub const REQUESTS: usize = 256;
/// Bytes of a request's body.
pub const REQUEST_BYTES: usize = 1024 * 1024;
/// Items of one page of `agents`, `tasks` and `scan`.
pub const PAGE: u32 = 1_000;
/// Bytes of one page of `scan`.
pub const SCAN_BYTES: usize = 1024 * 1024;
/// The longest timer, in milliseconds: ten years.
pub const TIMER_MS: u64 = 10 * 366 * 24 * 60 * 60 * 1000;
/// Timers shown to one turn; keeps their acknowledgements below its bytes.
pub const TURN_TIMERS: usize = 500;
/// Log lines kept of each framework.
pub const LOG_LINES: usize = 1_000;
/// Bytes of one log line; the rest is cut off.
pub const LOG_LINE_BYTES: usize = 4 * 1024;
/// Log lines of one turn; the rest is counted and left out.
pub const TURN_LOG_LINES: usize = 1_000;
