//! Which silent agents are marked unreachable, and when their tasks are replaced.
//!
//! Pure: silences and instants come in, decisions go out. What always holds: while a large share of
//! the cluster is silent at once nothing is decided, for that looks like a broken link of this
//! master; and otherwise decisions come at a bounded rate. How long an agent has been unreachable is
//! counted from when this leader first saw it so.

use std::collections::BTreeMap;
use std::time::Duration;

use tepui_types::AgentId;
use tokio::time::Instant;

/// Decisions at once, after a quiet time: small clusters never wait.
const BURST: u64 = 10;
/// Silent agents below which no share counts: two machines may well die together.
const FEW: usize = 3;
/// Thousandths of a decision.
const MILLI: u64 = 1_000;

/// What an operator has configured.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Silence after which an agent is unreachable.
    pub window: Duration,
    /// The most decisions in a minute.
    pub per_minute: u64,
    /// Percent of the reachable agents that may be silent at once.
    pub silent_share: u64,
}

/// What one look decides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decisions {
    /// Mark these unreachable, the longest silent first.
    pub mark: Vec<AgentId>,
    /// Replace the tasks of these that wait no longer than so many milliseconds.
    pub replace: Vec<(AgentId, u64)>,
    /// What an operator must know.
    pub notice: Option<Notice>,
}

/// Why agents that are silent are not marked now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// Too many are silent at once.
    Held {
        /// How many are.
        silent: usize,
        /// Of how many.
        reachable: usize,
    },
    /// They are marked at the configured rate.
    Slowed {
        /// How many are left.
        waiting: usize,
    },
}

/// What is remembered from look to look.
#[derive(Debug)]
pub struct Departures {
    rules: Rules,
    tokens_milli: u64,
    filled: Instant,
    unreachable: BTreeMap<AgentId, Unreachable>,
}

#[derive(Debug)]
struct Unreachable {
    since: Instant,
    /// The times after which tasks are replaced, those that are still to come, in milliseconds.
    times: Vec<u64>,
}

impl Departures {
    /// At the beginning of a term.
    pub fn new(rules: Rules, now: Instant) -> Self {
        Self {
            rules,
            tokens_milli: BURST * MILLI,
            filled: now,
            unreachable: BTreeMap::new(),
        }
    }

    /// Takes in who is unreachable now; `times` is asked once for each.
    pub fn see_unreachable(
        &mut self,
        now: Instant,
        agents: impl IntoIterator<Item = AgentId>,
        times: impl Fn(AgentId) -> Vec<u64>,
    ) {
        let mut before = std::mem::take(&mut self.unreachable);
        for agent in agents {
            let known = before.remove(&agent).unwrap_or_else(|| Unreachable {
                since: now,
                times: times(agent),
            });
            self.unreachable.insert(agent, known);
        }
    }

    /// Decides. `silences` are those of all reachable agents.
    pub fn look(&mut self, now: Instant, silences: &[(AgentId, Duration)]) -> Decisions {
        self.fill(now);
        // Those that fell silent together are seen one after the other; half a window shows most.
        let window = self.rules.window;
        let silent = silences
            .iter()
            .filter(|(_, silence)| *silence > window / 2)
            .count();
        let reachable = silences.len();
        let share = (silent as u64).saturating_mul(100);
        if silent >= FEW && share > self.rules.silent_share.saturating_mul(reachable as u64) {
            let notice = Some(Notice::Held { silent, reachable });
            return Decisions {
                notice,
                ..Decisions::default()
            };
        }
        let mut departed: Vec<_> = silences
            .iter()
            .filter(|(_, silence)| *silence > window)
            .collect();
        departed.sort_by_key(|(agent, silence)| (std::cmp::Reverse(*silence), *agent));
        let mut decisions = Decisions::default();
        for (agent, _) in &departed {
            if !self.take() {
                let waiting = departed.len() - decisions.mark.len();
                decisions.notice = Some(Notice::Slowed { waiting });
                break;
            }
            decisions.mark.push(*agent);
        }
        decisions.replace = self.replacements(now);
        decisions
    }

    /// What was decided could not be committed, and is due again.
    pub fn replace_again(&mut self, agent: AgentId, waited_ms: u64) {
        if let Some(known) = self.unreachable.get_mut(&agent) {
            known.times.insert(0, waited_ms);
        }
    }

