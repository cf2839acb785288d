//! Users of the machine that this agent may lend to containers: a range of ids that an operator has set
//! aside for it, lent in parts of which no two tasks have the same.
//!
//! A pure function of what is lent. Who has what stands in the journal, with all that a task was given.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use tepui_types::wire::executor::UserRange;

/// How many ids a container has unless said otherwise, and at least: images have users up to `nobody`,
/// 65534.
const EACH: u32 = 65536;
/// The most parts: far more than a machine runs tasks.
const MAX_PARTS: u32 = 65536;

/// The ids, written `FIRST:COUNT` or `FIRST:COUNT:EACH`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct UserPool {
    all: UserRange,
    each: u32,
}

impl UserPool {
    /// A part that has nothing in common with those that are lent; none when all are.
    pub fn free(&self, lent: impl Iterator<Item = UserRange>) -> Option<UserRange> {
        let taken: BTreeSet<u32> = lent.flat_map(|range| self.parts_in(range)).collect();
        let free = (0..self.parts()).find(|part| !taken.contains(part))?;
        Some(UserRange {
            first: self.all.first + free * self.each,
            count: self.each,
        })
    }

    /// How many there are.
    pub fn parts(&self) -> u32 {
        self.all.count / self.each
    }

    /// The parts that have something in common with a range, which may have been lent of another pool.
    fn parts_in(&self, range: UserRange) -> std::ops::Range<u32> {
        let end = u64::from(range.first) + u64::from(range.count);
        let from_first = |id: u64| id.saturating_sub(self.all.first.into());
        let first = from_first(range.first.into()) / u64::from(self.each);
        let after = from_first(end).div_ceil(self.each.into());
        let bound = |part: u64| part.min(self.parts().into()) as u32;
        bound(first)..bound(after)
    }
}

impl fmt::Display for UserPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.all.first, self.all.count, self.each)
    }
}

impl FromStr for UserPool {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            format!(
                "`{text}` is no range of users ({why}): write FIRST:COUNT or FIRST:COUNT:EACH, such as \
                 1000000:65536000 for a thousand containers"
            )
        };
        let numbers: Result<Vec<u32>, _> = text.split(':').map(str::parse).collect();
        let (first, count, each) = match numbers.as_deref() {
            Ok([first, count]) => (*first, *count, EACH),
            Ok([first, count, each]) => (*first, *count, *each),
            Ok(_) | Err(_) => return Err(wrong("two or three numbers are asked for")),
        };
        if first < EACH {
            return Err(wrong("the machine's own users are below 65536"));
        }
        // The last id of all stands for none.
        if first.checked_add(count).is_none() {
            return Err(wrong("ids end at 4294967294"));
        }
        if each < EACH {
            return Err(wrong("images have users up to 65534, so each needs 65536"));
        }
        match count / each {
            1..=MAX_PARTS => Ok(Self {
                all: UserRange { first, count },
                each,
            }),
            0 => Err(wrong("it is too small for one container")),
            _ => Err(wrong("it is for more than 65536 containers")),
        }
    }
}

impl TryFrom<String> for UserPool {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(text: &str) -> UserPool {
        text.parse().unwrap()
    }

    fn range(first: u32, count: u32) -> UserRange {
        UserRange { first, count }
    }

    #[test]
    fn parts_are_lent_once_until_there_is_none() {
        let pool = pool("100000:200000");
        assert_eq!(
            (pool.parts(), pool.to_string().as_str()),
            (3, "100000:200000:65536")
        );
        let mut lent = Vec::new();
        for _ in 0..3 {
            let next = pool.free(lent.iter().copied()).unwrap();
            assert!(lent.iter().all(|other| !next.overlaps(*other)), "{next:?}");
            lent.push(next);
        }
        assert_eq!(lent.last(), Some(&range(231_072, 65536)));
        assert_eq!(pool.free(lent.iter().copied()), None);
        let back = lent.remove(1);
        assert_eq!(pool.free(lent.into_iter()), Some(back));
    }

    #[test]
    fn what_was_lent_of_another_pool_is_not_lent_again() {
        let pool = pool("100000:200000");
        let first = |lent: UserRange| pool.free([lent].into_iter()).unwrap().first;
        assert_eq!(first(range(99_999, 1)), 100_000);
        assert_eq!(first(range(99_999, 2)), 165_536);
        assert_eq!(first(range(150_000, 65536)), 231_072);
        assert_eq!(first(range(4_000_000_000, 65536)), 100_000);
        assert_eq!(
            pool.free([range(65536, u32::MAX - 65536)].into_iter()),
            None
        );
    }

    #[test]
    fn what_is_no_range_is_refused_with_how_to_write_one() {
        for bad in [
            "",
            "100000",
            "a:b",
            "1000:65536",
            "100000:65535",
            "100000:1000000:1000",
            "4294900000:100000",
            "100000:65536:65536:1",
            "-1:65536",
        ] {
            let why = bad.parse::<UserPool>().unwrap_err();
            assert!(why.contains("FIRST:COUNT"), "{bad}: {why}");
        }
        assert_eq!(pool("100000:400000:100000").parts(), 4);
    }
}
