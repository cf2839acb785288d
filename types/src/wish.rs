//! What operators ask of an agent's resources.
//!
//! People name amounts; which pools, ports and devices these are is found in what is free on the
//! agent when the wish is committed, so that one which is sent twice is one. The bodies of
//! `/v1/agents/{id}/reserve`, `unreserve` and `volumes` are these wishes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::resources::{
    Bytes, Conversion, Disk, Pool, PoolKind, Reservation, ResourceRequest, Resources, Volume,
};
use crate::role::Role;

/// One wish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wish {
    /// Set resources aside for a role.
    Reserve(ReserveRequest),
    /// Take a reservation back.
    Unreserve(UnreserveRequest),
    /// Make a persistent volume.
    Create(VolumeRequest),
    /// Do this.
    Exactly(Conversion),
}

impl Wish {
    /// What is meant, of what is free on an agent. Who asks stands in a reservation.
    pub fn conversion(&self, free: &Resources, by: &str) -> Result<Conversion, String> {
        match self {
            Self::Reserve(request) => request.conversion(free, by),
            Self::Unreserve(request) => request.conversion(free),
            Self::Create(request) => request.conversion(free),
            Self::Exactly(conversion) => Ok(conversion.clone()),
        }
    }
}

/// `POST /v1/agents/{id}/reserve`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReserveRequest {
    /// For whom.
    pub role: Role,
    /// How much. With `disk`, bytes of it; all of it when nothing is named.
    #[serde(default)]
    pub amounts: ResourceRequest,
    /// The role above that has it reserved; nobody when absent.
    #[serde(default)]
    pub from: Option<Role>,
    /// The agent's disk by its id; the root disk when absent.
    #[serde(default)]
    pub disk: Option<String>,
    /// Keeps reservations of one role apart.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// `POST /v1/agents/{id}/unreserve`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UnreserveRequest {
    /// Whose.
    pub role: Role,
    /// How much; all that is free of it when nothing is named.
    #[serde(default)]
    pub amounts: ResourceRequest,
    /// The agent's disk by its id; the root disk when absent.
    #[serde(default)]
    pub disk: Option<String>,
}

/// `POST /v1/agents/{id}/volumes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VolumeRequest {
    /// Its name, unique on the agent.
    pub id: String,
    /// For whom its disk is reserved.
    pub role: Role,
    /// Where tasks find it, below their sandbox.
    pub path: String,
    /// How large; all of a whole disk when absent.
    #[serde(default)]
    pub size_bytes: Option<Bytes>,
    /// The agent's disk by its id; the root disk when absent.
    #[serde(default)]
    pub disk: Option<String>,
    /// Whether several tasks may use it at a time.
    #[serde(default)]
    pub shared: bool,
}

impl ReserveRequest {
    /// So much of what is everybody's.
    pub fn new(role: Role, amounts: ResourceRequest) -> Self {
        Self {
            role,
            amounts,
            from: None,
            disk: None,
            labels: BTreeMap::new(),
        }
    }

    /// The operation, out of what is free on an agent; who asks stands in the reservation.
    pub fn conversion(&self, free: &Resources, by: &str) -> Result<Conversion, String> {
        let source = Source {
            owner: self.from.as_ref(),
            disk: self.disk.as_deref(),
        };
        Ok(Conversion::Reserve {
            resources: source.take(free, &self.amounts)?,
            reservation: Reservation {
                by: Some(by.to_owned()),
                labels: self.labels.clone(),
                ..Reservation::dynamic(self.role.clone())
            },
        })
    }
}

impl UnreserveRequest {
    /// The operation, out of what is free on an agent.
    pub fn conversion(&self, free: &Resources) -> Result<Conversion, String> {
        let source = Source {
            owner: Some(&self.role),
            disk: self.disk.as_deref(),
        };
        let resources = match self.amounts.is_empty() && self.disk.is_none() {
            true => source.all(free)?,
            false => source.take(free, &self.amounts)?,
        };
        Ok(Conversion::Unreserve { resources })
    }
}

impl VolumeRequest {
    /// One of the root disk for one task at a time, at a path of its name.
    pub fn new(id: &str, role: Role, size: Bytes) -> Self {
        Self {
            id: id.into(),
            role,
            path: id.into(),
            size_bytes: Some(size),
            disk: None,
            shared: false,
        }
    }

    /// The operation, out of what is free on an agent.
    pub fn conversion(&self, free: &Resources) -> Result<Conversion, String> {
        let source = Source {
            owner: Some(&self.role),
            disk: self.disk.as_deref(),
        };
        let has_room = |pool: &&Pool| {
            let wanted = self.size_bytes.unwrap_or(pool.amounts.disk);
            pool.amounts.disk >= wanted && wanted.0 > 0
        };
        let pool = source.pools(free).find(has_room).ok_or_else(|| {
            let role = &self.role;
            format!(
                "not so much disk is reserved for `{role}` there and free: reserve it first, with \
                 `tepui agent reserve AGENT {role} disk=SIZE`, or name another --disk"
            )
        })?;
        if self.size_bytes.is_none() && !pool.kind.is_whole() {
            return Err("how large is the volume to be? Name a size, such as 10GiB".into());
        }
        let size = self.size_bytes.unwrap_or(pool.amounts.disk);
        Ok(Conversion::Create {
            disk: Pool::disk(pool.kind.clone(), size),
            volume: Volume {
                id: self.id.clone(),
                path: self.path.clone(),
                shared: self.shared,
            },
        })
    }
}

