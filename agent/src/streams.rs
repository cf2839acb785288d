//! Data connections: output, files, what tasks use, commands beside them and ports, each on a
//! connection of its own.
//!
//! The agent dials the master that asked and serves what was asked for. TCP's window is the flow
//! control; a caller that goes away ends it.

use std::sync::Arc;
use std::time::Duration;

use tepui_network::Place;
use tepui_types::wire::agent::TaskLaunch;
use tepui_types::wire::executor::LocalNetwork;
use tepui_types::wire::stream::{
    ClientFrame, STREAM_PATH, StreamFrame, StreamRequest, TerminalSize, UPGRADE, UsageRequest,
    VERSION,
};
use tepui_types::{Reason, TaskId};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::beside::Beside;
use crate::event_loop::Event;
use crate::frames::{FrameError, FrameReader, write_frames};
use crate::master::{DialError, Dialer};
use crate::metrics::Metrics;
use crate::sandbox::Layout;
use crate::task_disks::TaskDisks;
use crate::usage::Gauge;

mod attach;
mod datagrams;
mod exec;
mod files;
mod forward;
mod logs;
mod output;
mod usage;

/// How often a stream looks whether its caller is still there, by writing nothing.
const PROBE: Duration = Duration::from_secs(5);
/// Streams at once; one more is refused. Each holds a socket and a file.
pub const MAX_STREAMS: usize = 256;
/// A reader that takes nothing for so long is taken for gone. A person who has stopped their terminal
/// to read may take minutes.
const STALL: Duration = tepui_lifeline::PATIENCE;
/// How long the other side may go on to speak when all was said to it.
const FAREWELL: Duration = Duration::from_secs(10);

/// One stream to be served.
#[derive(Debug)]
pub struct StreamJob {
    /// Its number.
    pub stream: u128,
    /// What is wanted.
    pub request: StreamRequest,
    /// The task that it is about, if it is about one.
    pub subject: Subject,
}

/// The task that a stream is about, as it was when the stream was asked for.
#[derive(Debug, Default)]
pub struct Subject {
    /// Whether anything is known of it, or left of it.
    pub is_known: bool,
    /// What it runs, while it lives.
    pub launch: Option<Arc<TaskLaunch>>,
    /// Its network, where it has one of its own.
    pub network: Option<Arc<LocalNetwork>>,
    /// Cancelled when it has ended; none if it had ended before.
    pub ended: Option<CancellationToken>,
}

/// With what streams are served.
#[derive(Debug, Clone)]
pub struct Means {
    /// The way to the master.
    pub dialer: Arc<Dialer>,
    /// Where everything lies.
    pub layout: Layout,
    /// Disks of tasks.
    pub disks: Arc<TaskDisks>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Commands beside tasks.
    pub beside: Arc<Beside>,
    /// What measures tasks.
    pub gauge: Gauge,
    /// The event loop.
    pub events: mpsc::Sender<Event>,
}

/// Something that is said to a task's own input.
#[derive(Debug)]
pub struct Speech {
    /// To which.
    pub task: TaskId,
    /// What.
    pub words: Words,
    /// Answered when the executor has taken it, or is told; dropped when that cannot be.
    pub heard: oneshot::Sender<()>,
}

/// What is said to a task's own input.
#[derive(Debug)]
pub enum Words {
    /// Bytes.
    Input(Piece),
    /// Its terminal has another size.
    Resize(TerminalSize),
}

/// A piece of what comes from a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Who sends it, and nothing more before it was taken.
    pub caller: u128,
    /// Of which input it is.
    pub source: u128,
    /// Where in that it begins.
    pub at: u64,
    /// Nothing is the input's end.
    pub bytes: Vec<u8>,
}

/// Why a stream broke off.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the other side went away")]
    Gone,
    #[error("the reader took nothing for {0:?}")]
    Stalled(Duration),
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// Said to the caller as well.
    #[error("{0}")]
    Refused(Reason),
}

/// Whom a request is about; none where it is about all.
pub fn task_of(request: &StreamRequest) -> Option<&TaskId> {
    Some(match request {
        StreamRequest::Logs(request) => &request.task,
        StreamRequest::Files(request) => &request.task,
        StreamRequest::Exec(request) => &request.task,
        StreamRequest::Attach(request) => &request.task,
        StreamRequest::Forward(request) | StreamRequest::Datagrams(request) => &request.task,
        StreamRequest::Usage(UsageRequest::Task(task)) => task,
        StreamRequest::Usage(UsageRequest::Page { .. }) => return None,
    })
}

/// Serves a stream to its end.
pub async fn serve(means: Means, job: StreamJob) {
    let stream = format!("{:032x}", job.stream);
    match run(&means, &stream, job).await {
        Ok(()) => tracing::debug!(stream, "stream ended"),
        Err(error) => tracing::debug!(stream, "stream broke off: {:#}", anyhow::Error::from(error)),
    }
}

