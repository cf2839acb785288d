//! How an empty folder gets its place in a cluster.
//!
//! A master without peers founds a cluster alone. Masters that are started with one list of peers
//! introduce themselves to each other, and once each knows the ids of all, each for itself writes
//! the same first image: the cluster's id follows from theirs, all of them vote, and nothing has to
//! be agreed upon. The list counts only while all of them are empty: whoever finds that a peer has a
//! cluster already joins it. One that waits to be added joins the cluster that invites it. One that
//! joins asks to be listed, takes an image, and begins as a
//! learner under a new id, in the place of one that had its address.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use reqwest::{Method, StatusCode};
use sha2::{Digest as _, Sha256};
use tepui_cluster::State;
use tepui_types::api::master::{Introduction, JoinRequest};
use tepui_types::api::problem::Problem;
use tepui_types::{ClusterId, NodeId};
use tokio::time::{Instant, timeout};

use super::candidacy::Candidacy;
use super::image::{self, FetchError};
use super::peers::Peers;
use crate::error::{RaftError, StorageError};
use crate::folder::{Folder, FolderError, Identity};
use crate::storage::{Batch, Storage, snapshot};

/// Where a master introduces itself.
pub const INTRODUCTION_PATH: &str = "/v1/masters/introduction";
/// Where a master that waits to be added is invited.
pub const INVITATION_PATH: &str = "/v1/masters/invitation";
/// How long a peer may take to introduce itself, or to take a master in.
const ANSWER: Duration = Duration::from_secs(5);
/// How long a cluster may take to have a leader that takes a master in: some elections' time.
const LISTING: Duration = Duration::from_secs(10);
/// How long a master stays that has found a peer with another list: many rounds.
const LINGER: Duration = Duration::from_secs(1);
/// Between two rounds of introductions, and between two tries.
const ROUND: Duration = Duration::from_millis(50);

/// What an empty folder is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// A cluster of one, to which others may be added.
    Alone,
    /// A cluster of these masters, itself among them.
    Together(Vec<String>),
    /// A cluster that is there; one of its masters.
    Join(String),
    /// The cluster that invites it.
    Invited,
}

impl Way {
    /// Where other masters may be.
    pub fn addresses(&self) -> &[String] {
        match self {
            Self::Alone | Self::Invited => &[],
            Self::Together(peers) => peers,
            Self::Join(url) => std::slice::from_ref(url),
        }
    }
}

/// Why a folder has no place in a cluster.
#[derive(Debug, thiserror::Error)]
pub enum FoundingError {
    /// The list of peers lacks this master.
    #[error(
        "--peers must list this master too, as {url}: add it, or say with --advertise under which \
         of the listed addresses others reach this one"
    )]
    NotListed {
        /// Its address.
        url: String,
    },
    /// Two lists differ.
    #[error(
        "{peer} was started with other peers ({theirs}) than this master ({ours}): start all of \
         them with the same list"
    )]
    OtherList {
        /// Who.
        peer: String,
        /// Its list.
        theirs: String,
        /// Ours.
        ours: String,
    },
    /// Two peers have one id.
    #[error("{peer} has the same id as another peer: a folder was copied; empty one of them")]
    SameId {
        /// One of them.
        peer: String,
    },
    /// Nobody is there to be joined.
    #[error("failed to reach {url}: is a master of the cluster running there?")]
    Unreachable {
        /// Where.
        url: String,
        /// How.
        #[source]
        source: reqwest::Error,
    },
    /// It does not answer.
    #[error("{url} did not answer in {} s", ANSWER.as_secs())]
    Slow {
        /// Who.
        url: String,
    },
    /// It takes this master for a stranger.
    #[error("{url} refuses this master's token: give every master the same file with --token-file")]
    OtherToken {
        /// Who.
        url: String,
    },
    /// It would not take this master in.
    #[error("{url} does not take this master in: {why}")]
    Refused {
        /// Who.
        url: String,
        /// Its words.
        why: String,
    },
    /// Nobody is named from whom a damaged database could be taken anew.
    #[error(
        "--rejoin needs another master to take everything from: name one with --join URL. The only \
         master of a cluster is restored from a backup with `tepui restore`"
    )]
    NobodyNamed,
    /// Nobody is there from whom it could.
    #[error(
        "no other master takes this one back ({tried}): most of them must be up first. If all are \
         lost, restore a backup with `tepui restore`"
    )]
    NobodyThere {
        /// Who was asked, and what came of it.
        tried: String,
    },
    /// It has no cluster itself.
    #[error("{url} has no cluster yet: start the first masters with --peers instead of --join")]
    NoCluster {
        /// Who.
        url: String,
    },
    /// The image did not come.
    #[error("failed to take the cluster's state over from {url}")]
    Image {
        /// Who.
        url: String,
        /// How.
        #[source]
        source: FetchError,
    },
    /// The system gave no random numbers.
    #[error("the system gave no random numbers")]
    Random(#[source] std::io::Error),
    /// The folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The database.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl From<FoundingError> for RaftError {
    fn from(error: FoundingError) -> Self {
        match error {
            FoundingError::Folder(error) => error.into(),
            FoundingError::Storage(error) => error.into(),
            other => Self::Founding(Box::new(other)),
        }
    }
}

