//! The words of the interface `operations`.

use tepui_types::resources::{Conversion, Disk, Pool, Reservation, Volume};
use tepui_types::wish::{ReserveRequest, UnreserveRequest, VolumeRequest};
use tepui_types::{Bytes, Resources, Role, Wish};

use super::super::bindings::operations as wit;
use super::super::turn::Special;
use super::{pairs_in, pairs_out, request_in, resources_in, resources_out, role_in};

pub fn left_out(left: &Resources) -> wit::Remainder {
    wit::Remainder {
        resources: resources_out(&left.flat(false)),
        pools: left.pools.iter().map(pool_out).collect(),
    }
}

fn pool_out(pool: &Pool) -> wit::Pool {
    let kind = &pool.kind;
    let volume = kind.volume.clone();
    wit::Pool {
        reservations: kind.reservations.iter().map(reservation_out).collect(),
        disk: kind.disk.clone().map(|disk| match disk {
            Disk::Path(id) => wit::Disk::Path(id),
            Disk::Mount(id) => wit::Disk::Mount(id),
        }),
        volume: volume.map(|Volume { id, path, shared }| wit::Volume { id, path, shared }),
        revocable: kind.revocable,
        resources: resources_out(&pool.amounts),
        extensions: Vec::new(),
    }
}

fn reservation_out(reservation: &Reservation) -> wit::Reservation {
    wit::Reservation {
        role: reservation.role.to_string(),
        is_static: reservation.is_static,
        by: reservation.by.clone(),
        labels: pairs_out(&reservation.labels),
    }
}

pub fn special_in(special: wit::Special) -> Result<Special, String> {
    if let Some(unknown) = special.extensions.first() {
        let name = &unknown.name;
        return Err(format!("this master knows no extension `{name}` of a task"));
    }
    let disks = special.disks.into_iter();
    Ok(Special {
        volumes: special.volumes,
        disks: disks.map(|(id, bytes)| (id, Bytes(bytes))).collect(),
        revocable: special.revocable.map(resources_in).transpose()?,
    })
}

/// What an operation asks for; `offered` is the role of its offer.
pub fn wish_in(operation: wit::Operation, offered: Role) -> Result<Wish, String> {
    let role = |named: Option<String>| match named {
        Some(named) => role_in(&named),
        None => Ok(offered.clone()),
    };
    Ok(match operation {
        wit::Operation::Reserve(reserve) => Wish::Reserve(ReserveRequest {
            role: role(reserve.role)?,
            amounts: request_in(reserve.amounts)?,
            from: reserve.from.as_deref().map(role_in).transpose()?,
            disk: reserve.disk,
            labels: pairs_in("labels", reserve.labels)?,
        }),
        wit::Operation::Unreserve(unreserve) => Wish::Unreserve(UnreserveRequest {
            role: role(unreserve.role)?,
            amounts: request_in(unreserve.amounts)?,
            disk: unreserve.disk,
        }),
        wit::Operation::CreateVolume(create) => Wish::Create(VolumeRequest {
            id: create.volume.id,
            role: role(create.role)?,
            path: create.volume.path,
            size_bytes: create.size_bytes.map(Bytes),
            disk: create.disk,
            shared: create.volume.shared,
        }),
        wit::Operation::DestroyVolume(volume) => Wish::Exactly(Conversion::Destroy { volume }),
        wit::Operation::GrowVolume((volume, by)) => Wish::Exactly(Conversion::Grow {
            volume,
            by: Bytes(by),
        }),
        wit::Operation::ShrinkVolume((volume, by)) => Wish::Exactly(Conversion::Shrink {
            volume,
            by: Bytes(by),
        }),
    })
}
