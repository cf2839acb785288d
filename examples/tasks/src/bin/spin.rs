//! Computes for ever and never yields.
//!
//! Shows that such a task disturbs no other, gets the cpus it was given and no more, and can be
//! killed.

use std::hint::black_box;

fn main() {
    println!("spinning");
    let mut turns = 0_u64;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}
