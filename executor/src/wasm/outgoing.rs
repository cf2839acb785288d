//! HTTP requests that guests send, to whom their task may connect.
//!
//! The addresses are looked up here and checked before anything is sent, so that a name cannot mean
//! another machine between the two. Redirections are the guest's to follow, and are checked again.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Bytes, Frame, Incoming, SizeHint};
use hyper::client::conn::http1;
use hyper::http::uri::Scheme;
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use wasmtime_wasi::runtime::{AbortOnDropJoinHandle, spawn};
use wasmtime_wasi_http::{Error, RequestOptions, WasiHttpHooks};

use crate::network::Network;
use crate::tls;

/// Connections of one task at once: each is a descriptor, and the process has some tens of
/// thousands.
const MAX_CONNECTIONS: usize = 256;
/// How long connecting, TLS included, may take where the guest does not say.
const CONNECT_PATIENCE: Duration = Duration::from_secs(30);
/// How long an answer and each part of it may take where the guest does not say: it can wait
/// elsewhere if it wants to wait longer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(600);

type Body = UnsyncBoxBody<Bytes, Error>;
type Sending = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Answer = Result<(Response<Body>, Sending), Error>;

/// The way out of one task.
#[derive(Debug, Clone)]
pub struct Outgoing {
    network: Arc<Network>,
    connections: Arc<Semaphore>,
}

impl Outgoing {
    /// No connections yet.
    pub fn new(network: Arc<Network>) -> Self {
        Self {
            network,
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        }
    }

    async fn send(self, mut request: Request<Body>, options: RequestOptions) -> Answer {
        let (host, port, secure) = target(request.uri())?;
        let addresses = self.network.addresses(&host, port).await;
        let addresses = addresses.map_err(|error| Error::DnsError {
            rcode: Some(error.to_string()),
            info_code: None,
        })?;
        if addresses.is_empty() {
            return Err(Error::HttpRequestDenied);
        }
        let permit = self.connections.try_acquire_owned();
        let permit = permit.map_err(|_| Error::ConnectionLimitReached)?;
        let patience = options.connect_timeout.unwrap_or(CONNECT_PATIENCE);
        let connect = connect(&host, &addresses, secure);
        let stream = timeout(patience, connect).await;
        let stream = stream.map_err(|_| Error::ConnectionTimeout)??;
        let handshake = http1::Builder::new().handshake(TokioIo::new(stream));
        let (mut sender, connection) = handshake.await?;
        // Dropped with whoever waits for it, it ends.
        let connection = spawn(drive(connection, permit));
        // A server is asked for a path; only proxies are told the rest again.
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = path.map_or_else(|| Uri::from_static("/"), Uri::from);
        let patience = options.first_byte_timeout.unwrap_or(ANSWER_PATIENCE);
        let response = timeout(patience, sender.send_request(request)).await;
        let response = response.map_err(|_| Error::ConnectionReadTimeout)??;
        let patience = options.between_bytes_timeout.unwrap_or(ANSWER_PATIENCE);
        let response = response.map(|body| Patient::new(body, patience).boxed_unsync());
        Ok((response, Box::new(finish(connection))))
    }
}

impl WasiHttpHooks for Outgoing {
    fn send_request(
        &mut self,
        request: Request<Body>,
        options: Option<RequestOptions>,
        _received: Sending,
    ) -> Box<dyn Future<Output = Answer> + Send> {
        Box::new(self.clone().send(request, options.unwrap_or_default()))
    }
}

/// Host, port, and whether by TLS.
fn target(uri: &Uri) -> Result<(String, u16, bool), Error> {
    let host = uri.host().filter(|host| !host.is_empty());
    let host = host.ok_or(Error::HttpRequestUriInvalid)?;
    let secure = uri.scheme() == Some(&Scheme::HTTPS);
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    Ok((host.to_owned(), port, secure))
}

async fn drive<S>(
    connection: http1::Connection<TokioIo<S>, Body>,
    _permit: OwnedSemaphorePermit,
) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    connection.await.map_err(Error::from)
}

async fn finish(connection: AbortOnDropJoinHandle<Result<(), Error>>) -> Result<(), Error> {
    connection.await
}

/// A stream to a server, whichever way it goes.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// To the first of the addresses that answers.
async fn connect(
    host: &str,
    addresses: &[std::net::SocketAddr],
    secure: bool,
) -> Result<Box<dyn Stream>, Error> {
    let stream = TcpStream::connect(addresses)
        .await
        .map_err(Error::Connect)?;
    // Without it, it is as good a connection, only less prompt.
    let _ = stream.set_nodelay(true);
    match secure {
        true => Ok(Box::new(tls::connect(host, stream).await?)),
        false => Ok(Box::new(stream)),
    }
}

/// A body whose parts come in time.
struct Patient {
    body: Incoming,
    patience: Duration,
    deadline: Pin<Box<Sleep>>,
}

impl Patient {
    fn new(body: Incoming, patience: Duration) -> Self {
        Self {
            body,
            patience,
            deadline: Box::pin(sleep_until(Instant::now() + patience)),
        }
    }
}

impl hyper::body::Body for Patient {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(frame) => {
                let deadline = Instant::now() + self.patience;
                self.deadline.as_mut().reset(deadline);
                Poll::Ready(frame.map(|frame| frame.map_err(Error::from)))
            }
            Poll::Pending => {
                let over = self.deadline.as_mut().poll(context);
                over.map(|()| Some(Err(Error::ConnectionReadTimeout)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
