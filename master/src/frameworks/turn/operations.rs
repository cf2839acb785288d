//! What a turn makes of its offers' resources: reservations and volumes, and what is special of
//! what its tasks take.

use tepui_types::operation::{Convert, Operation};
use tepui_types::resources::{Disk, Pool, PoolKind};
use tepui_types::{Bytes, OfferId, Resources, Wish};

use super::{CallError, OpenTurn, RECORD};

/// What a task takes that it has to name.
#[derive(Debug, Clone, Default)]
pub struct Special {
    /// Volumes by id.
    pub volumes: Vec<String>,
    /// Bytes of disks by id.
    pub disks: Vec<(String, Bytes)>,
    /// Out of what may be taken back.
    pub revocable: Option<Resources>,
}

impl Special {
    /// The pools of these, out of what is left of an offer.
    pub fn pools(&self, left: &Resources) -> Result<Vec<Pool>, String> {
        let mut pools = Vec::new();
        for id in &self.volumes {
            let volume = left.pools.volume(id);
            let volume = volume.ok_or_else(|| format!("the offer has no volume `{id}` left"))?;
            pools.push(volume.clone());
        }
        for (id, bytes) in &self.disks {
            let is_it = |pool: &&Pool| {
                let kind = &pool.kind;
                let is_whole = matches!(kind.disk, Some(Disk::Mount(_)));
                kind.disk.as_ref().map(Disk::id) == Some(id.as_str())
                    && kind.volume.is_none()
                    && pool.amounts.disk >= *bytes
                    && (!is_whole || pool.amounts.disk == *bytes)
            };
            let disk = left.pools.iter().find(is_it);
            let disk =
                disk.ok_or_else(|| format!("the offer has not so much of disk `{id}` left"))?;
            pools.push(Pool::disk(disk.kind.clone(), *bytes));
        }
        if let Some(amounts) = &self.revocable {
            let kind = PoolKind {
                revocable: true,
                ..PoolKind::default()
            };
            let amounts = amounts.clone();
            pools.push(Pool { kind, amounts });
        }
        Ok(pools)
    }
}

impl OpenTurn {
    /// What is left of an offer in this turn.
    pub fn left(&self, offer: OfferId) -> Option<&Resources> {
        self.offers.left(offer).map(|(_, left)| left)
    }

    /// Makes something else of what is left of an offer.
    pub fn operate(&mut self, offer: OfferId, name: String, wish: &Wish) -> Result<(), CallError> {
        if name.is_empty() || name.len() > Convert::MAX_NAME {
            let most = Convert::MAX_NAME;
            let why = format!("an operation's name has 1 to {most} bytes");
            return Err(CallError::Invalid(why));
        }
        let (held, left) = self.offers.left(offer).ok_or(CallError::OfferUnknown)?;
        let (agent, role) = (held.agent, held.role.clone());
        let by = &self.framework.info.name;
        let conversion = wish
            .conversion(left, by)
            .map_err(CallError::OfferExceeded)?;
        let exchange = conversion.exchange(left);
        let exchange = exchange.map_err(|error| CallError::OfferExceeded(error.to_string()))?;
        let rest = exchange.apply(left);
        let rest = rest.map_err(|error| CallError::OfferExceeded(error.to_string()))?;
        let size = tepui_types::envelope::encode(1, &conversion).len();
        self.reserve_notice()?;
        self.reserve(1, name.len() + role.as_str().len() + size + RECORD)?;
        self.offers.take(offer, rest);
        let role = Some(role).filter(|role| role != self.framework.info.roles.first());
        self.operations.push(Operation::Convert(Convert {
            agent,
            name,
            conversion,
            role,
        }));
        Ok(())
    }
}
