//! `POST /v1/tasks/{id}/exec`, `…/attach` and `…/forward/{port}`: reaching into a task that runs.
//!
//! Each is an HTTP upgrade to [`tepui-stream/1`](crate::wire::stream): the caller writes
//! [`ClientFrame`](crate::wire::stream::ClientFrame)s and reads
//! [`StreamFrame`](crate::wire::stream::StreamFrame)s.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::wire::stream::TerminalSize;

/// A command to be run beside a task.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ExecBody {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Beside which of the task's commands; its own when absent.
    #[serde(default)]
    pub member: Option<String>,
    /// Added to the task's environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// A terminal of this size; pipes when absent.
    #[serde(default)]
    pub terminal: Option<TerminalSize>,
}

impl ExecBody {
    /// The most words of a command.
    pub const MAX_ARGV: usize = 1_000;

    /// What is wrong with it in itself.
    pub fn validate(&self) -> Result<(), String> {
        if self.argv.first().is_none_or(String::is_empty) {
            return Err("argv is empty: name the program to run".into());
        }
        if self.argv.len() > Self::MAX_ARGV {
            return Err(format!("a command has at most {} words", Self::MAX_ARGV));
        }
        let mut texts = self
            .argv
            .iter()
            .chain(self.env.keys())
            .chain(self.env.values());
        match texts.any(|text| text.contains('\0')) || self.env.keys().any(|it| it.contains('=')) {
            true => Err("a NUL, or a `=` in a name, is in its words or its environment".into()),
            false => Ok(()),
        }
    }
}

/// How someone attaches to a task.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AttachBody {
    /// The size of their terminal, if they have one.
    #[serde(default)]
    pub terminal: Option<TerminalSize>,
}
