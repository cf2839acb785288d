//! Why a demand is not met now: agents counted by what keeps it from them.

use std::collections::BTreeMap;

use tepui_types::api::demand::Explanation;
use tepui_types::resources::ResourceRequest;
use tepui_types::{AgentId, Resources};

use crate::feasibility;
use crate::state::State;

/// Looks at every agent. `is_away` says which have no connection to the leader, `held` is what outstanding offers hold of an agent,
/// `filtered` whether the framework has lately declined it.
pub fn explain(
    state: &State,
    request: &ResourceRequest,
    is_away: impl Fn(AgentId) -> bool,
    held: impl Fn(AgentId) -> Resources,
    filtered: impl Fn(AgentId, &Resources) -> bool,
) -> Explanation {
    let mut explanation = Explanation::default();
    let mut largest = ResourceRequest::default();
    for agent in state.agents.values() {
        explanation.agents += 1;
        let free = match feasibility::offerable(state, agent.id) {
            Ok(free) if !is_away(agent.id) => free,
            _ => {
                explanation.inactive += 1;
                continue;
            }
        };
        largest.raise_to(&agent.info.resources);
        let free = free.saturating_sub(&held(agent.id));
        match (agent.info.resources.pick(request), free.pick(request)) {
            (Err(short), _) => count(&mut explanation.too_small, short),
            (Ok(_), Err(short)) => count(&mut explanation.busy, short),
            (Ok(_), Ok(_)) if filtered(agent.id, &free) => explanation.filtered += 1,
            (Ok(_), Ok(_)) => explanation.fitting += 1,
        }
    }
    let too_small = explanation.too_small.keys();
    explanation.largest = too_small
        .map(|name| (name.clone(), largest.show(name)))
        .collect();
    explanation.summary = summarize(&explanation);
    explanation
}

fn count(counts: &mut BTreeMap<String, u64>, short: Vec<String>) {
    for resource in short {
        *counts.entry(resource).or_default() += 1;
    }
}

fn summarize(explanation: &Explanation) -> String {
    let total = explanation.agents;
    if total == 0 {
        return "no agent has registered yet".into();
    }
    if explanation.fitting > 0 {
        return format!("fits on {} of {}", explanation.fitting, agents(total));
    }
    let mut parts = Vec::new();
    for (resource, short) in &explanation.too_small {
        let most = explanation.largest.get(resource).map(String::as_str);
        parts.push(format!(
            "{resource} too small on {short} of {} (the most is {})",
            agents(total),
            most.unwrap_or("0")
        ));
    }
    for (resource, short) in &explanation.busy {
        parts.push(format!("{resource} in use on {short} of {}", agents(total)));
    }
    if explanation.filtered > 0 {
        parts.push(format!(
            "{} declined a short while ago",
            agents(explanation.filtered)
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
