//! Pools: the resources of an agent that are special in some way, by what they are.
//!
//! What is reserved, revocable, a volume or not on the root disk stands in a pool of its kind; the
//! plain fields of [`Resources`] are the rest. Pools are sorted by kind, none is empty, and of each
//! kind there is one, so that equal amounts are equal values.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use super::{Bytes, ResourceError, Resources};
use crate::ids::is_label;
use crate::role::Role;

/// What is set aside for a role and those below it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Reservation {
    /// For whom.
    pub role: Role,
    /// Whether the agent was started with it: then only the agent takes it back.
    #[serde(default)]
    pub is_static: bool,
    /// Who made it.
    #[serde(default)]
    pub by: Option<String>,
    /// Keeps reservations of one role apart.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

impl Reservation {
    /// The most labels.
    pub const MAX_LABELS: usize = 16;
    /// Bytes of a label's name, of its value, and of who made it.
    pub const MAX_TEXT: usize = 256;

    /// For this role, by an operation.
    pub fn dynamic(role: Role) -> Self {
        Self {
            role,
            is_static: false,
            by: None,
            labels: BTreeMap::new(),
        }
    }

    fn validate(&self) -> Result<(), String> {
        if self.role == Role::default_role() {
            return Err("nothing is reserved for `*`, which is everybody: name a role".into());
        }
        let texts = self.labels.iter().flat_map(|(name, value)| [name, value]);
        let is_long = |text: &String| text.len() > Self::MAX_TEXT;
        if self.labels.len() > Self::MAX_LABELS || texts.chain(&self.by).any(is_long) {
            return Err(format!(
                "a reservation has at most {} labels, and names and values of {} bytes",
                Self::MAX_LABELS,
                Self::MAX_TEXT
            ));
        }
        Ok(())
    }
}

/// A disk that is not the root disk, by its id on the agent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Disk {
    /// A folder, which may be shared out.
    Path(String),
    /// A whole disk, which one has or nobody.
    Mount(String),
}

impl Disk {
    /// Its id.
    pub fn id(&self) -> &str {
        match self {
            Self::Path(id) | Self::Mount(id) => id,
        }
    }
}

/// A persistent volume.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Volume {
    /// Its name, unique on its agent.
    pub id: String,
    /// Where tasks find it, below their sandbox.
    pub path: String,
    /// Whether several tasks may use it at a time.
    #[serde(default)]
    pub shared: bool,
}

impl Volume {
    /// Bytes of its path.
    pub const MAX_PATH: usize = 255;

    /// What is wrong with it in itself.
    pub fn validate(&self) -> Result<(), String> {
        if !is_label(&self.id) {
            return Err(format!(
                "`{}` names no volume: use 1 to 63 of a-z, 0-9 and `-`",
                self.id.chars().take(80).collect::<String>()
            ));
        }
        let is_plain = |name: &str| !name.is_empty() && name != "." && name != "..";
        if self.path.len() > Self::MAX_PATH
            || !self.path.split('/').all(is_plain)
            || self.path.contains(['\0', '\\'])
        {
            return Err(format!(
                "volume `{}` cannot be at `{}`: name a path below the sandbox, such as `data`, of \
                 at most {} bytes",
                self.id,
                self.path.chars().take(80).collect::<String>(),
                Self::MAX_PATH
            ));
        }
        Ok(())
    }
}

/// In which way resources are special.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PoolKind {
    /// Each for a role below that of the one before; the last one owns.
    #[serde(default)]
    pub reservations: Vec<Reservation>,
    /// On which disk; the root disk when absent.
    #[serde(default)]
    pub disk: Option<Disk>,
    /// The volume that its disk is.
    #[serde(default)]
    pub volume: Option<Volume>,
    /// Whether it may be taken back at any time.
    #[serde(default)]
    pub revocable: bool,
}

impl PoolKind {
    /// The most reservations on each other.
    pub const MAX_RESERVATIONS: usize = Role::MAX_DEPTH;

    /// Reserved for a role by an operation.
    pub fn reserved(role: Role) -> Self {
        Self {
            reservations: vec![Reservation::dynamic(role)],
            ..Self::default()
        }
    }

