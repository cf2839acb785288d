//! What operations make of an agent's resources: reservations and persistent volumes.
//!
//! There is one function, [`Conversion::exchange`]: it says what is taken from what is free, and
//! what is given in its place. Both have the same sum, so nothing is lost or doubled.

use serde::{Deserialize, Serialize};

use super::{Bytes, Disk, Pool, PoolKind, Pools, Reservation, Resources, Volume};

/// One such operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Conversion {
    /// Sets resources aside for a role; those of pools for a role below the one that has them.
    Reserve {
        /// Which.
        resources: Resources,
        /// For whom; made by an operation, so never static.
        reservation: Reservation,
    },
    /// Takes the last reservation of each of these pools back.
    Unreserve {
        /// Which; pools and nothing else.
        resources: Resources,
    },
    /// Makes a persistent volume of reserved disk.
    Create {
        /// The disk.
        disk: Pool,
        /// The volume.
        volume: Volume,
    },
    /// Ends a volume, and all that is stored in it.
    Destroy {
        /// Its id.
        volume: String,
    },
    /// Gives a volume more of the disk that is reserved as it is.
    Grow {
        /// Its id.
        volume: String,
        /// So much.
        by: Bytes,
    },
    /// Takes some of a volume's disk back.
    Shrink {
        /// Its id.
        volume: String,
        /// So much.
        by: Bytes,
    },
}

/// What a conversion takes and gives; both have the same sum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// Out of what is free.
    pub taken: Resources,
    /// In its place.
    pub given: Resources,
}

/// Why there is no exchange.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConversionError {
    /// It cannot be, whatever is free.
    #[error("{0}")]
    Invalid(String),
    /// Some of it is not free.
    #[error("{0}")]
    NotFree(String),
    /// There is no such volume among what is free.
    #[error(
        "there is no volume `{0}` that is free: look at `tepui volume list`, and end the tasks that use it"
    )]
    NoVolume(String),
    /// A volume of this name is there already.
    #[error("there is a volume `{0}` already: choose another name, or destroy it first")]
    VolumeExists(String),
}

impl Conversion {
    /// Its name in records and events.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Reserve { .. } => "reserve",
            Self::Unreserve { .. } => "unreserve",
            Self::Create { .. } => "create",
            Self::Destroy { .. } => "destroy",
            Self::Grow { .. } => "grow",
            Self::Shrink { .. } => "shrink",
        }
    }

    /// What it takes of what is free, and what it gives for it.
    pub fn exchange(&self, free: &Resources) -> Result<Exchange, ConversionError> {
        let exchange = match self {
            Self::Reserve {
                resources,
                reservation,
            } => reserve(resources, reservation)?,
            Self::Unreserve { resources } => unreserve(resources)?,
            Self::Create { disk, volume } => create(free, disk, volume)?,
            Self::Destroy { volume } => destroy(free, volume)?,
            Self::Grow { volume, by } => resize(free, volume, *by, true)?,
            Self::Shrink { volume, by } => resize(free, volume, *by, false)?,
        };
        match free.checked_sub(&exchange.taken) {
            Ok(_) => Ok(exchange),
            Err(short) => Err(ConversionError::NotFree(format!(
                "{} would take {}, and {free} is free: {short}; name less, or end tasks that use it",
                self.name(),
                exchange.taken
            ))),
        }
    }
}

impl Exchange {
    /// What is there afterwards, of all that was there.
    pub fn apply(&self, all: &Resources) -> Result<Resources, ConversionError> {
        let rest = all.checked_sub(&self.taken);
        let sum = rest.and_then(|rest| rest.checked_add(&self.given));
        sum.map_err(|error| ConversionError::NotFree(error.to_string()))
    }
}

fn invalid<T>(why: impl Into<String>) -> Result<T, ConversionError> {
    Err(ConversionError::Invalid(why.into()))
}

fn pools(pools: Vec<Pool>) -> Result<Pools, ConversionError> {
    Pools::try_from(pools).map_err(ConversionError::Invalid)
}

fn reserve(resources: &Resources, reservation: &Reservation) -> Result<Exchange, ConversionError> {
    if resources.is_empty() {
        return invalid("nothing is named to reserve: name some amounts, such as cpus=2");
    }
    if reservation.is_static {
        return invalid("a static reservation is made by starting an agent with it");
    }
    let mut given = Vec::new();
    let plain = resources.plain();
    if !plain.is_empty() {
        let kind = PoolKind {
            reservations: vec![reservation.clone()],
            ..PoolKind::default()
        };
        given.push(Pool {
            kind,
            amounts: plain,
        });
    }
    for pool in resources.pools.iter() {
        if pool.kind.volume.is_some() {
            return invalid("a volume's disk is reserved before the volume is created");
        }
        let mut pool = pool.clone();
        pool.kind.reservations.push(reservation.clone());
        given.push(pool);
    }
    Ok(Exchange {
        taken: resources.clone(),
        given: Resources {
            pools: pools(given)?,
            ..Resources::default()
        },
    })
}

