//! Operations on resources: reserve, unreserve, and what is done with volumes.
//!
//! A framework's are part of its turn, an operator's are commands. Each is checked against what is
//! free now, who owns it and the limits of roles, and is done or not when it commits. Its record is
//! kept for a while.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tepui_types::api::event::EventBody;
use tepui_types::operation::{ConversionState, Convert};
use tepui_types::resources::{Conversion, ConversionError, Exchange, Pool, Pools};
use tepui_types::wire::agent::AgentEffect;
use tepui_types::{
    AgentId, FrameworkId, OperationId, Principal, Reason, Timestamp, Wish, task::reason,
};

use crate::charge::Charge;
use crate::effect::Effect;
use crate::feasibility;
use crate::outcome::{Accepted, Outcome, Rejection};
use crate::state::State;
use crate::state::agents::Agent;
use crate::state::claims::Taker;
use crate::state::context::Context;
use crate::state::limits;
use crate::state::reservations::Converted;

/// What became of one operation; never changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConversionRecord {
    /// Its id; the index is also its revision.
    pub id: OperationId,
    /// The name that its framework gave it.
    pub name: String,
    /// On which agent.
    pub agent: AgentId,
    /// Who asked for it.
    pub by: Principal,
    /// What was asked.
    pub conversion: Conversion,
    /// Whether it was done.
    pub state: ConversionState,
    /// Why not.
    pub reason: Option<Reason>,
    /// When it was committed.
    pub time: Timestamp,
}

impl State {
    /// An operator's operation: done, or refused and not recorded.
    pub(super) fn operate(
        &mut self,
        context: &mut Context,
        by: &Principal,
        agent: AgentId,
        wish: &Wish,
        expected: Option<u64>,
    ) -> Outcome {
        let Some(record) = self.agents.get(&agent) else {
            return Err(Rejection::NotFound(format!("there is no agent {agent}")));
        };
        context.check_revision(expected, record.revision)?;
        let conversion = wish.conversion(&record.free(), &by.to_string());
        let conversion =
            conversion.map_err(|why| Rejection::Conflict(format!("agent {agent}: {why}")))?;
        let exchange = self.exchange(record, &conversion);
        let exchange = exchange.map_err(|reason| Rejection::Conflict(reason.message))?;
        let id = context.operation();
        self.convert(context, agent, &exchange, id);
        self.record(ConversionRecord {
            id,
            name: String::new(),
            agent,
            by: by.clone(),
            conversion,
            state: ConversionState::Finished,
            reason: None,
            time: context.now,
        });
        Ok(Accepted::Converted {
            agent,
            operation: id,
        })
    }

    /// An operation of a framework's turn: done, or dropped and its framework told.
    pub(super) fn convert_own(
        &mut self,
        context: &mut Context,
        framework: FrameworkId,
        wanted: &Convert,
    ) {
        let exchange = self.own_exchange(framework, wanted);
        let id = context.operation();
        let (state, reason) = match exchange {
            Ok(exchange) => {
                self.convert(context, wanted.agent, &exchange, id);
                (ConversionState::Finished, None)
            }
            Err(reason) => (ConversionState::Dropped, Some(reason)),
        };
        if let Some(reason) = reason.clone() {
            let (what, name) = (wanted.conversion.name(), wanted.name.clone());
            self.notice(context, framework, what, name, reason);
        }
        self.record(ConversionRecord {
            id,
            name: wanted.name.clone(),
            agent: wanted.agent,
            by: Principal::Framework(framework),
            conversion: wanted.conversion.clone(),
            state,
            reason,
            time: context.now,
        });
    }

    fn own_exchange(&self, framework: FrameworkId, wanted: &Convert) -> Result<Exchange, Reason> {
        feasibility::offerable(self, wanted.agent)?;
        let unknown = || Reason::new(reason::AGENT_UNAVAILABLE, "there is no such agent");
        let agent = self.agents.get(&wanted.agent).ok_or_else(unknown)?;
        let exchange = self.exchange(agent, &wanted.conversion)?;
        let owner = self.frameworks.get(&framework);
        let role = owner.and_then(|owner| owner.info.roles.get(wanted.role.as_ref()));
        let Some(role) = role else {
            let why = "the operation names a role that is not one of its framework's";
            return Err(Reason::new(reason::ROLE_FOREIGN, why));
        };
        // Reserving further, it may take what roles above have left to it; of all else, its own.
        let reserves = matches!(wanted.conversion, Conversion::Reserve { .. });
        let is_its_own = |pool: &Pool| {
            let owner = pool.kind.owner();
            owner.is_none_or(|owner| owner.is_within(role) || (reserves && role.is_within(owner)))
        };
        let taken = exchange.taken.pools.iter().all(is_its_own);
        let mut given = exchange
            .given
            .pools
            .iter()
            .filter_map(|pool| pool.kind.owner());
        if taken && (!reserves || given.all(|owner| owner.is_within(role))) {
            feasibility::check(self, wanted.agent, Taker::single(role), &exchange.taken)?;
            return Ok(exchange);
        }
        let why = format!(
            "a framework of role `{role}` reserves and takes back for that role and those below it"
        );
        Err(Reason::new(reason::RESERVED_FOR_OTHERS, why))
    }

