//! `tepui exec` and `tepui attach`: a command beside a task, and the task's own input and output.

use std::io;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use tepui_types::TaskId;
use tepui_types::api::reach::{AttachBody, ExecBody};
use tepui_types::wire::stream::{ClientFrame, INPUT_LOST, Output, StreamFrame};
use tokio::io::AsyncWriteExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Duration, Instant};

use crate::client::{ChannelError, Client, ClientError, Receiver, Sender};
use crate::stdin::{Next, Stdin};
use crate::terminal::{self, LeaveKeys, Raw};
use crate::{amounts, logs, output, patience, task};

/// A connection that lasted so long was no failure.
const SETTLED: Duration = Duration::from_secs(10);

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
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
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
    let mut talk = Talk {
        // Where nothing is read, Ctrl-C is for this process.
        is_raw: options.has_terminal && options.interactive,
        reads: options.interactive,
        is_kept: false,
        leave: None,
        stdin: &mut Stdin::new(),
        seen: &mut Seen::default(),
    };
    match talk.run(receiver, sender).await {
        Ok(End::Exited(code)) => Ok(code),
        Ok(End::Ended | End::Left) => Ok(ExitCode::SUCCESS),
        Err(error) if is_broken(&error) => Err(error.context(format!(
            "the command beside {id} is ended with its connection; what it did until then is done"
        ))),
        Err(error) => Err(error),
    }
}

/// Speaks to a task's own input, and shows what it writes.
pub async fn attach(options: AttachOptions, client: &Client) -> Result<ExitCode> {
    let id = task::find(&options.task, client).await?;
    let mut seen = Seen::default();
    attach_to(&id, client, &mut Stdin::new(), &mut seen).await?;
    Ok(ExitCode::SUCCESS)
}

/// The same, for a task that may be one of several which this process's input goes to; true if it
/// ended with the task, and not before. A connection that breaks is made again: what the task has not
/// taken of the input is sent again, and of its output nothing is shown twice, but for the last of a
/// terminal's.
pub async fn attach_to(
    id: &TaskId,
    client: &Client,
    stdin: &mut Stdin,
    seen: &mut Seen,
) -> Result<bool> {
    let workload = client.task(id).await?.spec.workload;
    let is_raw = task::has_terminal(&workload) && terminal::is_there();
    if is_raw {
        output::note("tepui: Ctrl-P Ctrl-Q leaves the task as it is");
    }
    let mut leave = is_raw.then(LeaveKeys::default);
    let mut failures = 0;
    loop {
        let (before, begun) = (*seen, Instant::now());
        let error = match join(id, client, stdin, seen, &mut leave).await {
            Ok(End::Left) => {
                output::note(&format!("tepui: left {id}, which goes on"));
                return Ok(false);
            }
            Ok(End::Exited(_) | End::Ended) => return Ok(true),
            Err(error) => error,
        };
        if before != *seen || begun.elapsed() >= SETTLED {
            failures = 0;
        }
        failures += 1;
        if !may_come_back(&error) {
            return Err(error);
        }
        if failures > patience::MAX_FAILURES {
            return Err(error.context(match stdin.waiting() {
                0 => format!("lost {id}, which may go on: `tepui attach {id}` goes on with it"),
                bytes => format!(
                    "lost {id}, which may go on, and {bytes} bytes of input that it has not taken"
                ),
            }));
        }
        if failures == 1 {
            output::note(&format!("tepui: {error:#}; trying again\r"));
        }
        tokio::time::sleep(patience::PAUSE).await;
    }
}

