//! The agent's connection: frames in, the latest update of each task out.
//!
//! What is to be said is a queue of task ids, each in it once, so a slow agent
//! costs one entry a task and hears the latest. Frames are written in batches.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::time::Duration;

use anyhow::{Context, bail};
use tepui_executor::protocol::{FrameBuffer, ProtocolError, encode};
use tepui_types::TaskId;
use tepui_types::wire::executor::{FromExecutor, TaskUpdate, ToExecutor, VERSION};
use tepui_types::wire::{LENGTH_BYTES, frame_len, parse};
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::UnixStream;

/// How long a new connection may take to prove itself.
const ATTACH_PATIENCE: Duration = Duration::from_secs(5);
/// The largest first frame: who has not proven itself makes us keep no more.
const MAX_ATTACH_BYTES: usize = 64;
/// Updates in one write: some hundred bytes each.
const MAX_BATCH: usize = 256;
/// Bytes taken out of the socket at once.
const READ_BYTES: usize = 64 * 1024;

/// Reads the first frame of a new connection; gives the connection back if it
/// proves to be the agent's.
pub async fn attach(mut stream: UnixStream, token: u128) -> anyhow::Result<UnixStream> {
    let proof = async {
        let mut header = [0; LENGTH_BYTES];
        stream.read_exact(&mut header).await?;
        let len = frame_len(header)?;
        if len > MAX_ATTACH_BYTES {
            bail!("the first frame is no attach");
        }
        let mut body = vec![0; len];
        stream.read_exact(&mut body).await?;
        match parse(VERSION, &body)? {
            ToExecutor::Attach { token: given } if given == token => Ok(()),
            ToExecutor::Attach { .. } => bail!("a wrong token"),
            _ => bail!("the first frame is no attach"),
        }
    };
    tokio::time::timeout(ATTACH_PATIENCE, proof)
        .await
        .context("no attach in time")??;
    Ok(stream)
}

/// The attached agent.
pub struct Agent {
    stream: UnixStream,
    incoming: FrameBuffer,
    outgoing: Vec<u8>,
    written: usize,
    queue: VecDeque<TaskId>,
    queued: HashSet<TaskId>,
}

impl Agent {
    /// Takes over a connection that has proven itself, and answers it.
    pub fn new(stream: UnixStream, answer: &FromExecutor) -> Result<Self, ProtocolError> {
        Ok(Self {
            stream,
            incoming: FrameBuffer::default(),
            outgoing: encode(answer)?,
            written: 0,
            queue: VecDeque::new(),
            queued: HashSet::new(),
        })
    }

    /// Waits until there is something to read, or to write what waits.
    pub async fn ready(&self) -> io::Result<()> {
        let waits = self.written < self.outgoing.len();
        let interest = if waits {
            Interest::READABLE | Interest::WRITABLE
        } else {
            Interest::READABLE
        };
        self.stream.ready(interest).await.map(drop)
    }

    /// Takes in what has arrived; false when the other side has hung up.
    pub fn fill(&mut self) -> io::Result<bool> {
        let mut bytes = [0; READ_BYTES];
        match self.stream.try_read(&mut bytes) {
            Ok(0) => Ok(false),
            Ok(count) => {
                self.incoming.extend(&bytes[..count]);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// The next whole frame that has arrived.
    pub fn next_frame(&mut self) -> Result<Option<ToExecutor>, ProtocolError> {
        self.incoming.next_frame()
    }

    /// This task's latest update is to be said.
    pub fn queue(&mut self, task: &TaskId) {
        if self.queued.insert(task.clone()) {
            self.queue.push_back(task.clone());
        }
    }

    /// Says this behind what is being said.
    pub fn answer(&mut self, answer: &FromExecutor) -> Result<(), ProtocolError> {
        self.outgoing.extend(encode(answer)?);
        Ok(())
    }

    /// Says as much as the socket takes. `latest` gives a task's update; one
    /// that is forgotten meanwhile has none.
    pub fn pump<'a>(
        &mut self,
        latest: impl Fn(&TaskId) -> Option<&'a TaskUpdate>,
    ) -> Result<(), ProtocolError> {
        loop {
            while self.written < self.outgoing.len() {
                match self.stream.try_write(&self.outgoing[self.written..]) {
                    Ok(count) => self.written += count,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                    Err(error) => return Err(error.into()),
                }
            }
            self.outgoing.clear();
            self.written = 0;
            if self.queue.is_empty() {
                return Ok(());
            }
            for _ in 0..MAX_BATCH {
                let Some(task) = self.queue.pop_front() else {
                    break;
                };
                self.queued.remove(&task);
                if let Some(update) = latest(&task) {
                    self.outgoing
                        .extend(encode(&FromExecutor::Update(update.clone()))?);
                }
            }
        }
    }
}
