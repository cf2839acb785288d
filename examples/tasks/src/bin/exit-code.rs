//! Exits with the code given as its first argument, or with 0.
//!
//! Shows how a task's exit code becomes its state: 0 is finished, anything else failed. WASI
//! carries codes from 0 to 125 faithfully through every runtime; larger ones are not promised.

use std::env;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(argument) = env::args().nth(1) else {
        return ExitCode::SUCCESS;
    };
    match argument.parse::<u8>() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("`{argument}` is no exit code: {error}");
            ExitCode::from(2)
        }
    }
}
