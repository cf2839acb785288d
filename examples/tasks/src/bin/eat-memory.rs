//! Allocates a MiB after the other, touches it, and never gives it back.
//!
//! Shows what happens at the memory limit. Says how far it came after every 8 MiB.

use std::hint::black_box;

const MIB: usize = 1024 * 1024;

fn main() {
    let mut held: Vec<Vec<u8>> = Vec::new();
    loop {
        held.push(black_box(vec![1; MIB]));
        if held.len().is_multiple_of(8) {
            println!("holding {} MiB", held.len());
        }
    }
}