    /// Whether nothing is special about it.
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }

    /// The role that it is reserved for.
    pub fn owner(&self) -> Option<&Role> {
        self.reservations.last().map(|last| &last.role)
    }

    /// Whether it is had as it is or not at all.
    pub fn is_whole(&self) -> bool {
        self.volume.is_some() || matches!(self.disk, Some(Disk::Mount(_)))
    }

    /// Whether tasks may have it without naming it.
    pub fn is_flat(&self) -> bool {
        self.disk.is_none() && self.volume.is_none() && !self.revocable
    }

    /// Whether several may have it at a time.
    pub fn is_shared(&self) -> bool {
        self.volume.as_ref().is_some_and(|volume| volume.shared)
    }

    /// Whether tasks of this role may have it; revocable ones only who says so.
    pub fn is_for(&self, role: &Role, revocable: bool) -> bool {
        self.owner().is_none_or(|owner| role.is_within(owner)) && (revocable || !self.revocable)
    }

    /// What the agent declared it as: without what operations have made of it.
    pub fn declared(&self) -> Self {
        let kept = self.reservations.iter();
        Self {
            reservations: kept.take_while(|one| one.is_static).cloned().collect(),
            disk: self.disk.clone(),
            volume: None,
            revocable: self.revocable,
        }
    }

    /// What is wrong with a pool of this kind and these amounts.
    fn validate(&self, amounts: &Resources) -> Result<(), String> {
        if self.reservations.len() > Self::MAX_RESERVATIONS {
            return Err("there are too many reservations on each other".into());
        }
        self.reservations
            .iter()
            .try_for_each(Reservation::validate)?;
        for pair in self.reservations.windows(2) {
            let (below, above) = (&pair[0], &pair[1]);
            if above.role == below.role || !above.role.is_within(&below.role) || above.is_static {
                return Err(format!(
                    "what is reserved for `{}` can be reserved further for roles below it, and \
                     `{}` is none",
                    below.role, above.role
                ));
            }
        }
        if self.revocable && (!self.reservations.is_empty() || self.volume.is_some()) {
            return Err("revocable resources have no reservations and no volumes".into());
        }
        if let Some(disk) = &self.disk
            && !is_label(disk.id())
        {
            let id: String = disk.id().chars().take(80).collect();
            return Err(format!(
                "`{id}` names no disk: use 1 to 63 of a-z, 0-9 and `-`"
            ));
        }
        let disk = Resources {
            disk: amounts.disk,
            ..Resources::default()
        };
        if (self.disk.is_some() || self.volume.is_some()) && (*amounts != disk || disk.is_empty()) {
            return Err("a disk or volume has bytes of disk and nothing else".into());
        }
        match &self.volume {
            Some(_) if self.reservations.is_empty() => {
                Err("a volume is on disk that is reserved: reserve it first".into())
            }
            Some(volume) => volume.validate(),
            None => Ok(()),
        }
    }
}

impl fmt::Display for PoolKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if let Some(last) = self.reservations.last() {
            let labels = last.labels.iter();
            let labels: Vec<_> = labels
                .map(|(name, value)| format!(" {name}={value}"))
                .collect();
            parts.push(format!("reserved for {}{}", last.role, labels.concat()));
        }
        match &self.disk {
            Some(Disk::Path(id)) => parts.push(format!("disk {id}")),
            Some(Disk::Mount(id)) => parts.push(format!("whole disk {id}")),
            None => {}
        }
        if let Some(volume) = &self.volume {
            let shared = if volume.shared {
                "shared volume"
            } else {
                "volume"
            };
            parts.push(format!("{shared} {} at {}", volume.id, volume.path));
        }
        if self.revocable {
            parts.push("revocable".into());
        }
        f.write_str(&parts.join(", "))
    }
}

/// Amounts of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Pool {
    /// In which way they are special.
    pub kind: PoolKind,
    /// How much there is, which has no pools itself.
    #[serde(with = "plain")]
    #[cfg_attr(feature = "openapi", schema(value_type = plain::PlainResources))]
    pub amounts: Resources,
}

/// Amounts without pools, so that none is ever read inside another.
mod plain {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::resources::{Bytes, Items, MilliCpus, PortRanges, Resources};

