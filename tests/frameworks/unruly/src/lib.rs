//! A framework that misbehaves on request: for the tests of what a guest cannot do.
//!
//! Its configuration says how it treats `start` (`start=trap`, `start=loop`,
//! `start=allocate`, `start=error`, `start=kill-strangers`). `POST /wake/{deed}` does a deed in the next
//! `handle`, any other `POST /{deed}` at once. `POST /add` counts in the store,
//! `GET /count` reads, and `POST /add-then-{deed}` counts before the deed.

use std::hint::black_box;
use std::time::Duration;

use tepui_sdk::http::{Request, Response};
use tepui_sdk::{Context, Launch, Offer, Scheduler, StartReason, TaskId, TaskSpec};
use tepui_types::api::job::default_resources;

/// The scheduler.
#[derive(Debug)]
pub struct Unruly;

impl Scheduler for Unruly {
    fn start(cx: &mut Context<'_>, _reason: StartReason, config: &str) -> Result<Self, String> {
        match config.split_once('=') {
            Some(("start", "error")) => Err("it was told not to start".into()),
            Some(("start", deed)) => {
                misbehave(cx, deed);
                Ok(Self)
            }
            _ => Ok(Self),
        }
    }

    fn on_offers(&mut self, cx: &mut Context<'_>, offers: Vec<Offer>) {
        let Some(offer) = offers.first() else { return };
        let request = default_resources();
        if let Ok(resources) = offer.resources.pick(&request) {
            let spec = TaskSpec::command(["true"]);
            let launched = cx.accept(offer.id, &spec, &[Launch::new("unruly", resources)]);
            if launched.is_ok() {
                add(cx);
                misbehave(cx, "trap");
            }
        }
        let rest: Vec<_> = offers.iter().map(|offer| offer.id).collect();
        let _ = cx.decline(&rest, None);
    }

    fn on_timer(&mut self, cx: &mut Context<'_>, deed: &str) {
        add(cx);
        misbehave(cx, deed);
    }

    fn on_request(&mut self, cx: &mut Context<'_>, request: Request) -> Response {
        let segments = request.segments();
        let path: Vec<&str> = segments.iter().map(String::as_str).collect();
        match (request.method.as_str(), path.as_slice()) {
            ("GET", ["count"]) => Response::text(200, count(cx).to_string()),
            ("GET", ["echo"]) => {
                let names: Vec<_> = request
                    .headers
                    .iter()
                    .map(|(name, _)| name.clone())
                    .collect();
                let page = format!("{} {}", request.principal, names.join(","));
                Response::text(200, page).header("set-cookie", "stolen=1")
            }
            ("POST", ["add"]) => {
                add(cx);
                Response::text(200, count(cx).to_string())
            }
            ("POST", ["launch-then-trap"]) => {
                let _ = cx.demand("unruly", 1, &default_resources());
                Response::text(200, "wanted")
            }
            ("POST", ["wake", deed]) => {
                let _ = cx.set_timer(deed, Duration::ZERO);
                Response::text(200, "set")
            }
            ("POST", ["fill"]) => Response::text(200, fill(cx)),
            ("POST", [deed]) => {
                let deed = match deed.strip_prefix("add-then-") {
                    Some(deed) => {
                        add(cx);
                        deed
                    }
                    None => deed,
                };
                misbehave(cx, deed);
                Response::text(200, "done")
            }
            _ => Response::not_found(&request),
        }
    }
}

fn count(cx: &mut Context<'_>) -> u64 {
    cx.get_as("count").ok().flatten().unwrap_or(0)
}

fn add(cx: &mut Context<'_>) {
    let next = count(cx) + 1;
    if let Err(error) = cx.set_as("count", &next) {
        cx.error(&error.to_string());
    }
}

/// Writes until the host refuses, and tells how it does.
fn fill(cx: &mut Context<'_>) -> String {
    let value = vec![7; 64 * 1024];
    for number in 0.. {
        if let Err(error) = cx.set(&format!("fill/{number}"), &value) {
            return error.to_string();
        }
    }
    String::new()
}

fn misbehave(cx: &mut Context<'_>, deed: &str) {
    cx.info(&format!("about to {deed}"));
    match deed {
        "trap" => panic!("a trap on request"),
        "loop" => {
            let mut turns = 0_u64;
            loop {
                turns = black_box(turns.wrapping_add(1));
            }
        }
        "allocate" => {
            let mut held = Vec::new();
            loop {
                held.push(black_box(vec![1_u8; 1024 * 1024]));
            }
        }
        "chatter" => {
            for line in 0..5_000 {
                cx.info(&format!("line {line}"));
            }
        }
        "kill-strangers" => kill_strangers(cx),
        _ => {}
    }
}

/// Kills tasks that never were until the host refuses; counts those kills and
/// keeps the refusal.
fn kill_strangers(cx: &mut Context<'_>) {
    for attempt in 0_u64.. {
        let stranger = TaskId {
            name: "stranger".into(),
            attempt,
        };
        if let Err(error) = cx.kill(&stranger, None) {
            let kept = cx.set("refusal", error.to_string().as_bytes());
            let kept = kept.and_then(|()| cx.set_as("count", &attempt));
            return kept.unwrap_or_else(|error| cx.error(&error.to_string()));
        }
    }
}

tepui_sdk::export!(Unruly);
