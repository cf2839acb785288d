//! Why tasks that name volumes cannot run: they run where those are, and nowhere else.

use std::sync::Arc;

use tepui_types::resources::ResourceRequest;
use tepui_types::setting::Settings;
use tepui_types::{Resources, Role};

use super::demands::Shape;
use crate::feasibility::offerable_of;
use crate::state::State;
use crate::state::agents::Agent;

/// On how many agents a request of this role may run that have the volumes which it names; none where it
/// names none.
///
/// # Errors
/// What keeps it from all of them. Of several agents that have the volumes, the first says it.
pub(super) fn fitting<'a>(
    state: &'a State,
    agents: impl Iterator<Item = &'a Arc<Agent>>,
    shape: &Shape,
    role: &Role,
    usable: impl Fn(&Agent) -> Resources,
) -> Result<Option<u64>, String> {
    let Some(first) = shape.volumes.first() else {
        return Ok(None);
    };
    let agents: Vec<_> = agents.collect();
    let has = |agent: &Agent, volume: &String| agent.total().pools.volume(volume).is_some();
    let mut volumes = shape.volumes.iter();
    if let Some(volume) = volumes.find(|volume| !agents.iter().any(|agent| has(agent, volume))) {
        return Err(format!("there is no volume `{volume}` on any agent"));
    }
    let has_all = |agent: &&&Arc<Agent>| shape.volumes.iter().all(|volume| has(agent, volume));
    let holders: Vec<_> = agents.iter().filter(has_all).collect();
    let Some(holder) = holders.first() else {
        return Err("the volumes that it names are on different agents".into());
    };
    let fits = |agent: &Agent| {
        let free = usable(agent);
        shape.fits(&agent.info, &ResourceRequest::plain(&free), &free)
    };
    match holders.iter().filter(|agent| fits(agent)).count() {
        0 => {}
        count => return Ok(Some(count as u64)),
    }
    let mut volumes = shape.volumes.iter();
    let why = volumes.find_map(|volume| taken(state, holder, volume, shape, role));
    let why = why.or_else(|| away(&state.settings.settings, holder, shape, first));
    let left = || {
        let (free, agent) = (usable(holder), holder.id);
        let free = free.flat(shape.revocable);
        format!("volume `{first}` is on {agent}, which has no more than {free} free")
    };
    Err(why.unwrap_or_else(left))
}

/// That others have a volume.
fn taken(state: &State, agent: &Agent, volume: &str, shape: &Shape, role: &Role) -> Option<String> {
    let pool = agent.total().pools.volume(volume)?;
    if !pool.kind.is_for(role, shape.revocable) {
        let owner = pool.kind.owner().unwrap_or(role);
        return Some(format!(
            "volume `{volume}` is reserved for role {owner}, and this is wanted in role {role}"
        ));
    }
    if agent.free().pools.volume(volume).is_some() {
        return None;
    }
    let user = state.user_of(agent, volume);
    let by = user.map(|task| format!(" by {task}")).unwrap_or_default();
    Some(format!("volume `{volume}` is in use{by}"))
}

/// That its agent is not for the request.
fn away(settings: &Settings, agent: &Agent, shape: &Shape, volume: &str) -> Option<String> {
    match offerable_of(settings, agent) {
        Err(why) => Some(format!(
            "volume `{volume}` cannot be had now: {}",
            why.message
        )),
        Ok(_) if !shape.constraints.hold_of(&agent.info) => Some(format!(
            "volume `{volume}` is on {}, which its constraints rule out",
            agent.id
        )),
        Ok(_) => None,
    }
}
