//! Says a line and then executes WebAssembly's `unreachable`.
//!
//! Shows that a trap is reported as such, and that what was written before it is in the logs.

fn main() {
    println!("about to trap");
    std::process::abort();
}
