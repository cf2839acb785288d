//! What frames every page: where one can go, whether the page is live, and in
//! which light it is shown.

use leptos::prelude::*;
use leptos_router::components::A;

use crate::live::{Connection, Live};
use crate::theme::Theme;

/// One place to go.
struct Place {
    id: &'static str,
    href: &'static str,
    title: &'static str,
    /// Its icon's strokes, in a box of 16 by 16.
    icon: &'static str,
}

const PLACES: [Place; 8] = [
    Place {
        id: "nav-overview",
        href: "/",
        title: "Overview",
        icon: "M2.5 2.5h4v5h-4zM9.5 2.5h4v3h-4zM9.5 8.5h4v5h-4zM2.5 10.5h4v3h-4z",
    },
    Place {
        id: "nav-jobs",
        href: "/jobs",
        title: "Jobs",
        icon: "M2.5 5.5h11v8h-11zM6 5.5v-2h4v2M2.5 9h11",
    },
    Place {
        id: "nav-tasks",
        href: "/tasks",
        title: "Tasks",
        icon: "M2.5 4h1M6 4h7.5M2.5 8h1M6 8h7.5M2.5 12h1M6 12h7.5",
    },
    Place {
        id: "nav-agents",
        href: "/agents",
        title: "Agents",
        icon: "M2.5 2.5h11v4.5h-11zM2.5 9h11v4.5h-11zM5 4.75h.01M5 11.25h.01",
    },
    Place {
        id: "nav-frameworks",
        href: "/frameworks",
        title: "Frameworks",
        icon: "M8 1.75l5.5 3v6.5l-5.5 3-5.5-3v-6.5zM2.5 4.75l5.5 3 5.5-3M8 7.75v6.5",
    },
    Place {
        id: "nav-roles",
        href: "/roles",
        title: "Roles",
        icon: "M8 2.5v4M3.5 13.5v-3.5h9v3.5M8 6.5v3.5M6.5 1.75h3v3h-3zM2 11.5h3v2.75h-3zM11 11.5h3v2.75h-3z",
    },
    Place {
        id: "nav-masters",
        href: "/masters",
        title: "Masters",
        icon: "M8 2a2 2 0 1 1 0 4a2 2 0 1 1 0-4zM3.5 10a2 2 0 1 1 0 4a2 2 0 1 1 0-4zM12.5 10a2 2 0 1 1 0 4a2 2 0 1 1 0-4zM7 6l-2.5 4M9 6l2.5 4M5.5 12h5",
    },
    Place {
        id: "nav-settings",
        href: "/settings",
        title: "Settings",
        icon: "M2.5 4.5h6M11.5 4.5h2M8.5 3v3M2.5 8h2M7.5 8h6M5.5 6.5v3M2.5 11.5h7M12.5 11.5h1M10.5 10v3",
    },
];

/// The side bar; on narrow screens the top bar.
#[component]
pub fn Nav() -> impl IntoView {
    let places: Vec<_> = PLACES
        .iter()
        .map(|place| {
            view! {
                <A
                    href=place.href
                    exact=place.href == "/"
                    attr:id=place.id
                    attr:class="nav-link"
                >
                    <Icon path=place.icon/>
                    <span>{place.title}</span>
                </A>
            }
        })
        .collect();
    view! {
        <header class="side">
            <a class="brand" href="/" aria-label="Tepui, overview">
                <svg viewBox="0 0 28 20" width="28" height="20" aria-hidden="true">
                    <path d="M1 18.5 6.5 5.5l2-3h11l2 3 5.5 13z" class="brand-rock"></path>
                    <path d="M8.5 2.5h11l2 3h-15z" class="brand-top"></path>
                    <path d="M10 9v6M14 8v8.5M18 9.5v5" class="brand-fall"></path>
                </svg>
                <span>"Tepui"</span>
            </a>
            <nav aria-label="Main">
                <div class="places">{places}</div>
                <A href="/submit" attr:id="nav-submit" attr:class="nav-submit">
                    <Icon path="M8 3v10M3 8h10"/>
                    <span>"Submit"</span>
                </A>
            </nav>
            <div class="side-foot">
                <LiveMark/>
                <ThemeSwitch/>
            </div>
        </header>
    }
}

#[component]
fn Icon(path: &'static str) -> impl IntoView {
    view! {
        <svg class="icon" viewBox="0 0 16 16" width="16" height="16" aria-hidden="true">
            <path d=path></path>
        </svg>
    }
}

#[component]
fn LiveMark() -> impl IntoView {
    let connection = expect_context::<Live>().connection;
    let words = move || match connection.get() {
        Connection::Connecting => ("tone-pending", "Connecting"),
        Connection::Open => ("tone-good", "Live"),
        Connection::Lost => ("tone-bad", "Offline"),
    };
    view! {
        <span class=move || format!("live-mark {}", words().0) role="status">{move || words().1}</span>
    }
}

#[component]
fn ThemeSwitch() -> impl IntoView {
    let chosen = RwSignal::new(Theme::remembered());
    let options: Vec<_> = Theme::ALL
        .into_iter()
        .map(|theme| {
            let (title, icon) = match theme {
                Theme::System => ("As the system", "M2.5 3h11v7.5h-11zM5.5 13.5h5"),
                Theme::Light => (
                    "Light",
                    "M8 5a3 3 0 1 1 0 6a3 3 0 1 1 0-6zM8 1v1.5M8 13.5v1.5M1 8h1.5M13.5 8h1.5M3 3l1 1M12 12l1 1M3 13l1-1M12 4l1-1",
                ),
                Theme::Dark => ("Dark", "M13 9.5a5.5 5.5 0 1 1-6.5-6.5a4.5 4.5 0 0 0 6.5 6.5z"),
            };
            view! {
                <label class="theme-option" title=title>
                    <input
                        type="radio"
                        name="theme"
                        value=theme.as_str()
                        class="visually-hidden"
                        prop:checked=move || chosen.get() == theme
                        on:change=move |_| {
                            chosen.set(theme);
                            theme.apply();
                        }
                    />
                    <Icon path=icon/>
                    <span class="visually-hidden">{title}</span>
                </label>
            }
        })
        .collect();
    view! {
        <fieldset class="theme-switch">
            <legend class="visually-hidden">"Theme"</legend>
            {options}
        </fieldset>
    }
}
