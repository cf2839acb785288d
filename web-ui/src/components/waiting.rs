//! What waits for resources, and why: the question that a cluster's users ask
//! most.

use leptos::prelude::*;
use tepui_types::api::demand::{DemandView, Explanation};
use tepui_types::resources::ResourceRequest;
use tepui_types::{MilliCpus, Resources};
use tepui_web::{amounts, query};

use crate::components::table::Rows;
use crate::components::time::Elapsed;

/// Demands, each with its reasons. Nothing is shown where nothing waits.
#[component]
pub fn WaitingList(
    /// What is wanted.
    #[prop(into)]
    demands: Signal<Vec<DemandView>>,
) -> impl IntoView {
    let is_waiting = Memo::new(move |_| demands.with(|demands| !demands.is_empty()));
    view! {
        <Show when=move || is_waiting.get()>
            <section class="card waiting" aria-labelledby="waiting-title">
                <h2 id="waiting-title">"Waiting for resources"</h2>
                <ul>
                    <Rows
                        items=demands
                        key=|demand: &DemandView| (demand.framework, demand.key.clone())
                        row=|demand| view! { <Waiting demand=demand/> }
                    />
                </ul>
            </section>
        </Show>
    }
}

#[component]
fn Waiting(demand: Signal<DemandView>) -> impl IntoView {
    let title = move || demand.with(|demand| demand.key.clone());
    // Only `batch` calls its keys after jobs.
    let place = move || {
        demand.with(|demand| match demand.framework_name.as_str() {
            "batch" => format!("/jobs/{}", query::escape(&demand.key)),
            _ => format!("/frameworks/{}", demand.framework),
        })
    };
    let wanted = move || {
        demand.with(|demand| {
            format!(
                "{} of {}, each {}",
                amounts::counted(demand.count.into(), "task"),
                demand.framework_name,
                request_text(&demand.request)
            )
        })
    };
    let reasons = move || {
        demand.with(|demand| {
            let reasons = reasons(&demand.explanation);
            // One reason alone is what the summary says already.
            let is_said = reasons.len() == 1 && !demand.explanation.summary.is_empty();
            if is_said { Vec::new() } else { reasons }
        })
    };
    view! {
        <li class="waiting-item">
            <div class="waiting-head">
                <a href=place class="waiting-key">{title}</a>
                <span class="muted">{wanted}</span>
                <span class="muted push">
                    "for "
                    <Elapsed
                        from=Signal::derive(move || demand.with(|demand| Some(demand.since)))
                        to=Signal::derive(|| None)
                    />
                </span>
            </div>
            <p class="waiting-why">{move || demand.with(|demand| demand.explanation.summary.clone())}</p>
            <ul class="chips">
                {move || {
                    reasons().into_iter().map(|reason| view! { <li>{reason}</li> }).collect_view()
                }}
            </ul>
        </li>
    }
}

/// What keeps agents from it, in a few words each.
fn reasons(explanation: &Explanation) -> Vec<String> {
    let on = |agents: u64| format!("on {}", amounts::counted(agents, "agent"));
    let mut reasons = Vec::new();
    for (resource, agents) in &explanation.too_small {
        reasons.push(format!(
            "too little {resource} {}, even when empty",
            on(*agents)
        ));
    }
    for (resource, agents) in &explanation.busy {
        reasons.push(format!("{resource} in use {}", on(*agents)));
    }
    for (constraint, agents) in &explanation.unmet {
        reasons.push(format!("{constraint} fails {}", on(*agents)));
    }
    if explanation.filtered > 0 {
        reasons.push(format!(
            "declined a moment ago {}",
            on(explanation.filtered)
        ));
    }
    if explanation.lacking > 0 {
        reasons.push(format!("less than is reserved {}", on(explanation.lacking)));
    }
    if explanation.inactive > 0 {
        reasons.push(format!(
            "{} not active",
            amounts::counted(explanation.inactive, "agent")
        ));
    }
    if explanation.fitting > 0 {
        reasons.push(format!("fits {}", on(explanation.fitting)));
    }
    if explanation.agents == 0 && explanation.inactive == 0 {
        reasons.push("no agent has registered".into());
    }
    reasons
}

/// A request in words, as amounts of anything are written.
pub fn request_text(request: &ResourceRequest) -> String {
    let amounts = Resources {
        cpus: request.cpus,
        mem: request.mem,
        disk: request.disk,
        custom: request.custom.clone(),
        ..Resources::default()
    };
    let mut words = Vec::new();
    if !amounts.is_empty() {
        words.push(amounts.to_string());
    }
    if request.ports > 0 {
        words.push(amounts::counted(request.ports, "port"));
    }
    if request.gpus_milli > 0 {
        words.push(format!("{} gpus", MilliCpus(request.gpus_milli)));
    }
    if words.is_empty() {
        "nothing".into()
    } else {
        words.join(", ")
    }
}
