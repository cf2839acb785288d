//! What a guest imports: every call goes into the turn that is going on.
//!
//! Calls answer at once: they read the turn's view of the state or note a wish.
//! Nothing here waits, and nothing leaves the master before the turn commits.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use tepui_types::api::demand::Explanation;
use tepui_types::{AgentId, Digest, OfferId, OperationId, TaskId, TaskName};
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::bindings::{cluster, log, store, timers, types};
use super::convert;
use super::limits;
use super::logs::Logs;
use super::memory::MemoryLimit;
use super::meter::Meter;
use super::turn::{CallError, OpenTurn};
use super::wasi::{self, Ambient};
use crate::leader::offers::Offers;

mod operations;

/// The host's side of one instance.
pub struct HostState {
    /// The turn that is going on.
    turn: Option<OpenTurn>,
    /// What the instance may have of memory.
    pub memory: MemoryLimit,
    /// What the call that is going on has used of the processor.
    pub meter: Arc<Meter>,
    logs: Logs,
    offers: Offers,
    /// Explanations of this turn: looking at every agent is worth keeping.
    explained: BTreeMap<String, Explanation>,
    ambient: Ambient,
    wasi: WasiCtx,
    resources: ResourceTable,
}

impl HostState {
    /// Before the first turn.
    pub fn new(logs: Logs, offers: Offers) -> Self {
        let ambient = Ambient::default();
        let mut resources = ResourceTable::new();
        resources.set_max_capacity(limits::WASI_HANDLES);
        Self {
            turn: None,
            memory: MemoryLimit::default(),
            meter: Arc::default(),
            wasi: wasi::closed(&ambient, &logs),
            logs,
            offers,
            explained: BTreeMap::new(),
            ambient,
            resources,
        }
    }

    /// Begins a turn; `seed` is what its randomness follows from.
    pub fn begin(&mut self, turn: OpenTurn, seed: u64) {
        self.ambient.begin(turn.now(), seed);
        self.logs.begin_turn();
        self.explained.clear();
        self.memory.begin();
        self.turn = Some(turn);
    }

    /// The turn, which is over.
    pub fn end(&mut self) -> Option<OpenTurn> {
        self.turn.take()
    }

    fn turn(&mut self) -> &mut OpenTurn {
        // invariant: guests run only between `begin` and `end`.
        self.turn.as_mut().expect("a guest runs only during a turn")
    }
}

impl WasiView for HostState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.resources,
        }
    }
}

impl types::Host for HostState {}

impl cluster::Host for HostState {
    fn accept(
        &mut self,
        offer: u64,
        spec: types::TaskSpec,
        tasks: Vec<cluster::TaskLaunch>,
    ) -> Result<Vec<types::TaskId>, cluster::CallError> {
        let spec = convert::spec_in(spec).map_err(CallError::Invalid)?;
        let tasks: Result<Vec<_>, _> = tasks.into_iter().map(convert::launch_in).collect();
        let tasks = tasks.map_err(CallError::Invalid)?;
        let ids = self.turn().accept(OfferId(offer), spec, tasks)?;
        Ok(ids.iter().map(convert::task_id_out).collect())
    }

    fn launch_after(
        &mut self,
        after: types::TaskId,
        spec: types::TaskSpec,
        tasks: Vec<cluster::Successor>,
    ) -> Result<Vec<types::TaskId>, cluster::CallError> {
        let spec = convert::spec_in(spec).map_err(CallError::Invalid)?;
        let tasks = tasks.into_iter().map(|task| (task.name, task.array_index));
        let after = (after.name, after.attempt);
        let ids = self.turn().launch_after(after, spec, tasks.collect())?;
        Ok(ids.iter().map(convert::task_id_out).collect())
    }

    fn decline(
        &mut self,
        offers: Vec<u64>,
        refuse_ms: Option<u64>,
    ) -> Result<(), cluster::CallError> {
        let offers: Vec<_> = offers.into_iter().map(OfferId).collect();
        Ok(self.turn().decline(&offers, refuse_ms)?)
    }

    fn kill(
        &mut self,
        task: types::TaskId,
        grace_ms: Option<u64>,
    ) -> Result<(), cluster::CallError> {
        Ok(self.turn().kill(task.name, task.attempt, grace_ms)?)
    }

