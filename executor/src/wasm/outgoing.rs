//! HTTP requests that guests send.

use std::future::Future;

use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Bytes;
use wasmtime_wasi_http::{Error, RequestOptions, WasiHttpHooks};

type Body = UnsyncBoxBody<Bytes, Error>;
type Sending = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Answer = Result<(hyper::Response<Body>, Sending), Error>;

/// What becomes of a guest's requests.
#[derive(Debug)]
pub struct Outgoing;

impl WasiHttpHooks for Outgoing {
    fn send_request(
        &mut self,
        _request: hyper::Request<Body>,
        _options: Option<RequestOptions>,
        _received: Sending,
    ) -> Box<dyn Future<Output = Answer> + Send> {
        Box::new(async { Err(Error::HttpRequestDenied) })
    }
}
