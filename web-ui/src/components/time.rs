//! Points in time and spans, shown relative to now and exact on hover.

use leptos::prelude::*;
use tepui_types::Timestamp;
use tepui_web::amounts;

use crate::live::Live;

/// How long ago something was; the exact time is its title.
#[component]
pub fn Ago(
    /// When it was.
    #[prop(into)]
    time: Signal<Timestamp>,
) -> impl IntoView {
    let live = expect_context::<Live>();
    // Most seconds change nothing in a text that counts minutes.
    let text = Memo::new(move |_| amounts::age(Timestamp(live.now.get()).millis_since(time.get())));
    view! {
        <time datetime=move || iso(time.get()) title=move || exact(time.get())>{text}</time>
    }
}

/// How long until something is; the exact time is its title.
#[component]
pub fn Ahead(
    /// When it will be.
    #[prop(into)]
    time: Signal<Timestamp>,
) -> impl IntoView {
    let live = expect_context::<Live>();
    let text =
        Memo::new(move |_| amounts::ahead(time.get().millis_since(Timestamp(live.now.get()))));
    view! {
        <time datetime=move || iso(time.get()) title=move || exact(time.get())>{text}</time>
    }
}

/// How long something has taken since `from`, until `to` if that is known.
#[component]
pub fn Elapsed(
    /// The start.
    #[prop(into)]
    from: Signal<Option<Timestamp>>,
    /// The end; still running without one.
    #[prop(into)]
    to: Signal<Option<Timestamp>>,
) -> impl IntoView {
    let live = expect_context::<Live>();
    let text = Memo::new(move |_| match (from.get(), to.get()) {
        (None, _) => "–".to_owned(),
        (Some(from), Some(to)) => amounts::duration(to.millis_since(from)),
        (Some(from), None) => {
            let millis = Timestamp(live.now.get()).millis_since(from);
            // It counts in seconds: tenths would stand still in between.
            if millis < 1000 {
                "0 s".into()
            } else {
                amounts::duration(millis / 1000 * 1000)
            }
        }
    });
    view! { <span class="number">{text}</span> }
}

/// The exact time in the reader's own zone and words.
pub fn exact(time: Timestamp) -> String {
    let options = js_sys::Object::new();
    String::from(date(time).to_locale_string("default", &options))
}

/// The hour in the reader's own zone, to the second.
pub fn clock(time: Timestamp) -> String {
    let date = date(time);
    format!(
        "{:02}:{:02}:{:02}",
        date.get_hours(),
        date.get_minutes(),
        date.get_seconds()
    )
}

fn iso(time: Timestamp) -> String {
    date(time).to_iso_string().into()
}

fn date(time: Timestamp) -> js_sys::Date {
    // JavaScript's dates end at 8.64e15 and throw beyond.
    let millis = time.0.min(8_640_000_000_000_000);
    js_sys::Date::new(&wasm_bindgen::JsValue::from_f64(millis as f64))
}
