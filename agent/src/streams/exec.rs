//! A command beside a task, for someone who reads and writes.
//!
//! The agent holds the other ends of its pipes, or the terminal's; the executor gives it its own. When
//! the caller goes away the command is ended.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::pty::openpty;
use rustix::termios::Winsize;
use tepui_types::Workload;
use tepui_types::wire::executor::{RunBeside, RunIo};
use tepui_types::wire::stream::{ClientFrame, ExecRequest, MAX_CHUNK, StreamFrame, TerminalSize};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::time::Instant;

use super::{ClientFrames, Means, PROBE, Sender, StreamError, Subject, refused};
use crate::beside::{Ran, Run};

/// How long what a command left running may go on writing after its end.
const AFTERMATH: Duration = Duration::from_millis(200);
/// How long that may go on where it writes more often than that.
const LONGEST_AFTERMATH: Duration = Duration::from_secs(5);
/// What a terminal takes for the end of what is typed.
const END_OF_TRANSMISSION: u8 = 4;

pub(super) async fn serve<C: AsyncRead + AsyncWrite>(
    sender: &mut Sender<'_, C>,
    mut frames: ClientFrames<'_, C>,
    means: &Means,
    subject: &Subject,
    request: ExecRequest,
) -> Result<(), StreamError> {
    if let Workload::Wasm(_) = &subject.launch()?.spec.workload {
        let message = "nothing runs beside a WebAssembly program: it has no processes";
        return Err(refused("exec-unsupported", message));
    }
    let failed = |error: io::Error| refused("exec-failed", error.to_string());
    let (mut ends, files) = Ends::make(request.terminal).map_err(failed)?;
    let command = RunBeside {
        id: 0,
        task: request.task,
        member: request.member,
        argv: request.argv,
        env: request.env,
        timeout_ms: None,
        io: match request.terminal {
            Some(_) => RunIo::Terminal,
            None => RunIo::Pipes,
        },
    };
    sender.send(StreamFrame::Opened).await?;
    let run = means.beside.run(Run { command, files });
    tokio::pin!(run);
    let mut ran: Option<Ran> = None;
    let mut over = None;
    let mut probe = tokio::time::interval(PROBE);
    let mut chunks = [vec![0; MAX_CHUNK], vec![0; MAX_CHUNK]];
    loop {
        if ran.is_some() && ends.stdout.is_none() && ends.stderr.is_none() {
            break;
        }
        let [out_chunk, err_chunk] = &mut chunks;
        let waits = !ends.input.bytes.is_empty();
        let frame = tokio::select! {
            count = read(&ends.stdout, out_chunk), if ends.stdout.is_some() => match count {
                0 => { ends.stdout = None; continue; }
                count => StreamFrame::Data(out_chunk[..count].to_vec()),
            },
            count = read(&ends.stderr, err_chunk), if ends.stderr.is_some() => match count {
                0 => { ends.stderr = None; continue; }
                count => StreamFrame::ErrorData(err_chunk[..count].to_vec()),
            },
            ended = &mut run, if ran.is_none() => {
                ran = Some(ended);
                over = Some(Instant::now() + LONGEST_AFTERMATH);
                continue;
            }
            () = tokio::time::sleep(AFTERMATH), if ran.is_some() => break,
            () = ends.input.write(), if waits => continue,
            batch = frames.next_batch(), if !waits => {
                for frame in batch?.ok_or(StreamError::Gone)? {
                    ends.input.take(frame);
                }
                continue;
            }
            // A write tells whether the caller is still there, who may not have come to hang up.
            _ = probe.tick() => StreamFrame::Data(Vec::new()),
        };
        sender.send(frame).await?;
        if over.is_some_and(|over| over <= Instant::now()) {
            break;
        }
    }
    match ran {
        Some(Ok(code)) => sender.send(StreamFrame::Exited(code)).await,
        Some(Err(why)) => Err(refused("exec-failed", why.to_string())),
        None => Err(StreamError::Gone),
    }
}

