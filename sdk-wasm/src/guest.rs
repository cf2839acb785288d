//! The WebAssembly side: a [`Scheduler`] as the component's exports, and the
//! component's imports as a [`Host`].
//!
//! Only [`crate::export!`] names this module. One instance holds one scheduler;
//! a panic ends the instance, and the turn with it, after its message was
//! logged.

mod convert;

use std::cell::RefCell;
use std::marker::PhantomData;

use tepui_types::api::demand::Explanation;
use tepui_types::resources::ResourceRequest;
use tepui_types::{AgentId, Demand, Digest, FrameworkId, Gang, OfferId, Resources, Role, Wish};

use crate::bindings::exports::tepui::framework::scheduler as exports;
use crate::bindings::tepui::framework::{cluster, log, operations, store, timers};
use crate::context::{AgentView, Context, FrameworkIdentity, Host, Level, OperationStatus, Pair};
use crate::error::Error;
use crate::http::{Request, Response};
use crate::scheduler::{Event, Scheduler, StartReason};
use crate::task::{GangLaunch, Launch, Successor, Task, TaskId, TaskSpec};

/// Any scheduler, once it has started.
trait Started {
    fn handle(&mut self, cx: &mut Context<'_>, events: Vec<Event>);
    fn on_request(&mut self, cx: &mut Context<'_>, request: Request) -> Response;
}

impl<S: Scheduler> Started for S {
    fn handle(&mut self, cx: &mut Context<'_>, events: Vec<Event>) {
        Scheduler::handle(self, cx, events);
    }

    fn on_request(&mut self, cx: &mut Context<'_>, request: Request) -> Response {
        Scheduler::on_request(self, cx, request)
    }
}

thread_local! {
    static STARTED: RefCell<Option<Box<dyn Started>>> = const { RefCell::new(None) };
}

/// The component of a scheduler.
pub struct Component<S>(PhantomData<S>);

impl<S: Scheduler> exports::Guest for Component<S> {
    fn start(reason: exports::StartReason, config: String) -> Result<(), String> {
        log_panics();
        let reason = match reason {
            exports::StartReason::Deployed => StartReason::Deployed,
            exports::StartReason::Recovered => StartReason::Recovered,
        };
        let scheduler = S::start(&mut Context::new(&mut Imports), reason, &config)?;
        STARTED.set(Some(Box::new(scheduler)));
        Ok(())
    }

    fn handle(events: Vec<exports::Event>) {
        let events = events.into_iter().map(convert::event).collect();
        with_started(|started, cx| started.handle(cx, events));
    }

    fn on_request(request: exports::HttpRequest) -> exports::HttpResponse {
        let request = convert::request(request);
        convert::response(with_started(|started, cx| started.on_request(cx, request)))
    }
}

fn with_started<T>(turn: impl FnOnce(&mut dyn Started, &mut Context<'_>) -> T) -> T {
    STARTED.with_borrow_mut(|started| match started {
        Some(started) => turn(started.as_mut(), &mut Context::new(&mut Imports)),
        None => panic!("the host called before `start` had succeeded"),
    })
}

/// Wasm has no standard error: a panic's message goes out through the log.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        log::write(log::Level::Error, &panic.to_string())
    }));
}

/// The component's imports.
struct Imports;

impl Host for Imports {
    fn accept(
        &mut self,
        offer: OfferId,
        spec: &TaskSpec,
        tasks: &[Launch],
    ) -> Result<Vec<TaskId>, Error> {
        let spec = convert::spec(spec);
        let launches = tasks.iter().map(convert::launch);
        let ids = match tasks.iter().any(convert::is_special) {
            false => cluster::accept(offer.0, &spec, &launches.collect::<Vec<_>>())?,
            true => {
                let special = tasks.iter().map(convert::special);
                let tasks: Vec<_> = launches.zip(special).collect();
                operations::accept_special(offer.0, &spec, &tasks)?
            }
        };
        Ok(ids.into_iter().map(convert::task_id).collect())
    }

    fn launch_after(
        &mut self,
        after: &TaskId,
        spec: &TaskSpec,
        tasks: &[Successor],
    ) -> Result<Vec<TaskId>, Error> {
        let tasks: Vec<_> = tasks.iter().map(convert::successor).collect();
        let ids =
            cluster::launch_after(&convert::task_id_out(after), &convert::spec(spec), &tasks)?;
        Ok(ids.into_iter().map(convert::task_id).collect())
    }

    fn decline(&mut self, offers: &[OfferId], refuse_ms: Option<u64>) -> Result<(), Error> {
        let offers: Vec<u64> = offers.iter().map(|offer| offer.0).collect();
        Ok(cluster::decline(&offers, refuse_ms)?)
    }

