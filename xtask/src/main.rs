//! The commands that set up, build, start, test and measure this repository.
//!
//! `cargo xtask COMMAND` runs this binary (an alias in `.cargo/config.toml`). It parses the
//! command line and hands over to one module a command. Every command may be run again at any
//! time: what is already there is found and left alone.

mod bench;
mod build;
mod guests;
mod process;
mod say;
mod setup;
mod sim;
mod tasks;
mod test;
mod tidy;
mod up;
mod vm;
mod wasm_std;
mod wasm_target;
mod web;
mod workspace;

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::workspace::Workspace;

const USAGE: &str = "\
Usage: cargo xtask COMMAND

  up [--agents N] [--dir D] [--port P] [--no-start]
                 install what is missing, build, start a local cluster
  test [FILTER]  install what is missing, build, run every test
  build          what `up` builds, without starting anything
  guests         only the WebAssembly frameworks and tasks
  web            only the dashboard
  bench NAME [--json FILE] [...]
                 build and run one benchmark
  sim --seeds N [--from S]
                 run so many seeds of the simulation of a whole cluster
  vm [--debug] [FILTER...]
                 run tests of the executor (with cgroup v2 alone) and of enforced sizes (with
                 project quotas) in a virtual machine; --debug builds the two crates alone,
                 quickly, for who works on them
  tidy           check the house rules that no compiler checks

Builds go to $CARGO_TARGET_DIR, or to target/ in the checkout.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&arguments) {
        Ok(code) => code,
        Err(error) => {
            say::error(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn dispatch(arguments: &[String]) -> Result<ExitCode> {
    let Some((command, rest)) = arguments.split_first() else {
        println!("{USAGE}");
        return Ok(ExitCode::FAILURE);
    };
    let workspace = Workspace::find()?;
    match (command.as_str(), rest) {
        ("up", _) => up::run(&workspace, rest)?,
        ("test", _) => return test::run(&workspace, rest),
        ("bench", _) => bench::run(&workspace, rest)?,
        ("sim", _) => sim::run(&workspace, rest)?,
        ("vm", _) => vm::run(&workspace, rest)?,
        ("build", []) => build::everything(&workspace, tasks::C::IfCompilerPresent)?,
        ("guests", []) => {
            wasm_target::ensure(&workspace)?;
            guests::build(&workspace)?;
            tasks::build(&workspace, tasks::C::IfCompilerPresent)?;
        }
        ("web", []) => {
            wasm_target::ensure(&workspace)?;
            web::build(&workspace)?;
        }
        ("tidy", []) => tidy::run(&workspace)?,
        ("help" | "--help" | "-h", _) => println!("{USAGE}"),
        ("build" | "guests" | "web" | "tidy", [first, ..]) => {
            bail!("`{command}` takes no arguments, but was given `{first}`")
        }
        _ => bail!("there is no command `{command}`\n\n{USAGE}"),
    }
    Ok(ExitCode::SUCCESS)
}