/// The agent's ends of what a command reads and writes.
struct Ends {
    input: Input,
    stdout: Option<AsyncFd<File>>,
    stderr: Option<AsyncFd<File>>,
}

/// What it reads.
struct Input {
    file: Option<AsyncFd<File>>,
    is_terminal: bool,
    /// What is to be written next.
    bytes: Vec<u8>,
    /// Whether that is the end of it.
    has_ended: bool,
}

impl Ends {
    /// With those that the command has.
    fn make(terminal: Option<TerminalSize>) -> io::Result<(Self, Vec<OwnedFd>)> {
        let Some(size) = terminal else {
            let (stdin, to) = io::pipe()?;
            let (from, stdout) = io::pipe()?;
            let (from_error, stderr) = io::pipe()?;
            let this = Self {
                input: Input::new(to.into(), false)?,
                stdout: Some(in_turn(from.into())?),
                stderr: Some(in_turn(from_error.into())?),
            };
            return Ok((this, vec![stdin.into(), stdout.into(), stderr.into()]));
        };
        let pty = openpty(None, None)?;
        for end in [&pty.master, &pty.slave] {
            // Not for what the agent starts meanwhile.
            rustix::io::fcntl_setfd(end, rustix::io::FdFlags::CLOEXEC)?;
        }
        rustix::termios::tcsetwinsize(&pty.master, winsize(size))?;
        let this = Self {
            input: Input::new(pty.master.try_clone()?, true)?,
            stdout: Some(in_turn(pty.master)?),
            stderr: None,
        };
        Ok((this, vec![pty.slave]))
    }
}

impl Input {
    fn new(file: OwnedFd, is_terminal: bool) -> io::Result<Self> {
        Ok(Self {
            file: Some(in_turn(file)?),
            is_terminal,
            bytes: Vec::new(),
            has_ended: false,
        })
    }

    /// Takes what the caller says. Only when all before was written.
    fn take(&mut self, frame: ClientFrame) {
        match frame {
            ClientFrame::Data(bytes) if !self.has_ended => self.bytes.extend_from_slice(&bytes),
            ClientFrame::Data(_) | ClientFrame::Source { .. } => {}
            ClientFrame::End if self.is_terminal => self.bytes.push(END_OF_TRANSMISSION),
            ClientFrame::End => {
                self.has_ended = true;
                if self.bytes.is_empty() {
                    self.file = None;
                }
            }
            ClientFrame::Resize(size) => {
                if let Some(terminal) = self.file.as_ref().filter(|_| self.is_terminal) {
                    // One that is gone needs no size.
                    let _ = rustix::termios::tcsetwinsize(terminal.get_ref(), winsize(size));
                }
            }
        }
    }

    /// Writes some of it; what the command does not read any more is thrown away.
    async fn write(&mut self) {
        let written = match &self.file {
            Some(file) => {
                let write = |mut file: &File| io::Write::write(&mut file, &self.bytes);
                let written = file.async_io(Interest::WRITABLE, write);
                written.await.unwrap_or(self.bytes.len())
            }
            None => self.bytes.len(),
        };
        self.bytes.drain(..written);
        if self.bytes.is_empty() && self.has_ended {
            self.file = None;
        }
    }
}

fn winsize(size: TerminalSize) -> Winsize {
    Winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

/// One that never blocks.
fn in_turn(file: OwnedFd) -> io::Result<AsyncFd<File>> {
    rustix::fs::fcntl_setfl(&file, rustix::fs::OFlags::NONBLOCK)?;
    // SAFETY: the file is the descriptor's only owner, and is closed with what is made of it.
    let registered = unsafe { AsyncFd::register(File::from(file)) };
    registered.map_err(io::Error::from)
}

/// Some bytes; 0 when nobody is left to write, which a terminal says by an error.
async fn read(from: &Option<AsyncFd<File>>, chunk: &mut [u8]) -> usize {
    let Some(from) = from else {
        return 0;
    };
    let read = |mut file: &File| io::Read::read(&mut file, chunk);
    from.async_io(Interest::READABLE, read).await.unwrap_or(0)
}
