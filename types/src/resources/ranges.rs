//! Sets of ports and other numbers, kept as sorted ranges that neither touch nor overlap.

use std::fmt;
use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A set of ports.
pub type PortRanges = Ranges<u16>;
/// A set of numbers up to 2^53, as JSON has them, such as VLANs or user ids.
pub type NumberRanges = Ranges<u64>;

/// The greatest number: thousandths of as many still fit into 64 bits.
const MOST: u64 = 1 << 53;

/// A set of numbers. Equal sets are equal values.
///
/// Copies share their ranges: a machine's ports stand in its free resources, in offers and in what
/// is declined, and are cut rarely.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ranges<T>(Option<Arc<[(T, T)]>>);

/// What ranges are of.
pub trait Number: Copy + Ord + fmt::Display + Into<u64> {
    /// The number, which is between two of this type.
    fn between(number: u64) -> Self;
}

impl Number for u16 {
    fn between(number: u64) -> Self {
        number as u16
    }
}

impl Number for u64 {
    fn between(number: u64) -> Self {
        number
    }
}

impl PortRanges {
    /// How many ports there are.
    pub fn count(&self) -> u32 {
        self.size() as u32
    }

    /// The ports, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        let ranges = self.ranges().iter();
        ranges.flat_map(|(first, last)| *first..=*last)
    }
}

impl<T> Ranges<T> {
    /// The ranges, sorted.
    pub fn ranges(&self) -> &[(T, T)] {
        self.0.as_deref().unwrap_or_default()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl<T: Number> Ranges<T> {
    /// The most ranges that a set read from outside may have.
    pub const MAX_RANGES: usize = 1024;

    /// From `first` to `last`, both inclusive; empty when they are the wrong way round.
    pub fn from_range(first: T, last: T) -> Self {
        Self::from_ranges(vec![(first, last)])
    }

    /// The union of inclusive ranges, in any order. What goes past 2^53 is in none, so that
    /// nothing here overflows.
    pub fn from_ranges(mut ranges: Vec<(T, T)>) -> Self {
        ranges.retain(|(first, last)| first <= last && (*last).into() <= MOST);
        ranges.sort_unstable();
        let mut merged: Vec<(T, T)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(previous) if first.into() <= previous.1.into() + 1 => {
                    previous.1 = previous.1.max(last);
                }
                _ => merged.push((first, last)),
            }
        }
        Self::of(merged)
    }

    /// Sorted ranges that neither touch nor overlap.
    fn of(ranges: Vec<(T, T)>) -> Self {
        Self((!ranges.is_empty()).then(|| ranges.into()))
    }

    /// How many numbers there are.
    pub fn size(&self) -> u64 {
        let sizes = self.ranges().iter();
        sizes
            .map(|(first, last)| (*last).into() - (*first).into() + 1)
            .sum()
    }

    /// The `count` lowest, if there are as many.
    pub fn lowest(&self, count: impl Into<u64>) -> Option<Self> {
        let mut missing = count.into();
        let mut taken = Vec::new();
        for &(first, last) in self.ranges() {
            if missing == 0 {
                break;
            }
            let size = last.into() - first.into() + 1;
            let take = size.min(missing);
            taken.push((first, T::between(first.into() + take - 1)));
            missing -= take;
        }
        (missing == 0).then(|| Self::of(taken))
    }

    /// The union, if nothing is in both.
    pub fn disjoint_union(&self, other: &Self) -> Option<Self> {
        if other.is_empty() {
            return Some(self.clone());
        }
        let both = self.ranges().iter().chain(other.ranges());
        let union = Self::from_ranges(both.copied().collect());
        (union.size() == self.size() + other.size()).then_some(union)
    }

    /// What is left of `self`, if all of `other` is in it.
    pub fn difference(&self, other: &Self) -> Option<Self> {
        let rest = self.without(other);
        (rest.size() + other.size() == self.size()).then_some(rest)
    }

    /// What is in both.
    pub fn intersection(&self, other: &Self) -> Self {
        self.without(&self.without(other))
    }

    /// What is in `self` and not in `other`.
    pub fn without(&self, other: &Self) -> Self {
        if other.is_empty() || self.is_empty() {
            return self.clone();
        }
        let mut rest = Vec::new();
        for &(first, last) in self.ranges() {
            // `next` may be one past the last number, hence the wider type.
            let mut next: u64 = first.into();
            for &(cut_first, cut_last) in other.ranges() {
                if cut_last.into() < next || cut_first > last {
                    continue;
                }
                if cut_first.into() > next {
                    rest.push((T::between(next), T::between(cut_first.into() - 1)));
                }
                next = cut_last.into() + 1;
            }
            if next <= last.into() {
                rest.push((T::between(next), last));
            }
        }
        Self::of(rest)
    }
}

impl<T> Default for Ranges<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Serialize> Serialize for Ranges<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.ranges().serialize(serializer)
    }
}

impl<'de, T: Number + Deserialize<'de>> Deserialize<'de> for Ranges<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let ranges = Vec::<(T, T)>::deserialize(deserializer)?;
        if ranges.len() > Self::MAX_RANGES {
            return Err(D::Error::custom(format_args!(
                "more than {} ranges",
                Self::MAX_RANGES
            )));
        }
        if let Some((first, last)) = ranges.iter().find(|(first, last)| first > last) {
            return Err(D::Error::custom(format_args!(
                "range {first}-{last} is the wrong way round"
            )));
        }
        let size = |(first, last): &(T, T)| u128::from((*last).into() - (*first).into()) + 1;
        let total: u128 = ranges.iter().map(size).sum();
        let set = Self::from_ranges(ranges);
        if u128::from(set.size()) != total {
            return Err(D::Error::custom("ranges overlap, or go past 2^53"));
        }
        Ok(set)
    }
}

impl<T: Number> fmt::Display for Ranges<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, (first, last)) in self.ranges().iter().enumerate() {
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
