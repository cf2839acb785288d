//! The core, from outside: commands in, outcomes, effects and invariants out.

mod allocation;
mod bounds;
mod fairness;
mod golden;
mod life;
mod makers;
mod masters;
mod on_deck;
mod operators;
mod partitions;
mod properties;
mod restore;
mod roles;
mod rules;
mod scripts;
mod successors;
mod sums;
mod support;
mod taking_back;
mod volumes;
