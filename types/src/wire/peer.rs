//! Frames between masters, version 1.
//!
//! A master dials each other one at `GET /v1/masters/connect` with `Upgrade: tepui-master/1` and
//! sends [`PeerFrame::Hello`]; the other answers [`PeerAnswer`] once. From then on frames go one
//! way: what the other has to say comes on the connection that it dials. Losing frames is safe:
//! Raft sends again.

use serde::{Deserialize, Serialize};

use crate::ids::{ClusterId, NodeId};
use crate::task::Reason;
use crate::time::Timestamp;

/// The version of every frame here.
pub const VERSION: u8 = 1;
/// The token of the HTTP upgrade (RFC 9110, section 7.8).
pub const UPGRADE: &str = "tepui-master/1";
/// Where masters connect.
pub const CONNECT_PATH: &str = "/v1/masters/connect";
/// Bytes of messages after which a sender begins another frame, far below a frame's own limit: the
/// largest message holds a megabyte of entries, or one entry of a little more.
pub const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;

/// From the master that dialled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerFrame {
    /// Who it is and whom it looks for; first on every connection.
    Hello(PeerHello),
    /// Raft's messages in their order, each in Protocol Buffers as `raft` defines them.
    Messages(Vec<Vec<u8>>),
    /// The image that this leader spoke of cannot be had from it any more.
    ImageLost,
    /// How this master stands; once a second.
    Standing(Standing),
}

/// How a master stands, for the others to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// What its machine's clock shows.
    pub time: Timestamp,
    /// The newest hash of its state.
    pub hash: Option<StateHash>,
}

/// The hash of a state at an entry at which every master takes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateHash {
    /// The entry.
    pub index: u64,
    /// SHA-256 of the state's encoding.
    pub hash: [u8; 32],
}

/// A master's introduction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerHello {
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// Its id.
    pub from: NodeId,
    /// The id that it expects at this address.
    pub to: NodeId,
    /// Drawn once by each process: two of one id that live at the same time run on copies of one folder.
    pub process: u128,
    /// Where it is reached itself.
    pub url: String,
    /// How far its state is: one that is further may be a member that the other has not heard of.
    pub index: u64,
}

/// From the master that was dialled, once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerAnswer {
    /// Go on.
    Welcome,
    /// The connection ends.
    Refused(Reason),
}