    fn replacements(&mut self, now: Instant) -> Vec<(AgentId, u64)> {
        let mut due = Vec::new();
        let agents: Vec<AgentId> = self.unreachable.keys().copied().collect();
        for agent in agents {
            let Some(known) = self.unreachable.get(&agent) else {
                continue;
            };
            let waited = now.saturating_duration_since(known.since).as_millis();
            let waited_ms = u64::try_from(waited).unwrap_or(u64::MAX);
            let is_due = known.times.first().is_some_and(|time| *time <= waited_ms);
            if !is_due {
                continue;
            }
            if !self.take() {
                break;
            }
            if let Some(known) = self.unreachable.get_mut(&agent) {
                known.times.retain(|time| *time > waited_ms);
            }
            due.push((agent, waited_ms));
        }
        due
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled).as_millis();
        let passed_ms = u64::try_from(passed).unwrap_or(u64::MAX);
        let added = passed_ms.saturating_mul(self.rules.per_minute);
        let added = added.saturating_mul(MILLI) / 60_000;
        if added > 0 {
            self.filled = now;
            self.tokens_milli = (self.tokens_milli.saturating_add(added)).min(BURST * MILLI);
        }
    }

    fn take(&mut self) -> bool {
        let is_there = self.tokens_milli >= MILLI;
        if is_there {
            self.tokens_milli -= MILLI;
        }
        is_there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(10);

    fn departures(per_minute: u64) -> (Departures, Instant) {
        let rules = Rules {
            window: WINDOW,
            per_minute,
            silent_share: 50,
        };
        let now = Instant::now();
        (Departures::new(rules, now), now)
    }

    /// Agents from 1 on, silent for so many seconds.
    fn silences(seconds: &[u64]) -> Vec<(AgentId, Duration)> {
        let ids = (1..).map(AgentId);
        let silences = seconds.iter().copied().map(Duration::from_secs);
        ids.zip(silences).collect()
    }

    fn agents(ids: impl IntoIterator<Item = u64>) -> Vec<AgentId> {
        ids.into_iter().map(AgentId).collect()
    }

    #[test]
    fn agents_are_marked_after_the_window_the_longest_silent_first() {
        let (mut departures, now) = departures(60);
        let look = departures.look(now, &silences(&[11, 0, 10, 12, 0, 0]));
        assert_eq!(look.mark, agents([4, 1]));
        assert_eq!(look.notice, None);
    }

    #[test]
    fn a_cluster_that_falls_silent_at_once_is_not_declared_lost() {
        let (mut departures, now) = departures(60);
        // The first is past the window, the others are seen a moment later.
        let look = departures.look(now, &silences(&[11, 9, 9, 0, 0]));
        assert_eq!(look.mark, []);
        let (silent, reachable) = (3, 5);
        assert_eq!(look.notice, Some(Notice::Held { silent, reachable }));
        let look = departures.look(now, &silences(&[11, 11, 9, 0, 0, 0]));
        assert_eq!(look.mark, agents([1, 2]), "half of them may be silent");
        let look = departures.look(now, &silences(&[11, 11]));
        assert_eq!(look.mark, agents([1, 2]), "two may well die together");
    }

    #[test]
    fn agents_are_marked_at_a_bounded_rate() {
        let (mut departures, now) = departures(60);
        let mut seconds = vec![0; 100];
        seconds[..30].fill(20);
        let look = departures.look(now, &silences(&seconds));
        assert_eq!(look.mark, agents(1..=10));
        assert_eq!(look.notice, Some(Notice::Slowed { waiting: 20 }));
        let left = &silences(&seconds)[10..];
        assert_eq!(departures.look(now, left).mark, []);
        let later = now + Duration::from_secs(3);
        assert_eq!(departures.look(later, left).mark, agents(11..=13));
    }

    #[test]
    fn any_rate_may_be_configured() {
        let (mut departures, now) = departures(u64::MAX);
        let later = now + Duration::from_secs(1_000);
        let look = departures.look(later, &silences(&[20, 0]));
        assert_eq!(look.mark, agents([1]));
    }

    #[test]
    fn tasks_are_replaced_after_their_time_by_this_leader_s_clock() {
        let (mut departures, now) = departures(60);
        let times = |_| vec![5_000, 9_000];
        let after = |seconds| now + Duration::from_secs(seconds);
        departures.see_unreachable(now, agents([7]), times);
        let replaced = |departures: &mut Departures, at| departures.look(at, &[]).replace;
        assert_eq!(replaced(&mut departures, after(4)), []);
        assert_eq!(replaced(&mut departures, after(5)), [(AgentId(7), 5_000)]);
        departures.see_unreachable(after(6), agents([7]), times);
        assert_eq!(replaced(&mut departures, after(8)), [], "the first is done");
        assert_eq!(replaced(&mut departures, after(9)), [(AgentId(7), 9_000)]);
        // It was back for a while.
        departures.see_unreachable(after(10), [], times);
        departures.see_unreachable(after(11), agents([7]), times);
        assert_eq!(replaced(&mut departures, after(15)), []);
        assert_eq!(replaced(&mut departures, after(16)), [(AgentId(7), 5_000)]);
    }

    #[test]
    fn nothing_is_replaced_while_much_of_the_cluster_is_silent() {
        let (mut departures, now) = departures(60);
        departures.see_unreachable(now, agents([9]), |_| vec![0]);
        let look = departures.look(now, &silences(&[9, 9, 9, 0]));
        assert_eq!(look.replace, []);
        let look = departures.look(now, &silences(&[0, 0, 0, 0]));
        assert_eq!(look.replace, [(AgentId(9), 0)]);
    }

    #[test]
    fn what_could_not_be_committed_is_due_again() {
        let (mut departures, now) = departures(60);
        departures.see_unreachable(now, agents([9]), |_| vec![0]);
        assert_eq!(departures.look(now, &[]).replace, [(AgentId(9), 0)]);
        departures.replace_again(AgentId(9), 0);
        assert_eq!(departures.look(now, &[]).replace, [(AgentId(9), 0)]);
    }
}
