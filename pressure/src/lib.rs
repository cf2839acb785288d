//! What an agent's machine has left, and what follows from it.
//!
//! Data flows one way. [`Gauges`] read the kernel's files into [`Readings`], and a [`Watch`] does so at
//! an interval. With what its tasks use, the agent asks two pure cores: an [`Estimator`] how much of
//! what firm tasks leave unused may be lent, and a [`Relief`] what is to be done about a machine that
//! is short of something: tasks that have only what was lent are throttled, then ended, one at a time.
//! Firm tasks never are.
//!
//! The agent calls this crate; nothing in here knows of masters, and nothing changes the machine.

mod error;
mod gauges;
mod kernel;
mod psi;
mod readings;
mod relief;
mod slack;
mod strain;
mod task;
mod watch;

pub use error::{Malformed, PressureError};
pub use gauges::{Gauges, Sources};
pub use psi::{BasisPoints, Pressure, Stall};
pub use readings::{CpuUse, Disk, Mem, Pids, Readings};
pub use relief::{Cause, Decision, End, Launches, Relief};
pub use slack::{Estimator, Sample};
pub use strain::{Strain, Strains};
pub use task::{Amounts, Holding, RunningTask, Used};
pub use watch::{INTERVAL, Watch};
