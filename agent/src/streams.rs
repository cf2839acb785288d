//! Data connections: a task's output, on a connection of its own.
//!
//! The agent dials the master that asked, sends the file from where it was
//! asked to and, if it is to follow, goes on until the task has ended and all
//! was sent. TCP's window is the flow control; a reader that goes away ends it.

use std::io::SeekFrom;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tepui_types::Reason;
use tepui_types::wire::stream::{
    LogRequest, MAX_CHUNK, STREAM_PATH, StreamFrame, UPGRADE, VERSION,
};
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncSeekExt, AsyncWrite, ReadHalf, WriteHalf};
use tokio_util::sync::CancellationToken;

use crate::frames::{FrameError, write_frames};
use crate::master::{DialError, Dialer};
use crate::metrics::Metrics;
use crate::sandbox::Layout;

/// Streams at once; one more is refused. Each holds a socket and a file.
pub const MAX_STREAMS: usize = 256;
/// A reader that takes nothing for so long is taken for gone. A person who has stopped their terminal
/// to read may take minutes.
const STALL: Duration = Duration::from_secs(300);
/// How often a followed file is looked at: often enough to look live, at the
/// cost of one `read` that finds nothing.
const POLL: Duration = Duration::from_millis(25);

/// One stream to be served.
#[derive(Debug)]
pub struct StreamJob {
    /// Its number.
    pub stream: u128,
    /// What to send; or why that cannot be.
    pub request: Result<LogRequest, Reason>,
    /// Cancelled when the task has ended; none if it had ended before.
    pub ended: Option<CancellationToken>,
}

/// Why a stream broke off.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the reader went away")]
    Gone,
    #[error("the reader took nothing for {0:?}")]
    Stalled(Duration),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("failed to read the output")]
    Read(#[source] std::io::Error),
}

/// Serves a stream to its end.
pub async fn serve(dialer: Arc<Dialer>, layout: Layout, metrics: Arc<Metrics>, job: StreamJob) {
    let stream = format!("{:032x}", job.stream);
    match run(&dialer, &layout, &metrics, &stream, job).await {
        Ok(()) => tracing::debug!(stream, "stream ended"),
        Err(error) => tracing::debug!(stream, "stream broke off: {:#}", anyhow::Error::from(error)),
    }
}

async fn run(
    dialer: &Dialer,
    layout: &Layout,
    metrics: &Metrics,
    stream: &str,
    job: StreamJob,
) -> Result<(), StreamError> {
    let connection = dialer
        .dial(&format!("{STREAM_PATH}{stream}"), UPGRADE)
        .await?;
    let (read, write) = tokio::io::split(connection);
    let mut sender = Sender {
        read,
        write,
        metrics,
        patience: STALL,
    };
    let request = match job.request {
        Ok(request) => request,
        Err(reason) => return sender.send(StreamFrame::Failed(reason)).await,
    };
    let path = layout.output(&request.task, request.output);
    let ended = job.ended.filter(|_| request.follow);
    match copy(&mut sender, &path, request.offset, ended).await {
        Ok(()) => sender.send(StreamFrame::End).await,
        Err(StreamError::Read(error)) => {
            let reason = Reason::new("output-unreadable", format!("{}: {error}", path.display()));
            sender.send(StreamFrame::Failed(reason)).await?;
            Err(StreamError::Read(error))
        }
        Err(error) => Err(error),
    }
}

struct Sender<'a, C> {
    read: ReadHalf<C>,
    write: WriteHalf<C>,
    metrics: &'a Metrics,
    patience: Duration,
}

impl<C: AsyncRead + AsyncWrite> Sender<'_, C> {
    async fn send(&mut self, frame: StreamFrame) -> Result<(), StreamError> {
        if let StreamFrame::Data(bytes) = &frame {
            self.metrics.streamed_bytes.inc_by(bytes.len() as u64);
        }
        let frames = [frame];
        let written = write_frames(&mut self.write, VERSION, &frames);
        match tokio::time::timeout(self.patience, written).await {
            Ok(written) => Ok(written?),
            Err(_) => Err(StreamError::Stalled(self.patience)),
        }
    }

    /// Returns when the other side has hung up; it has nothing to say.
    async fn hung_up(&mut self) {
        let mut byte = [0; 1];
        let _ = self.read.read(&mut byte).await;
    }
}

/// Sends a file from `offset`; until it ends, or until `ended` and then to its end.
async fn copy<C: AsyncRead + AsyncWrite>(
    sender: &mut Sender<'_, C>,
    path: &Path,
    offset: i64,
    ended: Option<CancellationToken>,
) -> Result<(), StreamError> {
    let mut file: Option<File> = None;
    let mut chunk = vec![0; MAX_CHUNK];
    loop {
        // Looked at first: what was written before the end is read after it.
        let is_last = ended.as_ref().is_none_or(CancellationToken::is_cancelled);
        if file.is_none() {
            file = open(path, offset).await.map_err(StreamError::Read)?;
        }
        let mut sent = 0;
        while let Some(file) = &mut file {
            let count = file.read(&mut chunk).await.map_err(StreamError::Read)?;
            if count == 0 {
                break;
            }
            sender
                .send(StreamFrame::Data(chunk[..count].to_vec()))
                .await?;
            sent += count;
        }
        match &ended {
            _ if is_last => return Ok(()),
            // Between bursts there is often more at once.
            _ if sent > 0 => tokio::task::yield_now().await,
            None => return Ok(()),
            Some(ended) => tokio::select! {
                () = ended.cancelled() => {}
                () = tokio::time::sleep(POLL) => {}
                () = sender.hung_up() => return Err(StreamError::Gone),
            },
        }
    }
}

/// The file at `offset`, from its end when negative; none while nothing was written.
async fn open(path: &Path, offset: i64) -> std::io::Result<Option<File>> {
    let mut file = match File::open(path).await {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let start = match u64::try_from(offset) {
        Ok(start) => start,
        Err(_) => file
            .metadata()
            .await?
            .len()
            .saturating_sub(offset.unsigned_abs()),
    };
    file.seek(SeekFrom::Start(start)).await?;
    Ok(Some(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reader_that_takes_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stdout");
        std::fs::write(&path, vec![b'x'; 4 * MAX_CHUNK]).unwrap();
        // The reader's end lives and holds a little.
        let (ours, _theirs) = tokio::io::duplex(16);
        let (read, write) = tokio::io::split(ours);
        let metrics = Metrics::new();
        let mut sender = Sender {
            read,
            write,
            metrics: &metrics,
            patience: Duration::from_millis(20),
        };
        let copied = copy(&mut sender, &path, 0, None).await;
        assert!(matches!(copied, Err(StreamError::Stalled(_))), "{copied:?}");
    }
}
