//! `count MILLISECONDS LINES`: prints a numbered line, waits, and so on; 100 ms and 10 lines
//! unless told otherwise.
//!
//! Shows logs as they are written: each line is flushed at once.

use std::env;
use std::io::{self, Write};
use std::thread;
use std::time::Duration;

fn main() -> io::Result<()> {
    let mut arguments = env::args().skip(1);
    let mut number = |otherwise: u64| match arguments.next() {
        Some(argument) => argument
            .parse()
            .map_err(|error| io::Error::other(format!("`{argument}` is no number: {error}"))),
        None => Ok(otherwise),
    };
    let pause = Duration::from_millis(number(100)?);
    let lines = number(10)?;
    let mut stdout = io::stdout();
    for line in 1..=lines {
        writeln!(stdout, "{line} of {lines}")?;
        stdout.flush()?;
        if line < lines {
            thread::sleep(pause);
        }
    }
    Ok(())
}
