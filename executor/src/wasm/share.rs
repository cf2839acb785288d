//! What a task may have of the processors: the share that is its own, and the most that it gets.
//!
//! Pure: the time and what was used are arguments. Each is a bucket into which processor time flows
//! at the task's rate, and which holds what flows in a period. A task whose own bucket is full, or lacks
//! no more than a turn takes, is *owed* its time: it has had no more than its rate, and goes before those
//! who have. One whose bucket has something in it is *within* its guarantee, and goes before those that
//! are *beyond* theirs. One whose ceiling's bucket is empty does not run at all until some has flowed in.

use std::time::Duration;

use tepui_types::MilliCpus;

/// How much at once a task may use that used less before: the period of the kernel's quota, too.
const PERIOD: Duration = Duration::from_millis(100);
/// What has flowed in again before a task that has used up its bucket goes on: a tick of the epoch,
/// so that it is worth a turn.
const QUANTUM: Duration = Duration::from_millis(2);
/// Parts of a nanosecond: what flows in at the rate of a thousandth of a cpu is kept exactly.
const PARTS: i64 = 1000;

/// May a task run now?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It has had no more than its guarantee lately.
    Owed,
    /// It has had more lately, and is within its guarantee over a period. It is owed again at that time.
    Within(Duration),
    /// What it takes now is spare: it may, if nobody waits who is within theirs. By its own
    /// guarantee it may again after that time.
    Beyond(Duration),
    /// It has had the most that it gets, until that time.
    Over(Duration),
}

/// The buckets of one task.
#[derive(Debug)]
pub struct Share {
    guarantee: Bucket,
    /// Whether that was asked for: what is given besides is owed to nobody.
    is_promised: bool,
    ceiling: Option<Bucket>,
    /// What holds it to less than that for now.
    throttle: Option<Bucket>,
}

impl Share {
    /// Full buckets: a task that starts is not held up.
    pub fn new(guarantee: MilliCpus, ceiling: Option<MilliCpus>, now: Duration) -> Self {
        Self {
            // What has no more than that is given a little, and has asked for nothing.
            is_promised: ceiling.is_none_or(|most| most > guarantee),
            guarantee: Bucket::full(guarantee, now),
            ceiling: ceiling.map(|rate| Bucket::full(rate, now)),
            throttle: None,
        }
    }

    /// Lets it have so much at most from now on.
    pub fn hold(&mut self, most: Option<MilliCpus>, now: Duration) {
        match (&mut self.throttle, most.map(milli)) {
            (Some(bucket), Some(milli)) if bucket.milli == milli => {}
            (_, Some(milli)) => self.throttle = Some(Bucket::of(milli, now)),
            (_, None) => self.throttle = None,
        }
    }

    /// Whether it may run.
    pub fn turn(&mut self, now: Duration) -> Turn {
        for most in self.throttle.iter_mut().chain(&mut self.ceiling) {
            if !most.has_some(now) {
                return Turn::Over(most.filled_at());
            }
        }
        let own = &mut self.guarantee;
        match own.has_some(now) {
            true if !self.is_promised => Turn::Within(now + PERIOD),
            true if own.level > own.brim() => Turn::Owed,
            true => Turn::Within(own.reaches_at(own.brim() + 1)),
            false => Turn::Beyond(own.filled_at()),
        }
    }

    /// It has used so much.
    pub fn charge(&mut self, used: Duration, now: Duration) {
        self.guarantee.take(used, now);
        // What it took of spare time it owes nobody for longer than a period.
        self.guarantee.level = self.guarantee.level.max(-self.guarantee.capacity());
        for most in self.throttle.iter_mut().chain(&mut self.ceiling) {
            most.take(used, now);
        }
    }
}

/// Processor time that flows in at a rate. It may be owed, too.
#[derive(Debug)]
struct Bucket {
    milli: i64,
    level: i64,
    at: Duration,
}

impl Bucket {
    fn full(rate: MilliCpus, at: Duration) -> Self {
        Self::of(milli(rate), at)
    }

    fn of(milli: i64, at: Duration) -> Self {
        let mut bucket = Self {
            milli,
            level: 0,
            at,
        };
        bucket.level = bucket.capacity();
        bucket
    }

    fn capacity(&self) -> i64 {
        nanos(PERIOD).saturating_mul(self.milli)
    }

    fn flow(&mut self, now: Duration) {
        self.level = self.level_at(now).min(self.capacity());
        self.at = self.at.max(now);
    }

