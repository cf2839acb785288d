//! A Rust file as the rules of tidy see it: code and comments apart, line by line.
//!
//! Strings are emptied and comments set aside, so that a rule never stumbles over a word in a text.
//! Code is a test's if its file lies in a `tests` or `benches` folder or is called `tests.rs`, or
//! if it stands under `#[cfg(test)]`. Items are told apart by rustfmt's indentation.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Folders of the checkout that hold what was made, not written.
const SKIPPED: [&str; 2] = ["dev", "web-ui/dist"];

/// One file.
pub struct Source {
    /// Relative to the checkout, with `/`.
    pub path: String,
    pub lines: Vec<Line>,
}

/// One line of a file.
#[derive(Debug, Default, PartialEq)]
pub struct Line {
    /// Without comments; the contents of strings are left out.
    pub code: String,
    /// The comment on this line, with its slashes.
    pub comment: String,
    /// Whether only tests compile it.
    pub test: bool,
}

impl Source {
    /// Takes a file apart.
    pub fn new(path: &str, text: &str) -> Self {
        let mut lines = split(text);
        if is_test_file(path) {
            lines.iter_mut().for_each(|line| line.test = true);
        } else {
            mark_test_items(&mut lines);
        }
        Self {
            path: path.to_string(),
            lines,
        }
    }
}

/// All Rust files below `root`, relative to it, in order.
pub fn rust_files(root: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    collect(root, root, &mut files)?;
    files.sort();
    Ok(files)
}

fn collect(root: &Path, folder: &Path, files: &mut Vec<String>) -> Result<()> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("failed to list {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            let made = name == "target" || SKIPPED.iter().any(|skipped| path == root.join(skipped));
            if !made && !name.starts_with('.') {
                collect(root, &path, files)?;
            }
        } else if name.ends_with(".rs") {
            files.push(path.strip_prefix(root)?.to_string_lossy().into_owned());
        }
    }
    Ok(())
}

fn is_test_file(path: &str) -> bool {
    let (folders, name) = path.rsplit_once('/').unwrap_or(("", path));
    name == "tests.rs" || folders.split('/').any(|f| f == "tests" || f == "benches")
}

/// Marks each item under `#[cfg(test)]`: to the end of its line if that ends it, else to the first
/// closing brace at the item's own indentation.
fn mark_test_items(lines: &mut [Line]) {
    let mut index = 0;
    while index < lines.len() {
        if lines[index].code.trim() != "#[cfg(test)]" {
            index += 1;
            continue;
        }
        let indent = indentation(&lines[index].code);
        let mut in_attributes = true;
        while index < lines.len() {
            let line = &mut lines[index];
            line.test = true;
            index += 1;
            let code = line.code.trim();
            in_attributes = in_attributes && (code.is_empty() || code.starts_with("#["));
            let at_item = !in_attributes && indentation(&line.code) == indent;
            if at_item
                && (code.ends_with([';', ',']) || code.starts_with('}') || code.ends_with("}"))
            {
                break;
            }
        }
    }
}

fn indentation(code: &str) -> usize {
    code.len() - code.trim_start().len()
}

/// Where in the text the splitter is.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Code,
    LineComment,
    /// Block comments nest.
    BlockComment(usize),
    String,
    /// A raw string and the number of its hashes.
    RawString(usize),
}

fn split(text: &str) -> Vec<Line> {
    let chars: Vec<char> = text.chars().collect();
    let mut lines = vec![Line::default()];
    let mut place = Place::Code;
    let mut index = 0;
    while index < chars.len() {
        let rest = &chars[index..];
        if rest[0] == '\n' {
            if place == Place::LineComment {
                place = Place::Code;
            }
            lines.push(Line::default());
            index += 1;
            continue;
        }
        let (next, taken) = step(
            place,
            rest,
            index.checked_sub(1).map(|before| chars[before]),
        );
        // invariant: `lines` starts with one line and only grows.
        let line = lines.last_mut().expect("there is a line");
        let taken_text = rest[..taken].iter();
        match (place, next) {
            (Place::LineComment | Place::BlockComment(_), _)
            | (_, Place::LineComment | Place::BlockComment(_)) => line.comment.extend(taken_text),
            (Place::String | Place::RawString(_), Place::String | Place::RawString(_)) => {}
            _ => line.code.extend(taken_text),
        }
        place = next;
        index += taken;
    }
    if text.ends_with('\n') {
        lines.pop();
    }
    lines
}

