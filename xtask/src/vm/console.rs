//! What the virtual machine's console says of the tests.
//!
//! Pure: text in, verdict out. Only a console that holds the tests' own summary, without a failure and
//! with at least one test, and then the script's word that they ended well, is a success: a machine
//! that stopped in between has failed.

/// What the script that runs the tests writes after them, before their exit status.
pub const EXIT: &str = "tepui-vm: exit ";
/// How the harness's last line begins.
const RESULT: &str = "test result: ";
/// How the kernel's last words begin, wherever they stand in their line.
const PANIC: &str = "Kernel panic";
/// Lines shown of a console without any result: the last words of whatever went wrong.
const LAST_LINES: usize = 40;

/// The tests' summary, or why they count as failed.
pub fn verdict(console: &str) -> Result<String, String> {
    if let Some(line) = console.lines().find(|line| line.contains(PANIC)) {
        return Err(format!("the kernel stopped ({})", line.trim()));
    }
    let result = console.lines().find(|line| line.starts_with(RESULT));
    let exit = console.lines().find_map(|line| line.strip_prefix(EXIT));
    match (result, exit) {
        (Some(result), Some("0")) if result.starts_with("test result: ok. ") => {
            match result.contains("ok. 0 passed") {
                true => Err("no test has such a name".to_owned()),
                false => Ok(format!("with cgroup v2 alone: {result}")),
            }
        }
        (_, Some(exit)) => Err(format!("tests failed with cgroup v2 alone (exit {exit})")),
        (_, None) => Err("the virtual machine stopped before its tests had ended".to_owned()),
    }
}

/// The part of the console that a reader wants to see of a failure.
pub fn report(console: &str) -> String {
    let lines: Vec<&str> = console.lines().collect();
    let failures = lines.iter().position(|line| *line == "failures:");
    let from = failures.unwrap_or(lines.len().saturating_sub(LAST_LINES));
    lines[from..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = concat!(
        "running 2 tests\ntest a ... ok\ntest b ... ok\n",
        "test result: ok. 2 passed; 0 failed; 0 ignored\n\ntepui-vm: exit 0\n"
    );

    #[test]
    fn tests_that_passed_and_said_so_are_a_success() {
        assert!(verdict(GOOD).unwrap().contains("2 passed"));
    }

    #[test]
    fn anything_less_is_a_failure() {
        for (bad, why) in [
            (GOOD.replace("exit 0", "exit 101"), "exit 101"),
            (GOOD.replace("tepui-vm: exit 0", ""), "before its tests"),
            (GOOD.replace("ok. 2", "ok. 0"), "no test"),
            (GOOD.replace("test result", "result"), "exit 0"),
            (
                format!("{GOOD}[ 1.2] Kernel panic - not syncing"),
                "stopped",
            ),
            (String::new(), "before its tests"),
        ] {
            let said = verdict(&bad).unwrap_err();
            assert!(said.contains(why), "{said} of {bad}");
        }
    }

    #[test]
    fn a_report_begins_with_the_failures_or_shows_the_last_lines() {
        let failed = "a\ntest b ... FAILED\n\nfailures:\n\n---- b stdout ----\n";
        assert!(report(failed).starts_with("failures:"));
        let silent = "line\n".repeat(LAST_LINES + 5);
        assert_eq!(report(&silent).lines().count(), LAST_LINES);
    }
}