    /// What a pool has: resources without pools.
    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
    pub struct PlainResources {
        #[serde(rename = "cpus_milli", default)]
        cpus: MilliCpus,
        #[serde(rename = "mem_bytes", default)]
        mem: Bytes,
        #[serde(rename = "disk_bytes", default)]
        disk: Bytes,
        #[serde(default)]
        #[cfg_attr(feature = "openapi", schema(value_type = Vec<(u16, u16)>))]
        ports: PortRanges,
        #[serde(rename = "gpus_milli", default)]
        gpus: BTreeMap<String, u64>,
        #[serde(rename = "custom_milli", default)]
        custom: BTreeMap<String, u64>,
        #[serde(default)]
        items: BTreeMap<String, Items>,
    }

    pub fn serialize<S: Serializer>(from: &Resources, serializer: S) -> Result<S::Ok, S::Error> {
        PlainResources {
            cpus: from.cpus,
            mem: from.mem,
            disk: from.disk,
            ports: from.ports.clone(),
            gpus: from.gpus.clone(),
            custom: from.custom.clone(),
            items: from.items.clone(),
        }
        .serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Resources, D::Error> {
        let plain = PlainResources::deserialize(from)?;
        Ok(Resources {
            cpus: plain.cpus,
            mem: plain.mem,
            disk: plain.disk,
            ports: plain.ports,
            gpus: plain.gpus,
            custom: plain.custom,
            items: plain.items,
            ..Resources::default()
        })
    }
}

impl Pool {
    /// So many bytes of a disk.
    pub fn disk(kind: PoolKind, bytes: Bytes) -> Self {
        let amounts = Resources {
            disk: bytes,
            ..Resources::default()
        };
        Self { kind, amounts }
    }

    /// What is wrong with it in itself.
    pub fn validate(&self) -> Result<(), String> {
        if !self.amounts.pools.is_empty() {
            return Err("a pool has no pools".into());
        }
        if self.kind.is_plain() {
            return Err("nothing is special about a pool: its amounts go beside the pools".into());
        }
        self.kind.validate(&self.amounts)
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.amounts, self.kind)
    }
}

/// All pools of some resources; mostly none, which takes no room.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Pools(Option<Arc<[Pool]>>);