/// What comes after the next characters, and how many they are. Never takes a line's end.
fn step(place: Place, rest: &[char], before: Option<char>) -> (Place, usize) {
    let starts = |with: &str| with.chars().eq(rest.iter().copied().take(with.len()));
    match place {
        Place::LineComment => (place, 1),
        Place::BlockComment(depth) if starts("*/") => match depth {
            1 => (Place::Code, 2),
            _ => (Place::BlockComment(depth - 1), 2),
        },
        Place::BlockComment(depth) if starts("/*") => (Place::BlockComment(depth + 1), 2),
        Place::BlockComment(_) => (place, 1),
        Place::String if starts("\\") && rest.get(1).is_some_and(|c| *c != '\n') => (place, 2),
        Place::String if starts("\"") => (Place::Code, 1),
        Place::String => (place, 1),
        Place::RawString(hashes) if rest[0] == '"' && hashes_after(&rest[1..]) >= hashes => {
            (Place::Code, 1 + hashes)
        }
        Place::RawString(_) => (place, 1),
        Place::Code if starts("//") => (Place::LineComment, 2),
        Place::Code if starts("/*") => (Place::BlockComment(1), 2),
        Place::Code if starts("\"") => (Place::String, 1),
        Place::Code if starts("'") => (place, char_literal(rest)),
        Place::Code
            if starts("r")
                && !before.is_some_and(|c| c.is_alphanumeric() && c != 'b' || c == '_') =>
        {
            let hashes = hashes_after(&rest[1..]);
            match rest.get(1 + hashes) {
                Some('"') => (Place::RawString(hashes), 2 + hashes),
                _ => (place, 1),
            }
        }
        Place::Code => (place, 1),
    }
}

fn hashes_after(rest: &[char]) -> usize {
    rest.iter().take_while(|c| **c == '#').count()
}

/// The length of a character literal, or 1 for the tick of a lifetime.
fn char_literal(rest: &[char]) -> usize {
    match rest {
        ['\'', '\\', _, tail @ ..] => match tail.iter().position(|c| *c == '\'') {
            Some(length) => length + 4,
            None => 1,
        },
        ['\'', c, '\'', ..] if *c != '\n' => 3,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> Vec<String> {
        split(text).into_iter().map(|line| line.code).collect()
    }

    #[test]
    fn comments_and_strings_are_not_code() {
        assert_eq!(code("a(\"b // c\"); // d\ne"), ["a(\"\"); ", "e"]);
        assert_eq!(code("a /* b\n /* c */ */ d"), ["a ", " d"]);
        assert_eq!(code("a(r#\"b \" c\n\"#, d)"), ["a(r#\"", "\"#, d)"]);
        assert_eq!(
            code(r#"a("\"b", '"', '\'', 'c', x::<'d>())"#),
            [r#"a("", '"', '\'', 'c', x::<'d>())"#]
        );
    }

    #[test]
    fn comments_keep_their_words() {
        let lines = split("a(); // invariant: b\n");
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].comment, "// invariant: b");
    }

    #[test]
    fn test_items_end_where_they_end() {
        let text =
            "#[cfg(test)]\nmod tests;\na\n#[cfg(test)]\n#[b]\nmod c {\n    d {\n    }\n}\ne\n";
        let source = Source::new("a/src/a.rs", text);
        let tests: Vec<bool> = source.lines.iter().map(|line| line.test).collect();
        assert_eq!(
            tests,
            [true, true, false, true, true, true, true, true, true, false]
        );
    }
}
