//! What the command line shares with the tests of whole clusters.

pub mod leftovers;