    fn demand_gang(&mut self, key: &str, gang: Option<&Gang>) -> Result<(), Error> {
        let (parts, options) = convert::gang(gang);
        Ok(cluster::demand_gang(key, &parts, &options)?)
    }

    fn launch_gang(
        &mut self,
        specs: &[TaskSpec],
        launches: &[GangLaunch],
    ) -> Result<Vec<TaskId>, Error> {
        let specs: Vec<_> = specs.iter().map(convert::spec).collect();
        let launches: Vec<_> = launches.iter().map(convert::gang_launch).collect();
        let ids = cluster::launch_gang(&specs, &launches)?;
        Ok(ids.into_iter().map(convert::task_id).collect())
    }

    fn kill(&mut self, task: &TaskId, grace_ms: Option<u64>) -> Result<(), Error> {
        Ok(cluster::kill(&convert::task_id_out(task), grace_ms)?)
    }

    fn demand(&mut self, key: &str, demand: &Demand) -> Result<(), Error> {
        let request = convert::resource_request(&demand.request);
        let options = convert::demand_options(demand);
        Ok(cluster::demand_with(key, demand.count, &request, &options)?)
    }

    fn operate(&mut self, offer: OfferId, name: &str, wish: &Wish) -> Result<(), Error> {
        let operation = convert::operation(wish)?;
        Ok(operations::operate(offer.0, name, &operation)?)
    }

    fn left(&mut self, offer: OfferId) -> Option<Resources> {
        convert::left(offer)
    }

    fn operations(&mut self, after: Option<&str>, limit: u32) -> Vec<OperationStatus> {
        let operations = operations::operations(after, limit);
        operations
            .into_iter()
            .map(convert::operation_status)
            .collect()
    }

    fn roles(&mut self) -> Vec<Role> {
        let roles = cluster::roles().into_iter();
        roles.filter_map(|role| role.parse().ok()).collect()
    }

    fn suppress(&mut self, role: Option<&Role>) -> Result<(), Error> {
        match role {
            Some(role) => cluster::suppress_role(role.as_str())?,
            None => cluster::suppress()?,
        }
        Ok(())
    }

    fn revive(&mut self, role: Option<&Role>) -> Result<(), Error> {
        match role {
            Some(role) => cluster::revive_role(role.as_str())?,
            None => cluster::revive()?,
        }
        Ok(())
    }

    fn minimum_offer(
        &mut self,
        role: Option<&Role>,
        least: Option<&[ResourceRequest]>,
    ) -> Result<(), Error> {
        let least = least.map(|least| {
            let least = least.iter().map(convert::resource_request);
            least.collect::<Vec<_>>()
        });
        Ok(cluster::minimum_offer(
            role.map(Role::as_str),
            least.as_deref(),
        )?)
    }

    fn explain(&mut self, key: &str) -> Option<Explanation> {
        cluster::explain(key).map(convert::explanation)
    }

    fn agents(&mut self, after: Option<AgentId>, limit: u32) -> Vec<AgentView> {
        let agents = cluster::agents(after.map(|agent| agent.0), limit);
        agents.into_iter().map(convert::agent).collect()
    }

    fn tasks(&mut self, after: Option<&TaskId>, limit: u32) -> Vec<Task> {
        let after = after.map(convert::task_id_out);
        cluster::tasks(after.as_ref(), limit)
            .into_iter()
            .map(convert::task)
            .collect()
    }

    fn has_artifact(&mut self, digest: &Digest) -> bool {
        cluster::has_artifact(&digest.to_string())
    }

    fn this_framework(&mut self) -> FrameworkIdentity {
        let cluster::Framework { id, name, role } = cluster::this_framework();
        FrameworkIdentity {
            id: FrameworkId(id),
            name,
            role,
        }
    }

    fn now_ms(&mut self) -> u64 {
        cluster::now_ms()
    }

    fn get(&mut self, key: &str) -> Option<Vec<u8>> {
        store::get(key)
    }

    fn set(&mut self, key: &str, value: &[u8]) -> Result<(), Error> {
        Ok(store::set(key, value)?)
    }

    fn delete(&mut self, key: &str) -> Result<(), Error> {
        Ok(store::delete(key)?)
    }

    fn scan(&mut self, prefix: &str, after: Option<&str>, limit: u32) -> Vec<Pair> {
        store::scan(prefix, after, limit)
    }

    fn set_timer(&mut self, name: &str, delay_ms: u64) -> Result<(), Error> {
        Ok(timers::set(name, delay_ms)?)
    }

    fn cancel_timer(&mut self, name: &str) -> Result<(), Error> {
        Ok(timers::cancel(name)?)
    }

    fn log(&mut self, level: Level, message: &str) {
        log::write(convert::level(level), message);
    }
}
