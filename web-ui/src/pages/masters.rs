//! Those who replicate the cluster's state: who leads, how far each is, and what sets one apart.

use leptos::prelude::*;
use tepui_types::NodeId;
use tepui_types::api::list::Page;
use tepui_types::api::master::{MasterRole, MasterView};
use tepui_web::{amounts, query};

use crate::api::{self, IdempotencyKey};
use crate::app::{Cluster, PageHead};
use crate::components::confirm::ConfirmButton;
use crate::components::loaded::Loaded;
use crate::components::table::{Column, Rows, Table, column};
use crate::components::task_state::{StatePill, Tone};
use crate::feed::Feed;

const COLUMNS: &[Column] = &[
    column("Master", ""),
    column("Role", ""),
    column("Log index", "number medium-up"),
    column("Behind", "number medium-up"),
    column("Clock", "number medium-up"),
    column("State", "medium-up"),
    column("Release", "wide-only"),
    column("", ""),
];

/// From here on a clock is shown as one to look at: half of what keeps a master from leading.
const CLOCK_MS: u64 = 1_000;

/// What the page shows, for its rows.
#[derive(Clone, Copy)]
struct Masters(Feed<Page<MasterView>>);

/// The page.
#[component]
pub fn MastersPage() -> impl IntoView {
    // No event tells of them: they are read now and then.
    let masters = Feed::<Page<MasterView>>::new(&[], || Some("/v1/masters".into()));
    provide_context(Masters(masters));
    view! {
        <PageHead title="Masters".to_owned()/>
        <Loaded feed=masters let:page>
            <Summary page=page/>
            <Table caption="Masters" columns=COLUMNS>
                <Rows
                    items=Signal::derive(move || page.get().items)
                    key=|master: &MasterView| master.id
                    row=|master| view! { <MasterRow master=master/> }
                />
            </Table>
            <p class="muted below-table">
                "A new master is started with an empty folder and "
                <code>"--await-invitation"</code> ", and then added: "
                <code>"tepui master add ADDRESS"</code>
            </p>
        </Loaded>
    }
}

/// How many may be lost, and which term it is.
#[component]
fn Summary(page: Signal<Page<MasterView>>) -> impl IntoView {
    let cluster = expect_context::<Cluster>().0;
    let term = move || {
        let term = cluster
            .data
            .with(|view| view.as_ref().map(|view| view.term));
        term.map(|term| format!("term {term}"))
    };
    let health = move || page.with(|page| health(&page.items));
    view! {
        <p class="facts above-table">
            <span>{health}</span>
            <span class="muted">{term}</span>
        </p>
    }
}

fn health(masters: &[MasterView]) -> String {
    let votes = |it: &&MasterView| matches!(it.role, MasterRole::Leader | MasterRole::Voter);
    let voters = masters.iter().filter(votes).count();
    let up = masters.iter().filter(votes).filter(|it| it.active).count();
    let needed = voters / 2 + 1;
    match up.checked_sub(needed) {
        None => format!("{up} of {voters} voters are up: nothing can be committed"),
        Some(0) => format!("{up} of {voters} voters are up: none of them may fail"),
        Some(spare) => format!("{up} of {voters} voters are up: {spare} of them may fail"),
    }
}

#[component]
fn MasterRow(master: Signal<MasterView>) -> impl IntoView {
    let first = master.get_untracked();
    let cluster = expect_context::<Cluster>().0;
    let is_asked = Memo::new(move |_| {
        let asked = cluster
            .data
            .with(|view| view.as_ref().map(|view| view.node));
        asked == Some(first.id)
    });
    let state = Signal::derive(move || master.with(role));
    let agreement = move || {
        master.with(|master| match master.state_agrees {
            Some(true) => view! { <StatePill state=(Tone::Good, "agrees")/> }.into_any(),
            Some(false) => view! { <StatePill state=(Tone::Bad, "differs")/> }.into_any(),
            None => view! { <span class="muted">"–"</span> }.into_any(),
        })
    };
    view! {
        <tr>
            <th scope="row">
                {move || master.read().url.trim_start_matches("http://").to_owned()}
                <span class="sub">
                    <code>{first.id.to_string()}</code>
                </span>
                <Show when=move || is_asked.get()>
                    <span class="sub">"you speak to this one"</span>
                </Show>
            </th>
            <td>
                <StatePill state=state/>
            </td>
            <td class="number medium-up">{move || amounts::count(master.read().matched)}</td>
            <td class="number medium-up">{move || amounts::count(master.read().behind)}</td>
            <td class="number medium-up">
                <span class=move || {
                    master.with(|it| if is_off(it) { "toned tone-warning" } else { "" })
                }>{move || master.with(clock)}</span>
            </td>
            <td class="medium-up">{agreement}</td>
            <td class="wide-only">
                {move || master.read().version.clone().unwrap_or_else(|| "–".into())}
            </td>
            <td>
                <Operations master=master id=first.id/>
            </td>
        </tr>
    }
}

/// What may be done with it now.
#[component]
fn Operations(master: Signal<MasterView>, id: NodeId) -> impl IntoView {
    let subject = Signal::derive(move || id.to_string());
    let place = move || master.read().url.trim_start_matches("http://").to_owned();
    let may_lead = move || master.with(|it| it.role == MasterRole::Voter && it.active);
    let stays = move || master.with(|it| it.role != MasterRole::Leaving);
    let masters = expect_context::<Masters>().0;
    view! {
        <div class="row-tools">
            <Show when=may_lead>
                <ConfirmButton
                    label="Lead"
                    title=Signal::derive(move || format!("Let {} lead?", place()))
                    text="The lead moves to it. Requests wait for a moment, and agents connect to it; nothing is lost."
                    subject=subject
                    action=|id, key| Box::pin(lead(id, key))
                    on_done=move || masters.refresh()
                />
            </Show>
            <Show when=stays>
                <ConfirmButton
                    label="Remove"
                    title=Signal::derive(move || format!("Remove {} for good?", place()))
                    text="It leaves the group and ends. To come back it needs an empty folder. This cannot be undone."
                    subject=subject
                    action=|id, key| Box::pin(remove(id, key))
                    on_done=move || masters.refresh()
                />
            </Show>
        </div>
    }
}

async fn lead(id: String, key: IdempotencyKey) -> Result<(), api::ApiError> {
    let path = format!("/v1/masters/{}/lead", query::escape(&id));
    api::change("POST", &path, None, &key).await.map(drop)
}

async fn remove(id: String, key: IdempotencyKey) -> Result<(), api::ApiError> {
    let path = format!("/v1/masters/{}", query::escape(&id));
    api::change("DELETE", &path, None, &key).await.map(drop)
}

/// The tone and word of a master's role; one that is not heard of is away first of all.
fn role(master: &MasterView) -> (Tone, &'static str) {
    match master.role {
        MasterRole::Leader => (Tone::Good, "leader"),
        MasterRole::Leaving => (Tone::Quiet, "leaving"),
        _ if !master.active => (Tone::Bad, "away"),
        MasterRole::Voter => (Tone::Active, "voter"),
        MasterRole::Learner | MasterRole::Joining => (Tone::Pending, master.role.as_str()),
    }
}

fn clock(master: &MasterView) -> String {
    match master.clock_ahead_ms {
        Some(ahead) => format!("{ahead:+} ms"),
        None => "–".into(),
    }
}

fn is_off(master: &MasterView) -> bool {
    master
        .clock_ahead_ms
        .is_some_and(|ahead| ahead.unsigned_abs() > CLOCK_MS)
}
