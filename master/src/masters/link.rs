//! One connection between two masters; what is said on it stands in [`tepui_types::wire::peer`].
//!
//! Both ends name the cluster and both nodes before anything counts, so that a master with another
//! one's address, or of another cluster, never votes here.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use hyper_util::rt::TokioIo;
use prost::Message as _;
use raft::eraftpb::Message;
use reqwest::{Method, StatusCode, header};
use tepui_types::api::problem::Problem;
use tepui_types::wire::peer::{CONNECT_PATH, PeerAnswer, PeerFrame, PeerHello, UPGRADE, VERSION};
use tepui_types::wire::{self, MAX_FRAME};
use tepui_types::{NodeId, Reason};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, timeout};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use super::address;
use super::peers::Peers;
use super::presence::COPIED;
use crate::Master;
use crate::folder::Identity;
use crate::view::View;

/// The code of a refusal that says: you are no member.
const NOT_A_MEMBER: &str = "not-a-member";
/// How long the other end may take for one step.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Nobody answers.
    #[error("failed to reach it")]
    Unreachable(#[source] reqwest::Error),
    /// Somebody answered, but would not change protocols.
    #[error("it answered {status}: {detail}")]
    NoUpgrade {
        /// With this status.
        status: StatusCode,
        /// And why.
        detail: String,
    },
    /// It does not keep up.
    #[error("it took longer than {} s", PATIENCE.as_secs())]
    Slow,
    /// The connection broke.
    #[error("the connection broke")]
    Io(#[from] std::io::Error),
    /// It said what is not a frame.
    #[error("it said what is not a frame")]
    Decode(#[from] tepui_types::envelope::DecodeError),
    /// It does not know this master.
    #[error("it refused: {0}")]
    Refused(Reason),
    /// It hung up.
    #[error("it hung up")]
    Closed,
    /// A frame that does not belong here.
    #[error("it said what does not belong here")]
    Unexpected,
    /// Never sent: batches are kept below it.
    #[error("a frame is too large")]
    TooLarge(#[from] wire::FrameTooLarge),
}

impl LinkError {
    /// Whether the peer says that this master is no member of the cluster.
    pub fn disowns(&self) -> bool {
        matches!(self, Self::Refused(reason) if reason.code == NOT_A_MEMBER)
    }

    /// Whether somebody is there who does not take this master in, and not only for now.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Refused(_) => true,
            Self::NoUpgrade { status, .. } => *status != StatusCode::SERVICE_UNAVAILABLE,
            _ => false,
        }
    }

    /// What the peer says where another process is this master, and stays so.
    pub fn as_copy(&self) -> Option<&Reason> {
        match self {
            Self::Refused(reason) if reason.code == COPIED => Some(reason),
            _ => None,
        }
    }
}

/// What this master says of itself.
pub struct Ours {
    /// Its ids.
    pub identity: Identity,
    /// Where others reach it.
    pub url: String,
    /// How far it is.
    pub view: View,
}

/// The way to one peer.
pub struct Link {
    ours: Ours,
    to: NodeId,
    url: String,
    peers: Peers,
}

/// An open connection to a peer.
pub struct Connection(Framed<reqwest::Upgraded, LengthDelimitedCodec>);

impl Link {
    /// To the master `to` at `url`.
    pub fn new(ours: Ours, to: NodeId, url: String, peers: Peers) -> Self {
        Self {
            ours,
            to,
            url,
            peers,
        }
    }

    fn hello(&self) -> PeerHello {
        PeerHello {
            cluster: self.ours.identity.cluster,
            from: self.ours.identity.node,
            to: self.to,
            process: self.peers.process(),
            url: self.ours.url.clone(),
            index: self.ours.view.applied(),
        }
    }

    /// Who is expected there.
    pub fn to(&self) -> NodeId {
        self.to
    }

    /// Where.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// How far this master is.
    pub fn applied(&self) -> u64 {
        self.ours.view.applied()
    }

    /// Dials, and is welcomed.
    pub async fn connect(&self) -> Result<Connection, LinkError> {
        let request = self
            .peers
            .request(Method::GET, &self.url, CONNECT_PATH)
            .header(header::CONNECTION, "upgrade")
            .header(header::UPGRADE, UPGRADE);
        let response = patiently(request.send())
            .await?
            .map_err(LinkError::Unreachable)?;
        let status = response.status();
        if status != StatusCode::SWITCHING_PROTOCOLS {
            let problem = patiently(response.json::<Problem>()).await?;
            let detail = problem.map_or_else(|_| "without a reason".into(), |it| it.detail);
            return Err(LinkError::NoUpgrade { status, detail });
        }
        let upgraded = patiently(response.upgrade())
            .await?
            .map_err(LinkError::Unreachable)?;
        let mut connection = Connection(Framed::new(upgraded, codec()));
        connection.send(&[PeerFrame::Hello(self.hello())]).await?;
        let answer = patiently(connection.0.next())
            .await?
            .ok_or(LinkError::Closed)??;
        match wire::parse(VERSION, &answer)? {
            PeerAnswer::Welcome => Ok(connection),
            PeerAnswer::Refused(reason) => Err(LinkError::Refused(reason)),
        }
    }
}

impl Connection {
    /// Sends frames; they are on their way when this returns.
    pub async fn send(&mut self, frames: &[PeerFrame]) -> Result<(), LinkError> {
        let mut bytes = Vec::new();
        for frame in frames {
            bytes.extend_from_slice(&wire::frame(VERSION, frame)?);
        }
        let write = async {
            let connection = self.0.get_mut();
            connection.write_all(&bytes).await?;
            connection.flush().await
        };
        Ok(patiently(write).await??)
    }
}

/// Listens to a master that dialled this one, until either hangs up.
pub async fn accept(master: Arc<Master>, connection: TokioIo<hyper::upgrade::Upgraded>) {
    let mut connection = Framed::new(connection, codec());
    match listen(&master, &mut connection).await {
        Ok(()) | Err(LinkError::Closed) => {}
        Err(error) => {
            let error = anyhow::Error::from(error);
            tracing::warn!(error = %format_args!("{error:#}"), "a master's connection ended");
        }
    }
}

async fn listen<C: AsyncRead + AsyncWrite + Unpin>(
    master: &Master,
    connection: &mut Framed<C, LengthDelimitedCodec>,
) -> Result<(), LinkError> {
    let PeerFrame::Hello(hello) = patiently(next_frame(connection)).await?? else {
        return Err(LinkError::Unexpected);
    };
    let entered = match refusal(master, &hello) {
        None => master.presence.enter(&hello, Instant::now()),
        Some(reason) => Err(reason),
    };
    let answer = match &entered {
        Ok(_) => PeerAnswer::Welcome,
        Err(reason) => PeerAnswer::Refused(reason.clone()),
    };
    let answer = tepui_types::envelope::encode(VERSION, &answer);
    patiently(connection.send(Bytes::from(answer))).await??;
    let stay = match entered {
        Ok(stay) => stay,
        Err(reason) => {
            tracing::warn!(peer = %hello.from, cluster = %hello.cluster, %reason, "a master was turned away");
            return Ok(());
        }
    };
    introduce(master, &hello);
    loop {
        let frame = next_frame(connection).await?;
        if refusal(master, &hello).is_some() || !stay.hear(Instant::now()) {
            // It was removed meanwhile, or another process is this master; when it dials again it is told so.
            return Ok(());
        }
        match frame {
            PeerFrame::Hello(_) => return Err(LinkError::Unexpected),
            PeerFrame::Standing(standing) => {
                master.log.standing(hello.from, standing);
                // When it said hello, this master may have taken it for still there.
                introduce(master, &hello);
            }
            PeerFrame::ImageLost => master.log.unreachable(hello.from),
            PeerFrame::Messages(messages) => master.log.step(decode(&messages, hello.from)?),
        }
    }
}

/// Notes where a member is that the state does not have, or not there.
fn introduce(master: &Master, hello: &PeerHello) {
    let state = master.view.load();
    let known = state.master(hello.from);
    // One that listens everywhere says nothing by its address.
    let is_usable = !address::is_unspecified(&hello.url);
    if known.is_none_or(|known| known.url != hello.url && is_usable) {
        master.log.introduce(hello.from, hello.url.clone());
    }
}

/// Messages of the one who may send them.
fn decode(messages: &[Vec<u8>], from: NodeId) -> Result<Vec<Message>, LinkError> {
    messages
        .iter()
        .map(|bytes| match Message::decode(bytes.as_slice()) {
            Ok(message) if message.from == from.0 => Ok(message),
            _ => Err(LinkError::Unexpected),
        })
        .collect()
}

fn refusal(master: &Master, hello: &PeerHello) -> Option<Reason> {
    let state = master.view.load();
    let ours = state.cluster;
    if hello.cluster != ours {
        let why = format!(
            "this master is of cluster {ours}, not of {}: check --peers",
            hello.cluster
        );
        return Some(Reason::new("foreign-cluster", why));
    }
    if hello.to != master.node {
        let why = format!(
            "this is master {}, not {}: its folder is another one now",
            master.node, hello.to
        );
        return Some(Reason::new("other-master", why));
    }
    if hello.from == master.node {
        let why = "this master has the same id: its folder was copied".to_owned();
        return Some(Reason::new(COPIED, why));
    }
    let is_known = state.master(hello.from).is_some() || master.log.is_member(hello.from);
    // Of one that is further, this master may only not have heard yet.
    if !is_known && hello.index <= master.view.applied() {
        let why = format!("master {} is not a member of this cluster", hello.from);
        return Some(Reason::new(NOT_A_MEMBER, why));
    }
    None
}

async fn next_frame<C: AsyncRead + Unpin>(
    connection: &mut Framed<C, LengthDelimitedCodec>,
) -> Result<PeerFrame, LinkError> {
    let bytes = connection.next().await.ok_or(LinkError::Closed)??;
    Ok(wire::parse(VERSION, &bytes)?)
}

async fn patiently<F: Future>(step: F) -> Result<F::Output, LinkError> {
    timeout(PATIENCE, step).await.map_err(|_| LinkError::Slow)
}

fn codec() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder()
        .little_endian()
        .max_frame_length(MAX_FRAME)
        .new_codec()
}
