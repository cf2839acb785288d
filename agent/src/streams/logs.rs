//! A task's output: its files from where it was asked to and, if it is to be followed, on until the
//! task has ended and all was sent.

use std::io;
use std::time::Duration;

use tepui_executor::packs::{self, Packed};
use tepui_types::TaskId;
use tepui_types::command::MAIN;
use tepui_types::ids::is_label;
use tepui_types::wire::stream::{LogRequest, StreamFrame};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::output::Output;
use super::{Reader, Sender, StreamError, refused};
use crate::sandbox::Layout;

/// How often a followed file is looked at: often enough to look live, at the
/// cost of one `read` that finds nothing.
const POLL: Duration = Duration::from_millis(25);

pub(super) async fn serve<C: AsyncRead + AsyncWrite>(
    sender: &mut Sender<'_, C>,
    reader: Reader<'_, C>,
    layout: &Layout,
    ended: Option<CancellationToken>,
    request: LogRequest,
) -> Result<(), StreamError> {
    let member = request.member.as_deref();
    if let Some(name) = member.filter(|name| !is_label(name)) {
        return Err(refused("no-member", format!("`{name}` names no command")));
    }
    let path = layout.output(&request.task, member, request.output);
    let mut output = Output::alone(&path, request.output);
    // What a task that lives has said is in files alone, and so is what companions say.
    let may_be_packed = member.is_none_or(|name| name == MAIN)
        && (request.follow || ended.as_ref().is_none_or(CancellationToken::is_cancelled));
    let ended = ended.filter(|_| request.follow);
    let is_over = ended.as_ref().is_none_or(CancellationToken::is_cancelled);
    let end = output.open(request.offset).await?;
    let mut from = request.offset;
    if end > 0 || !is_over {
        copy(sender, reader, &mut output, end, ended).await?;
        // What was not there yet is not from before.
        from = i64::try_from(output.at()).unwrap_or(i64::MAX);
    }
    if may_be_packed
        && output.has_none()
        && let Some(packed) = packed(layout, &request.task).await?
    {
        let bytes = packed.output(request.output);
        output.send_packed(sender, bytes, from).await?;
    }
    output.tell_place(sender).await?;
    sender.send(StreamFrame::End).await
}

/// What is packed of a task's outputs.
pub(super) async fn packed(layout: &Layout, task: &TaskId) -> Result<Option<Packed>, StreamError> {
    let (folder, task) = (layout.packs(), task.clone());
    let found = tokio::task::spawn_blocking(move || packs::find(&folder, &task));
    let found = found.await.map_err(io::Error::other).flatten();
    found.map_err(|error| refused("output-unreadable", error.to_string()))
}

/// Sends what comes next; until that end, or until `ended` and then to its end.
async fn copy<C: AsyncRead + AsyncWrite>(
    sender: &mut Sender<'_, C>,
    mut reader: Reader<'_, C>,
    output: &mut Output,
    end: u64,
    ended: Option<CancellationToken>,
) -> Result<(), StreamError> {
    if ended.is_none() {
        // Of a task that writes faster than it is read, this would have no end: it ends where the
        // output did when it was asked for.
        output.stop_at(end);
    }
    output.tell_place(sender).await?;
    loop {
        // Looked at first: what was written before the end is read after it.
        let is_last = ended.as_ref().is_none_or(CancellationToken::is_cancelled);
        let mut has_moved = false;
        while output.send(sender).await? {
            has_moved = true;
        }
        match &ended {
            _ if is_last => return Ok(()),
            // Between bursts there is often more at once.
            _ if has_moved => tokio::task::yield_now().await,
            None => return Ok(()),
            Some(ended) => tokio::select! {
                () = ended.cancelled() => {}
                () = tokio::time::sleep(POLL) => {}
                () = reader.hung_up() => return Err(StreamError::Gone),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tepui_types::wire::stream::{self, MAX_CHUNK, VERSION};

    use super::*;
    use crate::frames::FrameReader;
    use crate::metrics::Metrics;

    #[tokio::test]
    async fn a_reader_that_takes_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stdout");
        std::fs::write(&path, vec![b'x'; 4 * MAX_CHUNK]).unwrap();
        // The reader's end lives and holds a little.
        let (ours, _theirs) = tokio::io::duplex(16);
        let (mut read, write) = tokio::io::split(ours);
        let metrics = Metrics::new();
        let mut sender = Sender {
            write,
            metrics: &metrics,
            patience: Duration::from_millis(20),
        };
        let mut output = Output::alone(&path, stream::Output::Stdout);
        let end = output.open(0).await.unwrap();
        let copied = copy(&mut sender, Reader(&mut read), &mut output, end, None).await;
        assert!(matches!(copied, Err(StreamError::Stalled(_))), "{copied:?}");
    }

    #[tokio::test]
    async fn what_is_not_followed_ends_where_it_did_when_it_was_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stdout");
        std::fs::write(&path, vec![b'x'; 3 * MAX_CHUNK]).unwrap();
        // The reader's end takes one frame at most before it is read.
        let (ours, mut theirs) = tokio::io::duplex(MAX_CHUNK);
        let (mut read, write) = tokio::io::split(ours);
        let metrics = Metrics::new();
        let mut sender = Sender {
            write,
            metrics: &metrics,
            patience: crate::streams::STALL,
        };
        let offset = -1 - MAX_CHUNK as i64;
        let mut file = std::fs::File::options().append(true).open(&path).unwrap();
        let mut output = Output::alone(&path, stream::Output::Stdout);
        let end = output.open(offset).await.unwrap();
        let copying = async move {
            copy(&mut sender, Reader(&mut read), &mut output, end, None)
                .await
                .is_ok()
        };
        let reading = async {
            let mut frames = FrameReader::<_, StreamFrame>::new(&mut theirs, VERSION);
            let (mut all, mut places) = (0, Vec::new());
            while let Ok(Some(batch)) = frames.next_batch().await {
                for frame in batch {
                    match frame {
                        StreamFrame::Begins { at, .. } => places.push(at),
                        StreamFrame::Data(bytes) => {
                            all += bytes.len();
                            // Written faster than it is read.
                            file.write_all(&[b'y'; 2 * MAX_CHUNK]).unwrap();
                        }
                        other => panic!("data alone: {other:?}"),
                    }
                }
            }
            assert_eq!(places, [2 * MAX_CHUNK as u64 - 1]);
            all
        };
        assert_eq!(tokio::join!(copying, reading), (true, MAX_CHUNK + 1));
    }
}
