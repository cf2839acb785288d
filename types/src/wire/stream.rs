//! Data connections, version 1: output, files, commands beside tasks, ports.
//!
//! When a master wants a data connection with an agent it sends
//! [`OpenStream`](crate::wire::agent::MasterFrame::OpenStream); the agent dials
//! `GET /v1/agents/streams/{stream}` (32 hexadecimal digits) with `Upgrade:
//! tepui-stream/1` and writes [`StreamFrame`]s until `End`, `Exited` or `Failed`. TCP's window is the
//! flow control: one slow reader never holds up another stream.
//!
//! What goes both ways ([`StreamRequest::Exec`], `Attach`, `Forward`) the caller opens in the same
//! way, at the master, and writes [`ClientFrame`]s; the master passes bytes on and reads none of them.

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

/// How much of a task's input a caller may have sent that was not said to be taken, in bytes: who keeps
/// to that is listened to however long the task does not read. What a far network has on its way, and
/// little enough for an agent to hold it for all its streams.
pub const INPUT_WINDOW: usize = 256 * 1024;

/// The code of the reason where a task's input was not taken, and may be later: its executor does not
/// answer now.
pub const INPUT_LOST: &str = "input-lost";

/// What a master wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StreamRequest {
    /// A task's output.
    Logs(LogRequest),
    /// Something of a task's sandbox.
    Files(FileRequest),
    /// A command beside a task.
    Exec(ExecRequest),
    /// A task's own input and, with a terminal, its output.
    Attach(AttachRequest),
    /// A port of a task, by TCP.
    Forward(ForwardRequest),
    /// A port of a task, by UDP: each frame of data, either way, is a datagram.
    Datagrams(ForwardRequest),
    /// What running tasks use, as the JSON of a [`UsageList`](crate::api::usage::UsageList).
    Usage(UsageRequest),
}

/// Of which running tasks it is to be told what they use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum UsageRequest {
    /// This one.
    Task(TaskId),
    /// All of the agent's by their ids, in pieces.
    Page {
        /// The last of the piece before; none for the first.
        after: Option<TaskId>,
        /// How many at most; above [`MAX_LIMIT`](crate::api::list::MAX_LIMIT) it is that.
        limit: u32,
    },
}

/// Which part of a task's output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRequest {
    /// Whose.
    pub task: TaskId,
    /// Which of its commands; the task's own when absent.
    pub member: Option<String>,
    /// Which of the two.
    pub output: Output,
    /// Bytes to skip, of all that was ever written; from the end of what is there when negative.
    pub offset: i64,
    /// Whether to go on until the task has ended and all of it was sent.
    pub follow: bool,
}

/// Something of a task's sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRequest {
    /// Whose.
    pub task: TaskId,
    /// Below the sandbox; the sandbox itself when empty. Links that lead out of it are not followed.
    pub path: String,
    /// As what.
    pub form: FileForm,
}

/// As what something of a sandbox is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileForm {
    /// A folder's entries, as the JSON of a [`FileList`](crate::api::file::FileList).
    List,
    /// A file's bytes.
    Bytes {
        /// How many to skip.
        offset: u64,
        /// How many at most.
        limit: Option<u64>,
    },
    /// A file or a folder with all that is in it, as a tar archive.
    Tar,
}

/// A command beside a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// Beside which.
    pub task: TaskId,
    /// Beside which of its commands; the task's own when absent.
    pub member: Option<String>,
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Added to the task's environment.
    pub env: Vec<(String, String)>,
    /// A terminal of this size; pipes when absent.
    pub terminal: Option<TerminalSize>,
}

/// A task's own input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachRequest {
    /// Whose.
    pub task: TaskId,
    /// The size of the caller's terminal.
    pub terminal: Option<TerminalSize>,
}

/// A port of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardRequest {
    /// Whose.
    pub task: TaskId,
    /// Which, as the task itself sees it.
    pub port: u16,
}

/// The window of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TerminalSize {
    /// How wide.
    pub columns: u16,
    /// How high.
    pub rows: u16,
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
    /// The file's name beside the sandbox.
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
    /// The next bytes of a standard error, at most [`MAX_CHUNK`].
    ErrorData(Vec<u8>),
    /// That was all, and the command's end was this: what exit(3) was called with, or 128 and the
    /// number of the signal.
    Exited(i32),
    /// What was asked for is there; first of what goes both ways.
    Opened,
    /// Of an [`Attach`](StreamRequest::Attach): so many of the caller's frames, of those with data or
    /// the end, were taken for the task, since the connection began. Those are on their way to it, or it
    /// reads nothing any more.
    Taken(u64),
    /// The next bytes of this output begin at this place, in bytes since the first that was ever written
    /// to it. First of [`Logs`](StreamRequest::Logs), of each output of an `Attach` before its first
    /// bytes, and wherever bytes are left out: they were rotated away before they were read.
    Begins {
        /// Which of the two.
        output: Output,
        /// Where.
        at: u64,
    },
}

/// From who opened a data connection that goes both ways.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClientFrame {
    /// The next bytes, at most [`MAX_CHUNK`]. As a task's input they are taken whole by one of its
    /// attempts, or not at all; more than that is taken in parts, of which an attempt that ends may have
    /// taken some, and nobody said so.
    Data(Vec<u8>),
    /// There will be no more.
    End,
    /// The terminal has another size.
    Resize(TerminalSize),
    /// First, of an [`Attach`](StreamRequest::Attach): the data that follows is of this input, from
    /// there on. Said on each connection over which an input comes, it lets nothing be written twice
    /// that is sent twice, since nobody said that it was taken.
    Source {
        /// Drawn by the caller.
        id: u128,
        /// Where in it the next frame begins, in bytes; its end counts as one.
        at: u64,
    },
}