    /// What an operation would take of an agent and give for it now, or why it cannot be.
    fn exchange(&self, agent: &Agent, conversion: &Conversion) -> Result<Exchange, Reason> {
        if let Some(user) = self.user_of_volume(agent, conversion) {
            let why = format!("the volume is used by task {user}: end it first");
            return Err(Reason::new(reason::RESOURCES_TAKEN, why));
        }
        if let Conversion::Create { volume, .. } = conversion
            && agent.total().pools.volume(&volume.id).is_some()
        {
            let error = ConversionError::VolumeExists(volume.id.clone());
            return Err(Reason::new(reason::CONVERSION_INVALID, error.to_string()));
        }
        let exchange = conversion.exchange(&agent.free()).map_err(|error| {
            let code = match error {
                ConversionError::NotFree(_) | ConversionError::NoVolume(_) => {
                    reason::RESOURCES_TAKEN
                }
                ConversionError::Invalid(_) | ConversionError::VolumeExists(_) => {
                    reason::CONVERSION_INVALID
                }
            };
            Reason::new(code, format!("agent {}: {error}", agent.id))
        })?;
        if let Conversion::Reserve { reservation, .. } = conversion {
            let charge = Charge::of(&exchange.taken);
            if let Some(refusal) = self.quota_refusal(&reservation.role, &charge) {
                return Err(refusal);
            }
        }
        let pools = agent.total().pools.as_slice().len() + exchange.given.pools.as_slice().len();
        if pools > limits::AGENT_POOLS {
            let why = format!(
                "agent {} would have more than {} pools: unreserve some first",
                agent.id,
                limits::AGENT_POOLS
            );
            return Err(Reason::new(reason::CONVERSION_INVALID, why));
        }
        Ok(exchange)
    }

    /// A living task that uses the volume which an operation is about to change. One that several
    /// may use counts as free all the same.
    fn user_of_volume(&self, agent: &Agent, conversion: &Conversion) -> Option<String> {
        let (Conversion::Destroy { volume }
        | Conversion::Grow { volume, .. }
        | Conversion::Shrink { volume, .. }) = conversion
        else {
            return None;
        };
        self.user_of(agent, volume)
    }

    /// A living task that has this volume of an agent.
    pub(crate) fn user_of(&self, agent: &Agent, volume: &str) -> Option<String> {
        let tasks = agent.tasks.iter();
        let mut tasks = tasks.filter_map(|operation| self.tasks.get(operation));
        let user = tasks.find(|task| task.resources.pools.volume(volume).is_some());
        user.map(|task| task.id.to_string())
    }

    fn convert(
        &mut self,
        context: &mut Context,
        id: AgentId,
        exchange: &Exchange,
        operation: OperationId,
    ) {
        let mut destroys = false;
        self.set_converted(id, |agent| {
            let all = exchange.apply(agent.total());
            // invariant: what is taken was found in what is free, which is a part of all.
            let all = all.expect("what is free is there");
            let before = agent.converted.take();
            let known = before.as_ref().map(|before| &before.made_by);
            let made_by = volumes(&all.pools, known, operation);
            destroys = known.is_some_and(|known| known.keys().any(|id| !made_by.contains_key(id)));
            agent.had_volumes |= destroys;
            agent.converted = match before {
                // Laid anew, for it may fit now.
                Some(before) if before.short.is_some() => {
                    let pools = all.pools.filtered(|kind| *kind != kind.declared());
                    Converted::lay(&agent.info.resources, &pools, &made_by)
                }
                _ => Converted::of(&agent.info.resources, all, made_by),
            };
            agent.revision = context.index;
        });
        context.changes.agents.insert(id);
        let Some(agent) = self.agents.get(&id) else {
            return;
        };
        let status = agent.standing();
        context.event(EventBody::Agent { agent: id, status });
        if let Some(list) = self.volume_list(agent).filter(|_| destroys) {
            let effect = AgentEffect::Volumes(list);
            context.effects.push(Effect::Agent(id, effect));
        }
    }

    fn record(&mut self, record: ConversionRecord) {
        self.conversions.insert(record.id, Arc::new(record));
        while self.conversions.len() > limits::CONVERSIONS {
            let Some(oldest) = self.conversions.get_min().map(|(id, _)| *id) else {
                return;
            };
            self.conversions.remove(&oldest);
        }
    }
}

/// The volumes of an agent with who made them: those that are new, this operation.
fn volumes(
    pools: &Pools,
    known: Option<&BTreeMap<String, OperationId>>,
    operation: OperationId,
) -> BTreeMap<String, OperationId> {
    let volumes = pools.iter().filter_map(|pool| pool.kind.volume.as_ref());
    let made_by = |id: &String| known.and_then(|known| known.get(id)).copied();
    volumes
        .map(|volume| (volume.id.clone(), made_by(&volume.id).unwrap_or(operation)))
        .collect()
}