/// Speaks to a task over one connection.
async fn join(
    id: &TaskId,
    client: &Client,
    stdin: &mut Stdin,
    seen: &mut Seen,
    leave: &mut Option<LeaveKeys>,
) -> Result<End> {
    let is_raw = leave.is_some();
    let body = AttachBody {
        terminal: is_raw.then(terminal::size),
    };
    let (receiver, mut sender) = client
        .channel(&format!("/v1/tasks/{id}/attach"), &body)
        .await?;
    let at = stdin.on_connection();
    let id = stdin.source()?;
    sender.send(&ClientFrame::Source { id, at }).await?;
    seen.on_connection(is_raw);
    let mut talk = Talk {
        is_raw,
        reads: true,
        is_kept: true,
        leave: leave.take(),
        stdin,
        seen,
    };
    let ended = talk.run(receiver, sender).await;
    *leave = talk.leave;
    ended
}

/// Whether a connection broke off, and nobody said why.
fn is_broken(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(ChannelError::Broken))
}

/// Whether a task can be attached to again after that.
fn may_come_back(error: &anyhow::Error) -> bool {
    match (error.downcast_ref(), error.downcast_ref()) {
        (Some(ChannelError::Broken), _) => true,
        (Some(ChannelError::Failed(reason)), _) => reason.code == INPUT_LOST,
        (None, Some(error)) => patience::may_come_back(error),
        (None, None) => false,
    }
}

/// How much of a task's output was shown, in bytes from the first that was ever written to it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Of its standard output.
    pub stdout: u64,
    /// Of its standard error.
    pub stderr: u64,
    /// Where the next bytes of both begin on this connection.
    next: [u64; 2],
    /// Whether that shows again what was shown before.
    is_again: bool,
}

impl Seen {
    /// Another connection begins with the output's beginning; with the last of it where that is a
    /// terminal's, which shows it as it was.
    fn on_connection(&mut self, is_terminal: bool) {
        self.next = [0, 0];
        self.is_again = is_terminal;
    }

    /// The next bytes begin there; how many there were before them that were never shown.
    fn on_place(&mut self, which: Output, at: u64) -> u64 {
        let (shown, next) = self.of(which);
        *next = at;
        at.saturating_sub(*shown)
    }

    /// What of these bytes was not shown before.
    fn fresh<'a>(&mut self, which: Output, bytes: &'a [u8]) -> &'a [u8] {
        let is_again = self.is_again;
        let (shown, next) = self.of(which);
        let known = match is_again {
            true => 0,
            false => usize::try_from(shown.saturating_sub(*next)).unwrap_or(usize::MAX),
        };
        *next += bytes.len() as u64;
        *shown = (*shown).max(*next);
        &bytes[known.min(bytes.len())..]
    }

    fn of(&mut self, which: Output) -> (&mut u64, &mut u64) {
        let [stdout, stderr] = &mut self.next;
        match which {
            Output::Stdout => (&mut self.stdout, stdout),
            Output::Stderr => (&mut self.stderr, stderr),
        }
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
struct Talk<'a> {
    is_raw: bool,
    reads: bool,
    /// Whether what is sent is kept until it is said to be taken.
    is_kept: bool,
    leave: Option<LeaveKeys>,
    stdin: &'a mut Stdin,
    seen: &'a mut Seen,
}

impl Talk<'_> {
    async fn run(&mut self, receiver: Receiver, sender: Sender) -> Result<End> {
        let _raw = match self.is_raw {
            true => Some(Raw::begin().context("failed to set up the terminal")?),
            false => None,
        };
        let (said, taken) = watch::channel(0);
        let ended = {
            // Each on its own: neither side reads less because it writes.
            let inward = show(receiver, self.seen, said);
            let outward = Outward {
                is_raw: self.is_raw,
                reads: self.reads,
                is_kept: self.is_kept,
                leave: &mut self.leave,
                stdin: self.stdin,
                sender,
                taken: taken.clone(),
            };
            let outward = outward.run();
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
        };
        self.stdin.on_taken(*taken.borrow());
        ended
    }
}

/// What goes out on a connection.
struct Outward<'a> {
    is_raw: bool,
    reads: bool,
    is_kept: bool,
    leave: &'a mut Option<LeaveKeys>,
    stdin: &'a mut Stdin,
    sender: Sender,
    taken: watch::Receiver<u64>,
}

