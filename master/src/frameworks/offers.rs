//! The offers that one framework holds.
//!
//! An offer is held from the allocator's decision until the framework answers
//! it, or it is rescinded. A turn takes from it; the allocator is told when the
//! turn has committed, so that nothing is offered twice meanwhile.

use std::collections::BTreeMap;

use tepui_types::{Offer, OfferId, Resources};

/// Offers by number.
#[derive(Debug, Clone, Default)]
pub struct HeldOffers(BTreeMap<OfferId, Held>);

#[derive(Debug, Clone)]
struct Held {
    offer: Offer,
    /// Whether the framework knows of it.
    is_shown: bool,
    /// What this turn's accepts have left; none while it took nothing.
    left: Option<Resources>,
    /// Declined in this turn, for so many milliseconds.
    declined: Option<u64>,
}

/// What the allocator is to be told once a turn has committed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answered {
    /// Used up, or given back without a filter.
    pub used: Vec<OfferId>,
    /// Given back, by the milliseconds for which they are to stay away.
    pub declined: BTreeMap<u64, Vec<OfferId>>,
    /// Those of `used` that the framework does not know to be gone.
    pub unseen: Vec<OfferId>,
}

impl HeldOffers {
    /// Whether there is one that the framework has not seen.
    pub fn has_new(&self) -> bool {
        self.0.values().any(|held| !held.is_shown)
    }

    /// Holds one more.
    pub fn insert(&mut self, offer: Offer) {
        let held = Held {
            offer,
            is_shown: false,
            left: None,
            declined: None,
        };
        self.0.insert(held.offer.id, held);
    }

    /// Takes one back; whether the framework has to be told.
    pub fn rescind(&mut self, offer: OfferId) -> bool {
        self.0.remove(&offer).is_some_and(|held| held.is_shown)
    }

    /// At most `limit` that the framework has not seen; now it has. Those of a gang are shown
    /// together, so it may be a gang more.
    pub fn show(&mut self, limit: usize) -> Vec<Offer> {
        let mut shown: Vec<Offer> = Vec::new();
        for held in self.0.values_mut().filter(|held| !held.is_shown) {
            let gang = |offer: &Offer| offer.gang.as_ref().map(|share| share.key.clone());
            let goes_on = shown
                .last()
                .is_some_and(|last| last.gang.is_some() && gang(last) == gang(&held.offer));
            if shown.len() >= limit && !goes_on {
                break;
            }
            held.is_shown = true;
            shown.push(held.offer.clone());
        }
        shown
    }

    /// How many the framework knows of.
    pub fn shown(&self) -> u32 {
        let shown = self.0.values().filter(|held| held.is_shown).count();
        u32::try_from(shown).unwrap_or(u32::MAX)
    }

    /// An offer, and what of its resources is left; none if the framework cannot
    /// answer it.
    pub fn left(&self, offer: OfferId) -> Option<(&Offer, &Resources)> {
        let held = self.0.get(&offer)?;
        let is_open = held.is_shown && held.declined.is_none();
        let left = held.left.as_ref().unwrap_or(&held.offer.resources);
        is_open.then_some((&held.offer, left))
    }

    /// Notes what an accept has left of an offer.
    pub fn take(&mut self, offer: OfferId, left: Resources) {
        if let Some(held) = self.0.get_mut(&offer) {
            held.left = Some(left);
        }
    }

    /// Notes that an offer, or what is left of it, is given back.
    pub fn decline(&mut self, offer: OfferId, refuse_ms: u64) {
        if let Some(held) = self.0.get_mut(&offer) {
            held.declined = Some(refuse_ms);
        }
    }

    /// Ends a turn: the offers that it left alone, and the answers to the others.
    ///
    /// A framework that wants nothing any more keeps no offers.
    pub fn settle(self, wants_more: bool) -> (Self, Answered) {
        let mut answered = Answered::default();
        let mut rest = BTreeMap::new();
        for (id, held) in self.0 {
            let refuse_ms = match (held.declined, &held.left) {
                // What is left of it is offered again where it is still wanted:
                // a filter would cover what the new tasks leave when they end.
                (_, Some(_)) => None,
                (Some(refuse_ms), None) => Some(refuse_ms).filter(|refuse_ms| *refuse_ms > 0),
                (None, None) if wants_more => {
                    rest.insert(id, held);
                    continue;
                }
                (None, None) => {
                    answered.unseen.extend(held.is_shown.then_some(id));
                    None
                }
            };
            match refuse_ms {
                Some(refuse_ms) => answered.declined.entry(refuse_ms).or_default().push(id),
                None => answered.used.push(id),
            }
        }
        (Self(rest), answered)
    }

    /// As if this turn had never been.
    pub fn untouched(mut self) -> Self {
        for held in self.0.values_mut() {
            (held.left, held.declined) = (None, None);
        }
        self
    }

    /// Nobody knows of them any more.
    pub fn hide(&mut self) {
        self.0.values_mut().for_each(|held| held.is_shown = false);
    }

    /// Gives all of them up.
    pub fn give_up(&mut self) -> Vec<OfferId> {
        std::mem::take(&mut self.0).into_keys().collect()
    }
}
