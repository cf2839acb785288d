//! One request to a service: a place, an instance, an answer.
//!
//! The instance goes on after the head of its answer is sent, until it returns or the time of the
//! request is over; then what is left of the answer's body never comes, and the connection breaks. A
//! request waits for what it needs before it has an instance: its turn, a place in the process,
//! memory of its task.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HOST, RETRY_AFTER};
use hyper::{Request, Response, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, SemaphorePermit, oneshot};
use tokio::time::{Instant, timeout_at};
use wasmtime::Store;
use wasmtime_wasi_http::p2::bindings::Proxy;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::{Error, WasiHttpView};

use crate::program::{ComponentState, words};
use crate::service::Service;

/// A body, of the guest's or of ours.
pub type Body = UnsyncBoxBody<Bytes, Error>;
type Sender = oneshot::Sender<Result<Response<Body>, ErrorCode>>;

/// What became of a request's instance.
enum Outcome {
    /// The guest returned.
    Returned,
    /// It trapped, or had no instance.
    Failed,
    /// Its time was over, or its service's.
    Cut,
}

/// The answer to `request`, whatever becomes of it.
pub async fn answer(service: &Arc<Service>, request: Request<Incoming>) -> Response<Body> {
    if request.uri().authority().is_none() && !request.headers().contains_key(HOST) {
        return plain(StatusCode::BAD_REQUEST, "the request names no host");
    }
    let deadline = Instant::now() + service.timeout;
    let Ok(Ok(slot)) = timeout_at(deadline, service.slots.clone().acquire_owned()).await else {
        return busy("as many requests run as this service takes at once");
    };
    let (sender, receiver) = oneshot::channel();
    let running = run(service.clone(), request, sender, slot, deadline);
    let running = service
        .requests
        .spawn(service.guest.counters.cpu.charge(running));
    match receiver.await {
        Ok(Ok(response)) => return response,
        Ok(Err(error)) => {
            let message = format!("the service answered with an error: {error:?}");
            return plain(StatusCode::INTERNAL_SERVER_ERROR, &message);
        }
        Err(_) => {}
    }
    match running.await {
        Ok(Outcome::Returned) => plain(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the service returned without an answer",
        ),
        Ok(Outcome::Failed) | Err(_) => plain(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the service failed in this request; its standard error says how",
        ),
        Ok(Outcome::Cut) => plain(
            StatusCode::GATEWAY_TIMEOUT,
            "the service did not answer in time",
        ),
    }
}

async fn run(
    service: Arc<Service>,
    request: Request<Incoming>,
    sender: Sender,
    _slot: OwnedSemaphorePermit,
    deadline: Instant,
) -> Outcome {
    service.count.requests.fetch_add(1, Ordering::Relaxed);
    let handled = tokio::select! {
        biased;
        () = service.cut.cancelled() => return Outcome::Cut,
        () = tokio::time::sleep_until(deadline) => return Outcome::Cut,
        handled = handle(&service, request, sender) => handled,
    };
    match handled {
        Ok(()) => Outcome::Returned,
        Err(why) => {
            service.count.traps.fetch_add(1, Ordering::Relaxed);
            service
                .guest
                .stderr
                .say(format_args!("a request failed: {why}"));
            Outcome::Failed
        }
    }
}

/// Gives the request to an instance of its own; says how that failed.
async fn handle(
    service: &Service,
    request: Request<Incoming>,
    sender: Sender,
) -> Result<(), String> {
    let (mut store, proxy, _place) = instantiate(service).await?;
    let mut http = store.data_mut().http();
    let said = |error: wasmtime::Error| words(&error);
    let request = http
        .new_incoming_request(Scheme::Http, request)
        .map_err(said)?;
    let out = http.new_response_outparam(sender).map_err(said)?;
    let handler = proxy.wasi_http_incoming_handler();
    let handled = handler.call_handle(&mut store, request, out).await;
    handled.map_err(|error| match store.data().memory.refused() {
        Some(wanted) => format!(
            "it wanted {wanted} of memory for all its requests, and its limit is {}: {}",
            store.data().memory.limit(),
            words(&error)
        ),
        None => words(&error),
    })
}

type Instance<'a> = (Store<ComponentState>, Proxy, SemaphorePermit<'a>);

/// An instance, when there is a place and memory for it. Memory that other requests have, it waits
/// for; what the task could never have is an error. One at a time tries, so what it lacks is with
/// those that run, whose ends it hears.
async fn instantiate(service: &Service) -> Result<Instance<'_>, String> {
    let guest = &service.guest;
    // First: at most one of a service waits with a place that others want.
    let _turn = service.instantiating.lock().await;
    let place = guest.host.request_places.acquire().await;
    let place = place.map_err(|closed| closed.to_string())?;
    loop {
        let mut released = pin!(guest.counters.memory.released().notified());
        released.as_mut().enable();
        let wasi = guest.wasi().map_err(|reason| reason.message)?;
        let mut store = guest.store(guest.component_state(wasi), |state| &mut state.memory);
        let error = match service.code.instantiate_async(&mut store).await {
            Ok(proxy) => {
                guest.counters.add_instance();
                return Ok((store, proxy, place));
            }
            Err(error) => error,
        };
        let memory = &mut store.data_mut().memory;
        match memory.refused() {
            None => return Err(words(&error)),
            Some(wanted) if memory.is_too_much() => {
                let limit = memory.limit();
                return Err(format!(
                    "it wanted {wanted} of memory, and its limit is {limit}"
                ));
            }
            Some(_) => {
                memory.was_in_vain();
                drop(store);
                released.await;
            }
        }
    }
}

fn busy(why: &str) -> Response<Body> {
    let mut response = plain(StatusCode::SERVICE_UNAVAILABLE, why);
    let soon = hyper::header::HeaderValue::from_static("1");
    response.headers_mut().insert(RETRY_AFTER, soon);
    response
}

/// An answer of ours.
fn plain(status: StatusCode, message: &str) -> Response<Body> {
    let body = Full::new(Bytes::from(format!("{message}\n")));
    let body = body.map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let text = hyper::header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, text);
    response
}
