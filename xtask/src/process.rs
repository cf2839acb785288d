//! Other programs: found on `PATH`, run, and their failure named with the exact command.
//!
//! All that this crate runs goes through here, so a failure always shows a line that the reader
//! can repeat by hand.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Whether a program is on `PATH`.
pub fn exists(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|f| f.join(program).is_file()))
}

/// The command as one would type it, without its environment.
pub fn line(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|a| a.to_string_lossy().into_owned()));
    words.join(" ")
}

/// Runs a command with our own output; an exit code other than 0 is an error.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("failed to start `{}`", line(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", line(command));
    }
    Ok(())
}

/// Runs a command and returns its stdout, trimmed; an exit code other than 0 is an error that
/// holds its stderr.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("failed to start `{}`", line(command)))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!(
            "`{}` failed ({})\n{}",
            line(command),
            output.status,
            stderr.trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_string())
}

/// Runs a command that may hang, and ends it when `progress` returned the same value for `quiet`.
pub fn run_while_moving(
    command: &mut Command,
    quiet: Duration,
    mut progress: impl FnMut() -> u64,
) -> Result<()> {
    let mut child = command
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| format!("failed to start `{}`", line(command)))?;
    let mut last = progress();
    let mut moved = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            if status.success() {
                return Ok(());
            }
            bail!("`{}` failed ({status})", line(command));
        }
        let now = progress();
        if now != last {
            last = now;
            moved = Instant::now();
        }
        if moved.elapsed() > quiet {
            // The child may have ended in between; both ways it is gone afterwards.
            let _ = child.kill();
            child.wait()?;
            bail!(
                "`{}` made no progress for {} s and was ended",
                line(command),
                quiet.as_secs()
            );
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command() {
        let error = run(Command::new("false").arg("--why")).unwrap_err();
        assert!(error.to_string().contains("`false --why` failed"));
    }

    #[test]
    fn a_command_that_stands_still_is_ended() {
        let error = run_while_moving(
            Command::new("sleep").arg("60"),
            Duration::from_millis(200),
            || 0,
        )
        .unwrap_err();
        assert!(error.to_string().contains("made no progress"));
    }
}