impl Pools {
    /// The most pools that one set read from outside may have.
    pub const MAX: usize = 20_000;

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Sorted by kind.
    pub fn iter(&self) -> std::slice::Iter<'_, Pool> {
        self.as_slice().iter()
    }

    /// Sorted by kind.
    pub fn as_slice(&self) -> &[Pool] {
        self.0.as_deref().unwrap_or(&[])
    }

    /// The pool of a kind.
    pub fn of(&self, kind: &PoolKind) -> Option<&Pool> {
        let pools = self.as_slice();
        let at = pools.binary_search_by(|pool| pool.kind.cmp(kind));
        at.ok().map(|at| &pools[at])
    }

    /// The pool that is this volume.
    pub fn volume(&self, id: &str) -> Option<&Pool> {
        let is_it = |volume: &Volume| volume.id == id;
        self.iter()
            .find(|pool| pool.kind.volume.as_ref().is_some_and(is_it))
    }

    /// Those of which this is true.
    pub fn filtered(&self, is_meant: impl Fn(&PoolKind) -> bool) -> Self {
        if self.iter().all(|pool| is_meant(&pool.kind)) {
            return self.clone();
        }
        let pools = self.iter().filter(|pool| is_meant(&pool.kind));
        Self::from_sorted(pools.cloned().collect())
    }

    /// Both together; what is whole is not had twice.
    pub fn checked_add(&self, other: &Self) -> Result<Self, ResourceError> {
        if other.is_empty() {
            return Ok(self.clone());
        }
        self.merged(other, |kind, one, two| match (one, two) {
            (Some(one), Some(two)) if !kind.is_whole() => one.checked_add(two),
            (Some(_), Some(_)) => Err(ResourceError::Overflow(kind.to_string())),
            (one, two) => Ok(one.or(two).cloned().unwrap_or_default()),
        })
    }

    /// What is left; what is whole is taken as it is.
    pub fn checked_sub(&self, other: &Self) -> Result<Self, ResourceError> {
        if other.is_empty() {
            return Ok(self.clone());
        }
        let short = |kind: &PoolKind| ResourceError::Insufficient(kind.to_string());
        self.merged(other, |kind, one, two| match (one, two) {
            (Some(one), Some(two)) if kind.is_whole() && one != two => Err(short(kind)),
            (Some(one), Some(two)) => one.checked_sub(two),
            (Some(one), None) => Ok(one.clone()),
            (None, _) => Err(short(kind)),
        })
    }

    /// What is left when `other` is taken away as far as it is there.
    pub fn saturating_sub(&self, other: &Self) -> Self {
        if other.is_empty() || self.is_empty() {
            return self.clone();
        }
        let rest = self.merged(other, |kind, one, two| {
            Ok(match (one, two) {
                (Some(_), Some(_)) if kind.is_whole() => Resources::default(),
                (Some(one), Some(two)) => one.saturating_sub(two),
                (one, _) => one.cloned().unwrap_or_default(),
            })
        });
        rest.unwrap_or_default()
    }

    /// Walks both at once.
    fn merged(
        &self,
        other: &Self,
        merge: impl Fn(
            &PoolKind,
            Option<&Resources>,
            Option<&Resources>,
        ) -> Result<Resources, ResourceError>,
    ) -> Result<Self, ResourceError> {
        let (mut ones, mut twos) = (self.iter().peekable(), other.iter().peekable());
        let mut pools = Vec::with_capacity(self.as_slice().len() + other.as_slice().len());
        loop {
            let order = match (ones.peek(), twos.peek()) {
                (None, None) => return Ok(Self::from_sorted(pools)),
                (Some(one), Some(two)) => one.kind.cmp(&two.kind),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
            };
            let one = if order.is_le() { ones.next() } else { None };
            let two = if order.is_ge() { twos.next() } else { None };
            let Some(kind) = one.or(two).map(|pool| &pool.kind) else {
                continue;
            };
            let amounts = |pool: Option<&'_ Pool>| pool.map(|pool| pool.amounts.clone());
            let merged = match (one, two) {
                // What only one of them has is taken as it is, which is most of a long list.
                (Some(one), None) => merge(kind, Some(&one.amounts), None)?,
                _ => merge(kind, amounts(one).as_ref(), amounts(two).as_ref())?,
            };
            if !merged.is_empty() {
                let (kind, amounts) = (kind.clone(), merged);
                pools.push(Pool { kind, amounts });
            }
        }
    }

    fn from_sorted(pools: Vec<Pool>) -> Self {
        match pools.is_empty() {
            true => Self(None),
            false => Self(Some(pools.into())),
        }
    }
}

impl From<Pool> for Pools {
    fn from(pool: Pool) -> Self {
        match pool.amounts.is_empty() {
            true => Self(None),
            false => Self(Some([pool].into())),
        }
    }
}

impl TryFrom<Vec<Pool>> for Pools {
    type Error = String;

    /// Checks each, and brings those of one kind together.
    fn try_from(mut pools: Vec<Pool>) -> Result<Self, String> {
        if pools.len() > Self::MAX {
            return Err(format!("there are more than {} pools", Self::MAX));
        }
        pools.iter().try_for_each(Pool::validate)?;
        pools.retain(|pool| !pool.amounts.is_empty());
        pools.sort_by(|one, two| one.kind.cmp(&two.kind));
        let mut merged: Vec<Pool> = Vec::with_capacity(pools.len());
        for pool in pools {
            match merged.last_mut().filter(|last| last.kind == pool.kind) {
                Some(last) if last.kind.is_whole() => {
                    return Err(format!("{} stands twice in the pools", pool.kind));
                }
                Some(last) => {
                    let sum = last.amounts.checked_add(&pool.amounts);
                    last.amounts = sum.map_err(|error| format!("{}: {error}", pool.kind))?;
                }
                None => merged.push(pool),
            }
        }
        Ok(Self::from_sorted(merged))
    }
}

impl fmt::Debug for Pools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl Serialize for Pools {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.as_slice().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Pools {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let pools = Vec::<Pool>::deserialize(deserializer)?;
        Self::try_from(pools).map_err(D::Error::custom)
    }
}
