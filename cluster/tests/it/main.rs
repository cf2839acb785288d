//! The core, from outside: commands in, outcomes, effects and invariants out.

mod allocation;
mod bounds;
mod golden;
mod masters;
mod operators;
mod partitions;
mod properties;
mod restore;
mod roles;
mod rules;
mod support;
