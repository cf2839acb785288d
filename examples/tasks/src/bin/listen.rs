//! `listen [PORT]`: gives one caller back what it says. On the first of the task's ports unless told.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::ExitCode;

fn main() -> ExitCode {
    let own = std::env::var("TEPUI_PORTS").unwrap_or_default();
    let own = own.split(',').next().unwrap_or_default().to_owned();
    let port = std::env::args().nth(1).unwrap_or(own);
    let Ok(port) = port.parse() else {
        eprintln!("no port: ask for one with `--ports 1`");
        return ExitCode::FAILURE;
    };
    match serve(port) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("port {port}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(port: u16) -> std::io::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    println!("listening on {port}");
    let (mut stream, _) = listener.accept()?;
    let mut said = Vec::new();
    stream.read_to_end(&mut said)?;
    stream.write_all(&said)
}
