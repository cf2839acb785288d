//! House rules that no compiler checks.
//!
//! Called by `cargo xtask tidy`, by `cargo xtask test`, and by a test of this crate, so that plain
//! `cargo test` runs it too. Every rule is a function from one source file to what is wrong with
//! it; all findings are shown, each with file and line, and any finding is a failure.

mod source;

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::say;
use crate::workspace::Workspace;
use source::Source;

/// A file that grows past this holds a second noun.
const MAX_LINES: usize = 600;
/// A reason may stand this many lines above the line that it excuses.
const REASON_ABOVE: usize = 5;

/// What the pure crates never name: I/O, clocks, chance.
const IMPURE: [&str; 9] = [
    "tokio",
    "std::fs",
    "std::net",
    "std::process",
    "std::thread",
    "SystemTime",
    "Instant",
    "rand",
    "getrandom",
];
/// What would make `apply` differ from master to master.
const UNORDERED: [&str; 4] = ["HashMap", "HashSet", "f32", "f64"];
const UNFINISHED: [&str; 3] = ["todo!(", "unimplemented!(", "#[ignore"];

const RULES: [fn(&Source) -> Vec<Finding>; 6] =
    [header, length, purity, panics, unfinished, sleeps];

/// Something that breaks a rule.
#[derive(Debug, PartialEq)]
struct Finding {
    /// Counted from 1.
    line: usize,
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.what)
    }
}

/// Checks every Rust file of the checkout.
pub fn run(workspace: &Workspace) -> Result<()> {
    say::step("checking the house rules", || {
        let findings = check(&workspace.root)?;
        for finding in &findings {
            eprintln!("{finding}");
        }
        if !findings.is_empty() {
            bail!(
                "{} house rules are broken (`cargo xtask tidy`)",
                findings.len()
            );
        }
        Ok(())
    })
}

/// All findings, as `file:line: what`.
fn check(root: &Path) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for path in source::rust_files(root)? {
        let text = std::fs::read_to_string(root.join(&path))
            .with_context(|| format!("failed to read {path}"))?;
        let source = Source::new(&path, &text);
        for rule in RULES {
            findings.extend(
                rule(&source)
                    .iter()
                    .map(|finding| format!("{path}:{finding}")),
            );
        }
    }
    Ok(findings)
}

/// Every file starts with its module header.
fn header(source: &Source) -> Vec<Finding> {
    let first = source.lines.first().map(|line| line.comment.as_str());
    if first.is_some_and(|comment| comment.starts_with("//!")) {
        return Vec::new();
    }
    let what = "the file does not start with a `//!` header".to_string();
    vec![Finding { line: 1, what }]
}

/// At most [`MAX_LINES`], except where the first lines say `@generated`.
fn length(source: &Source) -> Vec<Finding> {
    let mut head = source.lines.iter().take(5);
    if source.lines.len() <= MAX_LINES || head.any(|line| line.comment.contains("@generated")) {
        return Vec::new();
    }
    let what = format!(
        "the file has {} lines; at {MAX_LINES} look for the second noun",
        source.lines.len()
    );
    vec![Finding {
        line: source.lines.len(),
        what,
    }]
}

/// `types` and `cluster` do no I/O and read no clock; `cluster` has no floats and no hash order.
fn purity(source: &Source) -> Vec<Finding> {
    let forbidden: Vec<&str> = match source.path.split_once("/src/") {
        Some(("types", _)) => IMPURE.to_vec(),
        Some(("cluster", _)) => IMPURE.into_iter().chain(UNORDERED).collect(),
        _ => return Vec::new(),
    };
    let product = source
        .lines
        .iter()
        .enumerate()
        .filter(|(_, line)| !line.test);
    product
        .flat_map(|(index, line)| {
            let named = forbidden
                .iter()
                .filter(|word| contains_word(&line.code, word));
            named.map(move |word| Finding {
                line: index + 1,
                what: format!("`{word}` in a crate that is pure"),
            })
        })
        .collect()
}

/// Outside tests, `.unwrap()` and `.expect(` want an `// invariant:` comment on their line or at
/// most [`REASON_ABOVE`] lines above.
fn panics(source: &Source) -> Vec<Finding> {
    let breaks = |line: &source::Line| {
        // `expect()` without a message is some other type's own method.
        let mut expects = line.code.match_indices(".expect(");
        let expects = expects.any(|(at, call)| !line.code[at + call.len()..].starts_with(')'));
        !line.test && (expects || line.code.contains(".unwrap()"))
    };
    unexcused(source, "// invariant:", breaks, |_| {
        "`unwrap` or `expect` without an `// invariant:` comment that says why it cannot fail"
            .into()
    })
}

/// Nothing is left for later, and no test is skipped.
fn unfinished(source: &Source) -> Vec<Finding> {
    let lines = source.lines.iter().enumerate();
    lines
        .flat_map(|(index, line)| {
            let named = UNFINISHED.iter().filter(|word| line.code.contains(**word));
            named.map(move |word| Finding {
                line: index + 1,
                what: format!("`{word}` is left in the code"),
            })
        })
        .collect()
}

