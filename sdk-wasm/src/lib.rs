//! Write a Tepui framework: a scheduler that is one WebAssembly component.
//!
//! A framework says what it wants ([`Context::demand`]), is offered free
//! resources, answers with tasks ([`Context::accept`]) and learns what became
//! of them. It writes no networking, no high availability and no persistence:
//! the master that runs it calls it in turns, and a turn is a transaction.
//!
//! # A framework
//!
//! ```
//! use tepui_sdk::resources::{self, Bytes, MilliCpus, ResourceRequest};
//! use tepui_sdk::{Context, Launch, Offer, Scheduler, StartReason, Task, TaskSpec};
//!
//! struct Date;
//!
//! fn request() -> ResourceRequest {
//!     resources::request(MilliCpus(100), Bytes::mib(32))
//! }
//!
//! impl Scheduler for Date {
//!     fn start(cx: &mut Context<'_>, reason: StartReason, _: &str) -> Result<Self, String> {
//!         // Demand lasts: it is said once, not at every start.
//!         if reason == StartReason::Deployed {
//!             cx.demand("date", 1, &request())?;
//!         }
//!         Ok(Self)
//!     }
//!
//!     fn on_offers(&mut self, cx: &mut Context<'_>, offers: Vec<Offer>) {
//!         for offer in offers {
//!             if let Ok(resources) = offer.resources.pick(&request()) {
//!                 let spec = TaskSpec::command(["date"]).label("made-by", "example");
//!                 if cx.accept(offer.id, &spec, &[Launch::new("date", resources)]).is_ok() {
//!                     let _ = cx.demand("date", 0, &request());
//!                     return;
//!                 }
//!             }
//!         }
//!     }
//!
//!     fn on_update(&mut self, cx: &mut Context<'_>, task: Task) {
//!         cx.info(&format!("{} is {}", task.id, task.status.code));
//!     }
//! }
//!
//! // Once in the crate, whose type is `cdylib`.
//! tepui_sdk::export!(Date);
//!
//! // Natively the same code runs against a scripted cluster.
//! use tepui_sdk::TaskState;
//! use tepui_sdk::resources::Resources;
//! use tepui_sdk::testing::Cluster;
//!
//! let mut cluster = Cluster::<Date>::deploy("").discard_every_turn();
//! cluster.agent(Resources { cpus: MilliCpus(1000), mem: Bytes::gib(1), ..Default::default() });
//! cluster.offer_all();
//! cluster.turn();
//! assert_eq!(cluster.demand("date"), 0);
//! cluster.update("date", TaskState::Finished);
//! cluster.turn();
//! assert_eq!(cluster.log().last().unwrap().message, "date.0 is finished");
//! ```
//!
//! # What to keep in mind
//!
//! - The instance may be thrown away after any turn: its memory is a cache, and
//!   what must last stands in the store ([`Context::set_as`]).
//! - There is no clock and no randomness but [`Context::now`]; timers are
//!   durable ([`Context::set_timer`]).
//! - Decide by [`TaskClass`], show [`TaskStatus::code`]: states may be added,
//!   classes never.
//! - A turn has limits; [`Error::TurnFull`] means: return, and go on in
//!   [`Scheduler::on_continued`].

// `export!` expands in an author's crate and names this one, so it must find
// itself under the same name.
extern crate self as tepui_sdk;

#[doc(hidden)]
pub mod bindings;
pub mod context;
mod error;
#[doc(hidden)]
pub mod guest;
pub mod http;
pub mod operations;
pub mod packing;
pub mod resources;
pub mod scheduler;
pub mod task;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;

pub use context::{Context, Level};
pub use error::Error;
pub use scheduler::{DroppedOperation, Event, Scheduler, StartReason};
pub use task::{GangLaunch, Launch, Successor, Task, TaskClass, TaskId, TaskSpec, TaskStatus};
pub use tepui_types::constraint::{self, Constraint, Constraints};
pub use tepui_types::{
    AgentId, Demand, Digest, Gang, GangPart, GangShare, Offer, OfferId, PartitionPolicy, Reason,
    Role, TaskState, Timestamp, Workload, api,
};

/// The text given at the deployment as JSON of this shape, or what is wrong
/// with it in words for the operator.
pub fn parse_config<T: serde::de::DeserializeOwned>(config: &str) -> Result<T, String> {
    if config.trim().is_empty() {
        return Err("the configuration is empty: this framework wants JSON".into());
    }
    serde_json::from_str(config).map_err(|error| format!("the configuration does not fit: {error}"))
}

/// Makes the crate a component whose scheduler is `$scheduler`. Once in a
/// crate, and the crate a `cdylib`. Does nothing but for WebAssembly.
#[macro_export]
macro_rules! export {
    ($scheduler:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            type Component = $crate::guest::Component<$scheduler>;
    $crate::bindings::export_component!(Component with_types_in $crate::bindings);
        };
    };
}
