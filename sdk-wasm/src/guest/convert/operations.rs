//! The words of the interface `operations`.

use tepui_types::resources::{
    Bytes, Conversion, Disk, Pool, PoolKind, Pools, Reservation, ResourceRequest, Volume,
};
use tepui_types::{AgentId, OfferId, Resources, Timestamp, Wish};

use super::{reason, resource_request, resources, resources_out};
use crate::bindings::tepui::framework::operations as wit;
use crate::context::OperationStatus;
use crate::error::Error;
use crate::task::Launch;

/// What is left of an offer in this turn.
pub fn left(offer: OfferId) -> Option<Resources> {
    wit::left(&[offer.0]).pop().flatten().map(left_in)
}

/// A sum and the parts of it that are special, as one.
pub fn left_in(left: wit::Remainder) -> Resources {
    let pools: Vec<_> = left.pools.into_iter().filter_map(pool_in).collect();
    let flat = pools.iter().filter(|pool| pool.kind.is_flat());
    let sum = resources(left.resources);
    let plain = flat.fold(sum, |rest, pool| rest.saturating_sub(&pool.amounts));
    Resources {
        // The host has checked them.
        pools: Pools::try_from(pools).unwrap_or_default(),
        ..plain
    }
}

fn pool_in(pool: wit::Pool) -> Option<Pool> {
    let reservations = pool.reservations.into_iter().map(|one| {
        Some(Reservation {
            role: one.role.parse().ok()?,
            is_static: one.is_static,
            by: one.by,
            labels: one.labels.into_iter().collect(),
        })
    });
    let volume = pool.volume;
    let kind = PoolKind {
        reservations: reservations.collect::<Option<_>>()?,
        disk: pool.disk.map(|disk| match disk {
            wit::Disk::Path(id) => Disk::Path(id),
            wit::Disk::Mount(id) => Disk::Mount(id),
        }),
        volume: volume.map(|wit::Volume { id, path, shared }| Volume { id, path, shared }),
        revocable: pool.revocable,
    };
    let amounts = resources(pool.resources);
    Some(Pool { kind, amounts })
}

/// Whether a launch takes what has to be named.
pub fn is_special(launch: &Launch) -> bool {
    let mut pools = launch.resources.pools.iter();
    pools.any(|pool| !pool.kind.is_flat())
}

/// What it takes so.
pub fn special(launch: &Launch) -> wit::Special {
    let mut special = wit::Special {
        volumes: Vec::new(),
        disks: Vec::new(),
        revocable: None,
        extensions: Vec::new(),
    };
    for pool in launch.resources.pools.iter() {
        match (&pool.kind.volume, &pool.kind.disk) {
            (Some(volume), _) => special.volumes.push(volume.id.clone()),
            (None, Some(disk)) => {
                let disk = (disk.id().to_owned(), pool.amounts.disk.0);
                special.disks.push(disk);
            }
            (None, None) if pool.kind.revocable => {
                special.revocable = Some(resources_out(&pool.amounts));
            }
            (None, None) => {}
        }
    }
    special
}

/// What a wish says.
pub fn operation(wish: &Wish) -> Result<wit::Operation, Error> {
    let amounts = |amounts: &ResourceRequest| resource_request(amounts);
    Ok(match wish {
        Wish::Reserve(reserve) => wit::Operation::Reserve(wit::Reserve {
            role: Some(reserve.role.to_string()),
            amounts: amounts(&reserve.amounts),
            from: reserve.from.as_ref().map(ToString::to_string),
            disk: reserve.disk.clone(),
            labels: reserve.labels.clone().into_iter().collect(),
        }),
        Wish::Unreserve(unreserve) => wit::Operation::Unreserve(wit::Unreserve {
            role: Some(unreserve.role.to_string()),
            amounts: amounts(&unreserve.amounts),
            disk: unreserve.disk.clone(),
        }),
        Wish::Create(create) => wit::Operation::CreateVolume(wit::CreateVolume {
            volume: wit::Volume {
                id: create.id.clone(),
                path: create.path.clone(),
                shared: create.shared,
            },
            role: Some(create.role.to_string()),
            size_bytes: create.size_bytes.map(|Bytes(size)| size),
            disk: create.disk.clone(),
        }),
        Wish::Exactly(Conversion::Destroy { volume }) => {
            wit::Operation::DestroyVolume(volume.clone())
        }
        Wish::Exactly(Conversion::Grow { volume, by }) => {
            wit::Operation::GrowVolume((volume.clone(), by.0))
        }
        Wish::Exactly(Conversion::Shrink { volume, by }) => {
            wit::Operation::ShrinkVolume((volume.clone(), by.0))
        }
        Wish::Exactly(_) => {
            let why = "name amounts: pools are found by the host";
            return Err(Error::Invalid(why.into()));
        }
    })
}

/// What became of one.
pub fn operation_status(status: wit::OperationStatus) -> OperationStatus {
    OperationStatus {
        id: status.id,
        name: status.name,
        agent: AgentId(status.agent),
        kind: status.kind,
        state: status.state,
        reason: status.reason.map(reason),
        time: Timestamp(status.time_ms),
    }
}
