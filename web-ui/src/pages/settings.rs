//! What is decided for the whole cluster.

use leptos::prelude::*;
use leptos::task::spawn_local;
use tepui_types::setting::Settings;
use tepui_web::settings_form::{Field, SettingsForm};

use crate::api;
use crate::app::PageHead;
use crate::components::field::{Form, FormState, LineField, LinesField, Words};
use crate::components::send::{SendFoot, SendRefusal, Sending};

impl Form for SettingsForm {
    type Field = Field;
}

const PATH: &str = "/v1/settings";

const OFFER_TIMEOUT: Words = Words {
    id: "settings-offer-timeout",
    label: "Offers are held for, seconds",
    hint: "A framework that does not answer an offer by then loses it.",
};
const MINIMUM_OFFER: Words = Words {
    id: "settings-minimum-offer",
    label: "The least that is offered",
    hint: "Amounts, a line each, of which an offer has one at least.",
};
const ALLOWED_HOSTS: Words = Words {
    id: "settings-allowed-hosts",
    label: "Hosts that are offered",
    hint: "Patterns such as node-*, a line each; all when empty.",
};
const UNSHARED: Words = Words {
    id: "settings-unshared",
    label: "Resources that count in nobody's share",
    hint: "Names, a line each.",
};
const PREEMPTIONS: Words = Words {
    id: "settings-preemptions",
    label: "Preemptions a minute",
    hint: "The most tasks that are ended for roles below their guarantee.",
};

/// The page.
#[component]
pub fn SettingsPage() -> impl IntoView {
    let form = RwSignal::new(SettingsForm::of(&Settings::default()));
    let tag = RwSignal::new(None::<String>);
    let was_tried = RwSignal::new(false);
    let sending = Sending::new();
    load(form, tag, sending);
    let outcome = Memo::new(move |_| form.with(SettingsForm::settings));
    let state = FormState::new(form, outcome, was_tried);
    let submit = move |event: web_sys::SubmitEvent| {
        event.prevent_default();
        was_tried.set(true);
        // What was never read is not overwritten.
        let (Ok(settings), Some(tag_now)) = (outcome.get_untracked(), tag.get_untracked()) else {
            return;
        };
        match api::json(&settings) {
            Ok(body) => {
                let done = move || load(form, tag, sending);
                sending.put(PATH.into(), body, tag_now, done);
            }
            Err(error) => sending.refuse(error),
        }
    };
    view! {
        <PageHead title="Settings".to_owned()/>
        <SendRefusal sending=sending/>
        <form
            class="card form"
            novalidate
            hidden=move || tag.with(Option::is_none)
            on:submit=submit
            on:input=move |_| sending.is_outdated()
        >
            <label class="check" for="settings-gpus">
                <input
                    id="settings-gpus"
                    type="checkbox"
                    prop:checked=move || form.with(|form| form.gpus_for_all)
                    on:change:target=move |event| {
                        let for_all = event.target().checked();
                        form.update(|form| form.gpus_for_all = for_all);
                    }
                />
                "Agents with gpus are offered also to who asks for none"
            </label>
            <LineField
                state=state
                field=Field::OfferTimeout
                words=OFFER_TIMEOUT
                text=|form| &mut form.offer_timeout
                inputmode="decimal"
            />
            <LinesField
                state=state
                field=Field::MinimumOffer
                words=MINIMUM_OFFER
                text=|form| &mut form.minimum_offer
                placeholder="cpus=0.01"
            />
            <LinesField
                state=state
                field=Field::AllowedHosts
                words=ALLOWED_HOSTS
                text=|form| &mut form.allowed_hosts
                placeholder="node-*"
            />
            <LinesField
                state=state
                field=Field::Unshared
                words=UNSHARED
                text=|form| &mut form.unshared
                placeholder="licenses"
            />
            <LineField
                state=state
                field=Field::Preemptions
                words=PREEMPTIONS
                text=|form| &mut form.preemptions
                inputmode="numeric"
            />
            <SendFoot sending=sending label="Save"/>
        </form>
    }
}

fn load(form: RwSignal<SettingsForm>, tag: RwSignal<Option<String>>, sending: Sending) {
    spawn_local(async move {
        match api::get_tagged::<Settings>(PATH).await {
            Ok((settings, its)) => {
                // The page may have been left meanwhile.
                let _ = form.try_set(SettingsForm::of(&settings));
                let _ = tag.try_set(Some(its));
            }
            Err(error) => sending.refuse(error),
        }
    });
}
