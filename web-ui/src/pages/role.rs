//! The form that sets a role: its weight, what it is promised and allowed.

use leptos::prelude::*;
use leptos::task::spawn_local;
use leptos_router::NavigateOptions;
use leptos_router::hooks::{use_navigate, use_query_map};
use tepui_types::Role;
use tepui_types::api::role::RoleView;
use tepui_web::query;
use tepui_web::role_form::{Field, RoleForm};

use crate::api;
use crate::app::PageHead;
use crate::components::field::{Form, FormState, LineField, Words};
use crate::components::send::{SendFoot, SendRefusal, Sending};

impl Form for RoleForm {
    type Field = Field;
}

const ROLE: Words = Words {
    id: "role-path",
    label: "Role",
    hint: "Its path; what is below a role shares with its siblings what that one gets.",
};
const WEIGHT: Words = Words {
    id: "role-weight",
    label: "Weight",
    hint: "How much it counts beside its siblings.",
};
const GUARANTEE: Words = Words {
    id: "role-guarantee",
    label: "Guarantee",
    hint: "Laid away for it, whether it uses it or not; nothing when empty.",
};
const LIMIT: Words = Words {
    id: "role-limit",
    label: "Limit",
    hint: "The most that it may have; what is not named has none.",
};

/// The page.
#[component]
pub fn RolePage() -> impl IntoView {
    let named = use_query_map().read_untracked().get("role");
    let form = RwSignal::new(RoleForm::default());
    // None until it is known what is set now; a role that is not named is a new one.
    let is_new = named.is_none();
    let tag = RwSignal::new(is_new.then(|| "\"0\"".to_owned()));
    let was_tried = RwSignal::new(false);
    let sending = Sending::new();
    if let Some(role) = &named {
        load(role, form, tag, sending);
    }
    let outcome = Memo::new(move |_| form.with(RoleForm::request));
    let state = FormState::new(form, outcome, was_tried);
    let navigate = use_navigate();
    let submit = move |event: web_sys::SubmitEvent| {
        event.prevent_default();
        was_tried.set(true);
        let (Ok((role, request)), Some(tag)) = (outcome.get_untracked(), tag.get_untracked())
        else {
            return;
        };
        match api::json(&request) {
            Ok(body) => {
                let navigate = navigate.clone();
                let done = move || navigate("/roles", NavigateOptions::default());
                sending.put(path(&role), body, tag, done);
            }
            Err(error) => sending.refuse(error),
        }
    };
    let title = match &named {
        Some(role) => format!("Set {role}"),
        None => "Set a role".to_owned(),
    };
    view! {
        <PageHead title=title above=("/roles", "Roles")/>
        <SendRefusal sending=sending/>
        <form
            class="card form"
            novalidate
            hidden=move || tag.with(Option::is_none)
            on:submit=submit
            on:input=move |_| sending.is_outdated()
        >
            <fieldset disabled=!is_new>
                <LineField
                    state=state
                    field=Field::Role
                    words=ROLE
                    text=|form| &mut form.role
                    placeholder="eng/web"
                    is_code=true
                />
            </fieldset>
            <LineField
                state=state
                field=Field::Weight
                words=WEIGHT
                text=|form| &mut form.weight
                inputmode="decimal"
            />
            <LineField
                state=state
                field=Field::Guarantee
                words=GUARANTEE
                text=|form| &mut form.guarantee
                placeholder="cpus=4,mem=8GiB"
                is_code=true
            />
            <LineField
                state=state
                field=Field::Limit
                words=LIMIT
                text=|form| &mut form.limit
                placeholder="cpus=8"
                is_code=true
            />
            <Choices form=form/>
            <SendFoot sending=sending label="Set"/>
        </form>
    }
}

fn path(role: &Role) -> String {
    format!("/v1/roles/{}", query::escape(role.as_str()))
}

fn load(role: &str, form: RwSignal<RoleForm>, tag: RwSignal<Option<String>>, sending: Sending) {
    let path = format!("/v1/roles/{}", query::escape(role));
    spawn_local(async move {
        match api::get_tagged::<RoleView>(&path).await {
            Ok((view, its)) => {
                // The page may have been left meanwhile.
                let _ = form.try_set(RoleForm::of(&view));
                let _ = tag.try_set(Some(its));
            }
            Err(error) => sending.refuse(error),
        }
    });
}

/// What is chosen, not typed.
#[component]
fn Choices(form: RwSignal<RoleForm>) -> impl IntoView {
    let said = [
        ("inherit", "As the role above it", None),
        (
            "yes",
            "May be ended for roles below their guarantee",
            Some(true),
        ),
        ("no", "Never ended for others", Some(false)),
    ];
    let options = said.map(|(value, words, preemptible)| {
        view! {
            <option
                value=value
                selected=move || form.with(|form| form.preemptible == preemptible)
            >
                {words}
            </option>
        }
    });
    view! {
        <div class="field">
            <label for="role-preemptible">"Its tasks"</label>
            <select
                id="role-preemptible"
                on:change:target=move |event| {
                    let chosen = event.target().value();
                    let found = said.iter().find(|(value, ..)| *value == chosen);
                    form.update(|form| form.preemptible = found.and_then(|found| found.2));
                }
            >
                {options.into_iter().collect_view()}
            </select>
        </div>
        <label class="check" for="role-force">
            <input
                id="role-force"
                type="checkbox"
                on:change:target=move |event| {
                    let force = event.target().checked();
                    form.update(|form| form.force = force);
                }
            />
            "Also where the cluster has less than is guaranteed, or the role more than its limit"
        </label>
    }
}