/// The ids of this folder, which gets them and its first image if it has none.
pub async fn identify(
    folder: &mut Folder,
    storage: &Storage,
    way: &Way,
    founder: &Founder<'_>,
) -> Result<Identity, FoundingError> {
    let identity = match storage.identity()? {
        Some(identity) => identity,
        None => match way {
            Way::Alone => founder.alone(storage)?,
            Way::Together(peers) => founder.together(storage, peers).await?,
            Way::Join(url) => founder.join(storage, url).await?,
            Way::Invited => founder.invited(storage).await?,
        },
    };
    match folder.identity() {
        // The database has them first: a folder that has them has served.
        None => folder.set_identity(identity)?,
        Some(known) if known != identity => {
            let (found, expected) = (identity.cluster, known.cluster);
            return Err(StorageError::ForeignDatabase { found, expected }.into());
        }
        Some(_) => {}
    }
    Ok(identity)
}

/// A master on its way into a cluster.
pub struct Founder<'a> {
    /// Where others reach it.
    pub url: &'a str,
    /// The way to them.
    pub peers: &'a Peers,
    /// What they are told.
    pub candidacy: &'a Candidacy,
}

impl Founder<'_> {
    fn alone(&self, storage: &Storage) -> Result<Identity, FoundingError> {
        let node = candidate(storage)?;
        found(storage, node, BTreeMap::from([(node, self.url.to_owned())]))
    }

    /// Introduces itself until all peers have done so, or one has a cluster.
    async fn together(
        &self,
        storage: &Storage,
        peers: &[String],
    ) -> Result<Identity, FoundingError> {
        if !peers.iter().any(|peer| peer == self.url) {
            let url = self.url.to_owned();
            return Err(FoundingError::NotListed { url });
        }
        if peers.len().is_multiple_of(2) {
            let masters = peers.len();
            tracing::warn!(
                masters,
                "an even number of masters outlives no more than one fewer does"
            );
        }
        let node = candidate(storage)?;
        let mut list = peers.to_vec();
        list.sort();
        self.introduce_itself(node, &list);
        let mut waited_for = Vec::new();
        loop {
            let others = list.iter().filter(|peer| *peer != self.url);
            let introductions = join_all(others.map(async |peer| {
                let introduction = self.introduction(peer).await;
                (peer, introduction)
            }));
            let (mut founders, mut absent) =
                (BTreeMap::from([(node, self.url.to_owned())]), vec![]);
            for (peer, introduction) in introductions.await {
                match introduction {
                    Ok(introduction) if introduction.cluster.is_some() => {
                        return self.enter(storage, node, peer, &introduction).await;
                    }
                    Ok(introduction) => {
                        let mut checked = check_list(peer, &introduction.peers, &list);
                        if founders.insert(introduction.id, peer.clone()).is_some() {
                            checked = Err(FoundingError::SameId { peer: peer.clone() });
                        }
                        if let Err(error) = checked {
                            // The peer is to see it too, and not to wait for this one for ever.
                            tokio::time::sleep(LINGER).await;
                            return Err(error);
                        }
                    }
                    Err(error) => {
                        absent.push(format!("{peer} ({:#})", anyhow::Error::from(error)));
                    }
                }
            }
            if absent.is_empty() {
                return found(storage, node, founders);
            }
            if absent != waited_for {
                tracing::info!(
                    peers = absent.join(", "),
                    "waiting for peers to found a cluster"
                );
                waited_for = absent;
            }
            tokio::time::sleep(ROUND).await;
        }
    }

    /// Waits until a cluster invites it, and joins that.
    async fn invited(&self, storage: &Storage) -> Result<Identity, FoundingError> {
        self.introduce_itself(candidate(storage)?, &[]);
        tracing::info!(
            url = self.url,
            "waiting to be added: tepui master add {}",
            self.url
        );
        loop {
            let invitation = self.candidacy.invited().await;
            match self.join(storage, &invitation.via).await {
                Ok(identity) => return Ok(identity),
                Err(error @ (FoundingError::Storage(_) | FoundingError::Folder(_))) => {
                    return Err(error);
                }
                Err(error) => {
                    let error = anyhow::Error::from(error);
                    let error = format_args!("{error:#}");
                    tracing::warn!(%error, "an invitation came to nothing: waiting for another");
                }
            }
        }
    }

    /// What others are told that ask who this is.
    fn introduce_itself(&self, node: NodeId, peers: &[String]) {
        self.candidacy.tell(Introduction {
            id: node,
            cluster: None,
            peers: peers.to_vec(),
            members: Vec::new(),
            version: Some(env!("CARGO_PKG_VERSION").into()),
        });
    }

    async fn join(&self, storage: &Storage, url: &str) -> Result<Identity, FoundingError> {
        let introduction = self.introduction(url).await?;
        let node = candidate(storage)?;
        self.enter(storage, node, url, &introduction).await
    }

    /// Comes into the cluster of a master, which may have been founded with this one in mind.
    pub(super) async fn enter(
        &self,
        storage: &Storage,
        node: NodeId,
        url: &str,
        introduction: &Introduction,
    ) -> Result<Identity, FoundingError> {
        let Some(cluster) = introduction.cluster else {
            let url = url.to_owned();
            return Err(FoundingError::NoCluster { url });
        };
        if !introduction.members.contains(&node) {
            tracing::info!(%cluster, %node, via = url, "joining a cluster");
            self.ask_to_be_listed(url, node).await?;
        }
        let fetched = image::fetch(self.peers, url, None, storage).await;
        let (record, state) = fetched.map_err(|source| FoundingError::Image {
            url: url.to_owned(),
            source,
        })?;
        if state.cluster != cluster {
            let (found, expected) = (state.cluster, cluster);
            return Err(StorageError::ForeignDatabase { found, expected }.into());
        }
        let identity = Identity { cluster, node };
        let mut batch = Batch::default();
        snapshot::put_whole(&mut batch, &record);
        storage.initialize(identity, &record, batch)?;
        Ok(identity)
    }

    pub(super) async fn introduction(&self, url: &str) -> Result<Introduction, FoundingError> {
        let request = self.peers.request(Method::GET, url, INTRODUCTION_PATH);
        let response = self.answer(url, request).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let url = url.to_owned();
            return Err(FoundingError::OtherToken { url });
        }
        if !response.status().is_success() {
            return Err(self.refusal(url, response).await);
        }
        self.read(url, response.json()).await
    }

    async fn refusal(&self, url: &str, response: reqwest::Response) -> FoundingError {
        match self.read::<Problem>(url, response.json()).await {
            Ok(problem) => FoundingError::Refused {
                url: url.to_owned(),
                why: problem.detail,
            },
            Err(error) => error,
        }
    }

    async fn ask_to_be_listed(&self, url: &str, node: NodeId) -> Result<(), FoundingError> {
        let body = JoinRequest {
            id: node,
            url: self.url.to_owned(),
        };
        let until = Instant::now() + LISTING;
        loop {
            let request = self.peers.request(Method::POST, url, "/v1/masters");
            let response = self.answer(url, request.json(&body)).await?;
            let status = response.status();
            if status.is_success() {
                return Ok(());
            }
            // A leader is being elected, or has not missed the one yet that was here before.
            let may_change = [StatusCode::SERVICE_UNAVAILABLE, StatusCode::CONFLICT];
            if !may_change.contains(&status) || Instant::now() > until {
                return Err(self.refusal(url, response).await);
            }
            tokio::time::sleep(ROUND).await;
        }
    }

    async fn answer(
        &self,
        url: &str,
        request: reqwest::RequestBuilder,
    ) -> Result<reqwest::Response, FoundingError> {
        self.read(url, request.send()).await
    }

    async fn read<T>(
        &self,
        url: &str,
        answer: impl Future<Output = reqwest::Result<T>>,
    ) -> Result<T, FoundingError> {
        let url = url.to_owned();
        match timeout(ANSWER, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(source)) => Err(FoundingError::Unreachable { url, source }),
            Err(_) => Err(FoundingError::Slow { url }),
        }
    }
}

