//! Whether an agent can take something now: the one function that decides both
//! what is offered and whether a launch fits.

use tepui_types::resources::ResourceRequest;
use tepui_types::setting::Settings;
use tepui_types::{AgentId, AgentStatus, Reason, Resources, task::reason};

use crate::state::State;
use crate::state::agents::Agent;
use crate::state::claims::{Taker, claimed_from};

/// Why these resources cannot be taken from this agent now.
pub fn check(
    state: &State,
    agent: AgentId,
    taker: Taker<'_>,
    resources: &Resources,
) -> Result<(), Reason> {
    let free = offerable(state, agent)?;
    match free.checked_sub(resources) {
        Ok(left) => check_claims(state, agent, taker, (&free, &left)),
        Err(short) => {
            let why = format!("agent {agent} has {free} free, and {resources} was asked: {short}");
            Err(Reason::new(reason::RESOURCES_TAKEN, why))
        }
    }
}

/// What is left must do for what others have claimed.
fn check_claims(
    state: &State,
    agent: AgentId,
    taker: Taker<'_>,
    (free, left): (&Resources, &Resources),
) -> Result<(), Reason> {
    let record = state.agent(agent).filter(|agent| !agent.claims.is_empty());
    let Some(record) = record else {
        return Ok(());
    };
    let claimed = claimed_from(&record.claims, taker, &ResourceRequest::plain(free));
    match claimed.exceeds(&ResourceRequest::plain(left)) {
        Some(name) => {
            let why = format!(
                "{} {name} of agent {agent} wait for a role that is below its guarantee",
                claimed.show(name)
            );
            Err(Reason::new(reason::RESOURCES_TAKEN, why))
        }
        None => Ok(()),
    }
}

/// What an agent could give now.
pub fn offerable(state: &State, agent: AgentId) -> Result<Resources, Reason> {
    match state.agent(agent) {
        Some(record) => offerable_of(&state.settings.settings, record),
        None => Err(Reason::new(
            reason::AGENT_UNAVAILABLE,
            format!("there is no agent {agent}"),
        )),
    }
}

/// What this agent could give now, under these settings.
pub fn offerable_of(settings: &Settings, record: &Agent) -> Result<Resources, Reason> {
    let why = match record.standing() {
        AgentStatus::Active if !record.held.tasks.is_empty() => {
            "runs tasks that the restored backup does not know"
        }
        AgentStatus::Active if !settings.allows(&record.info.hostname) => {
            "is not among the cluster's allowed hosts"
        }
        AgentStatus::Active if record.short().is_some() => {
            "has less than is reserved on it: unreserve some, or give it back what it had"
        }
        AgentStatus::Active => return Ok(record.free()),
        AgentStatus::Unreachable => "is unreachable",
        AgentStatus::Deactivated => "is deactivated",
        AgentStatus::Draining | AgentStatus::Drained => "is being drained",
        AgentStatus::Gone => "is gone",
        AgentStatus::Full => "has no room on its machine",
    };
    Err(Reason::new(
        reason::AGENT_UNAVAILABLE,
        format!("agent {} ({}) {why}", record.id, record.info.hostname),
    ))
}
