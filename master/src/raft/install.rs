//! The leader's image takes the place of a log that is too far behind.
//!
//! Raft's own message only says which image. It is held back until the image is here and whole;
//! then raft decides whether it is still wanted, and what it decides is done in one write.

use raft::eraftpb::{HardState, Message};
use tepui_cluster::State;
use tepui_types::NodeId;

use super::member::Member;
use super::snapshots::Since;
use super::world::{Saying, World};
use crate::error::{RaftError, StorageError};
use crate::masters::image::FetchError;
use crate::storage::snapshot::{self, SnapshotRecord};

/// What became of fetching an image.
#[derive(Debug)]
pub struct Fetched {
    message: Box<Message>,
    result: Result<Box<(SnapshotRecord, State)>, FetchError>,
}

impl Fetched {
    /// What became of the image that a message spoke of.
    pub fn new(message: Message, result: Result<(SnapshotRecord, State), FetchError>) -> Self {
        Self {
            message: Box::new(message),
            result: result.map(Box::new),
        }
    }
}

impl<W: World> Member<W> {
    /// Fetches the image that the leader speaks of; one at a time.
    pub(super) fn on_image_offered(&mut self, message: Message) {
        if self.is_fetching {
            return;
        }
        let (leader, index) = (message.from, message.get_snapshot().get_metadata().index);
        self.is_fetching = self.world.fetch_image(message);
        if self.is_fetching {
            tracing::info!(index, leader, "fetching an image of the state");
        }
    }

    pub(super) fn on_image_fetched(&mut self, fetched: Fetched) -> Result<(), RaftError> {
        self.is_fetching = false;
        let Fetched { message, result } = fetched;
        match result {
            Ok(image) => {
                self.image = Some(*image);
                self.step(*message);
                self.on_ready()?;
                // Raft may have caught up by other means meanwhile.
                self.image = None;
                Ok(())
            }
            Err(error) => {
                let leader = NodeId(message.from);
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, %leader, "failed to fetch an image of the state");
                self.world.send(leader, Saying::ImageLost);
                Ok(())
            }
        }
    }

    /// Starts anew from the image that raft has accepted.
    pub(super) fn install(&mut self, hard_state: Option<&HardState>) -> Result<(), RaftError> {
        // invariant: raft is told of an image once it is here, and by nobody else.
        let (record, state) = self.image.take().expect("the image was fetched");
        if state.cluster != self.applier.state.cluster {
            let (found, expected) = (state.cluster, self.applier.state.cluster);
            return Err(StorageError::ForeignDatabase { found, expected }.into());
        }
        let index = record.index;
        self.raw.mut_store().install(record, hard_state)?;
        snapshot::remove_others(&self.storage, index)?;
        self.since_snapshot = Since::default();
        self.applier.install(state, index);
        self.follow_masters();
        self.note_members();
        tracing::info!(index, "started anew from the leader's image");
        Ok(())
    }
}