fn unreserve(resources: &Resources) -> Result<Exchange, ConversionError> {
    if !resources.plain().is_empty() || resources.is_empty() {
        return invalid("only what is reserved is unreserved: name pools");
    }
    let mut given = Resources::default();
    let mut special = Vec::new();
    for pool in resources.pools.iter() {
        if pool.kind.volume.is_some() {
            return invalid("the disk of a volume stays reserved: destroy the volume first");
        }
        let mut pool = pool.clone();
        match pool.kind.reservations.pop() {
            Some(last) if !last.is_static => {}
            Some(last) => {
                return invalid(format!(
                    "the agent was started with what it reserves for `{}`: start it without",
                    last.role
                ));
            }
            None => return invalid(format!("{pool} is reserved for nobody")),
        }
        if pool.kind.is_plain() {
            let sum = given.checked_add(&pool.amounts);
            given = sum.map_err(|error| ConversionError::Invalid(error.to_string()))?;
        } else {
            special.push(pool);
        }
    }
    given.pools = pools(special)?;
    Ok(Exchange {
        taken: resources.clone(),
        given,
    })
}

fn create(free: &Resources, disk: &Pool, volume: &Volume) -> Result<Exchange, ConversionError> {
    if disk.kind.volume.is_some() {
        return invalid("a volume is made of disk that is none yet");
    }
    if free.pools.volume(&volume.id).is_some() {
        return Err(ConversionError::VolumeExists(volume.id.clone()));
    }
    let is_mount = matches!(disk.kind.disk, Some(Disk::Mount(_)));
    if is_mount && free.pools.of(&disk.kind).is_some_and(|known| known != disk) {
        return invalid("a whole disk becomes one volume: name all of its bytes");
    }
    let mut made = disk.clone();
    made.kind.volume = Some(volume.clone());
    Ok(Exchange {
        taken: Resources {
            pools: pools(vec![disk.clone()])?,
            ..Resources::default()
        },
        given: Resources {
            pools: pools(vec![made])?,
            ..Resources::default()
        },
    })
}

fn known<'a>(free: &'a Resources, volume: &str) -> Result<&'a Pool, ConversionError> {
    let known = free.pools.volume(volume);
    known.ok_or_else(|| ConversionError::NoVolume(volume.chars().take(80).collect()))
}

/// The disk of a volume's kind that is no volume, so much of it.
fn bare(volume: &Pool, bytes: Bytes) -> Pool {
    let kind = PoolKind {
        volume: None,
        ..volume.kind.clone()
    };
    Pool::disk(kind, bytes)
}

fn destroy(free: &Resources, volume: &str) -> Result<Exchange, ConversionError> {
    let known = known(free, volume)?;
    Ok(Exchange {
        taken: Resources {
            pools: known.clone().into(),
            ..Resources::default()
        },
        given: Resources {
            pools: bare(known, known.amounts.disk).into(),
            ..Resources::default()
        },
    })
}

fn resize(
    free: &Resources,
    volume: &str,
    by: Bytes,
    grows: bool,
) -> Result<Exchange, ConversionError> {
    let known = known(free, volume)?;
    if matches!(known.kind.disk, Some(Disk::Mount(_))) {
        return invalid("a volume that is a whole disk neither grows nor shrinks");
    }
    let size = known.amounts.disk;
    let after = match grows {
        true => size.0.checked_add(by.0),
        // Nothing is left of a volume that shrinks by all that it has: that is to destroy it.
        false => size.0.checked_sub(by.0).filter(|after| *after > 0),
    };
    let Some(after) = after.filter(|_| by.0 > 0) else {
        return invalid(format!(
            "volume `{volume}` has {size}: change it by more than nothing, and leave it some"
        ));
    };
    let (before, after) = (known.clone(), Pool::disk(known.kind.clone(), Bytes(after)));
    let (taken, given) = match grows {
        true => (vec![before, bare(known, by)], vec![after]),
        false => (vec![before], vec![after, bare(known, by)]),
    };
    Ok(Exchange {
        taken: Resources {
            pools: pools(taken)?,
            ..Resources::default()
        },
        given: Resources {
            pools: pools(given)?,
            ..Resources::default()
        },
    })
}