    /// What is in it, and what is too much.
    fn level_at(&self, now: Duration) -> i64 {
        let passed = nanos(now.saturating_sub(self.at));
        self.level.saturating_add(passed.saturating_mul(self.milli))
    }

    fn has_some(&mut self, now: Duration) -> bool {
        self.flow(now);
        self.level > 0
    }

    fn take(&mut self, used: Duration, now: Duration) {
        // What flowed in while it was used is there for it.
        let left = self
            .level_at(now)
            .saturating_sub(nanos(used).saturating_mul(PARTS));
        self.level = left.min(self.capacity());
        self.at = self.at.max(now);
    }

    /// What a turn takes of it.
    fn worth(&self) -> i64 {
        nanos(QUANTUM).saturating_mul(PARTS).min(self.capacity())
    }

    /// Above this it is as good as full.
    fn brim(&self) -> i64 {
        self.capacity() - self.worth()
    }

    /// When it is worth to go on.
    fn filled_at(&self) -> Duration {
        self.reaches_at(self.worth())
    }

    fn reaches_at(&self, level: i64) -> Duration {
        let missing = level.saturating_sub(self.level).max(0) as u64;
        let wait = missing.div_ceil(self.milli as u64);
        self.at.saturating_add(Duration::from_nanos(wait))
    }
}

