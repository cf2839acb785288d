//! When a measured folder is over its limit, and when it is measured next; pure.
//!
//! A folder may be over its limit for a while: programs write the new before they remove the old. Far
//! over it, it may not. It is measured the more often the nearer it is to its limit and the faster it
//! grows, and never for more than a small part of the time.

use std::time::Duration;

use tepui_types::Bytes;

use crate::measure::{Measured, Usage};

/// What a folder may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Allocated bytes.
    pub bytes: Bytes,
    /// Inodes, if they are limited.
    pub inodes: Option<u64>,
}

/// How folders are watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// How long one may be over its limit.
    pub grace: Duration,
    /// How far over it may be in that time, in percent of the limit; beyond it there is no grace.
    pub slack_percent: u64,
    /// The shortest time between two measurements.
    pub soonest: Duration,
    /// The longest.
    pub latest: Duration,
    /// A measurement is followed by a pause of so many times what it took.
    pub rest: u32,
}

/// However long a measurement takes, the next one begins after this: a folder of many small files is no
/// way not to be looked at.
const LONGEST_REST: Duration = Duration::from_secs(60);

impl Default for Policy {
    fn default() -> Self {
        Self {
            // A log is compacted, an archive unpacked and removed.
            grace: Duration::from_secs(30),
            slack_percent: 25,
            // A disk writes some gigabytes in that time, which is what headroom is for.
            soonest: Duration::from_secs(2),
            latest: Duration::from_secs(120),
            // Five percent of a core for each folder, at most.
            rest: 19,
        }
    }
}

/// What is to be thought of a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is within its limit.
    Within,
    /// It is over it, and may be until then.
    Over {
        /// When its grace ends.
        until: Duration,
    },
    /// It is over it for good: its task is to end.
    Exceeded,
}

/// One folder that is watched. Times are those of any clock that never goes back.
#[derive(Debug, Clone)]
pub struct Watch {
    policy: Policy,
    limit: Limit,
    /// When it was measured last, and what was found.
    last: Option<(Duration, Usage)>,
    over_since: Option<Duration>,
}

impl Watch {
    /// A folder that was not measured yet.
    pub fn new(limit: Limit, policy: Policy) -> Self {
        Self {
            policy,
            limit,
            last: None,
            over_since: None,
        }
    }

    /// Gives it another limit; what is over it gets its grace from the next measurement on.
    pub fn set_limit(&mut self, limit: Limit) {
        if limit != self.limit {
            self.limit = limit;
            self.over_since = None;
        }
    }

    /// What follows of a measurement that ended `now` and `took` that long; and when the next begins.
    pub fn on_measured(
        &mut self,
        measured: &Measured,
        took: Duration,
        now: Duration,
    ) -> (Verdict, Duration) {
        let usage = measured.usage;
        let verdict = self.judge(measured, now);
        let mut pause = self.pause(usage, now);
        if let Verdict::Over { until } = verdict {
            // Neither long before its grace ends nor after.
            pause = pause.min(until.saturating_sub(now).max(self.policy.soonest));
        }
        self.last = Some((now, usage));
        let rest = took.saturating_mul(self.policy.rest).min(LONGEST_REST);
        (verdict, now.saturating_add(pause.max(rest)))
    }

    fn judge(&mut self, measured: &Measured, now: Duration) -> Verdict {
        let share = self.share(measured.usage);
        let share = match measured.too_deep {
            // What cannot be measured is over any limit.
            true => share.max(FULL + 1),
            false => share,
        };
        if share <= FULL {
            self.over_since = None;
            return Verdict::Within;
        }
        let since = *self.over_since.get_or_insert(now);
        let until = since.saturating_add(self.policy.grace);
        let slack = FULL.saturating_add(u128::from(self.policy.slack_percent) * FULL / 100);
        match share > slack || now >= until {
            true => Verdict::Exceeded,
            false => Verdict::Over { until },
        }
    }

    /// How long it will stay within its limit: half of the time in which it fills up at its pace, and
    /// no more of the longest than there is room in it.
    fn pause(&self, usage: Usage, now: Duration) -> Duration {
        let Policy {
            soonest, latest, ..
        } = self.policy;
        let share = self.share(usage).min(FULL);
        let by_room = scaled(latest, FULL - share, FULL);
        let by_pace = self.last.map_or(latest, |(before, had)| {
            let grown = share.saturating_sub(self.share(had));
            let passed = now.saturating_sub(before);
            match grown {
                0 => latest,
                grown => scaled(passed, FULL - share, grown.saturating_mul(2)),
            }
        });
        by_room.min(by_pace).clamp(soonest, latest.max(soonest))
    }

    /// The part of the limit that is used, of bytes or inodes whichever is more; rounded up.
    fn share(&self, usage: Usage) -> u128 {
        let part = |used: u64, limit: u64| match (used, limit) {
            (0, 0) => 0,
            // Anything is more than nothing.
            (_, 0) => u128::MAX,
            _ => (u128::from(used) * FULL).div_ceil(limit.into()),
        };
        let bytes = part(usage.bytes.0, self.limit.bytes.0);
        let inodes = self.limit.inodes;
        bytes.max(inodes.map_or(0, |limit| part(usage.inodes, limit)))
    }
}

/// All of a limit, in millionths.
const FULL: u128 = 1_000_000;

