//! What this master says to the others: a connection to each, dialled from here.
//!
//! Sending never waits. What does not get through is lost, and raft is told that the peer is
//! unreachable; it sends again what matters. Messages to a peer that is not connected are not kept:
//! by then they would be old.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prost::Message as _;
use tepui_types::NodeId;
use tepui_types::wire::peer::{MAX_BATCH_BYTES, PeerFrame};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::inbox::Inbox;
use super::world::Saying;
use crate::folder::Identity;
use crate::masters::link::{Link, Ours};
use crate::masters::peers::Peers;
use crate::view::View;

/// Messages on their way to one peer: more than raft has in flight.
const OUTBOX: usize = 1_024;
/// Members that may introduce themselves before the state has them: as many as a cluster has.
const INTRODUCED: usize = 9;
/// The first pause after a failed dial; doubles. Short: a master that was killed comes back soon.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest.
const LAST_PAUSE: Duration = Duration::from_millis(500);

/// The connections.
pub struct Transport {
    identity: Identity,
    /// Where others reach this master.
    url: String,
    inbox: Arc<Inbox>,
    /// None for a log that is all alone, as tests open it.
    way: Option<(Handle, Peers)>,
    peers: BTreeMap<NodeId, Peer>,
    /// Where the state has them.
    listed: BTreeMap<NodeId, String>,
    /// Members that the state does not have yet, or has elsewhere, as they said themselves.
    introduced: BTreeMap<NodeId, Introduced>,
    view: View,
}

/// Where a member said that it is.
struct Introduced {
    url: String,
    /// What the state had then: once it has something else, that counts.
    instead_of: Option<String>,
}

