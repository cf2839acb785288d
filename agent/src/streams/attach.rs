//! A task's own input and output, for someone at a terminal: what they type goes to the task, what it
//! writes comes to them. When they go away the task goes on.

use tepui_types::command::CommandStdin;
use tepui_types::wire::stream::{
    AttachRequest, ClientFrame, INPUT_LOST, MAX_CHUNK, Output, StreamFrame,
};
use tepui_types::{TaskId, Workload};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{ClientFrames, Means, Sender, Speech, StreamError, Subject, Words, logs, refused};
use crate::event_loop::Event;

/// How much of what was written before is sent first to a terminal, in bytes: a few screens.
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
        speak(means, &task, Words::Resize(size)).await?;
    }
    // What comes by a pipe is data: all of it is wanted.
    let before = match request.terminal {
        Some(_) => -BEFORE,
        None => 0,
    };
    let mut files = Outputs::new(means, &task, before);
    let ended = subject.ended.unwrap_or_default();
    let mut taken = 0;
    loop {
        let is_last = ended.is_cancelled();
        let moved = files.send(sender).await?;
        if is_last && !moved {
            return sender.send(StreamFrame::End).await;
        }
        tokio::select! {
            batch = frames.next_batch() => {
                let before = taken;
                for frame in batch?.ok_or(StreamError::Gone)? {
                    taken += u64::from(!matches!(frame, ClientFrame::Resize(_)));
                    pass_on(means, &task, frame).await?;
                }
                if taken > before {
                    sender.send(StreamFrame::Taken(taken)).await?;
                }
            }
            () = pause(&ended, moved) => {}
        }
    }
}

async fn pass_on(means: &Means, task: &TaskId, frame: ClientFrame) -> Result<(), StreamError> {
    match frame {
        // None of it, without being the end, says nothing.
        ClientFrame::Data(bytes) => {
            for part in bytes.chunks(MAX_CHUNK) {
                speak(means, task, Words::Input(part.to_vec())).await?;
            }
            Ok(())
        }
        ClientFrame::End => speak(means, task, Words::Input(Vec::new())).await,
        ClientFrame::Resize(size) => speak(means, task, Words::Resize(size)).await,
    }
}

async fn speak(means: &Means, task: &TaskId, words: Words) -> Result<(), StreamError> {
    let (heard, answer) = oneshot::channel();
    let task = task.clone();
    let speech = Speech { task, words, heard };
    // The loop is gone only when the agent ends.
    let _ = means.events.send(Event::Spoken(speech)).await;
    let lost = |_| {
        let message = "the task does not run, or its executor does not answer: what was not said to be \
                       taken is not";
        refused(INPUT_LOST, message)
    };
    answer.await.map_err(lost)
}

async fn pause(ended: &CancellationToken, moved: bool) {
    if !moved {
        let _ = tokio::time::timeout(POLL, ended.cancelled()).await;
    }
}

/// Both outputs of a task, as they grow.
struct Outputs {
    streams: [(logs::Output, bool); 2],
    /// Where they begin; from the end when negative.
    before: i64,
}

impl Outputs {
    fn new(means: &Means, task: &TaskId, before: i64) -> Self {
        let stream = |output| {
            let path = means.layout.output(task, None, output);
            (logs::Output::new(&path), false)
        };
        Self {
            streams: [stream(Output::Stdout), stream(Output::Stderr)],
            before,
        }
    }

    /// Sends what is there; false if that was nothing.
    async fn send<C: AsyncRead + AsyncWrite>(
        &mut self,
        sender: &mut Sender<'_, C>,
    ) -> Result<bool, StreamError> {
        let (mut moved, mut is_late) = (false, false);
        let mut chunk = vec![0; CHUNK];
        for (number, (output, is_open)) in self.streams.iter_mut().enumerate() {
            let unreadable =
                |error: std::io::Error| refused("output-unreadable", error.to_string());
            if !*is_open {
                *is_open = output
                    .open(self.before)
                    .await
                    .map_err(unreadable)?
                    .is_some();
                is_late |= !*is_open;
            }
            // One at a time: neither the other nor what is typed waits for all of it.
            let count = output.read(&mut chunk).await.map_err(unreadable)?;
            if count > 0 {
                let bytes = chunk[..count].to_vec();
                moved = true;
                let frame = match number {
                    0 => StreamFrame::Data(bytes),
                    _ => StreamFrame::ErrorData(bytes),
                };
                sender.send(frame).await?;
            }
        }
        if is_late {
            // What is not there yet is not from before.
            self.before = 0;
        }
        Ok(moved)
    }
}
