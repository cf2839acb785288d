//! The agent's binary with real executors, against a master that speaks the
//! wire's frames and nothing else: whole clusters are tested elsewhere.

/// What may go wrong at the start, and that it is said.
mod bad_input;
/// A network for tests.
mod bridge;
/// What checks find.
mod checks;
/// Containers.
mod containers;
/// What is fetched into sandboxes.
mod fetches;
/// GPUs of native tasks.
mod gpus;
/// Images for containers.
mod images;
/// What tasks are sent while they run.
mod inputs;
/// A task's output over a data connection.
mod lines;
mod logs;
/// Ports of the machine that lead to containers.
mod mapped;
/// The other side: accepts agents and keeps what they say.
mod master;
/// Native commands.
mod native;
/// Images that are not as they should be, and what images say of their end.
mod odd_images;
/// Network plugins that fail or hang.
mod plugins;
/// Where tasks listen.
mod ports;
/// What tasks give back when the machine is short.
mod pressure;
/// Agent processes that clean up after themselves.
mod process;
/// Programs that are images.
mod programs;
/// Reaching into tasks.
mod reach;
/// Databases, scripts, web services.
mod real;
/// Agents and executors that are killed.
mod recovery;
/// Hello, Welcome, terms, heartbeats.
mod registration;
/// Registries that want to know who asks, and mirrors.
mod registries;
/// Another runtime of containers.
mod runtimes;
/// What tasks may have in their sandboxes.
mod sizes;
/// Many tasks at once.
mod storm;
/// Sandboxes whose sizes the kernel keeps.
mod task_disks;
/// Tasks that behave badly.
mod unruly;
/// Executors of another release.
mod upgrades;
/// What tasks use.
mod usage;
/// Containers with users of their own.
mod userns;
/// Persistent volumes and their sizes.
mod volumes;
/// WebAssembly programs.
mod wasm;
