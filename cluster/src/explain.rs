//! Why a demand is not met now: agents counted by what keeps it from them.

use std::collections::BTreeMap;

use tepui_types::api::demand::Explanation;
use tepui_types::resources::ResourceRequest;

use crate::allocator::tally::Counts;

/// What is known of a request that waits.
pub(crate) struct Waiting<'a> {
    /// It.
    pub request: &'a ResourceRequest,
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
            fitting: counts
                .fitting
                .saturating_sub(self.filtered + self.withheld + self.behind_gang),
            busy: counts.busy(self.request),
            largest: too_small
                .keys()
                .map(|name| (name.clone(), show(name)))
                .collect(),
            too_small,
            inactive: counts.inactive,
            disallowed: counts.disallowed,
            spared: counts.spared,
            slivers: counts.slivers,
            withheld: self.withheld,
            behind_gang: self.behind_gang,
            reserved: counts.reserved,
            constrained: counts.constrained,
            filtered: self.filtered,
            held: counts.held,
            quota: self.quota,
        };
        explanation.summary = summarize(&explanation);
        explanation
    }
}

fn summarize(explanation: &Explanation) -> String {
    let total = explanation.agents;
    if total == 0 {
        return "no agent has registered yet".into();
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
            "{} ruled out by constraints",
            agents(explanation.constrained)
        ));
    }
    if explanation.spared > 0 {
        parts.push(format!(
            "{} kept for what asks for gpus",
            agents(explanation.spared)
        ));
    }
    if explanation.slivers > 0 {
        parts.push(format!(
            "{} left with less than the least offer",
            agents(explanation.slivers)
        ));
    }
    if explanation.withheld > 0 {
        parts.push(format!(
            "{} kept for roles below their guarantee",
            agents(explanation.withheld)
        ));
    }
    if explanation.behind_gang > 0 {
        parts.push(format!(
            "{} kept for a gang that starts before",
            agents(explanation.behind_gang)
        ));
    }
    if explanation.reserved > 0 {
        parts.push(format!(
            "{} reserved for others",
            agents(explanation.reserved)
        ));
    }
    if explanation.held > 0 {
        parts.push(format!(
            "{} offered to others now",
            agents(explanation.held)
        ));
    }
    if explanation.filtered > 0 {
        parts.push(format!(
            "{} declined a short while ago",
            agents(explanation.filtered)
        ));
    }
    if explanation.disallowed > 0 {
        parts.push(format!(
            "{} not among the allowed hosts",
            agents(explanation.disallowed)
        ));
    }
    if explanation.inactive > 0 {
        parts.push(format!("{} not active", agents(explanation.inactive)));
    }
    parts.join(", ")
}

fn agents(count: u64) -> String {
    if count == 1 {
        "1 agent".into()
    } else {
        format!("{count} agents")
    }
}
