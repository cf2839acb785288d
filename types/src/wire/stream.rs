//! Data connections, version 1: logs, and later files, exec and transfers.
//!
//! When a master wants bytes from an agent it sends
//! [`OpenStream`](crate::wire::agent::MasterFrame::OpenStream); the agent dials
//! `GET /v1/agents/streams/{stream}` (32 hexadecimal digits) with `Upgrade:
//! tepui-stream/1` and writes [`StreamFrame`]s until `End`. TCP's window is the
//! flow control: one slow reader never holds up another stream.

use serde::{Deserialize, Serialize};

use crate::ids::TaskId;
use crate::task::Reason;

/// The version of every frame here.
pub const VERSION: u8 = 1;
/// The token of the HTTP upgrade.
pub const UPGRADE: &str = "tepui-stream/1";
/// Where agents dial; the stream's number follows.
pub const STREAM_PATH: &str = "/v1/agents/streams/";
/// The most bytes in one frame of data.
pub const MAX_CHUNK: usize = 64 * 1024;

/// What a master wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StreamRequest {
    /// A task's output.
    Logs(LogRequest),
}

/// Which part of a task's output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRequest {
    /// Whose.
    pub task: TaskId,
    /// Which of the two.
    pub output: Output,
    /// Bytes to skip from the start; from the end when negative.
    pub offset: i64,
    /// Whether to go on until the task has ended and all of it was sent.
    pub follow: bool,
}

/// A standard stream of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Output {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Output {
    /// The file's name in the sandbox.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// From the agent, on a data connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StreamFrame {
    /// The next bytes, at most [`MAX_CHUNK`].
    Data(Vec<u8>),
    /// That was all.
    End,
    /// It broke off.
    Failed(Reason),
}
