//! A task's own input and output, for someone at a terminal: what they type goes to the task, what it
//! writes comes to them. When they go away the task goes on.

use tepui_types::command::CommandStdin;
use tepui_types::wire::stream::{AttachRequest, ClientFrame, Output, StreamFrame};
use tepui_types::{TaskId, Workload};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::{ClientFrames, Means, Sender, Speech, StreamError, Subject, logs, refused};
use crate::event_loop::Event;

/// How much of what was written before is sent first, in bytes: a few screens.
const BEFORE: i64 = 16 * 1024;
/// How often it is looked for more, as of followed output.
const POLL: std::time::Duration = std::time::Duration::from_millis(25);
/// Bytes taken of a file at once.
const CHUNK: usize = 16 * 1024;

pub(super) async fn serve<C: AsyncRead + AsyncWrite>(
    sender: &mut Sender<'_, C>,
    mut frames: ClientFrames<C>,
    means: &Means,
    subject: Subject,
    request: AttachRequest,
) -> Result<(), StreamError> {
    let reads = match &subject.launch()?.spec.workload {
        Workload::Command(command) => command.stdin() != CommandStdin::Nothing,
        Workload::Wasm(_) => false,
    };
    if !reads {
        let message = "the task reads nothing: to attach to it, run it with `stdin` that is `open` or \
                       `terminal` (`tepui run -i`, `-it`)";
        return Err(refused("attach-unsupported", message));
    }
    sender.send(StreamFrame::Opened).await?;
    let task = request.task;
    if let Some(size) = request.terminal {
        speak(means, Speech::Resize(task.clone(), size)).await;
    }
    let mut files = Outputs::new(means, &task);
    let ended = subject.ended.unwrap_or_default();
    loop {
        let is_last = ended.is_cancelled();
        let moved = files.send(sender).await?;
        if is_last {
            return sender.send(StreamFrame::End).await;
        }
        tokio::select! {
            batch = frames.next_batch() => {
                for frame in batch?.ok_or(StreamError::Gone)? {
                    let speech = match frame {
                        ClientFrame::Data(bytes) if bytes.is_empty() => continue,
                        ClientFrame::Data(bytes) => Speech::Input(task.clone(), bytes),
                        ClientFrame::End => Speech::Input(task.clone(), Vec::new()),
                        ClientFrame::Resize(size) => Speech::Resize(task.clone(), size),
                    };
                    speak(means, speech).await;
                }
            }
            () = pause(&ended, moved) => {}
        }
    }
}

async fn speak(means: &Means, speech: Speech) {
    // The loop is gone only when the agent ends.
    let _ = means.events.send(Event::Spoken(speech)).await;
}

async fn pause(ended: &CancellationToken, moved: bool) {
    if !moved {
        let _ = tokio::time::timeout(POLL, ended.cancelled()).await;
    }
}

/// Both outputs of a task, as they grow.
struct Outputs {
    streams: [(logs::Output, bool); 2],
}

impl Outputs {
    fn new(means: &Means, task: &TaskId) -> Self {
        let stream = |output| {
            let path = means.layout.output(task, None, output);
            (logs::Output::new(&path), false)
        };
        Self {
            streams: [stream(Output::Stdout), stream(Output::Stderr)],
        }
    }

    /// Sends what is there; false if that was nothing.
    async fn send<C: AsyncRead + AsyncWrite>(
        &mut self,
        sender: &mut Sender<'_, C>,
    ) -> Result<bool, StreamError> {
        let mut moved = false;
        let mut chunk = vec![0; CHUNK];
        for (number, (output, is_open)) in self.streams.iter_mut().enumerate() {
            let unreadable =
                |error: std::io::Error| refused("output-unreadable", error.to_string());
            if !*is_open {
                *is_open = output.open(-BEFORE).await.map_err(unreadable)?;
            }
            loop {
                let count = output.read(&mut chunk).await.map_err(unreadable)?;
                if count == 0 {
                    break;
                }
                let bytes = chunk[..count].to_vec();
                moved = true;
                sender
                    .send(match number {
                        0 => StreamFrame::Data(bytes),
                        _ => StreamFrame::ErrorData(bytes),
                    })
                    .await?;
            }
        }
        Ok(moved)
    }
}