impl Outward<'_> {
    /// Ends when the task is left, or nothing more can be sent.
    async fn run(mut self) -> Result<End> {
        if !self.reads {
            self.sender.send(&ClientFrame::End).await?;
        }
        let mut resized = signal(SignalKind::window_change())?;
        let mut can_take = true;
        loop {
            tokio::select! {
                Some(()) = resized.recv(), if self.is_raw => {
                    let frame = ClientFrame::Resize(terminal::size());
                    self.sender.send(&frame).await?;
                }
                changed = self.taken.changed(), if can_take => {
                    can_take = changed.is_ok();
                    self.stdin.on_taken(*self.taken.borrow_and_update());
                }
                next = self.stdin.next(self.leave), if self.reads => {
                    let frame = match next {
                        Next::Left => return Ok(End::Left),
                        Next::Piece(piece) if piece.is_empty() => ClientFrame::End,
                        Next::Piece(piece) => ClientFrame::Data(piece),
                    };
                    self.sender.send(&frame).await?;
                    self.stdin.on_sent();
                    if !self.is_kept {
                        self.stdin.settle();
                    }
                }
            }
        }
    }
}

/// Shows what comes in, to its end, and tells how much of the input was taken.
async fn show(mut receiver: Receiver, seen: &mut Seen, taken: watch::Sender<u64>) -> Result<End> {
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    loop {
        match receiver.next().await? {
            StreamFrame::Data(bytes) => {
                write(&mut stdout, seen.fresh(Output::Stdout, &bytes)).await?;
            }
            StreamFrame::ErrorData(bytes) => {
                write(&mut stderr, seen.fresh(Output::Stderr, &bytes)).await?;
            }
            StreamFrame::Begins { output, at } => match seen.on_place(output, at) {
                missed @ 1.. if !seen.is_again => logs::say_missed(output.as_str(), missed),
                _ => {}
            },
            StreamFrame::Exited(code) => return Ok(End::Exited(exit_code(code))),
            StreamFrame::End => return Ok(End::Ended),
            StreamFrame::Opened => {}
            StreamFrame::Taken(count) => drop(taken.send(count)),
            StreamFrame::Failed(reason) => return Err(ChannelError::Failed(reason).into()),
        }
    }
}

async fn write(to: &mut (impl AsyncWriteExt + Unpin), bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}

fn exit_code(code: i32) -> ExitCode {
    u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_is_shown_once_wherever_a_connection_begins() {
        let mut seen = Seen::default();
        seen.on_connection(false);
        assert_eq!(seen.fresh(Output::Stdout, b"one"), b"one");
        assert_eq!(seen.fresh(Output::Stderr, b"!"), b"!");
        seen.on_connection(false);
        assert_eq!(seen.on_place(Output::Stdout, 1), 0);
        assert_eq!(seen.fresh(Output::Stdout, b"n"), b"");
        assert_eq!(seen.fresh(Output::Stdout, b"etwo"), b"two");
        assert_eq!(seen.fresh(Output::Stderr, b"!!"), b"!");
        // What comes next was rotated away but for its end.
        seen.on_connection(false);
        assert_eq!(seen.on_place(Output::Stdout, 10), 4);
        assert_eq!(seen.fresh(Output::Stdout, b"three"), b"three");
        assert_eq!((seen.stdout, seen.stderr), (15, 2));
    }

    #[test]
    fn a_terminal_is_shown_as_it_was_and_what_follows_is_known_by_its_place() {
        let mut seen = Seen::default();
        for _ in 0..2 {
            seen.on_connection(true);
            seen.on_place(Output::Stdout, 100);
            assert_eq!(seen.fresh(Output::Stdout, b"$ "), b"$ ");
        }
        assert_eq!(seen.stdout, 102);
    }
}
