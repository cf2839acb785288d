//! Operations on resources: reserve, unreserve, and what is done with volumes.
//!
//! An offer's pools ([`Resources::pools`](crate::resources::Resources)) show what is reserved and
//! which volumes there are. [`pick`](crate::resources::Resources::pick) takes what is reserved first;
//! a volume is taken by its pool, see [`with_volume`].

pub use tepui_types::resources::{Conversion, Disk, Pool, PoolKind, Pools, Reservation, Volume};
pub use tepui_types::wish::{ReserveRequest, UnreserveRequest, VolumeRequest, Wish};

use crate::resources::Resources;

/// What a task takes, and a volume of the offer it is taken from; none if that has no such volume.
pub fn with_volume(offered: &Resources, taken: Resources, id: &str) -> Option<Resources> {
    let volume = offered.pools.volume(id)?.clone();
    let pools = taken.pools.checked_add(&volume.into()).ok()?;
    Some(Resources { pools, ..taken })
}
