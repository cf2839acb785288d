//! What is said to an executor process, on its way there.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use tepui_executor::descriptors;
use tepui_types::wire;
use tepui_types::wire::executor::{TaskUpdate, ToExecutor, VERSION};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;

use crate::frames::{FrameError, write_frames};
use crate::gpus::Guard;

/// One message.
#[derive(Debug)]
pub(super) struct Message {
    /// What.
    pub frame: ToExecutor,
    /// What comes with it; nothing with most.
    pub files: Vec<OwnedFd>,
}

/// Who stands between the queue and the process, and the cgroup where its word holds.
pub(super) type Door = (Arc<Guard>, String);

/// Takes out what must not be said, and tells the ends of those tasks.
pub(super) async fn admit(door: &Door, messages: &mut Vec<Message>) -> Vec<TaskUpdate> {
    let (guard, cgroup) = door;
    let (mut admitted, mut refused) = (Vec::with_capacity(messages.len()), Vec::new());
    for mut message in messages.drain(..) {
        match guard.admit(cgroup, &mut message.frame).await {
            Ok(()) => admitted.push(message),
            Err(end) => refused.push(end),
        }
    }
    *messages = admitted;
    refused
}

/// Writes messages, in order and in as few goes as may be.
pub(super) async fn write_messages(
    write: &mut OwnedWriteHalf,
    messages: &mut Vec<Message>,
) -> Result<(), FrameError> {
    let mut frames = Vec::with_capacity(messages.len());
    for Message { frame, files } in messages.drain(..) {
        if files.is_empty() {
            frames.push(frame);
            continue;
        }
        write_frames(write, VERSION, &frames).await?;
        frames.clear();
        let bytes = wire::frame(VERSION, &frame)?;
        let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        let stream: &UnixStream = (*write).as_ref();
        let send = || descriptors::send(stream.as_fd(), &bytes, &files);
        let sent = stream.async_io(Interest::WRITABLE, send).await?;
        write.write_all(&bytes[sent..]).await?;
    }
    match frames.is_empty() {
        true => Ok(()),
        false => write_frames(write, VERSION, &frames).await,
    }
}
