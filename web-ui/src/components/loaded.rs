//! What a feed holds, once it holds something; before that, and when it
//! cannot, what happens instead.
//!
//! No error passes unseen: it stands above what was read last, and can be
//! tried again at once.

use leptos::prelude::*;

use crate::api::ApiError;
use crate::feed::{Data, Feed};

/// Shows `children` with the feed's data, and the feed's error above it.
#[component]
pub fn Loaded<T, V>(
    /// What is shown.
    feed: Feed<T>,
    /// Shows nothing while there is nothing: for what may well stay empty.
    #[prop(optional)]
    quiet: bool,
    /// Called once for each thing shown; the signal follows it.
    children: impl Fn(Signal<T>) -> V + Send + Sync + 'static,
) -> impl IntoView
where
    T: Data,
    V: IntoView + 'static,
{
    let is_there = Memo::new(move |_| feed.data.with(Option::is_some));
    let content = move || {
        // What is there changes often; this runs again only when it comes or goes.
        let is_there = is_there.get();
        match feed.data.get_untracked().filter(|_| is_there) {
            Some(first) => {
                let latest = Memo::new(move |last: Option<&T>| {
                    let latest = feed.data.get();
                    latest
                        .or_else(|| last.cloned())
                        .unwrap_or_else(|| first.clone())
                });
                children(latest.into()).into_any()
            }
            None if quiet => ().into_any(),
            None => {
                view! { <Show when=move || feed.error.with(Option::is_none)><Skeleton/></Show> }
                    .into_any()
            }
        }
    };
    view! {
        <ErrorNotice error=feed.error on_retry=move || feed.refresh()/>
        {content}
    }
}

/// A grey shape of what is to come.
#[component]
fn Skeleton() -> impl IntoView {
    view! {
        <div class="skeleton" role="status">
            <span class="visually-hidden">"Loading"</span>
            <span class="bone"></span>
            <span class="bone"></span>
            <span class="bone"></span>
        </div>
    }
}

/// An error beside what it concerns, with a button that tries again.
#[component]
pub fn ErrorNotice(
    /// The error, if there is one.
    #[prop(into)]
    error: Signal<Option<ApiError>>,
    /// Tries again.
    on_retry: impl Fn() + Clone + Send + Sync + 'static,
) -> impl IntoView {
    move || {
        let on_retry = on_retry.clone();
        error.get().map(|error| {
            view! {
                <div class="notice error" role="alert">
                    <p>{error.to_string()}</p>
                    <button type="button" class="button small" on:click=move |_| on_retry()>
                        "Try again"
                    </button>
                </div>
            }
        })
    }
}

/// What stands where a list is empty.
#[component]
pub fn Empty(
    /// What there is none of.
    #[prop(into)]
    title: String,
    /// What one can do about it.
    #[prop(optional)]
    children: Option<Children>,
) -> impl IntoView {
    view! {
        <div class="empty">
            <p class="empty-title">{title}</p>
            {children.map(|children| view! { <div class="empty-text">{children()}</div> })}
        </div>
    }
}
