//! A `wasi:http` service: it listens on the first of its task's ports, gives each request an
//! instance, and ends when it is killed.
//!
//! What is beyond its bounds waits: connections in the kernel, requests on their connections. At its
//! end it takes no more of either, and what runs may finish within the grace. A request that traps
//! is answered and counted; it ends nothing but itself.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::sockopt;
use tepui_types::task::reason;
use tepui_types::{Reason, TaskState};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wasmtime_wasi_http::p2::bindings::ProxyPre;

use crate::guest::Guest;
use crate::kill::Kill;
use crate::program::ComponentState;
use crate::request;
use crate::verdict::{self, Verdict};

/// Connections of one service, most of them idle between requests; about 10 KiB each. The kernel
/// keeps later ones waiting.
const MAX_CONNECTIONS: usize = 1_024;
/// How long a connection may take over the head of a request, and stay without one.
const HEAD_PATIENCE: Duration = Duration::from_secs(60);
/// What of a request's head is read before it is refused.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// How long bytes may wait for a client that takes none, before it is hung up on.
const STALLED_CLIENT: Duration = Duration::from_secs(30);
/// Between two attempts to accept when the machine has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A service that runs.
pub struct Service {
    /// Its task.
    pub guest: Arc<Guest>,
    /// Its program.
    pub code: ProxyPre<ComponentState>,
    /// How long a request may take.
    pub timeout: Duration,
    /// As many as may run at once.
    pub slots: Arc<Semaphore>,
    /// One request at a time makes its instance.
    pub instantiating: Mutex<()>,
    /// Those that run.
    pub requests: TaskTracker,
    /// No more time for what runs.
    pub cut: CancellationToken,
    /// What it has done.
    pub count: Count,
    /// No more requests.
    closing: CancellationToken,
}

/// What a service has done.
#[derive(Debug, Default)]
pub struct Count {
    /// Requests that had an instance.
    pub requests: AtomicU64,
    /// Those that trapped.
    pub traps: AtomicU64,
}

/// Serves until it is killed, or cannot begin to.
pub async fn run(guest: &Arc<Guest>, code: &ProxyPre<ComponentState>, kill: &Kill) -> Verdict {
    let listener = match listen(guest).await {
        Ok(listener) => listener,
        Err(verdict) => return verdict,
    };
    let options = guest.workload.options.clone().unwrap_or_default();
    let service = Arc::new(Service {
        guest: guest.clone(),
        code: code.clone(),
        timeout: Duration::from_millis(options.request_timeout_ms()),
        slots: Arc::new(Semaphore::new(options.concurrency() as usize)),
        instantiating: Mutex::new(()),
        requests: TaskTracker::new(),
        cut: CancellationToken::new(),
        count: Count::default(),
        closing: CancellationToken::new(),
    });
    guest.say_running().await;
    let mut connections = JoinSet::new();
    accept(&service, &listener, &mut connections, kill).await;
    drop(listener);
    service.closing.cancel();
    service.requests.close();
    let finished = async {
        while connections.join_next().await.is_some() {}
        service.requests.wait().await;
    };
    tokio::select! {
        biased;
        () = finished => {}
        () = kill.forced() => {}
    }
    service.cut.cancel();
    connections.shutdown().await;
    service.requests.wait().await;
    service.verdict(kill)
}

/// The socket, before anyone is told that it runs.
async fn listen(guest: &Guest) -> Result<TcpListener, Verdict> {
    let resources = &guest.launch().resources;
    let Some(port) = resources.ports.iter().next() else {
        let message = "the program is a wasi:http service, and its task has no port to be reached \
                       on: ask for one with `--ports 1`";
        return Err(verdict::error(Reason::new(reason::PORT_MISSING, message)));
    };
    let options = guest.workload.options.clone().unwrap_or_default();
    let address = SocketAddr::new(options.address(), port);
    TcpListener::bind(address)
        .await
        .map_err(|error| match error.kind() {
            // Its own ports are nobody else's, so this passes: it may be tried again.
            io::ErrorKind::AddrInUse => {
                let message = format!(
                    "port {port} is taken: something outside of Tepui listens on {address}, or a \
                     task that has not ended yet"
                );
                let reason = Reason::new(reason::PORT_TAKEN, message);
                (TaskState::Failed, Some(reason), None)
            }
            _ => {
                let message = format!("the service cannot listen on {address}: {error}");
                verdict::error(Reason::new(reason::EXECUTOR_FAILED, message))
            }
        })
}

/// Takes connections until the end is asked for.
async fn accept(
    service: &Arc<Service>,
    listener: &TcpListener,
    connections: &mut JoinSet<()>,
    kill: &Kill,
) {
    loop {
        tokio::select! {
            biased;
            () = kill.asked() => return,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    let connection = serve(service.clone(), stream);
                    connections.spawn(service.guest.counters.cpu.charge(connection));
                }
                Err(error) => {
                    tracing::warn!(%error, "a service's connection was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// One connection, request after request.
async fn serve(service: Arc<Service>, stream: TcpStream) {
    // Without these it is as good a connection, only less prompt to write and to give up.
    let _ = stream.set_nodelay(true);
    let _ = sockopt::set_tcp_user_timeout(&stream, STALLED_CLIENT.as_millis() as u32);
    let handle = |request| {
        let service = service.clone();
        async move { Ok::<_, std::convert::Infallible>(request::answer(&service, request).await) }
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service_fn(handle));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = service.closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // Clients hang up whenever they like, and guests end in the middle of an answer.
        tracing::debug!(%error, "a service's connection has broken");
    }
}

impl Service {
    fn verdict(&self, kill: &Kill) -> Verdict {
        let (state, reason, exit_code) = verdict::killed(kill.reason());
        let requests = self.count.requests.load(Ordering::Relaxed);
        let traps = self.count.traps.load(Ordering::Relaxed);
        let reason = reason.map(|reason| {
            let message = format!(
                "{}; it had taken {requests} requests, {traps} of which trapped",
                reason.message
            );
            Reason::new(&reason.code, message)
        });
        (state, reason, exit_code)
    }
}
