//! The world of a master's member: connections, a thread for images, the system's randomness.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread::{self, Builder, JoinHandle};

use raft::eraftpb::Message;
use tepui_cluster::State;
use tepui_types::NodeId;
use tepui_types::wire::peer::StateHash;

use super::inbox::Inbox;
use super::install::Fetched;
use super::snapshots::Encoded;
use super::transport::Transport;
use super::world::{Image, Saying, World};
use crate::error::RaftError;
use crate::masters::image;
use crate::storage::Storage;

/// How far threads stand back, as nice(1) counts it: a tenth of a processor stays theirs on a busy machine.
const NICE: i32 = 10;

/// The machine that this master runs on.
pub(super) struct Machine {
    transport: Transport,
    storage: Storage,
    inbox: Arc<Inbox>,
    /// Writes an image, or has.
    writer: Option<JoinHandle<()>>,
    /// Computes a hash, or has.
    hasher: Option<JoinHandle<()>>,
}

impl Machine {
    pub fn new(transport: Transport, storage: Storage, inbox: Arc<Inbox>) -> Self {
        Self {
            transport,
            storage,
            inbox,
            writer: None,
            hasher: None,
        }
    }

    /// Waits until no image is being written.
    fn join_writer(&mut self) {
        if let Some(writer) = self.writer.take() {
            // What became of the image is in the inbox; its panic was printed.
            writer.join().ok();
        }
    }
}

impl World for Machine {
    fn send(&mut self, to: NodeId, saying: Saying) {
        self.transport.send(to, saying);
    }

    fn set_peers(&mut self, masters: Vec<(NodeId, String)>) {
        self.transport.set_peers(masters);
    }

    fn introduce(&mut self, peer: NodeId, url: String) {
        self.transport.introduce(peer, url);
    }

    fn fetch_image(&mut self, message: Message) -> bool {
        let leader = NodeId(message.from);
        let (Some((runtime, peers)), Some(url)) =
            (self.transport.way(), self.transport.url(leader))
        else {
            return false;
        };
        let (url, storage, inbox) = (url.to_owned(), self.storage.clone(), self.inbox.clone());
        runtime.spawn(async move {
            let index = message.get_snapshot().get_metadata().index;
            let result = image::fetch(&peers, &url, Some(index), &storage).await;
            inbox.image_fetched(Fetched::new(message, result));
        });
        true
    }

    fn write_image(&mut self, image: Image) -> Result<(), RaftError> {
        self.join_writer();
        let (storage, inbox) = (self.storage.clone(), self.inbox.clone());
        let writer = Builder::new()
            .name("snapshot".into())
            .spawn(move || inbox.snapshot_ready(encode_behind(&image).write(&storage)))
            .map_err(RaftError::Thread)?;
        self.writer = Some(writer);
        Ok(())
    }

    fn hash_state(&mut self, index: u64, state: State) {
        if self.hasher.as_ref().is_some_and(|it| !it.is_finished()) {
            // The next one will do.
            return;
        }
        let inbox = self.inbox.clone();
        let hasher = Builder::new().name("state-hash".into()).spawn(move || {
            stand_back();
            let hash = state.hash();
            inbox.state_hashed(StateHash { index, hash });
        });
        match hasher {
            Ok(hasher) => self.hasher = Some(hasher),
            Err(error) => tracing::warn!(%error, "the state is not hashed this time"),
        }
    }

    fn draw(&mut self) -> Option<u128> {
        random_u128().ok()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.join_writer();
    }
}

/// Encodes in a thread that stands back. The one that writes does not: it holds locks of the database, and
/// whoever waits for them would stand back, too.
fn encode_behind(image: &Image) -> Encoded {
    thread::scope(|scope| {
        let encode = || {
            stand_back();
            image.encode()
        };
        match Builder::new()
            .name("encode".into())
            .spawn_scoped(scope, encode)
        {
            Ok(encoding) => encoding.join().unwrap_or_else(|panic| resume_unwind(panic)),
            Err(error) => {
                tracing::debug!(%error, "no thread to encode an image in");
                image.encode()
            }
        }
    })
}

/// Lets others of this machine go before this thread: what it computes is for later, and whoever waits for
/// a commit waits now.
fn stand_back() {
    let thread = rustix::thread::gettid();
    if let Err(error) = rustix::process::setpriority_process(Some(thread), NICE) {
        tracing::debug!(%error, "a thread could not stand back");
    }
}

fn random_u128() -> Result<u128, getrandom::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(u128::from_le_bytes(bytes))
}
