//! Gangs: tasks that start together or not at all.
//!
//! A gang is one demand with parts. All that it needs is offered at once, by one
//! or several agents, and is launched by one operation. While it does not fit it
//! holds nothing, so two gangs never wait for each other.

use serde::{Deserialize, Serialize};

use crate::constraint::Constraints;
use crate::resources::ResourceRequest;
use crate::role::Role;

/// "I want all of these at once."
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gang {
    /// What it consists of; never empty.
    pub parts: Vec<GangPart>,
    /// For which of the framework's roles; the first if none is named.
    pub role: Option<Role>,
    /// Milliseconds after which it is given up if it was not offered and
    /// launched; it waits for ever if there is none.
    pub wait_ms: Option<u64>,
}

/// Like tasks of a gang.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GangPart {
    /// How many.
    pub count: u32,
    /// What each needs.
    pub request: ResourceRequest,
    /// On which agents.
    #[serde(default)]
    pub constraints: Constraints,
}

/// What an offer is of a gang's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GangShare {
    /// The gang's key.
    pub key: String,
    /// Of which parts it takes how many tasks, by the part's place.
    pub parts: Vec<(u32, u32)>,
}

impl Gang {
    /// The most parts.
    pub const MAX_PARTS: usize = 16;
    /// The most tasks: half of what a turn may launch.
    pub const MAX_TASKS: u32 = 1_000;
    /// The longest wait, in milliseconds: a year.
    pub const MAX_WAIT_MS: u64 = 365 * 24 * 3_600_000;

    /// So many like tasks.
    pub fn of(count: u32, request: ResourceRequest) -> Self {
        Self {
            parts: vec![GangPart {
                count,
                request,
                constraints: Constraints::default(),
            }],
            role: None,
            wait_ms: None,
        }
    }

    /// How many tasks it has.
    pub fn count(&self) -> u32 {
        let counts = self.parts.iter().map(|part| part.count);
        counts.fold(0, u32::saturating_add)
    }

    /// What all of it needs together.
    pub fn total(&self) -> ResourceRequest {
        let mut total = ResourceRequest::default();
        for part in &self.parts {
            total.add(&part.request.times(part.count));
        }
        total
    }

    /// What so many tasks of its parts need together; none if it has not got such a part.
    pub fn sum(&self, parts: &[(u32, u32)]) -> Option<ResourceRequest> {
        let mut sum = ResourceRequest::default();
        for (part, count) in parts {
            sum.add(&self.parts.get(*part as usize)?.request.times(*count));
        }
        Some(sum)
    }

    /// Whether these shares are all of it.
    pub fn is_whole<'a>(&self, shares: impl Iterator<Item = &'a GangShare>) -> bool {
        self.has_all(shares.flat_map(|share| &share.parts))
    }

    /// Whether these, by the part's place, are all of its tasks and no more.
    pub fn has_all<'a>(&self, mut parts: impl Iterator<Item = &'a (u32, u32)>) -> bool {
        let mut missing: Vec<u32> = self.parts.iter().map(|part| part.count).collect();
        let mut take = |part: u32, count: u32| {
            let missing = missing.get_mut(part as usize)?;
            *missing = missing.checked_sub(count)?;
            Some(())
        };
        parts.all(|(part, count)| take(*part, *count).is_some())
            && missing.iter().all(|missing| *missing == 0)
    }

    /// What is wrong with it in itself.
    pub fn validate(&self) -> Result<(), String> {
        if !(1..=Self::MAX_PARTS).contains(&self.parts.len()) {
            return Err(format!("a gang has 1 to {} parts", Self::MAX_PARTS));
        }
        if self.parts.iter().any(|part| part.count == 0) || self.count() > Self::MAX_TASKS {
            return Err(format!(
                "a gang's parts have at least one task each, and {} together at most",
                Self::MAX_TASKS
            ));
        }
        if let Some(millis) = self.wait_ms
            && !(1..=Self::MAX_WAIT_MS).contains(&millis)
        {
            return Err(format!(
                "a gang waits for {millis} ms: choose from 1 to {}",
                Self::MAX_WAIT_MS
            ));
        }
        for part in &self.parts {
            part.request.validate()?;
            part.constraints.validate()?;
        }
        Ok(())
    }

    /// Bytes that it takes in a turn, about.
    pub fn size(&self) -> usize {
        let parts = self.parts.iter().map(|part| {
            let custom = part.request.custom.keys();
            custom.map(|name| name.len() + 16).sum::<usize>() + part.constraints.size() + 64
        });
        let role = self.role.as_ref().map_or(0, |role| role.as_str().len());
        parts.sum::<usize>() + role + 32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MilliCpus;

    fn request(cpus: u64) -> ResourceRequest {
        ResourceRequest {
            cpus: MilliCpus(cpus),
            ..ResourceRequest::default()
        }
    }

    #[test]
    fn gangs_are_bounded_and_summed() {
        let gang = Gang::of(3, request(7));
        assert_eq!(gang.validate(), Ok(()));
        assert_eq!((gang.count(), gang.total()), (3, request(21)));
        let bad = [
            Gang::of(0, request(1)),
            Gang::of(Gang::MAX_TASKS + 1, request(1)),
            Gang::of(u32::MAX, request(u64::MAX)),
            Gang::of(1, request(0)),
            Gang {
                parts: Vec::new(),
                ..Gang::of(1, request(1))
            },
            Gang {
                wait_ms: Some(0),
                ..Gang::of(1, request(1))
            },
        ];
        for gang in bad {
            assert!(gang.validate().is_err(), "{gang:?}");
            gang.total();
        }
    }

    #[test]
    fn a_gang_is_whole_when_every_part_is() {
        let gang = Gang::of(3, request(7));
        assert!(!gang.has_all([(0, 2)].iter()));
        assert!(gang.has_all([(0, 2), (0, 1)].iter()));
        assert!(!gang.has_all([(0, 2), (0, 2)].iter()));
        assert!(!gang.has_all([(0, 3), (1, 1)].iter()));
        assert_eq!(gang.sum(&[(0, 2)]), Some(request(14)));
        assert_eq!(gang.sum(&[(1, 2)]), None);
    }
}
