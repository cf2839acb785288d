//! A caller's connection that has changed protocols, joined with another.

use std::io::Cursor;

use bytes::Bytes;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;

/// Passes on what both say. Either may go at any time; the other then reads an end.
///
/// The task's agent asks all the time whether the caller is there, by writing: one that has gone without a
/// word, or takes nothing for as long as agents wait, is given up.
pub async fn join(caller: Upgraded, other: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    let done = match own(caller) {
        Ok((caller, first)) => {
            if let Err(error) = tepui_lifeline::give_up(&caller) {
                tracing::debug!(%error, "a caller is not given up");
            }
            let (read, write) = caller.into_split();
            let mut caller = tokio::io::join(Cursor::new(first).chain(read), write);
            tokio::io::copy_bidirectional(&mut caller, other).await
        }
        Err(caller) => tokio::io::copy_bidirectional(&mut TokioIo::new(caller), other).await,
    };
    if let Err(error) = done {
        tracing::debug!(%error, "a caller has gone, or whom it spoke to");
    }
}

/// The connection itself, and what has already come over it; the caller again if it came over another.
fn own(caller: Upgraded) -> Result<(TcpStream, Bytes), Upgraded> {
    let parts = auto::upgrade::downcast::<TokioIo<TcpStream>>(caller)?;
    Ok((parts.io.into_inner(), parts.read_buf))
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::extract::Request;
    use axum::routing::any;
    use axum::serve::ListenerExt as _;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    use super::*;
    use crate::agents::switching;

    #[tokio::test]
    async fn a_callers_own_connection_is_found_with_what_has_come_over_it() {
        let (found, mut finds) = mpsc::channel(1);
        let upgraded = async move |mut request: Request| {
            let upgrade = hyper::upgrade::on(&mut request);
            let found = found.clone();
            tokio::spawn(async move {
                let caller = own(upgrade.await.unwrap());
                let _ = found.send(caller.map_err(drop)).await;
            });
            switching("tepui-stream/1")
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let listener = listener.tap_io(|connection| connection.set_nodelay(true).unwrap());
        let router = Router::new().route("/", any(upgraded));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let mut caller = TcpStream::connect(address).await.unwrap();
        let head =
            "GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: tepui-stream/1\r\n\r\n";
        caller.write_all(head.as_bytes()).await.unwrap();
        caller.write_all(b"early").await.unwrap();
        let (mut theirs, first) = finds.recv().await.unwrap().unwrap();
        assert_eq!(theirs.peer_addr().unwrap(), caller.local_addr().unwrap());
        let mut said = first.to_vec();
        while said.len() < 5 {
            theirs.read_buf(&mut said).await.unwrap();
        }
        assert_eq!(said, b"early");
    }
}
