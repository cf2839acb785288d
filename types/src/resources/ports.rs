//! Sets of ports, kept as sorted ranges that neither touch nor overlap.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

/// A set of ports. Equal sets are equal values.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct PortRanges(Vec<(u16, u16)>);

impl PortRanges {
    /// The most ranges that a set read from outside may have.
    pub const MAX_RANGES: usize = 1024;

    /// From `first` to `last`, both inclusive; empty when they are the wrong way round.
    pub fn from_range(first: u16, last: u16) -> Self {
        Self::from_ranges(vec![(first, last)])
    }

    /// The union of inclusive ranges, in any order.
    pub fn from_ranges(mut ranges: Vec<(u16, u16)>) -> Self {
        ranges.retain(|(first, last)| first <= last);
        ranges.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(previous) if u32::from(first) <= u32::from(previous.1) + 1 => {
                    previous.1 = previous.1.max(last);
                }
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    /// The ranges, sorted.
    pub fn ranges(&self) -> &[(u16, u16)] {
        &self.0
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many ports there are.
    pub fn count(&self) -> u32 {
        self.0
            .iter()
            .map(|(first, last)| u32::from(*last) - u32::from(*first) + 1)
            .sum()
    }

    /// The ports, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.iter().flat_map(|(first, last)| *first..=*last)
    }

    /// The `count` lowest ports, if there are as many.
    pub fn lowest(&self, count: u32) -> Option<Self> {
        let mut missing = count;
        let mut taken = Vec::new();
        for &(first, last) in &self.0 {
            if missing == 0 {
                break;
            }
            let size = u32::from(last) - u32::from(first) + 1;
            let take = size.min(missing);
            taken.push((first, (u32::from(first) + take - 1) as u16));
            missing -= take;
        }
        (missing == 0).then_some(Self(taken))
    }

    /// The union, if no port is in both.
    pub fn disjoint_union(&self, other: &Self) -> Option<Self> {
        let union = Self::from_ranges(self.0.iter().chain(&other.0).copied().collect());
        (union.count() == self.count() + other.count()).then_some(union)
    }

    /// What is left of `self`, if all of `other` is in it.
    pub fn difference(&self, other: &Self) -> Option<Self> {
        let rest = self.without(other);
        (rest.count() + other.count() == self.count()).then_some(rest)
    }

    /// The ports of `self` that are not in `other`.
    pub fn without(&self, other: &Self) -> Self {
        let mut rest = Vec::new();
        for &(first, last) in &self.0 {
            // `next` may be one past the last port, hence the wider type.
            let mut next = u32::from(first);
            for &(cut_first, cut_last) in &other.0 {
                if u32::from(cut_last) < next || cut_first > last {
                    continue;
                }
                if u32::from(cut_first) > next {
                    rest.push((next as u16, cut_first - 1));
                }
                next = u32::from(cut_last) + 1;
            }
            if next <= u32::from(last) {
                rest.push((next as u16, last));
            }
        }
        Self(rest)
    }
}

impl<'de> Deserialize<'de> for PortRanges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let ranges = Vec::<(u16, u16)>::deserialize(deserializer)?;
        if ranges.len() > Self::MAX_RANGES {
            return Err(D::Error::custom(format_args!(
                "more than {} port ranges",
                Self::MAX_RANGES
            )));
        }
        if let Some((first, last)) = ranges.iter().find(|(first, last)| first > last) {
            return Err(D::Error::custom(format_args!(
                "port range {first}-{last} is the wrong way round"
            )));
        }
        let total: u64 = ranges
            .iter()
            .map(|(first, last)| u64::from(*last) - u64::from(*first) + 1)
            .sum();
        let set = Self::from_ranges(ranges);
        if u64::from(set.count()) != total {
            return Err(D::Error::custom("port ranges overlap"));
        }
        Ok(set)
    }
}

impl fmt::Display for PortRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, (first, last)) in self.0.iter().enumerate() {
            let separator = if position == 0 { "" } else { "," };
            if first == last {
                write!(f, "{separator}{first}")?;
            } else {
                write!(f, "{separator}{first}-{last}")?;
            }
        }
        Ok(())
    }
}