pub(super) fn candidate(storage: &Storage) -> Result<NodeId, FoundingError> {
    let drawn = Identity::draw_node().map_err(FoundingError::Random)?;
    Ok(storage.candidate(drawn)?)
}

/// Writes the first image, which is the same at each founder.
fn found(
    storage: &Storage,
    node: NodeId,
    founders: BTreeMap<NodeId, String>,
) -> Result<Identity, FoundingError> {
    let cluster = cluster_id(&founders);
    let state = State::founded(cluster, founders);
    let identity = Identity { cluster, node };
    let mut batch = Batch::default();
    let record = snapshot::put_founding(&mut batch, &state);
    storage.initialize(identity, &record, batch)?;
    tracing::info!(%cluster, %node, masters = state.masters.len(), "a new cluster");
    Ok(identity)
}

/// The cluster's id follows from its founders' ids, which are random.
fn cluster_id(founders: &BTreeMap<NodeId, String>) -> ClusterId {
    let mut digest = Sha256::new();
    founders
        .keys()
        .for_each(|node| digest.update(node.0.to_be_bytes()));
    let mut id = [0; 16];
    id.copy_from_slice(&digest.finalize()[..16]);
    ClusterId(u128::from_be_bytes(id))
}

fn check_list(peer: &str, theirs: &[String], ours: &[String]) -> Result<(), FoundingError> {
    if theirs == ours {
        return Ok(());
    }
    Err(FoundingError::OtherList {
        peer: peer.to_owned(),
        theirs: theirs.join(", "),
        ours: ours.join(", "),
    })
}
