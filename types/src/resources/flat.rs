//! Pools by whom they are for, and as one sum where nobody need tell them apart.
//!
//! *Flat* is what tasks may have without naming its pool: what is plain, and what is reserved on
//! the root disk without being a volume. Of what is taken flat, the innermost reservation goes
//! first, so that what is everybody's is left for others.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::{Bytes, MilliCpus, Pool, PoolKind, Pools, PortRanges, ResourceError, Resources};
use crate::role::Role;

impl Resources {
    /// Without pools.
    pub fn plain(&self) -> Self {
        Self {
            pools: Pools::default(),
            ..self.clone()
        }
    }

    /// What tasks of a role may have; of what is revocable only who says so.
    pub fn usable_by(&self, role: &Role, revocable: bool) -> Cow<'_, Self> {
        self.only(|kind| kind.is_for(role, revocable))
    }

    /// Without what several may have at a time.
    pub fn exclusive(&self) -> Cow<'_, Self> {
        self.only(|kind| !kind.is_shared())
    }

    fn only(&self, is_meant: impl Fn(&PoolKind) -> bool) -> Cow<'_, Self> {
        if self.pools.iter().all(|pool| is_meant(&pool.kind)) {
            return Cow::Borrowed(self);
        }
        Cow::Owned(Self {
            pools: self.pools.filtered(is_meant),
            ..self.clone()
        })
    }

    /// The sum of what tasks may have without naming its pool, and of what is revocable if that
    /// is asked for.
    pub fn flat(&self, revocable: bool) -> Cow<'_, Self> {
        if self.pools.is_empty() {
            return Cow::Borrowed(self);
        }
        let pools = self.pools.iter().filter(|pool| is_flat(pool, revocable));
        Cow::Owned(pools.fold(self.plain(), |sum, pool| {
            // Parts of one agent's resources add up.
            sum.checked_add(&pool.amounts).unwrap_or(sum)
        }))
    }

    /// What of the [flat](Self::flat) sum may be taken back.
    pub fn revocable(&self) -> Self {
        self.flat(true).saturating_sub(&self.flat(false))
    }

    /// Takes a flat sum apart again: from the innermost reservation first, from what is revocable
    /// after what is reserved, from what is plain last. The pools that it names are taken as they
    /// are. None if it is not in here.
    pub fn carve(&self, wanted: &Self, revocable: bool) -> Option<Self> {
        if self.pools.is_empty() {
            return self.contains(wanted).then(|| wanted.clone());
        }
        let rest = self.pools.checked_sub(&wanted.pools).ok()?;
        let mut flat: Vec<_> = rest
            .iter()
            .filter(|pool| is_flat(pool, revocable))
            .collect();
        flat.sort_by_key(|pool| Reverse(pool.kind.owner().map(|owner| owner.depth())));
        let mut left = wanted.plain();
        let mut taken = wanted.pools.clone();
        for pool in flat {
            let part = pool.amounts.meet(&left);
            left = left.saturating_sub(&part);
            let kind = pool.kind.clone();
            let part = Pools::from(Pool {
                kind,
                amounts: part,
            });
            taken = taken.checked_add(&part).ok()?;
        }
        self.plain().contains(&left).then_some(Self {
            pools: taken,
            ..left
        })
    }

    /// What a task gets that asks for a flat sum, with pools that it names: which parts of which
    /// pools, and which items where it asks for a number of them as of a custom scalar.
    pub fn grant(&self, wanted: &Self) -> Result<Self, ResourceError> {
        let flat = self.flat(false);
        let is_item = |name: &String| flat.items.contains_key(name);
        if self.pools.is_empty() && !wanted.custom.keys().any(is_item) {
            return self.checked_sub(wanted).map(|_| wanted.clone());
        }
        let mut exact = wanted.clone();
        for (name, milli) in &wanted.custom {
            if let Some(items) = flat.items.get(name) {
                let lowest = items.lowest(*milli);
                let lowest = lowest.ok_or_else(|| ResourceError::Insufficient(name.clone()))?;
                exact.custom.remove(name);
                exact.items.insert(name.clone(), lowest);
            }
        }
        self.carve(&exact, false).ok_or_else(|| {
            let short = flat.plain().checked_sub(&exact.plain()).err();
            let pools = || self.pools.checked_sub(&exact.pools).err();
            let short = short.or_else(pools);
            short.unwrap_or_else(|| ResourceError::Insufficient("resources".into()))
        })
    }

    /// As much of each as is in both.
    pub fn meet(&self, other: &Self) -> Self {
        let lesser = |one: &BTreeMap<String, u64>, two: &BTreeMap<String, u64>| {
            let both = one.iter().filter_map(|(name, one)| {
                let least = (*two.get(name)?).min(*one);
                (least > 0).then(|| (name.clone(), least))
            });
            both.collect()
        };
        let items = self.items.iter().filter_map(|(name, items)| {
            let both = items.without(&items.without(other.items.get(name)?));
            (!both.is_empty()).then(|| (name.clone(), both))
        });
        Self {
            cpus: MilliCpus(self.cpus.0.min(other.cpus.0)),
            mem: Bytes(self.mem.0.min(other.mem.0)),
            disk: Bytes(self.disk.0.min(other.disk.0)),
            ports: PortRanges::intersection(&self.ports, &other.ports),
            gpus: lesser(&self.gpus, &other.gpus),
            custom: lesser(&self.custom, &other.custom),
            items: items.collect(),
            pools: Pools::default(),
        }
    }
}

fn is_flat(pool: &Pool, revocable: bool) -> bool {
    let kind = &pool.kind;
    kind.is_flat() || (revocable && kind.revocable && kind.disk.is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Role;
    use crate::resources::PoolKind;

    #[test]
    fn what_may_be_taken_back_is_told_apart_from_what_is_firm() {
        let of = |cpus| Resources {
            cpus: MilliCpus(cpus),
            ..Resources::default()
        };
        assert_eq!(of(500).revocable(), Resources::default());
        let role: Role = "eng".parse().unwrap();
        let reserved = Pool {
            kind: PoolKind::reserved(role),
            amounts: of(20),
        };
        let lent = Pool {
            kind: PoolKind {
                revocable: true,
                ..PoolKind::default()
            },
            amounts: of(3),
        };
        let all = Resources {
            pools: Pools::try_from(vec![reserved, lent]).unwrap(),
            ..of(100)
        };
        assert_eq!(all.flat(true).cpus, MilliCpus(123));
        assert_eq!(all.revocable(), of(3));
    }
}
