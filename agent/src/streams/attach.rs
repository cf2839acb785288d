//! A task's own input and output, for someone at a terminal: what they type goes to the task, what it
//! writes comes to them. When they go away the task goes on.
//!
//! A piece of input is said to be taken when the executor has room for it: one that the task does not
//! read holds up what comes after it, and neither the output nor anybody else.

use std::time::Duration;

use tepui_types::command::CommandStdin;
use tepui_types::wire::stream::{
    AttachRequest, ClientFrame, INPUT_LOST, Output, StreamFrame, TerminalSize,
};
use tepui_types::{TaskId, Workload};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::output;
use super::{
    ClientFrames, Means, PROBE, Piece, Sender, Speech, StreamError, Subject, Words, refused,
};
use crate::event_loop::Event;
use pieces::Pieces;

mod pieces;

/// How much of what was written before is sent first to a terminal, in bytes: a few screens.
const BEFORE: i64 = 16 * 1024;
/// How often it is looked for more, as of followed output.
const POLL: Duration = Duration::from_millis(25);

/// How long the end of a task may take to be known whose executor takes nothing more.
const END_PATIENCE: Duration = Duration::from_secs(2);

pub(super) async fn serve<C: AsyncRead + AsyncWrite>(
    sender: &mut Sender<'_, C>,
    mut frames: ClientFrames<'_, C>,
    means: &Means,
    subject: Subject,
    (caller, request): (u128, AttachRequest),
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
    let mut voice = Voice::new(means, request.task, caller);
    if let Some(size) = request.terminal {
        voice.resize(size).await;
    }
    // What comes by a pipe is data: all of it is wanted.
    let before = match request.terminal {
        Some(_) => -BEFORE,
        None => 0,
    };
    let mut files = Outputs::open(means, &voice.task, before).await?;
    let ended = subject.ended.unwrap_or_default();
    let mut said = 0;
    let mut probe = tokio::time::interval(PROBE);
    loop {
        let is_last = ended.is_cancelled();
        let moved = files.send(sender).await?;
        if is_last && !moved {
            // What was taken last must not be taken again by the next attempt.
            let _ = tokio::time::timeout(Duration::ZERO, voice.heard()).await;
            voice.tell_taken(sender, &mut said).await?;
            return sender.send(StreamFrame::End).await;
        }
        if !is_last {
            voice.speak().await;
        }
        tokio::select! {
            batch = frames.next_batch(), if voice.pieces.has_room() => {
                for frame in batch?.ok_or(StreamError::Gone)? {
                    voice.pass_on(frame).await;
                }
            }
            is_heard = voice.heard() => {
                if !is_heard && !ends(&ended).await {
                    let message = "the task does not run, or its executor does not answer: what was \
                                   not said to be taken is not";
                    return Err(refused(INPUT_LOST, message));
                }
            }
            // A write tells whether the caller is still there, who may not have come to hang up.
            _ = probe.tick() => sender.send(StreamFrame::Data(Vec::new())).await?,
            () = pause(&ended, moved) => {}
        }
        voice.tell_taken(sender, &mut said).await?;
    }
}

/// Whether the task has ended, or does so soon.
async fn ends(ended: &CancellationToken) -> bool {
    let soon = tokio::time::timeout(END_PATIENCE, ended.cancelled());
    soon.await.is_ok()
}

/// One who speaks to the task. What was not taken when this goes is not wanted any more.
struct Voice<'a> {
    means: &'a Means,
    task: TaskId,
    caller: u128,
    pieces: Pieces,
    /// Answered when the piece that is under way was taken.
    answer: Option<oneshot::Receiver<()>>,
}

impl<'a> Voice<'a> {
    fn new(means: &'a Means, task: TaskId, caller: u128) -> Self {
        Self {
            means,
            task,
            caller,
            // Who does not say what it sends never sends that again.
            pieces: Pieces::new(caller),
            answer: None,
        }
    }

    /// Tells the caller how much was taken, if that is more than was said.
    async fn tell_taken<C: AsyncRead + AsyncWrite>(
        &self,
        sender: &mut Sender<'_, C>,
        said: &mut u64,
    ) -> Result<(), StreamError> {
        let taken = self.pieces.taken();
        if taken > *said {
            *said = taken;
            sender.send(StreamFrame::Taken(taken)).await?;
        }
        Ok(())
    }

    async fn pass_on(&mut self, frame: ClientFrame) {
        match frame {
            ClientFrame::Data(bytes) => self.pieces.add(&bytes),
            ClientFrame::End => self.pieces.end(),
            // Not behind what the task does not read.
            ClientFrame::Resize(size) => self.resize(size).await,
            ClientFrame::Source { id, at } => self.pieces.on_source(id, at),
        }
    }

    /// Sends the next piece, unless one is under way.
    async fn speak(&mut self) {
        if let Some((source, at, bytes)) = self.pieces.send() {
            let piece = Piece {
                caller: self.caller,
                source,
                at,
                bytes,
            };
            self.answer = Some(self.say(Words::Input(piece)).await);
        }
    }

    /// Waits until the piece that is under way was taken; false where it will not be.
    async fn heard(&mut self) -> bool {
        let Some(answer) = &mut self.answer else {
            return std::future::pending().await;
        };
        let is_heard = answer.await.is_ok();
        self.answer = None;
        if is_heard {
            self.pieces.on_taken();
        }
        is_heard
    }

    /// A terminal whose task has gone needs no size.
    async fn resize(&self, size: TerminalSize) {
        drop(self.say(Words::Resize(size)).await);
    }

    async fn say(&self, words: Words) -> oneshot::Receiver<()> {
        let (heard, answer) = oneshot::channel();
        let task = self.task.clone();
        let speech = Speech { task, words, heard };
        // The loop is gone only when the agent ends.
        let _ = self.means.events.send(Event::Spoken(speech)).await;
        answer
    }
}

impl Drop for Voice<'_> {
    fn drop(&mut self) {
        if self.answer.is_none() {
            return;
        }
        let left = Event::CallerLeft(self.caller);
        if let Err(TrySendError::Full(left)) = self.means.events.try_send(left) {
            let events = self.means.events.clone();
            // The loop is gone only when the agent ends.
            tokio::spawn(async move { events.send(left).await.ok() });
        }
    }
}

async fn pause(ended: &CancellationToken, moved: bool) {
    if !moved {
        let _ = tokio::time::timeout(POLL, ended.cancelled()).await;
    }
}

/// Both outputs of a task, as they grow.
struct Outputs([output::Output; 2]);

impl Outputs {
    /// From there on; from the end when negative.
    async fn open(means: &Means, task: &TaskId, before: i64) -> Result<Self, StreamError> {
        let both = [Output::Stdout, Output::Stderr];
        let mut both = both.map(|which| {
            let path = means.layout.output(task, None, which);
            output::Output::beside(&path, which)
        });
        for output in &mut both {
            output.open(before).await?;
        }
        Ok(Self(both))
    }

    /// Sends what is there; false if that was nothing.
    async fn send<C: AsyncRead + AsyncWrite>(
        &mut self,
        sender: &mut Sender<'_, C>,
    ) -> Result<bool, StreamError> {
        let mut moved = false;
        // One piece of each: neither the other nor what is typed waits for all of it.
        for output in &mut self.0 {
            moved |= output.send(sender).await?;
        }
        Ok(moved)
    }
}