    fn demand(
        &mut self,
        key: String,
        count: u32,
        request: types::Request,
    ) -> Result<(), cluster::CallError> {
        self.demand_where(key, count, request, Vec::new())
    }

    fn demand_with(
        &mut self,
        key: String,
        count: u32,
        request: types::Request,
        options: cluster::DemandOptions,
    ) -> Result<(), cluster::CallError> {
        let demand = convert::demand_in(count, request, options).map_err(CallError::Invalid)?;
        self.explained.remove(&key);
        Ok(self.turn().demand(key, demand)?)
    }

    fn demand_gang(
        &mut self,
        key: String,
        parts: Vec<cluster::GangPart>,
        options: cluster::GangOptions,
    ) -> Result<(), cluster::CallError> {
        let gang = convert::gang_in(parts, options).map_err(CallError::Invalid)?;
        self.explained.remove(&key);
        Ok(self.turn().demand_gang(key, gang)?)
    }

    fn launch_gang(
        &mut self,
        specs: Vec<types::TaskSpec>,
        launches: Vec<cluster::GangLaunch>,
    ) -> Result<Vec<types::TaskId>, cluster::CallError> {
        let specs: Result<Vec<_>, _> = specs.into_iter().map(convert::spec_in).collect();
        let specs = specs.map_err(CallError::Invalid)?;
        let launches: Result<Vec<_>, _> =
            launches.into_iter().map(convert::gang_launch_in).collect();
        let launches = launches.map_err(CallError::Invalid)?;
        let ids = self.turn().launch_gang(specs, launches)?;
        Ok(ids.iter().map(convert::task_id_out).collect())
    }

    fn roles(&mut self) -> Vec<String> {
        let roles = self.turn().framework().info.roles.iter();
        roles.map(|role| role.to_string()).collect()
    }

    fn offer_details(&mut self, offers: Vec<u64>) -> Vec<Option<cluster::OfferDetail>> {
        let turn = self.turn();
        let offers = offers.into_iter().map(|offer| turn.offer(OfferId(offer)));
        offers
            .map(|offer| offer.map(convert::offer_detail_out))
            .collect()
    }

    fn demand_where(
        &mut self,
        key: String,
        count: u32,
        request: types::Request,
        groups: Vec<Vec<cluster::Constraint>>,
    ) -> Result<(), cluster::CallError> {
        let options = cluster::DemandOptions {
            role: None,
            groups,
            extensions: Vec::new(),
        };
        self.demand_with(key, count, request, options)
    }

    fn suppress(&mut self) -> Result<(), cluster::CallError> {
        Ok(self.turn().suppress(None)?)
    }

    fn revive(&mut self) -> Result<(), cluster::CallError> {
        Ok(self.turn().revive(None)?)
    }

    fn suppress_role(&mut self, role: String) -> Result<(), cluster::CallError> {
        let role = convert::role_in(&role).map_err(CallError::Invalid)?;
        Ok(self.turn().suppress(Some(role))?)
    }

    fn revive_role(&mut self, role: String) -> Result<(), cluster::CallError> {
        let role = convert::role_in(&role).map_err(CallError::Invalid)?;
        Ok(self.turn().revive(Some(role))?)
    }

    fn minimum_offer(
        &mut self,
        role: Option<String>,
        least: Option<Vec<types::Request>>,
    ) -> Result<(), cluster::CallError> {
        let role = role.as_deref().map(convert::role_in).transpose();
        let role = role.map_err(CallError::Invalid)?;
        let least = least.map(|least| least.into_iter().map(convert::request_in).collect());
        let least = least.transpose().map_err(CallError::Invalid)?;
        Ok(self.turn().minimum_offer(role, least)?)
    }

    fn explain(&mut self, key: String) -> Option<cluster::Explanation> {
        let demand = self.turn().wanted(&key).cloned();
        let gang = self.turn().wanted_gang(&key).cloned();
        if !self.explained.contains_key(&key) {
            let (state, id) = (self.turn().state().clone(), self.turn().framework().id);
            let explanation = self.offers.with(|allocator| match (&demand, &gang) {
                (Some(demand), _) => Some(allocator.explain(&state, id, demand)),
                (None, Some(gang)) => Some(allocator.explain_gang(&state, id, gang)),
                (None, None) => None,
            })?;
            self.explained.insert(key.clone(), explanation);
        }
        self.explained
            .get(&key)
            .cloned()
            .map(convert::explanation_out)
    }