/// A rate of nothing would wait for ever.
fn milli(rate: MilliCpus) -> i64 {
    i64::try_from(rate.0).unwrap_or(i64::MAX).max(1)
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(2);
    const RUN: Duration = Duration::from_secs(10);

    /// A task that wants the processor for so much of each 20 ms.
    struct Wish {
        share: Share,
        busy: Duration,
        got: Duration,
        wanted: Duration,
    }

    fn wish(guarantee: u64, ceiling: Option<u64>, busy_ms: u64) -> Wish {
        let ceiling = ceiling.map(MilliCpus);
        Wish {
            share: Share::new(MilliCpus(guarantee), ceiling, Duration::ZERO),
            busy: Duration::from_millis(busy_ms),
            got: Duration::ZERO,
            wanted: Duration::ZERO,
        }
    }

    /// One processor for these, tick after tick, as the executor shares it: who is owed goes before who
    /// is within, and that one before who is beyond; each kind in its order. Gives what each had, in thousandths.
    fn simulate(mut wishes: Vec<Wish>) -> Vec<u64> {
        let mut queue: Vec<usize> = (0..wishes.len()).collect();
        let mut now = Duration::ZERO;
        while now < RUN {
            let cycle = now.as_millis() / 20 + 1;
            for wish in &mut wishes {
                wish.wanted = wish.busy * cycle as u32;
            }
            let mut turns = Vec::new();
            for place in &queue {
                let wish = &mut wishes[*place];
                if wish.wanted > wish.got {
                    turns.push((*place, wish.share.turn(now)));
                }
            }
            let rank = |turn: &Turn| match turn {
                Turn::Owed => Some(0),
                Turn::Within(_) => Some(1),
                Turn::Beyond(_) => Some(2),
                Turn::Over(_) => None,
            };
            let ranked = turns
                .iter()
                .filter_map(|(place, turn)| Some((rank(turn)?, *place)));
            let next = ranked.min_by_key(|(rank, _)| *rank).map(|(_, place)| place);
            now += TICK;
            if let Some(next) = next {
                queue.retain(|place| *place != next);
                queue.push(next);
                wishes[next].got += TICK;
                wishes[next].share.charge(TICK, now);
            }
        }
        let milli = |wish: &Wish| (wish.got.as_nanos() * 1000 / RUN.as_nanos()) as u64;
        wishes.iter().map(milli).collect()
    }

    #[track_caller]
    fn about(found: u64, expected: u64) {
        assert!(found.abs_diff(expected) <= 20, "{found}, not {expected}");
    }

    #[test]
    fn who_stays_within_its_guarantee_loses_nothing_to_neighbours() {
        let mut wishes = vec![wish(500, None, 10)];
        wishes.extend((0..5).map(|_| wish(100, None, 20)));
        let got = simulate(wishes);
        about(got[0], 500);
        assert!(
            got[1..].iter().all(|got| got.abs_diff(100) <= 20),
            "{got:?}"
        );
    }

    #[test]
    fn guarantees_are_shares_where_everybody_wants_more() {
        let got = simulate(vec![wish(250, None, 20), wish(750, None, 20)]);
        about(got[0], 250);
        about(got[1], 750);
    }

    #[test]
    fn who_asked_for_nothing_takes_nothing_of_others() {
        let mut wishes = vec![wish(1000, None, 20)];
        wishes.extend((0..10).map(|_| wish(100, Some(100), 20)));
        about(simulate(wishes)[0], 1000);
    }

    #[test]
    fn spare_time_is_taken_unless_there_is_a_ceiling() {
        about(simulate(vec![wish(100, None, 20)])[0], 1000);
        about(simulate(vec![wish(100, Some(100), 20)])[0], 110);
        let got = simulate(vec![wish(100, Some(300), 20), wish(200, None, 20)]);
        about(got[0], 300);
        about(got[1], 700);
    }

    #[test]
    fn a_ceiling_is_passed_by_a_period_and_a_turn_at_the_most() {
        let mut share = Share::new(MilliCpus(200), Some(MilliCpus(200)), Duration::ZERO);
        let (mut now, mut used) = (Duration::ZERO, Duration::ZERO);
        while now < RUN {
            match share.turn(now) {
                Turn::Over(until) => {
                    assert!(until > now);
                    now = until;
                }
                Turn::Owed | Turn::Within(_) | Turn::Beyond(_) => {
                    now += TICK;
                    used += TICK;
                    share.charge(TICK, now);
                }
            }
            let most = (now + PERIOD) / 5 + TICK;
            assert!(used <= most, "{used:?} of {most:?}");
        }
    }

    #[test]
    fn who_has_had_no_more_than_its_own_goes_before_who_saved_some() {
        let mut share = Share::new(MilliCpus(1000), None, Duration::ZERO);
        let mut now = Duration::ZERO;
        // One that takes all that is its own, turns of any length, is owed the next one as well.
        for turn in [2, 2, 30, 2, 500, 2] {
            now += Duration::from_millis(turn);
            share.charge(Duration::from_millis(turn), now);
            assert_eq!(share.turn(now), Turn::Owed);
        }
        // One that has had twice its own has saved time left, and is owed some a little later.
        let mut share = Share::new(MilliCpus(500), None, now);
        share.charge(PERIOD / 4, now + PERIOD / 4);
        let Turn::Within(until) = share.turn(now + PERIOD / 4) else {
            panic!("it has had more than its own, and not all that it had saved");
        };
        assert_eq!(share.turn(until), Turn::Owed);
        assert!(until < now + PERIOD);
    }

    #[test]
    fn spare_time_is_not_owed_for_long() {
        let mut share = Share::new(MilliCpus(500), None, Duration::ZERO);
        let now = Duration::from_secs(3600);
        share.charge(now, now);
        let Turn::Beyond(until) = share.turn(now) else {
            panic!("it has used all that is its own");
        };
        assert!(until <= now + 2 * PERIOD, "{until:?}");
        assert!(matches!(share.turn(until), Turn::Within(_)));
    }

    #[test]
    fn no_rate_is_too_small_or_too_great() {
        let mut least = Share::new(MilliCpus(0), Some(MilliCpus(0)), Duration::ZERO);
        least.charge(TICK, TICK);
        let Turn::Over(until) = least.turn(TICK) else {
            panic!("a bucket of nothing is empty");
        };
        assert!(matches!(least.turn(until), Turn::Within(_)));
        let mut most = Share::new(MilliCpus(u64::MAX), None, Duration::ZERO);
        most.charge(RUN, TICK);
        assert!(matches!(most.turn(TICK), Turn::Within(_)));
    }

    #[test]
    fn a_task_that_is_held_gets_that_much_and_all_again_afterwards() {
        let given = MilliCpus(1000);
        let mut share = Share::new(given, None, Duration::ZERO);
        let mut got = [Duration::ZERO; 3];
        for (place, got) in got.iter_mut().enumerate() {
            let begun = RUN * place as u32;
            share.hold((place == 1).then_some(MilliCpus(250)), begun);
            let mut now = begun;
            while now < begun + RUN {
                if !matches!(share.turn(now), Turn::Over(_)) {
                    share.charge(TICK, now + TICK);
                    *got += TICK;
                }
                now += TICK;
            }
        }
        let seconds = got.map(|got| got.as_secs_f64());
        assert_eq!(seconds[0], 10.0);
        assert!((2.5..2.6).contains(&seconds[1]), "{seconds:?}");
        assert_eq!(seconds[2], 10.0);
    }
}
