//! `tepui exec` and `tepui attach`: a command beside a task, and the task's own input and output.

use std::io;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use tepui_types::TaskId;
use tepui_types::api::reach::{AttachBody, ExecBody};
use tepui_types::wire::stream::{ClientFrame, MAX_CHUNK, StreamFrame};
use tokio::io::AsyncWriteExt;
use tokio::signal::unix::{SignalKind, signal};

use crate::client::{ChannelError, Client, ClientError, Receiver, Sender};
use crate::terminal::{self, LeaveKeys, Raw};
use crate::{amounts, output, task};

/// A command, and beside which task.
#[derive(Debug, Args)]
pub struct ExecOptions {
    /// Send it what comes from this process's standard input
    #[arg(short, long)]
    interactive: bool,
    /// Give it a terminal
    #[arg(short = 't', long = "terminal")]
    has_terminal: bool,
    /// Beside this companion of the task's, in place of its command
    #[arg(long, value_name = "NAME")]
    member: Option<String>,
    /// Add to its environment
    #[arg(short, long = "env", value_parser = amounts::setting, value_name = "NAME=VALUE")]
    env: Vec<(String, String)>,
    /// The task's id such as f1.hello.0, or its name for the newest of that name
    task: String,
    /// The program and its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    command: Vec<String>,
}

/// A task.
#[derive(Debug, Args)]
pub struct AttachOptions {
    /// The task's id such as f1.hello.0, or its name for the newest of that name
    task: String,
}

/// Runs a command beside a task; ends with its code.
pub async fn exec(options: ExecOptions, client: &Client) -> Result<ExitCode> {
    if options.has_terminal && !terminal::is_there() {
        bail!("-t needs a terminal here, too: leave it out for pipes");
    }
    let id = task::find(&options.task, client).await?;
    let mut body = ExecBody {
        argv: options.command,
        member: options.member,
        env: options.env.into_iter().collect(),
        terminal: options.has_terminal.then(terminal::size),
    };
    if let (true, Ok(term)) = (options.has_terminal, std::env::var("TERM")) {
        body.env.entry("TERM".into()).or_insert(term);
    }
    let (receiver, sender) = client
        .channel(&format!("/v1/tasks/{id}/exec"), &body)
        .await?;
    let talk = Talk {
        receiver,
        sender,
        // Where nothing is read, Ctrl-C is for this process.
        is_raw: options.has_terminal && options.interactive,
        reads: options.interactive,
        leave: None,
    };
    match talk.run().await? {
        End::Exited(code) => Ok(code),
        End::Ended | End::Left => Ok(ExitCode::SUCCESS),
    }
}

/// Speaks to a task's own input, and shows what it writes.
pub async fn attach(options: AttachOptions, client: &Client) -> Result<ExitCode> {
    let id = task::find(&options.task, client).await?;
    attach_to(&id, client).await?;
    Ok(ExitCode::SUCCESS)
}

/// The same; true if it ended with the task, and not before.
pub async fn attach_to(id: &TaskId, client: &Client) -> Result<bool> {
    let workload = client.task(id).await?.spec.workload;
    let is_raw = task::has_terminal(&workload) && terminal::is_there();
    let body = AttachBody {
        terminal: is_raw.then(terminal::size),
    };
    let (receiver, sender) = client
        .channel(&format!("/v1/tasks/{id}/attach"), &body)
        .await?;
    if is_raw {
        output::note("tepui: Ctrl-P Ctrl-Q leaves the task as it is");
    }
    let talk = Talk {
        receiver,
        sender,
        is_raw,
        reads: true,
        leave: is_raw.then(LeaveKeys::default),
    };
    match talk.run().await? {
        End::Left => {
            output::note(&format!("tepui: left {id}, which goes on"));
            Ok(false)
        }
        End::Exited(_) | End::Ended => Ok(true),
    }
}

/// Whether someone attached too late: the task has ended.
pub fn is_ended(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<ClientError>();
    error.is_some_and(|error| error.status() == Some(409))
}

/// How a talk ended.
enum End {
    Exited(ExitCode),
    Ended,
    Left,
}

/// Both directions of a connection, joined with this process's input and output.
struct Talk {
    receiver: Receiver,
    sender: Sender,
    is_raw: bool,
    reads: bool,
    leave: Option<LeaveKeys>,
}

impl Talk {
    async fn run(self) -> Result<End> {
        let _raw = match self.is_raw {
            true => Some(Raw::begin().context("failed to set up the terminal")?),
            false => None,
        };
        let Self {
            mut receiver,
            mut sender,
            is_raw,
            reads,
            mut leave,
        } = self;
        // Each on its own: neither side reads less because it writes.
        let outward = async move {
            let mut input = reads.then(terminal::input);
            if !reads {
                sender.send(&ClientFrame::End).await?;
            }
            let mut resized = signal(SignalKind::window_change())?;
            loop {
                tokio::select! {
                    Some(()) = resized.recv(), if is_raw => {
                        let frame = ClientFrame::Resize(terminal::size());
                        sender.send(&frame).await?;
                    }
                    typed = typed(&mut input) => {
                        let Some(bytes) = typed else {
                            input = None;
                            sender.send(&ClientFrame::End).await?;
                            continue;
                        };
                        let passed = match &mut leave {
                            Some(keys) => keys.pass(&bytes),
                            None => Some(bytes),
                        };
                        let Some(passed) = passed else {
                            return anyhow::Ok(End::Left);
                        };
                        for chunk in passed.chunks(MAX_CHUNK) {
                            sender.send(&ClientFrame::Data(chunk.to_vec())).await?;
                        }
                    }
                }
            }
        };
        let inward = async move {
            let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
            loop {
                match receiver.next().await? {
                    StreamFrame::Data(bytes) => write(&mut stdout, &bytes).await?,
                    StreamFrame::ErrorData(bytes) => write(&mut stderr, &bytes).await?,
                    StreamFrame::Exited(code) => return anyhow::Ok(End::Exited(exit_code(code))),
                    StreamFrame::End => return Ok(End::Ended),
                    StreamFrame::Opened | StreamFrame::Taken(_) => {}
                    StreamFrame::Failed(reason) => return Err(ChannelError::Failed(reason).into()),
                }
            }
        };
        tokio::pin!(inward, outward);
        tokio::select! {
            biased;
            ended = &mut inward => ended,
            ended = &mut outward => match ended {
                // The other side has closed: what it said before that counts.
                Err(_) => inward.await,
                left => left,
            },
        }
    }
}

/// The next of what comes in; nothing ever where nothing is read.
async fn typed(input: &mut Option<tokio::sync::mpsc::Receiver<Vec<u8>>>) -> Option<Vec<u8>> {
    match input {
        Some(input) => input.recv().await,
        None => std::future::pending().await,
    }
}

async fn write(to: &mut (impl AsyncWriteExt + Unpin), bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}

fn exit_code(code: i32) -> ExitCode {
    u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from)
}
