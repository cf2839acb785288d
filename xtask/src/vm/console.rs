//! What the virtual machine's console says of the tests.
//!
//! Pure: text in, verdict out. Only a console that holds, for each suite, the tests' own summary,
//! without a failure and with at least one test, and then the script's word that they ended well, is a
//! success: a machine that stopped in between has failed.

/// What the script that runs the tests writes after them, before their exit status.
pub const EXIT: &str = "tepui-vm: exit ";
/// How the harness's last line begins.
const RESULT: &str = "test result: ";
/// How the kernel's last words begin, wherever they stand in their line.
const PANIC: &str = "Kernel panic";
/// Lines shown of a console without any result: the last words of whatever went wrong.
const LAST_LINES: usize = 40;

/// The summaries of these suites, which ran one after another, or why they count as failed.
pub fn verdict(console: &str, suites: &[&str]) -> Result<Vec<String>, String> {
    if let Some(line) = console.lines().find(|line| line.contains(PANIC)) {
        return Err(format!("the kernel stopped ({})", line.trim()));
    }
    let mut lines = console.lines();
    let (mut passed, mut failed) = (Vec::new(), Vec::new());
    for suite in suites {
        match suite_verdict(&mut lines) {
            Ok(result) => passed.push(format!("{suite}: {result}")),
            Err(why) => failed.push(format!("{suite}: {why}")),
        }
    }
    match failed.is_empty() {
        true => Ok(passed),
        false => Err(failed.join(", ")),
    }
}

/// Reads on to the end of one suite.
fn suite_verdict<'a>(lines: &mut impl Iterator<Item = &'a str>) -> Result<&'a str, String> {
    let mut result = None;
    for line in lines {
        let Some(exit) = line.strip_prefix(EXIT) else {
            result = line.strip_prefix(RESULT).or(result);
            continue;
        };
        return match (result, exit) {
            (Some(result), "0") if result.starts_with("ok. 0 passed") => {
                Err("no test has such a name".to_owned())
            }
            (Some(result), "0") if result.starts_with("ok. ") => Ok(result),
            _ => Err(format!("tests failed (exit {exit})")),
        };
    }
    Err("the virtual machine stopped before its tests had ended".to_owned())
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
        let both = format!("{GOOD}{}", GOOD.replace("ok. 2", "ok. 3"));
        let said = verdict(&both, &["one", "two"]).unwrap();
        let results = ["one: ok. 2 passed", "two: ok. 3 passed"]
            .map(|it| format!("{it}; 0 failed; 0 ignored"));
        assert_eq!(said, results);
    }

    #[test]
    fn anything_less_is_a_failure_of_either_suite() {
        for (bad, why) in [
            (GOOD.replace("exit 0", "exit 101"), "exit 101"),
            (GOOD.replace("tepui-vm: exit 0", ""), "before its tests"),
            (GOOD.replace("ok. 2", "ok. 0"), "no test"),
            (GOOD.replace("ok. 2", "FAILED. 2"), "exit 0"),
            (GOOD.replace("test result", "result"), "exit 0"),
            (
                format!("{GOOD}[ 1.2] Kernel panic - not syncing"),
                "stopped",
            ),
            (String::new(), "before its tests"),
        ] {
            let said = verdict(&bad, &["one"]).unwrap_err();
            assert!(said.contains(why), "{said} of {bad}");
            let second = format!("{GOOD}{bad}");
            let said = verdict(&second, &["one", "two"]).unwrap_err();
            assert!(said.contains(why), "{said} of {second}");
        }
        let first = format!("{}{GOOD}", GOOD.replace("exit 0", "exit 101"));
        let said = verdict(&first, &["one", "two"]).unwrap_err();
        assert_eq!(said, "one: tests failed (exit 101)");
    }

    #[test]
    fn a_report_begins_with_the_failures_or_shows_the_last_lines() {
        let failed = "a\ntest b ... FAILED\n\nfailures:\n\n---- b stdout ----\n";
        assert!(report(failed).starts_with("failures:"));
        let silent = "line\n".repeat(LAST_LINES + 5);
        assert_eq!(report(&silent).lines().count(), LAST_LINES);
    }
}