/// Tests wait for what they want to see (`eventually`), not for a time to pass. A sleep that is
/// the point says so: `// sleep:` and the reason, placed as for [`panics`].
fn sleeps(source: &Source) -> Vec<Finding> {
    if source.path.ends_with("/eventually.rs") {
        return Vec::new();
    }
    let breaks = |line: &source::Line| {
        line.test && contains_word(&line.code, "sleep") && line.code.contains("sleep(")
    };
    unexcused(source, "// sleep:", breaks, |_| {
        "a test sleeps; wait with `eventually`, or say why in a `// sleep:` comment".into()
    })
}

fn unexcused(
    source: &Source,
    reason: &str,
    breaks: impl Fn(&source::Line) -> bool,
    what: impl Fn(&source::Line) -> String,
) -> Vec<Finding> {
    let lines = source.lines.iter().enumerate();
    lines
        .filter(|(_, line)| breaks(line))
        .filter(|(index, _)| {
            let near = &source.lines[index.saturating_sub(REASON_ABOVE)..=*index];
            !near.iter().any(|line| line.comment.contains(reason))
        })
        .map(|(index, line)| Finding {
            line: index + 1,
            what: what(line),
        })
        .collect()
}

/// Whether `code` names `word`, and not merely a longer word that holds it.
fn contains_word(code: &str, word: &str) -> bool {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(start, _)| {
        let before = code[..start].chars().next_back();
        let after = code[start + word.len()..].chars().next();
        !before.is_some_and(part_of_word) && !after.is_some_and(part_of_word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checkout_keeps_the_house_rules() {
        // Tests run in their package's folder.
        let findings = check(Path::new("..")).unwrap();
        assert!(findings.is_empty(), "\n{}", findings.join("\n"));
    }

    fn findings(path: &str, text: &str) -> Vec<usize> {
        let source = Source::new(path, text);
        RULES
            .iter()
            .flat_map(|rule| rule(&source))
            .map(|finding| finding.line)
            .collect()
    }

    #[test]
    fn a_file_without_header_is_found() {
        assert_eq!(findings("agent/src/a.rs", "fn a() {}\n"), [1]);
        assert_eq!(findings("agent/src/a.rs", "//! A.\nfn a() {}\n"), []);
    }

    #[test]
    fn a_long_file_is_found_unless_generated() {
        let long = "fn a() {}\n".repeat(MAX_LINES);
        assert_eq!(
            findings("a/src/a.rs", &format!("//! A.\n{long}")),
            [MAX_LINES + 1]
        );
        assert_eq!(
            findings("a/src/a.rs", &format!("//! A.\n//! @generated\n{long}")),
            []
        );
    }

    #[test]
    fn pure_crates_stay_pure() {
        let clock = "//! A.\nuse std::time::{Duration, Instant};\n";
        assert_eq!(findings("types/src/a.rs", clock), [2]);
        assert_eq!(findings("agent/src/a.rs", clock), []);
        let map = "//! A HashMap.\nuse std::collections::HashMap;\nstruct MyHashMapLike;\n";
        assert_eq!(findings("cluster/src/a.rs", map), [2]);
        assert_eq!(findings("types/src/a.rs", map), []);
        let tested = "//! A.\n#[cfg(test)]\nmod tests {\n    use std::fs;\n}\nuse std::fs;\n";
        assert_eq!(findings("cluster/src/a.rs", tested), [6]);
    }

    #[test]
    fn a_panic_wants_its_invariant() {
        assert_eq!(
            findings("a/src/a.rs", "//! A.\nfn a() { b().unwrap(); }\n"),
            [2]
        );
        let said = "//! A.\n// invariant: b is never empty.\nfn a() { b().unwrap(); }\n";
        assert_eq!(findings("a/src/a.rs", said), []);
        assert_eq!(
            findings("a/src/a.rs", "//! A.\nfn a() { b.expect().await; }\n"),
            []
        );
        assert_eq!(
            findings("a/src/a.rs", "//! A.\nfn a() { b.expect(\n\"c\"); }\n"),
            [2]
        );
        let quoted = "//! A.\n/// b().unwrap()\nfn a() { c(\".unwrap()\"); d().unwrap_or(1); }\n";
        assert_eq!(findings("a/src/a.rs", quoted), []);
        assert_eq!(
            findings("a/tests/it/main.rs", "//! A.\nfn a() { b().unwrap(); }\n"),
            []
        );
    }

    #[test]
    fn unfinished_code_is_found_in_tests_too() {
        let macros = "//! A.\nfn a() { todo!() }\n";
        assert_eq!(findings("a/tests/it/main.rs", macros), [2]);
    }

    #[test]
    fn tests_do_not_sleep_without_a_reason() {
        let bare = "//! A.\nfn a() { sleep(SECOND); }\n";
        assert_eq!(findings("tests/src/cluster.rs", bare), [2]);
        assert_eq!(findings("tests/src/eventually.rs", bare), []);
        assert_eq!(findings("agent/src/a.rs", bare), []);
        let said =
            "//! A.\n// sleep: silence itself is what is tested.\nfn a() { sleep(SECOND); }\n";
        assert_eq!(findings("tests/src/cluster.rs", said), []);
    }
}
