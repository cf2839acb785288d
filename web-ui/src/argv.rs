//! A command line as a shell would split it, and back.
//!
//! Quotes and backslashes mean what they mean to `sh`; nothing is expanded:
//! `$`, `*`, `|` and `;` are ordinary characters, because no shell runs the
//! command. The form shows the result before it is submitted.

/// A line that cannot be split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SplitError {
    /// A quote is opened and not closed.
    OpenQuote(char),
    /// The last character is a backslash that escapes nothing.
    TrailingBackslash,
}

impl std::fmt::Display for SplitError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OpenQuote(quote) => write!(f, "a {quote} is opened and not closed"),
            Self::TrailingBackslash => f.write_str("the line ends in a backslash; write \\\\"),
        }
    }
}

impl std::error::Error for SplitError {}

/// The words of `line`.
pub fn split(line: &str) -> Result<Vec<String>, SplitError> {
    let mut words = Vec::new();
    // A word may be empty and still be there, as in `""`.
    let mut word: Option<String> = None;
    let mut rest = line.chars();
    while let Some(character) = rest.next() {
        match character {
            '\'' => single_quoted(&mut rest, word.get_or_insert_default())?,
            '"' => double_quoted(&mut rest, word.get_or_insert_default())?,
            '\\' => match rest.next() {
                // A backslash at a line's end joins it to the next.
                Some('\n') => {}
                Some(escaped) => word.get_or_insert_default().push(escaped),
                None => return Err(SplitError::TrailingBackslash),
            },
            blank if blank.is_whitespace() => words.extend(word.take()),
            plain => word.get_or_insert_default().push(plain),
        }
    }
    words.extend(word);
    Ok(words)
}

fn single_quoted(rest: &mut std::str::Chars<'_>, word: &mut String) -> Result<(), SplitError> {
    for character in rest {
        match character {
            '\'' => return Ok(()),
            plain => word.push(plain),
        }
    }
    Err(SplitError::OpenQuote('\''))
}

fn double_quoted(rest: &mut std::str::Chars<'_>, word: &mut String) -> Result<(), SplitError> {
    while let Some(character) = rest.next() {
        match character {
            '"' => return Ok(()),
            '\\' => match rest.next() {
                Some('\n') => {}
                Some(escaped @ ('"' | '\\' | '$' | '`')) => word.push(escaped),
                // Before anything else a backslash stays.
                Some(other) => word.extend(['\\', other]),
                None => break,
            },
            plain => word.push(plain),
        }
    }
    Err(SplitError::OpenQuote('"'))
}

/// One line that [`split`] takes apart into `words` again.
pub fn join(words: &[String]) -> String {
    words
        .iter()
        .map(|word| quote(word))
        .collect::<Vec<_>>()
        .join(" ")
}

fn quote(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_./:=@%+,^~".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, words: &[&str]) {
        assert_eq!(split(line).unwrap(), words, "{line}");
    }

    #[test]
    fn lines_split_as_a_shell_splits_them() {
        check("", &[]);
        check("  echo   hello\tthere\n", &["echo", "hello", "there"]);
        check(
            r#"sh -c 'echo "a  b"; exit 3'"#,
            &["sh", "-c", r#"echo "a  b"; exit 3"#],
        );
        check(
            r#"echo "it's" a\ b "say \"hi\" \n""#,
            &["echo", "it's", "a b", r#"say "hi" \n"#],
        );
        check(r#"printf '' "" x''y"#, &["printf", "", "", "xy"]);
        check("echo one \\\n two", &["echo", "one", "two"]);
    }

    #[test]
    fn nothing_is_expanded() {
        check(
            "echo $HOME *.rs | wc ; `id`",
            &["echo", "$HOME", "*.rs", "|", "wc", ";", "`id`"],
        );
    }

    #[test]
    fn what_is_left_open_is_named() {
        assert_eq!(split("echo 'a"), Err(SplitError::OpenQuote('\'')));
        assert_eq!(split("echo \"a"), Err(SplitError::OpenQuote('"')));
        assert_eq!(split("echo \"a\\"), Err(SplitError::OpenQuote('"')));
        assert_eq!(split("echo \\"), Err(SplitError::TrailingBackslash));
    }

    #[test]
    fn joined_words_split_into_themselves() {
        let words = ["sh", "-c", "it's \"so\"", "", "a=b", "$x", "é"].map(String::from);
        assert_eq!(split(&join(&words)).unwrap(), words);
        assert_eq!(join(&["/bin/echo".into(), "a b".into()]), "/bin/echo 'a b'");
    }
}
