//! Greets, and says what it was given: its name, its arguments, its environment.
//!
//! The smallest task that shows that everything arrives. Ends with exit code 0.

use std::env;

fn main() {
    let name = env::var("TEPUI_TASK_NAME").unwrap_or_else(|_| "nobody in particular".to_string());
    println!("hello from {name}");
    for argument in env::args().skip(1) {
        println!("argument: {argument}");
    }
    for (key, value) in env::vars() {
        println!("environment: {key}={value}");
    }
}