/// `time` times `part` by `whole`.
fn scaled(time: Duration, part: u128, whole: u128) -> Duration {
    let nanos = time.as_nanos().saturating_mul(part) / whole.max(1);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Limit = Limit {
        bytes: Bytes::gib(1),
        inodes: Some(1_000),
    };
    const QUICK: Duration = Duration::from_millis(1);

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn found(mib: u64, inodes: u64) -> Measured {
        Measured {
            usage: Usage {
                bytes: Bytes::mib(mib),
                inodes,
            },
            complete: true,
            too_deep: false,
        }
    }

    #[test]
    fn a_folder_too_deep_to_be_measured_has_its_grace_and_no_more() {
        let policy = Policy::default();
        let mut watch = Watch::new(LIMIT, policy);
        let deep = Measured {
            too_deep: true,
            complete: false,
            ..found(1, 1)
        };
        let (verdict, next) = watch.on_measured(&deep, QUICK, secs(0));
        let until = policy.grace;
        assert_eq!((verdict, next), (Verdict::Over { until }, until));
        let (verdict, _) = watch.on_measured(&deep, QUICK, until);
        assert_eq!(verdict, Verdict::Exceeded);
    }

    #[test]
    fn a_little_over_the_limit_has_its_grace_once() {
        let policy = Policy::default();
        let mut watch = Watch::new(LIMIT, policy);
        let until = secs(100) + policy.grace;
        let (verdict, next) = watch.on_measured(&found(1_025, 1), QUICK, secs(100));
        assert_eq!(verdict, Verdict::Over { until });
        assert_eq!(next, secs(100) + policy.soonest);
        // It goes below and comes back: that is another time.
        let (verdict, _) = watch.on_measured(&found(1_024, 1), QUICK, secs(110));
        assert_eq!(verdict, Verdict::Within);
        let until = secs(120) + policy.grace;
        let (verdict, _) = watch.on_measured(&found(1_100, 1), QUICK, secs(120));
        assert_eq!(verdict, Verdict::Over { until });
        let (verdict, _) = watch.on_measured(&found(1_100, 1), QUICK, until - QUICK);
        assert_eq!(verdict, Verdict::Over { until });
        let (verdict, _) = watch.on_measured(&found(1_100, 1), QUICK, until);
        assert_eq!(verdict, Verdict::Exceeded);
    }

    #[test]
    fn far_over_the_limit_has_no_grace() {
        let mut watch = Watch::new(LIMIT, Policy::default());
        let (verdict, _) = watch.on_measured(&found(1_281, 1), QUICK, secs(1));
        assert_eq!(verdict, Verdict::Exceeded);
        let mut watch = Watch::new(LIMIT, Policy::default());
        let (verdict, _) = watch.on_measured(&found(1, 1_251), QUICK, secs(1));
        assert_eq!(verdict, Verdict::Exceeded);
    }

    #[test]
    fn inodes_count_where_they_are_limited() {
        let mut watch = Watch::new(LIMIT, Policy::default());
        let (verdict, _) = watch.on_measured(&found(1, 1_001), QUICK, secs(1));
        assert!(matches!(verdict, Verdict::Over { .. }));
        watch.set_limit(Limit {
            inodes: None,
            ..LIMIT
        });
        let (verdict, _) = watch.on_measured(&found(1, u64::MAX), QUICK, secs(2));
        assert_eq!(verdict, Verdict::Within);
    }

    #[test]
    fn a_folder_is_measured_the_more_often_the_fuller_it_is() {
        let next = |mib| {
            let mut watch = Watch::new(LIMIT, Policy::default());
            watch.on_measured(&found(mib, 1), QUICK, secs(0)).1
        };
        // One inode of a thousand is used by each.
        assert_eq!(next(0), Policy::default().latest * 999 / 1_000);
        assert_eq!(next(512), Policy::default().latest / 2);
        assert_eq!(next(1_023), Policy::default().soonest);
    }

    #[test]
    fn a_folder_that_fills_up_is_measured_before_it_is_full() {
        let mut watch = Watch::new(LIMIT, Policy::default());
        watch.on_measured(&found(0, 0), QUICK, secs(0));
        // A quarter in ten seconds: three more to go, of which half are waited for.
        let (_, next) = watch.on_measured(&found(256, 0), QUICK, secs(10));
        assert_eq!(next, secs(10) + secs(15));
        // It stands still.
        let (_, next) = watch.on_measured(&found(256, 0), QUICK, secs(25));
        assert_eq!(next, secs(25) + secs(90));
    }

    #[test]
    fn a_measurement_that_takes_long_is_made_seldom() {
        let policy = Policy::default();
        let mut watch = Watch::new(LIMIT, policy);
        let (verdict, next) = watch.on_measured(&found(1_025, 0), secs(2), secs(100));
        assert!(matches!(verdict, Verdict::Over { .. }));
        assert_eq!(next, secs(100) + secs(2) * policy.rest);
        // And not so seldom that it is no limit.
        let (_, next) = watch.on_measured(&found(1_025, 0), secs(60), secs(200));
        assert_eq!(next, secs(200) + LONGEST_REST);
    }

    #[test]
    fn a_limit_of_nothing_is_exceeded_by_anything() {
        let none = Limit {
            bytes: Bytes(0),
            inodes: Some(0),
        };
        let mut watch = Watch::new(none, Policy::default());
        let (verdict, _) = watch.on_measured(&found(1, 1), QUICK, secs(0));
        assert_eq!(verdict, Verdict::Exceeded);
    }
}
