//! Which routes a master serves: those of a candidate, and from its place in a cluster on, all.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::extract::connect_info::IntoMakeServiceWithConnectInfo;
use axum::http::{Method, header};
use axum::response::Response;
use futures::stream;
use tower::ServiceExt as _;

/// The routes behind one listener; clones share them.
#[derive(Clone)]
pub struct Door(Arc<ArcSwap<Router>>);

impl Door {
    /// With these routes at first.
    pub fn new(router: Router) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(router)))
    }

    /// Serves these from now on.
    pub fn open(&self, router: Router) {
        self.0.store(Arc::new(router));
    }

    /// What a listener serves.
    pub fn service(&self) -> IntoMakeServiceWithConnectInfo<Router, SocketAddr> {
        let door = self.0.clone();
        let router = Router::new().fallback(move |request: Request| {
            let router = Router::clone(&door.load());
            answer(router, request)
        });
        router.into_make_service_with_connect_info::<SocketAddr>()
    }
}

/// What the routes answer. To a HEAD they do so without a body: where they do not say how long it
/// would be, nobody does, or it would seem to be empty.
async fn answer(router: Router, request: Request) -> Result<Response, Infallible> {
    let is_head = request.method() == Method::HEAD;
    let mut response = router.oneshot(request).await?;
    if is_head && !response.headers().contains_key(header::CONTENT_LENGTH) {
        *response.body_mut() = Body::from_stream(stream::empty::<Result<Bytes, Infallible>>());
    }
    Ok(response)
}
