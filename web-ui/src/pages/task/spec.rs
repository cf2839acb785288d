//! What a task runs, as its page tells it.

use std::collections::BTreeMap;

use leptos::prelude::*;
use tepui_types::api::task::TaskView;
use tepui_types::command::CommandWorkload;
use tepui_types::container::Network;
use tepui_types::resources::PortRanges;
use tepui_types::{Container, Workload};
use tepui_web::program::Fact;
use tepui_web::{amounts, argv, program};

use crate::components::table::Detail;

/// The section.
#[component]
pub fn Program(task: TaskView) -> impl IntoView {
    let spec = task.spec;
    let environment = pairs(spec.env());
    let labels = pairs(&spec.labels);
    let user = if spec.user.is_empty() {
        "–".to_owned()
    } else {
        spec.user.clone()
    };
    let companions = program::companions(&spec).iter().map(program::companion);
    let companions = sentences("Companions", companions.collect());
    let checks = spec.checks.as_deref().map(program::checks);
    let checks = sentences("Checks", checks.unwrap_or_default());
    view! {
        <section aria-labelledby="task-program-title">
            <h2 id="task-program-title">"Program"</h2>
            <dl class="card details">
                {workload_details(spec.workload, &task.resources.ports)}
                {companions}
                {checks}
                <Detail term="Environment">{environment}</Detail>
                <Detail term="Labels">{labels}</Detail>
                <Detail term="Grace when killed">{amounts::duration(spec.kill_grace_ms)}</Detail>
                <Detail term="While its agent is away">{spec.partition.to_string()}</Detail>
                {spec.time_limit_ms.map(|millis| view! {
                    <Detail term="Time limit">{amounts::duration(millis)}</Detail>
                })}
                <Detail term="Priority">{spec.priority}</Detail>
                <Detail term="On behalf of">{user}</Detail>
            </dl>
        </section>
    }
}

fn workload_details(workload: Workload, ports: &PortRanges) -> AnyView {
    match workload {
        Workload::Command(command) => command_details(command, ports).into_any(),
        Workload::Wasm(wasm) => {
            let args = if wasm.args.is_empty() {
                none()
            } else {
                code(argv::join(&wasm.args))
            };
            let href = format!("/v1/artifacts/{}", wasm.artifact);
            let file = format!("{}.wasm", wasm.artifact.hex());
            view! {
                <Detail term="WebAssembly">
                    <a href=href download=file>
                        {code(wasm.artifact.to_string())}
                    </a>
                </Detail>
                <Detail term="Arguments">{args}</Detail>
            }
            .into_any()
        }
    }
}

fn command_details(command: CommandWorkload, ports: &PortRanges) -> impl IntoView + use<> {
    let argv = match command.argv.as_slice() {
        [] => view! { <span class="muted">"the image's own"</span> }.into_any(),
        argv => code(argv::join(argv)),
    };
    let pids = command.pids.map(|pids| {
        view! { <Detail term="Most processes">{pids}</Detail> }
    });
    let options = command.options.as_ref();
    let restart = options.and_then(|options| options.restart.as_ref());
    let restart = restart.map(program::restart);
    let restart = fact(("When it ends", restart.into_iter().collect()));
    let container = command.container;
    let container = container.map(|container| container_details(*container, ports));
    view! {
        <Detail term="Command">{argv}</Detail>
        {restart}
        {container}
        {pids}
    }
}

fn container_details(container: Container, ports: &PortRanges) -> AnyView {
    let image = container.image.as_ref();
    let root = image.map_or("the machine's tree".to_owned(), ToString::to_string);
    let network = match &container.network {
        Network::Host => "the machine's".to_owned(),
        Network::None => "none".to_owned(),
        Network::Named(network) => network.name.clone(),
    };
    let facts = program::container(&container, ports).into_iter().map(fact);
    let facts = facts.collect_view();
    let user = container
        .user
        .map(|user| view! { <Detail term="User in it">{user}</Detail> });
    view! {
        <Detail term="Container">
            <code class="break">{root}</code>
            {container.read_only.then_some(", read-only")}
        </Detail>
        <Detail term="Network">{network}</Detail>
        {user}
        {facts}
    }
    .into_any()
}

/// A fact, if anything is said of it.
fn fact((term, lines): Fact) -> Option<AnyView> {
    listed(term, lines, "plain")
}

/// The same of lines that are long.
fn sentences(term: &'static str, lines: Vec<String>) -> Option<AnyView> {
    listed(term, lines, "plain sentences")
}

fn listed(term: &'static str, lines: Vec<String>, class: &'static str) -> Option<AnyView> {
    let is_said = !lines.is_empty();
    let lines = lines.into_iter().map(|line| view! { <li>{line}</li> });
    let lines = lines.collect_view();
    is_said.then(|| view! { <Detail term=term><ul class=class>{lines}</ul></Detail> }.into_any())
}

fn pairs(pairs: &BTreeMap<String, String>) -> AnyView {
    if pairs.is_empty() {
        return none();
    }
    let lines: Vec<_> = pairs
        .iter()
        .map(|(name, value)| view! { <li>{code(format!("{name}={value}"))}</li> })
        .collect();
    view! { <ul class="plain">{lines}</ul> }.into_any()
}

fn code(text: String) -> AnyView {
    view! { <code class="break">{text}</code> }.into_any()
}

fn none() -> AnyView {
    view! { <span class="muted">"none"</span> }.into_any()
}