async fn run(means: &Means, stream: &str, job: StreamJob) -> Result<(), StreamError> {
    let path = format!("{STREAM_PATH}{stream}");
    let connection = means.dialer.dial(&path, UPGRADE).await?;
    let (mut read, write) = tokio::io::split(connection);
    let mut sender = Sender {
        write,
        metrics: &means.metrics,
        patience: STALL,
    };
    let subject = job.subject;
    let gone = gone(means, &subject, &job.request).await;
    let served = match job.request {
        _ if let Err(gone) = gone => Err(gone),
        StreamRequest::Logs(request) => {
            let reader = Reader(&mut read);
            logs::serve(&mut sender, reader, &means.layout, subject.ended, request).await
        }
        StreamRequest::Files(request) => files::serve(&mut sender, &means.disks, request).await,
        StreamRequest::Usage(request) => usage::serve(&mut sender, means, &subject, request).await,
        StreamRequest::Exec(request) => {
            let frames = FrameReader::new(&mut read, VERSION);
            exec::serve(&mut sender, frames, means, &subject, request).await
        }
        StreamRequest::Attach(request) => {
            let frames = FrameReader::new(&mut read, VERSION);
            let caller = job.stream;
            attach::serve(&mut sender, frames, means, subject, (caller, request)).await
        }
        StreamRequest::Forward(request) => {
            let frames = FrameReader::new(&mut read, VERSION);
            forward::serve(&mut sender, frames, &subject, request).await
        }
        StreamRequest::Datagrams(request) => {
            let frames = FrameReader::new(&mut read, VERSION);
            datagrams::serve(&mut sender, frames, &subject, request).await
        }
    };
    if let Err(StreamError::Refused(reason)) = &served {
        sender.send(StreamFrame::Failed(reason.clone())).await?;
    }
    part(read, sender.write).await;
    served
}

/// Lets the other side take all that was said. It may still be speaking, and a connection that is closed
/// before that was read is reset: what is on its way to the other side would be lost.
async fn part<C: AsyncRead + AsyncWrite>(mut read: ReadHalf<C>, mut write: WriteHalf<C>) {
    let parted = async {
        write.shutdown().await?;
        tokio::io::copy(&mut read, &mut tokio::io::sink()).await
    };
    // One that has gone has taken what it wanted.
    let _ = tokio::time::timeout(FAREWELL, parted).await;
}

/// Refuses what is asked of a task of which there is nothing, neither a folder nor an output in a pack.
async fn gone(
    means: &Means,
    subject: &Subject,
    request: &StreamRequest,
) -> Result<(), StreamError> {
    let Some(task) = task_of(request).filter(|_| !subject.is_known) else {
        return Ok(());
    };
    match logs::packed(&means.layout, task).await? {
        Some(_) => Ok(()),
        None => {
            let message = format!("the agent has nothing of {task} any more");
            Err(refused("task-gone", message))
        }
    }
}

/// What the caller of a stream that goes both ways says.
type ClientFrames<'a, C> = FrameReader<&'a mut ReadHalf<C>, ClientFrame>;

struct Sender<'a, C> {
    write: WriteHalf<C>,
    metrics: &'a Metrics,
    patience: Duration,
}

impl<C: AsyncRead + AsyncWrite> Sender<'_, C> {
    async fn send(&mut self, frame: StreamFrame) -> Result<(), StreamError> {
        if let StreamFrame::Data(bytes) | StreamFrame::ErrorData(bytes) = &frame {
            self.metrics.streamed_bytes.inc_by(bytes.len() as u64);
        }
        let frames = [frame];
        let written = write_frames(&mut self.write, VERSION, &frames);
        match tokio::time::timeout(self.patience, written).await {
            Ok(written) => Ok(written?),
            Err(_) => Err(StreamError::Stalled(self.patience)),
        }
    }
}

/// The other side of a stream that goes one way: it has nothing to say.
struct Reader<'a, C>(&'a mut ReadHalf<C>);

impl<C: AsyncRead + AsyncWrite> Reader<'_, C> {
    /// Returns when it has hung up.
    async fn hung_up(&mut self) {
        let mut byte = [0; 1];
        let _ = self.0.read(&mut byte).await;
    }
}

impl Subject {
    /// What it runs.
    fn launch(&self) -> Result<&TaskLaunch, StreamError> {
        self.launch
            .as_deref()
            .ok_or_else(|| refused("task-ended", "the task has ended"))
    }

    /// Where it is reached.
    fn place(&self) -> Place {
        crate::checks::place(self.network.as_deref())
    }
}

fn refused(code: &str, message: impl Into<String>) -> StreamError {
    StreamError::Refused(Reason::new(code, message))
}
