//! How names of people become names of DNS.
//!
//! [`label`] is the one place where that is decided, for the directory and for paths of HTTP.
//! What is a label already (RFC 1123, lower case) stays as it is; what it gives is always a label,
//! and never begins with `_`, so that no task can take the name of a port. Two names can become
//! one label; who then answers is decided by the directory.

use sha2::{Digest, Sha256};

/// The longest label of DNS, in bytes.
const MAX_LABEL: usize = 63;
/// The longest name of a task, service or agent, in bytes, dots included: with a framework's label
/// and a domain of [`crate::Zone::MAX_DOMAIN`] bytes it is still a name of DNS, of at most 255.
const MAX_NAME: usize = 100;
/// How many bytes of a digest tell shortened names apart; twice as many characters.
const SUFFIX_BYTES: usize = 4;

/// Makes one label of `text`: ASCII letters in lower case, every character that is neither a
/// letter, a digit nor `-` becomes `-`, and `-` at either end goes.
///
/// What is longer than a label is cut, and ends with `-` and a digest of the whole; what has
/// nothing left becomes `x-` and the digest.
pub fn label(text: &str) -> String {
    let mapped: String = text
        .chars()
        .map(|c| match c.to_ascii_lowercase() {
            c if c.is_ascii_alphanumeric() => c,
            _ => '-',
        })
        .collect();
    let trimmed = mapped.trim_matches('-');
    if trimmed.is_empty() {
        return format!("x-{}", suffix(text));
    }
    if trimmed.len() <= MAX_LABEL {
        return trimmed.to_string();
    }
    // Only ASCII is left, so that any byte is a place to cut.
    let kept = trimmed[..MAX_LABEL - 1 - 2 * SUFFIX_BYTES].trim_end_matches('-');
    format!("{kept}-{}", suffix(text))
}

/// Makes a name of one or several labels of `text`, which has dots between them.
///
/// The labels stand in the order of the tree, the last one first (`db.eu` is `["eu", "db"]`). What
/// is longer than 100 bytes becomes one label.
pub(crate) fn labels(text: &str) -> Vec<String> {
    let labels: Vec<String> = text.split('.').rev().map(label).collect();
    let length = labels.iter().map(|label| label.len() + 1).sum::<usize>();
    if length > MAX_NAME + 1 {
        return vec![label(text)];
    }
    labels
}

/// The label of a framework: `agent` is taken, for the names of agents stand there.
pub(crate) fn framework_label(text: &str) -> String {
    let label = label(text);
    match label.as_str() {
        crate::zone::AGENT => format!("{label}-{}", suffix(text)),
        _ => label,
    }
}

fn suffix(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    digest
        .iter()
        .take(SUFFIX_BYTES)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn labels_stay_and_other_names_are_made_labels() {
        let long = "a".repeat(70);
        let table = [
            ("web-1", "web-1".to_string()),
            ("Web_API", "web-api".to_string()),
            ("--x--", "x".to_string()),
            ("a b.c", "a-b-c".to_string()),
            ("_http", "http".to_string()),
            ("é", format!("x-{}", suffix("é"))),
            ("", format!("x-{}", suffix(""))),
            (
                long.as_str(),
                format!("{}-{}", "a".repeat(54), suffix(&long)),
            ),
        ];
        for (text, expected) in table {
            assert_eq!(label(text), expected, "{text}");
        }
    }

    #[test]
    fn long_names_that_differ_at_their_end_stay_apart() {
        let name = |end: &str| label(&("n".repeat(80) + end));
        assert_ne!(name("a"), name("b"));
    }

    #[test]
    fn names_of_several_labels_are_bounded() {
        assert_eq!(labels("db.EU"), ["eu", "db"]);
        assert_eq!(labels(&"a.".repeat(60)).len(), 1);
    }

    #[test]
    fn no_framework_takes_the_place_of_agents() {
        assert_ne!(framework_label("Agent"), "agent");
        assert_eq!(framework_label("batch"), "batch");
    }

    proptest! {
        #[test]
        fn whatever_comes_in_is_a_label_and_stays_one(text in any::<String>()) {
            let once = label(&text);
            prop_assert!(tepui_types::ids::is_label(&once), "{once}");
            prop_assert_eq!(label(&once), once.clone());
        }
    }
}