struct Peer {
    url: String,
    outbox: mpsc::Sender<Saying>,
    is_up: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Transport {
    /// Nobody is known yet. Without peers, nobody ever is.
    pub fn new(
        identity: Identity,
        url: &str,
        inbox: Arc<Inbox>,
        view: View,
        peers: Option<Peers>,
    ) -> Self {
        Self {
            identity,
            url: url.to_owned(),
            inbox,
            way: peers.map(|peers| (Handle::current(), peers)),
            peers: BTreeMap::new(),
            listed: BTreeMap::new(),
            introduced: BTreeMap::new(),
            view,
        }
    }

    /// Who there is by the state, and where; connections to others end.
    pub fn set_peers(&mut self, masters: impl IntoIterator<Item = (NodeId, String)>) {
        self.listed = masters.into_iter().collect();
        let listed = &self.listed;
        self.introduced
            .retain(|id, it| listed.get(id) == it.instead_of.as_ref());
        let mut masters = listed.clone();
        let introduced = self.introduced.iter();
        masters.extend(introduced.map(|(id, it)| (*id, it.url.clone())));
        masters.remove(&self.identity.node);
        self.peers
            .retain(|id, peer| masters.get(id) == Some(&peer.url));
        for (id, url) in masters {
            self.add(id, url);
        }
    }

    /// A member that the state does not have yet, or that has moved while nobody could record it:
    /// without it this master might never be brought the entries that tell of it. While one answers
    /// where it is known, nobody takes its place.
    pub fn introduce(&mut self, id: NodeId, url: String) {
        let known = self.peers.get(&id);
        let is_found = known.is_some_and(|peer| peer.url == url || peer.is_up());
        let is_room = self.introduced.len() < INTRODUCED || self.introduced.contains_key(&id);
        if id == self.identity.node || is_found || !is_room {
            return;
        }
        let instead_of = self.listed.get(&id).cloned();
        if instead_of.is_some() {
            tracing::info!(peer = %id, url, "a peer is at another address now");
        }
        let introduced = Introduced {
            url: url.clone(),
            instead_of,
        };
        self.introduced.insert(id, introduced);
        self.peers.remove(&id);
        self.add(id, url);
    }

    fn add(&mut self, id: NodeId, url: String) {
        let Some((runtime, peers)) = &self.way else {
            return;
        };
        if self.peers.contains_key(&id) {
            return;
        }
        let (outbox, sayings) = mpsc::channel(OUTBOX);
        let ours = Ours {
            identity: self.identity,
            url: self.url.clone(),
            view: self.view.clone(),
        };
        let link = Link::new(ours, id, url.clone(), peers.clone());
        let is_up = Arc::<AtomicBool>::default();
        let task = runtime.spawn(serve(link, sayings, self.inbox.clone(), is_up.clone()));
        let peer = Peer {
            url,
            outbox,
            is_up,
            task,
        };
        self.peers.insert(id, peer);
    }

    /// Where a peer is reached.
    pub fn url(&self, peer: NodeId) -> Option<&str> {
        self.peers.get(&peer).map(|peer| peer.url.as_str())
    }

    /// What requests to peers go through; none for a log that is alone.
    pub fn way(&self) -> Option<(Handle, Peers)> {
        self.way.clone()
    }

    /// Sends, if the peer keeps up.
    pub fn send(&self, to: NodeId, saying: Saying) {
        let Some(peer) = self.peers.get(&to) else {
            return;
        };
        if peer.outbox.try_send(saying).is_err() {
            self.inbox.unreachable(to);
        }
    }
}

impl Peer {
    fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Relaxed)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Keeps one connection up for as long as the peer is one.
async fn serve(
    link: Link,
    mut sayings: mpsc::Receiver<Saying>,
    inbox: Arc<Inbox>,
    is_up: Arc<AtomicBool>,
) {
    let mut pause = FIRST_PAUSE;
    let mut was_up = true;
    let mut refused_with = None;
    loop {
        let applied = link.applied();
        let error = match link.connect().await {
            Ok(mut connection) => {
                tracing::info!(peer = %link.to(), url = link.url(), "peer connected");
                (pause, was_up, refused_with) = (FIRST_PAUSE, true, None);
                is_up.store(true, Ordering::Relaxed);
                // What gathered meanwhile is old.
                while sayings.try_recv().is_ok() {}
                inbox.unreachable(link.to());
                loop {
                    let Some(frames) = next_frames(&mut sayings).await else {
                        return;
                    };
                    if let Err(error) = connection.send(&frames).await {
                        break error;
                    }
                }
            }
            Err(error) => error,
        };
        is_up.store(false, Ordering::Relaxed);
        inbox.unreachable(link.to());
        if error.disowns() {
            inbox.disowned(applied);
        }
        if let Some(why) = error.as_copy() {
            inbox.copied(why.clone());
        }
        let is_refusal = error.is_refusal();
        let error = format!("{:#}", anyhow::Error::from(error));
        // The first failure is news, and a refusal as well; that it goes on is none.
        let is_news = is_refusal && refused_with.as_ref() != Some(&error);
        if was_up || is_news {
            tracing::warn!(peer = %link.to(), url = link.url(), %error, "no connection to peer");
        }
        if is_refusal {
            refused_with = Some(error);
        }
        was_up = false;
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// All that waits, in as few frames as hold it; none when there is nobody left to say anything.
async fn next_frames(sayings: &mut mpsc::Receiver<Saying>) -> Option<Vec<PeerFrame>> {
    let mut waiting = Vec::new();
    if sayings.recv_many(&mut waiting, OUTBOX).await == 0 {
        return None;
    }
    let (mut frames, mut batch, mut bytes) = (Vec::new(), Vec::new(), 0);
    for saying in waiting {
        match saying {
            Saying::ImageLost => frames.push(PeerFrame::ImageLost),
            Saying::Standing(standing) => frames.push(PeerFrame::Standing(standing)),
            Saying::Message(message) => {
                let message = message.encode_to_vec();
                if bytes + message.len() > MAX_BATCH_BYTES && !batch.is_empty() {
                    frames.push(PeerFrame::Messages(std::mem::take(&mut batch)));
                    bytes = 0;
                }
                bytes += message.len();
                batch.push(message);
            }
        }
    }
    if !batch.is_empty() {
        frames.push(PeerFrame::Messages(batch));
    }
    Some(frames)
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft::eraftpb::{Entry, Message};
    use tepui_cluster::State;
    use tepui_types::ClusterId;

    #[tokio::test]
    async fn a_member_is_where_it_was_met_until_the_state_says_something_else() {
        let identity = Identity {
            cluster: ClusterId(1),
            node: NodeId(1),
        };
        let view = View::new(State::new(ClusterId(1)), 0);
        let peers = Peers::new(None).unwrap();
        let inbox = Arc::new(Inbox::default());
        let mut transport =
            Transport::new(identity, "http://127.0.0.1:1", inbox, view, Some(peers));
        let listed = |two: &str| {
            vec![
                (NodeId(1), "http://127.0.0.1:1".to_owned()),
                (NodeId(2), two.to_owned()),
            ]
        };
        let [old, met, new] = [2, 3, 4].map(|port| format!("http://127.0.0.1:{port}"));
        transport.set_peers(listed(&old));
        transport.introduce(NodeId(2), met.clone());
        assert_eq!(transport.url(NodeId(2)), Some(met.as_str()));
        transport.set_peers(listed(&old));
        assert_eq!(
            transport.url(NodeId(2)),
            Some(met.as_str()),
            "it is old news"
        );
        transport.set_peers(listed(&new));
        assert_eq!(transport.url(NodeId(2)), Some(new.as_str()));
        // While a connection is up, nobody takes its place.
        transport.peers[&NodeId(2)]
            .is_up
            .store(true, Ordering::Relaxed);
        transport.introduce(NodeId(2), old);
        assert_eq!(transport.url(NodeId(2)), Some(new.as_str()));
        transport.introduce(NodeId(1), met);
        assert_eq!(transport.url(NodeId(1)), None, "it is not its own peer");
    }

    #[tokio::test]
    async fn large_messages_are_spread_over_frames_in_their_order() {
        let (sender, mut receiver) = mpsc::channel(OUTBOX);
        for index in 0..9 {
            let entry = Entry {
                index,
                data: vec![0; MAX_BATCH_BYTES / 3],
                ..Entry::default()
            };
            let message = Message {
                entries: vec![entry],
                index,
                ..Message::default()
            };
            sender
                .send(Saying::Message(Box::new(message)))
                .await
                .unwrap();
        }
        let frames = next_frames(&mut receiver).await.unwrap();
        let mut indexes = Vec::new();
        for frame in &frames {
            assert!(tepui_types::wire::frame(1, frame).is_ok());
            let PeerFrame::Messages(messages) = frame else {
                panic!("messages")
            };
            for message in messages {
                indexes.push(Message::decode(message.as_slice()).unwrap().index);
            }
        }
        assert!(frames.len() >= 4);
        assert_eq!(indexes, (0..9).collect::<Vec<_>>());
        drop(sender);
        assert!(next_frames(&mut receiver).await.is_none());
    }
}
