//! A proxy before a master: whatever anyone says to the master through it comes late, and so do its
//! answers. Nothing is lost, and nothing overtakes what was said before it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Bytes that are taken in at once.
const PORTION: usize = 16 * 1024;
/// Portions on their way in one direction of one connection; then its sender waits.
const ON_THEIR_WAY: usize = 1_024;

/// A listening proxy; dropping it closes its address, and leaves connections be.
#[derive(Debug)]
pub struct Proxy {
    address: String,
    delay_ms: Arc<AtomicU64>,
    listening: JoinHandle<()>,
}

impl Proxy {
    /// Listens for connections to `target`, which need not be there yet.
    pub async fn before(target: String) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let delay_ms: Arc<AtomicU64> = Arc::default();
        let delay = delay_ms.clone();
        let listening = tokio::spawn(async move {
            while let Ok((caller, _)) = listener.accept().await {
                tokio::spawn(serve(caller, target.clone(), delay.clone()));
            }
        });
        Ok(Self {
            address,
            delay_ms,
            listening,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// From now on everything comes so much later, each way.
    pub fn delay(&self, delay: Duration) {
        let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.delay_ms.store(millis, Ordering::Relaxed);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

async fn serve(caller: TcpStream, target: String, delay_ms: Arc<AtomicU64>) {
    // Who is not there refuses; so does the proxy, by hanging up.
    let Ok(callee) = TcpStream::connect(target).await else {
        return;
    };
    let ((from, to), (back_from, back_to)) = (caller.into_split(), callee.into_split());
    tokio::join!(
        carry(from, back_to, delay_ms.clone()),
        carry(back_from, to, delay_ms),
    );
}

/// One direction, to its end.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay_ms: Arc<AtomicU64>) {
    let (sender, mut portions) = mpsc::channel::<(Instant, Vec<u8>)>(ON_THEIR_WAY);
    let reading = async move {
        let mut buffer = vec![0; PORTION];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            let delay = Duration::from_millis(delay_ms.load(Ordering::Relaxed));
            let portion = (Instant::now() + delay, buffer[..read].to_vec());
            if sender.send(portion).await.is_err() {
                return;
            }
        }
    };
    let writing = async move {
        while let Some((due, portion)) = portions.recv().await {
            // sleep: that is what it is for.
            tokio::time::sleep_until(due).await;
            if to.write_all(&portion).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(reading, writing);
}
