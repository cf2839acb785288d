//! Which of a task's outputs a log view shows.
//!
//! Until someone chooses, the view looks for the output that has something to say: what failed has
//! often written to standard error alone.

use tepui_types::TaskId;
use tepui_types::command::MAIN;

use crate::query;

/// The two outputs of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Output {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Stdout, Self::Stderr];

    /// The name in URLs and on the page.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }

    /// The one that is not this.
    pub fn other(self) -> Self {
        match self {
            Self::Stdout => Self::Stderr,
            Self::Stderr => Self::Stdout,
        }
    }
}

/// One output of one command of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Which command, by its name in the task.
    pub member: String,
    /// Which output.
    pub output: Output,
    /// Whether someone chose the output.
    pub is_chosen: bool,
}

impl Default for Source {
    fn default() -> Self {
        Self::of(MAIN)
    }
}

impl Source {
    /// What is shown first of a command.
    pub fn of(member: &str) -> Self {
        Self {
            member: member.to_owned(),
            output: Output::Stdout,
            is_chosen: false,
        }
    }

    /// This output of the same command, as someone wants it.
    pub fn chosen(&self, output: Output) -> Self {
        Self {
            output,
            is_chosen: true,
            ..self.clone()
        }
    }

    /// What to show in its place once it is known that nothing was written to it, but something to
    /// the other output; none where someone wants to see that it is empty.
    pub fn in_place_of_nothing(&self) -> Option<Self> {
        (!self.is_chosen).then(|| Self {
            output: self.output.other(),
            ..self.clone()
        })
    }

    /// Whether its bytes are those of another one.
    pub fn is_same_as(&self, other: &Self) -> bool {
        (&self.member, self.output) == (&other.member, other.output)
    }

    /// Where it is read.
    pub fn path(&self, task: &TaskId, parameters: &[(&str, &str)]) -> String {
        // A task of one command knows no members.
        let member = if self.member == MAIN {
            ""
        } else {
            &self.member
        };
        let path = format!("/v1/tasks/{task}/logs/{}", self.output.as_str());
        let parameters = [&[("member", member)], parameters].concat();
        query::with_query(&path, &parameters)
    }

    /// What it is called on the disk of who downloads it.
    pub fn file(&self, task: &TaskId) -> String {
        let output = self.output.as_str();
        match self.member.as_str() {
            MAIN => format!("{task}-{output}.txt"),
            member => format!("{task}-{member}-{output}.txt"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_companions_output_is_asked_for_by_its_name() {
        let task: TaskId = "f1.pod.0".parse().unwrap();
        let main = Source::default();
        assert_eq!(main.path(&task, &[]), "/v1/tasks/f1.pod.0/logs/stdout");
        assert_eq!(main.file(&task), "f1.pod.0-stdout.txt");
        let side = Source::of("side").chosen(Output::Stderr);
        assert_eq!(
            side.path(&task, &[("offset", "-1")]),
            "/v1/tasks/f1.pod.0/logs/stderr?member=side&offset=-1"
        );
        assert_eq!(side.file(&task), "f1.pod.0-side-stderr.txt");
    }

    #[test]
    fn an_empty_output_gives_way_unless_someone_chose_it() {
        let first = Source::default();
        let next = first.in_place_of_nothing().unwrap();
        assert_eq!(next.output, Output::Stderr);
        assert!(!next.is_same_as(&first));
        let chosen = first.chosen(Output::Stdout);
        assert!(chosen.is_same_as(&first));
        assert_eq!(chosen.in_place_of_nothing(), None);
    }
}
