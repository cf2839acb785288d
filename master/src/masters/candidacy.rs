//! A master that has no cluster yet, as the others see it.
//!
//! It tells who it is, and whom it founds a cluster with. One that waits to be added takes the
//! invitation of a cluster, by which it joins as one that was started with `--join` does.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use tepui_types::api::master::{Introduction, Invitation};
use tokio::sync::watch;

/// What a master says to others while it has no cluster; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Candidacy(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    introduction: ArcSwapOption<Introduction>,
    invitation: watch::Sender<Option<Invitation>>,
}

impl Candidacy {
    /// From now on this is what others are told.
    pub fn tell(&self, introduction: Introduction) {
        self.0.introduction.store(Some(Arc::new(introduction)));
    }

    /// What others are told; nothing before it is known.
    pub fn introduction(&self) -> Option<Arc<Introduction>> {
        self.0.introduction.load_full()
    }

    /// Takes an invitation. False if this master does not wait for one.
    pub fn invite(&self, invitation: Invitation) -> bool {
        let awaits = self.introduction().is_some_and(|it| it.peers.is_empty());
        if awaits {
            self.0.invitation.send_replace(Some(invitation));
        }
        awaits
    }

    /// Waits for the next invitation; of several the last counts.
    pub async fn invited(&self) -> Invitation {
        let mut invitations = self.0.invitation.subscribe();
        loop {
            if let Some(invitation) = self.0.invitation.send_replace(None) {
                return invitation;
            }
            // Never an error: the sender lives in `self`.
            invitations.changed().await.ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tepui_types::{ClusterId, NodeId};

    fn introduction(peers: &[&str]) -> Introduction {
        Introduction {
            id: NodeId(1),
            cluster: None,
            peers: peers.iter().map(|peer| (*peer).to_owned()).collect(),
            members: Vec::new(),
            version: None,
        }
    }

    #[tokio::test]
    async fn only_who_waits_for_an_invitation_takes_one() {
        let candidacy = Candidacy::default();
        let invitation = Invitation {
            cluster: ClusterId(7),
            via: "http://a:1".into(),
        };
        assert!(!candidacy.invite(invitation.clone()), "it is starting");
        candidacy.tell(introduction(&["http://a:1"]));
        assert!(!candidacy.invite(invitation.clone()), "it founds a cluster");
        candidacy.tell(introduction(&[]));
        assert!(candidacy.invite(invitation.clone()));
        assert_eq!(candidacy.invited().await, invitation);
    }
}
