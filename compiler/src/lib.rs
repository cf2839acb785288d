//! Programs of strangers, compiled in a process apart.
//!
//! A compiler is large, and a program may be made so that compiling it never ends: one that loops,
//! crashes or wants all memory takes its own process with it, and whoever asked is told why.
//!
//! A [`Compiler`] starts the process: the very program that asks, under another name, without an
//! environment. The artifact is its standard input, its standard output says what came of it.
//! [`process`] is what all such processes do before and after they compile, the first of which is to
//! give up what is above their [`Limits`]. Masters compile frameworks so, executors tasks.

mod compiler;
mod limits;
pub mod process;

pub use compiler::{Compiler, Ended, Outcome};
pub use limits::Limits;
