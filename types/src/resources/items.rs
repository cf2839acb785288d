//! Custom things that are counted one by one: numbers or words.
//!
//! A request asks for so many of them, in thousandths as of any custom resource, and gets the
//! lowest that are free.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use super::{MILLI, NumberRanges};

/// Some of a named thing. Never empty where it stands in resources.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Items {
    /// Numbers, such as VLANs.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<(u64, u64)>))]
    Ranges(NumberRanges),
    /// Words, such as licences.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    Set(Words),
}

/// A set of words.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Words(pub BTreeSet<String>);

impl Words {
    /// The most words that a set read from outside may have.
    pub const MAX: usize = 1024;
    /// Bytes of a word.
    pub const MAX_BYTES: usize = 256;
}

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let words = Vec::<String>::deserialize(deserializer)?;
        let count = words.len();
        if count > Self::MAX || words.iter().any(|word| word.len() > Self::MAX_BYTES) {
            return Err(D::Error::custom(format_args!(
                "a set has at most {} words, of at most {} bytes",
                Self::MAX,
                Self::MAX_BYTES
            )));
        }
        let words: BTreeSet<_> = words.into_iter().collect();
        match words.len() == count {
            true => Ok(Self(words)),
            false => Err(D::Error::custom("a word stands twice in a set")),
        }
    }
}

impl Items {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Ranges(ranges) => ranges.is_empty(),
            Self::Set(words) => words.0.is_empty(),
        }
    }

    /// What they are, divided by commas; of ranges their ends.
    pub fn list(&self) -> String {
        match self {
            Self::Ranges(ranges) => ranges.to_string(),
            Self::Set(words) => {
                let words: Vec<_> = words.0.iter().map(String::as_str).collect();
                words.join(",")
            }
        }
    }

    /// How many there are, in thousandths.
    pub fn milli(&self) -> u64 {
        let count = match self {
            Self::Ranges(ranges) => ranges.size(),
            Self::Set(words) => words.0.len() as u64,
        };
        count * MILLI
    }

    /// The lowest, so many thousandths; none if there are fewer, or for a part of one.
    pub fn lowest(&self, milli: u64) -> Option<Self> {
        let count = milli / MILLI;
        if !milli.is_multiple_of(MILLI) || self.milli() < milli {
            return None;
        }
        match self {
            Self::Ranges(ranges) => ranges.lowest(count).map(Self::Ranges),
            Self::Set(words) => {
                let lowest = words.0.iter().take(count as usize).cloned();
                Some(Self::Set(Words(lowest.collect())))
            }
        }
    }

    /// The union, if nothing is in both and both are of one sort.
    pub fn disjoint_union(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (Self::Ranges(one), Self::Ranges(two)) => one.disjoint_union(two).map(Self::Ranges),
            (Self::Set(one), Self::Set(two)) => one
                .0
                .is_disjoint(&two.0)
                .then(|| Self::Set(Words(one.0.union(&two.0).cloned().collect()))),
            _ => None,
        }
    }

    /// What is left of `self`, if all of `other` is in it.
    pub fn difference(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (Self::Ranges(one), Self::Ranges(two)) => one.difference(two).map(Self::Ranges),
            (Self::Set(one), Self::Set(two)) => {
                two.0.is_subset(&one.0).then(|| self.without(other))
            }
            _ => None,
        }
    }

    /// What is in `self` and not in `other`.
    pub fn without(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Ranges(one), Self::Ranges(two)) => Self::Ranges(one.without(two)),
            (Self::Set(one), Self::Set(two)) => {
                Self::Set(Words(one.0.difference(&two.0).cloned().collect()))
            }
            _ => self.clone(),
        }
    }
}

impl fmt::Display for Items {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ranges(_) => write!(f, "[{}]", self.list()),
            Self::Set(_) => write!(f, "{{{}}}", self.list()),
        }
    }
}