    fn agents(&mut self, after: Option<u64>, limit: u32) -> Vec<cluster::Agent> {
        let from = after.map_or(Bound::Unbounded, |agent| Bound::Excluded(AgentId(agent)));
        let agents = self
            .turn()
            .state()
            .agents
            .range::<_, AgentId>((from, Bound::Unbounded));
        let agents = agents.take(limit.min(limits::PAGE) as usize);
        agents.map(|(_, agent)| convert::agent_out(agent)).collect()
    }

    fn tasks(&mut self, after: Option<types::TaskId>, limit: u32) -> Vec<types::Task> {
        let turn = self.turn();
        let from = match after {
            None => Bound::Unbounded,
            Some(after) => match launched_by(turn, &after) {
                Some(operation) => Bound::Excluded(operation),
                None => return Vec::new(),
            },
        };
        let own = turn
            .framework()
            .tasks
            .range::<_, OperationId>((from, Bound::Unbounded));
        let own = own.take(limit.min(limits::PAGE) as usize);
        let tasks = own.filter_map(|operation| turn.state().tasks.get(operation));
        tasks.map(|task| convert::task_out(task)).collect()
    }

    fn has_artifact(&mut self, digest: String) -> bool {
        // What is no digest is nobody's.
        let digest = digest.parse::<Digest>();
        digest.is_ok_and(|digest| self.turn().state().artifacts.contains_key(&digest))
    }

    fn this_framework(&mut self) -> cluster::Framework {
        let framework = self.turn().framework();
        cluster::Framework {
            id: framework.id.0,
            name: framework.info.name.clone(),
            role: framework.info.roles.first().to_string(),
        }
    }

    fn now_ms(&mut self) -> u64 {
        self.turn().now().0
    }
}

/// The operation that launched a task, or one before which it stood: attempts
/// are counted, so a framework's tasks lie in the order of both.
fn launched_by(turn: &OpenTurn, id: &types::TaskId) -> Option<OperationId> {
    let name = TaskName::new(id.name.clone()).ok()?;
    let full = TaskId {
        framework: turn.framework().id,
        name,
        attempt: id.attempt,
    };
    if let Some(task) = turn.state().task(&full) {
        return Some(task.operation);
    }
    // It is forgotten: the last living task that was launched before it.
    let living = turn.framework().tasks.iter();
    let earlier = living.take_while(|operation| {
        let task = turn.state().tasks.get(*operation);
        task.is_some_and(|task| task.id.attempt < id.attempt)
    });
    Some(earlier.last().copied().unwrap_or(OperationId {
        index: 0,
        ordinal: 0,
    }))
}

impl store::Host for HostState {
    fn get(&mut self, key: String) -> Option<Vec<u8>> {
        self.turn().get(&key).map(<[u8]>::to_vec)
    }

    fn set(&mut self, key: String, value: Vec<u8>) -> Result<(), store::StoreError> {
        Ok(self.turn().set(key, value)?)
    }

    fn delete(&mut self, key: String) -> Result<(), store::StoreError> {
        Ok(self.turn().delete(key)?)
    }

    fn scan(
        &mut self,
        prefix: String,
        after: Option<String>,
        limit: u32,
    ) -> Vec<(String, Vec<u8>)> {
        self.turn().scan(&prefix, after.as_deref(), limit)
    }
}

impl timers::Host for HostState {
    fn set(&mut self, name: String, delay_ms: u64) -> Result<(), timers::TimerError> {
        Ok(self.turn().set_timer(name, delay_ms)?)
    }

    fn cancel(&mut self, name: String) -> Result<(), timers::TimerError> {
        Ok(self.turn().cancel_timer(name)?)
    }
}

impl log::Host for HostState {
    fn write(&mut self, level: log::Level, message: String) {
        let level = match level {
            log::Level::Trace => "trace",
            log::Level::Debug => "debug",
            log::Level::Info => "info",
            log::Level::Warn => "warn",
            log::Level::Error => "error",
        };
        let now = self.turn().now();
        self.logs.write(now, level, &message);
    }
}
