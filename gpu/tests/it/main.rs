//! The crate on recorded machines, with real files.

// What a test runs on.
mod machines;
// What is found and lent.
mod detection;
// Descriptions as vendors write them.
mod cdi;
// Descriptions that are wrong, or mean harm.
mod hostile;
// What holds of any description.
mod properties;
// Devices brought to tasks.
mod assign;
// AMD's devices, in a tree like sysfs.
mod amd;
