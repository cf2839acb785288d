//! What a running task uses, looked at every few seconds while the page is seen.

use std::time::Duration;

use leptos::prelude::*;
use tepui_types::api::usage::{UsageView, Used};
use tepui_types::{Bytes, MilliCpus, Timestamp};
use tepui_web::{amounts, query};

use crate::components::time::Ago;
use crate::feed::Feed;
use crate::live::{self, Live};

/// Between two looks: often enough to see a task work, and little for its agent.
const POLL: Duration = Duration::from_secs(3);

/// From this age on a look is told with it, in milliseconds: some in a row have failed.
const OLD_MS: u64 = 10_000;

/// A look, what was taken of the processors since the one before, and when it came.
type Look = (Used, Option<MilliCpus>, Timestamp);

/// What the task uses; nothing where that is not known.
#[component]
pub fn UsageNow(
    /// Its id.
    id: String,
) -> impl IntoView {
    let path = format!("/v1/tasks/{}/usage", query::escape(&id));
    let usage = Feed::<UsageView>::new(&[], move || Some(path.clone()));
    if let Ok(interval) = set_interval_with_handle(move || usage.refresh(), POLL) {
        on_cleanup(move || interval.clear());
    }
    let look = Memo::new(move |before: Option<&Option<Look>>| {
        let used = usage.data.with(|usage| usage.as_ref()?.used)?;
        let before = before.copied().flatten();
        let cpus = before.and_then(|(before, cpus, _)| used.cpus_since(&before).or(cpus));
        Some((used, cpus, Timestamp(live::now())))
    });
    let now = expect_context::<Live>().now;
    let is_old = Memo::new(move |_| {
        let seen = look.get().map(|(_, _, seen)| seen);
        seen.is_some_and(|seen| Timestamp(now.get()).millis_since(seen) >= OLD_MS)
    });
    let given = move || usage.data.with(|usage| Some(usage.as_ref()?.given.clone()));
    move || {
        let ((used, cpus, seen), given) = look.get().zip(given())?;
        let cpus = cpus.map(|cpus| {
            let (cpus, given) = (
                amounts::processors(cpus.0),
                amounts::processors(given.cpus.0),
            );
            view! { <span>"takes " <strong>{cpus}</strong> " of " {given} " cpu"</span> }
        });
        let disk = used.disk_bytes.map(|bytes| {
            let bytes = Bytes(bytes).to_string();
            view! { <span>"has " <strong>{bytes}</strong> " on the disk"</span> }
        });
        let instances = used.instances.map(instances);
        let age = is_old
            .get()
            .then(|| view! { <span class="muted"><Ago time=seen/></span> });
        Some(view! {
            {cpus}
            <span>"has " <strong>{Bytes(used.mem_bytes).to_string()}</strong>
                " of " {given.mem.to_string()} " memory"</span>
            {disk}
            {instances}
            {age}
        })
    }
}

/// How often a program was instantiated.
pub fn instances(count: u32) -> impl IntoView {
    let noun = if count == 1 {
        " instance"
    } else {
        " instances"
    };
    view! { <span>"had " <strong>{count}</strong> {noun}</span> }
}
