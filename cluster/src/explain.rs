//! Why a demand is not met now: agents counted by what keeps it from them.

use std::collections::BTreeMap;

use tepui_types::api::demand::Explanation;
use tepui_types::constraint::Constraints;
use tepui_types::resources::ResourceRequest;

use crate::allocator::tally::Counts;

/// Constraints that are named, at most: each may be long.
const UNMET: usize = 8;

/// What is known of a request that waits.
pub(crate) struct Waiting<'a> {
    /// It.
    pub request: &'a ResourceRequest,
    /// Where it may be met.
    pub constraints: &'a Constraints,
    /// Agents by what keeps it from them.
    pub counts: Counts,
    /// Agents on which it fits, and that its framework has lately declined.
    pub filtered: u64,
    /// Agents on which it would fit but for what others have claimed.
    pub withheld: u64,
    /// Agents that are kept for a gang.
    pub behind_gang: u64,
    /// The quota that keeps its role from it.
    pub quota: Option<String>,
    /// Agents on which it fits and that have the volumes which it names, or what keeps it from those.
    pub volumes: Result<Option<u64>, String>,
}

impl Waiting<'_> {
    /// All of it for programs, with a sentence for people. `largest` is the
    /// most of a resource that any agent has when empty.
    pub fn explain(self, largest: impl Fn(&str) -> u64) -> Explanation {
        let counts = &self.counts;
        let too_small = counts.too_small(self.request);
        let show = |name: &String| ResourceRequest::show_amount(name, largest(name));
        let mut explanation = Explanation {
            summary: String::new(),
            agents: counts.agents,
            fitting: self
                .volumes
                .as_ref()
                .map_or(0, |with_volumes| with_volumes.unwrap_or(counts.fitting))
                .saturating_sub(self.filtered + self.withheld + self.behind_gang),
            busy: counts.busy(self.request),
            largest: too_small
                .keys()
                .map(|name| (name.clone(), show(name)))
                .collect(),
            too_small,
            inactive: counts.inactive,
            lacking: counts.lacking,
            disallowed: counts.disallowed,
            spared: counts.spared,
            slivers: counts.slivers,
            withheld: self.withheld,
            behind_gang: self.behind_gang,
            reserved: counts.reserved,
            constrained: counts.constrained,
            unmet: self.unmet(),
            filtered: self.filtered,
            held: counts.held,
            quota: self.quota,
            volumes: self.volumes.err(),
        };
        explanation.summary = summarize(&explanation);
        explanation
    }

    /// The constraints that rule out most.
    fn unmet(&self) -> BTreeMap<String, u64> {
        let mut unmet: Vec<_> = self.counts.unmet(self.constraints).collect();
        unmet.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let unmet = unmet.into_iter().take(UNMET);
        unmet.map(|(it, count)| (it.to_string(), count)).collect()
    }
}

fn summarize(explanation: &Explanation) -> String {
    let total = explanation.agents;
    if total == 0 {
        return "no agent has registered yet".into();
    }
    if let Some(why) = &explanation.volumes {
        // It runs nowhere else.
        return why.clone();
    }
    let mut parts = Vec::new();
    parts.extend(explanation.quota.clone());
    if explanation.fitting > 0 {
        parts.push(format!(
            "fits on {} of {}",
            explanation.fitting,
            agents(total)
        ));
        return parts.join(", ");
    }
    let short = |names: &BTreeMap<String, u64>, say: &dyn Fn(&String, u64) -> String| {
        let parts = names.iter().map(|(name, count)| say(name, *count));
        parts.collect::<Vec<_>>()
    };
    parts.extend(short(&explanation.too_small, &|name, count| {
        let most = explanation.largest.get(name).map(String::as_str);
        let most = most.unwrap_or("0");
        format!(
            "{name} too small on {count} of {} (the most is {most})",
            agents(total)
        )
    }));
    parts.extend(short(&explanation.busy, &|name, count| {
        format!("{name} in use on {count} of {}", agents(total))
    }));
    if explanation.constrained > 0 {
        parts.push(format!(
            "{} ruled out by constraints ({})",
            agents(explanation.constrained),
            explanation.unmet_in_words()
        ));
    }
    let kept_away = [
        (explanation.spared, "kept for what asks for gpus"),
        (explanation.slivers, "left with less than the least offer"),
        (explanation.withheld, "kept for roles below their guarantee"),
        (
            explanation.behind_gang,
            "kept for a gang that starts before",
        ),
        (explanation.reserved, "reserved for others"),
        (explanation.held, "offered to others now"),
        (explanation.filtered, "declined a short while ago"),
        (explanation.disallowed, "not among the allowed hosts"),
        (explanation.lacking, "with less than is reserved on it"),
        (explanation.inactive, "not active"),
    ];
    let kept_away = kept_away.iter().filter(|(count, _)| *count > 0);
    parts.extend(kept_away.map(|(count, why)| format!("{} {why}", agents(*count))));
    parts.join(", ")
}

fn agents(count: u64) -> String {
    if count == 1 {
        "1 agent".into()
    } else {
        format!("{count} agents")
    }
}