/// Where amounts are taken from.
struct Source<'a> {
    owner: Option<&'a Role>,
    disk: Option<&'a str>,
}

impl Source<'_> {
    fn is_meant(&self, kind: &PoolKind) -> bool {
        let disk = kind.disk.as_ref().map(Disk::id);
        kind.owner() == self.owner && disk == self.disk && kind.volume.is_none() && !kind.revocable
    }

    fn pools<'b>(&'b self, free: &'b Resources) -> impl Iterator<Item = &'b Pool> {
        free.pools.iter().filter(|pool| self.is_meant(&pool.kind))
    }

    fn all(&self, free: &Resources) -> Result<Resources, String> {
        let all = Resources {
            pools: free.pools.filtered(|kind| self.is_meant(kind)),
            ..Resources::default()
        };
        match (all.is_empty(), self.owner) {
            (true, Some(owner)) => Err(format!("nothing that is free is reserved for `{owner}`")),
            _ => Ok(all),
        }
    }

    fn take(&self, free: &Resources, amounts: &ResourceRequest) -> Result<Resources, String> {
        if let Some(disk) = self.disk {
            let all = amounts.is_empty();
            let has_room = |pool: &&Pool| all || pool.amounts.disk >= amounts.disk;
            let pool = self.pools(free).find(has_room).ok_or_else(|| {
                format!("the agent has no disk `{disk}` with so much free: look at its `total`")
            })?;
            let bytes = if all { pool.amounts.disk } else { amounts.disk };
            return Ok(Resources {
                pools: Pool::disk(pool.kind.clone(), bytes).into(),
                ..Resources::default()
            });
        }
        if amounts.is_empty() {
            return Err("nothing is named: name some amounts, such as cpus=2,mem=4GiB".into());
        }
        let from = match self.owner {
            Some(_) => self.all(free)?,
            None => free.plain(),
        };
        from.pick(amounts).map_err(|short| {
            format!(
                "{from} is free of it, and that is too little {}: name less, or end tasks first",
                short.join(" and ")
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::MilliCpus;

    fn amounts(cpus: u64) -> ResourceRequest {
        ResourceRequest {
            cpus: MilliCpus(cpus),
            ..ResourceRequest::default()
        }
    }

    fn request(role: &str, from: Option<&str>, cpus: u64) -> ReserveRequest {
        ReserveRequest {
            role: role.parse().unwrap(),
            amounts: amounts(cpus),
            from: from.map(|from| from.parse().unwrap()),
            disk: None,
            labels: BTreeMap::new(),
        }
    }

    #[test]
    fn amounts_become_the_pools_that_have_them() {
        let mut all = Resources {
            cpus: MilliCpus(4_000),
            ..Resources::default()
        };
        let steps = [
            request("eng", None, 3_000),
            request("eng/web", Some("eng"), 1_000),
        ];
        for step in steps {
            let conversion = step.conversion(&all, "operator").unwrap();
            all = conversion.exchange(&all).unwrap().apply(&all).unwrap();
        }
        assert_eq!(
            all.to_string(),
            "1 cpus, 2 cpus (reserved for eng), 1 cpus (reserved for eng/web)"
        );
        let unreserve = UnreserveRequest {
            role: "eng/web".parse().unwrap(),
            amounts: ResourceRequest::default(),
            disk: None,
        };
        let conversion = unreserve.conversion(&all).unwrap();
        all = conversion.exchange(&all).unwrap().apply(&all).unwrap();
        assert_eq!(all.to_string(), "1 cpus, 3 cpus (reserved for eng)");
    }

    #[test]
    fn what_is_not_there_is_said_with_what_would_help() {
        let free = Resources {
            cpus: MilliCpus(1_000),
            ..Resources::default()
        };
        let refused = |request: ReserveRequest| request.conversion(&free, "x").unwrap_err();
        assert!(refused(request("eng", None, 2_000)).contains("too little cpus"));
        assert!(refused(request("eng", None, 0)).contains("such as cpus=2"));
        assert!(refused(request("eng/web", Some("eng"), 1)).contains("reserved for `eng`"));
        let disk = Some("ssd".to_owned());
        let on_disk = ReserveRequest {
            disk,
            ..request("eng", None, 0)
        };
        assert!(refused(on_disk).contains("no disk `ssd`"));
        let volume = VolumeRequest {
            id: "data".into(),
            role: "eng".parse().unwrap(),
            path: "data".into(),
            size_bytes: Some(Bytes(1)),
            disk: None,
            shared: false,
        };
        assert!(
            volume
                .conversion(&free)
                .unwrap_err()
                .contains("tepui agent reserve")
        );
    }
}
