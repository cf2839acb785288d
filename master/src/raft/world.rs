//! What a member asks of the world around it: peers, images, numbers.
//!
//! A master's is [`machine`](super::machine); the simulation has its own. Nothing here waits: what
//! takes time is answered by an event.

use raft::eraftpb::Message;
use tepui_cluster::State;
use tepui_types::NodeId;
use tepui_types::wire::peer::Standing;

pub use super::snapshots::Image;
use crate::error::RaftError;

/// Something for a peer.
#[derive(Debug)]
pub enum Saying {
    /// Raft's.
    Message(Box<Message>),
    /// See [`PeerFrame::ImageLost`](tepui_types::wire::peer::PeerFrame::ImageLost).
    ImageLost,
    /// How this member stands.
    Standing(Standing),
}

/// The world of one member.
pub trait World {
    /// Sends, if the peer keeps up; what does not get through is lost, and
    /// [`Event::Unreachable`](super::inbox::Event::Unreachable) follows.
    fn send(&mut self, to: NodeId, saying: Saying);

    /// Who there is by the state, and where; others are not reached any more.
    fn set_peers(&mut self, masters: Vec<(NodeId, String)>);

    /// A member that the state does not have yet, and where it is.
    fn introduce(&mut self, peer: NodeId, url: String);

    /// Fetches the image that this message of the leader's speaks of; answered by
    /// [`Event::ImageFetched`](super::inbox::Event::ImageFetched). False if there is no way there.
    fn fetch_image(&mut self, message: Message) -> bool;

    /// Writes an image beside the log; answered by
    /// [`Event::SnapshotReady`](super::inbox::Event::SnapshotReady).
    fn write_image(&mut self, image: Image) -> Result<(), RaftError>;

    /// Computes the hash of the state at an entry; answered by
    /// [`Event::StateHashed`](super::inbox::Event::StateHashed), or not at all.
    fn hash_state(&mut self, index: u64, state: State);

    /// A number that nobody else has drawn; none if the system has none to give.
    fn draw(&mut self) -> Option<u128>;
}
