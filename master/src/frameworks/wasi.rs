//! WASI, closed: what a wasm32-wasip2 guest's standard library needs to start.
//!
//! No files, no sockets, no environment, no arguments. Clocks stand still at
//! the turn's time and randomness follows from the turn, so that a turn can be
//! run again. What a guest prints goes to its log.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use rand_core::TryRng;
use tepui_types::Timestamp;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};
use wasmtime_wasi::{HostMonotonicClock, HostWallClock, WasiCtx};

use super::limits;
use super::logs::Logs;

/// The turn that is going on, as WASI sees it.
#[derive(Debug, Clone, Default)]
pub struct Ambient(Arc<Values>);

#[derive(Debug, Default)]
struct Values {
    now_millis: AtomicU64,
    random: AtomicU64,
}

impl Ambient {
    /// Begins a turn.
    pub fn begin(&self, now: Timestamp, seed: u64) {
        self.0.now_millis.store(now.0, Ordering::Relaxed);
        self.0.random.store(seed, Ordering::Relaxed);
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.0.now_millis.load(Ordering::Relaxed))
    }

    /// SplitMix64 (Steele, Lea and Flood, 2014): enough for hash seeds and
    /// jitter; nothing secret is made of it.
    fn random(&self) -> u64 {
        const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self
            .0
            .random
            .fetch_add(GAMMA, Ordering::Relaxed)
            .wrapping_add(GAMMA);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// A context with nothing in it.
pub fn closed(ambient: &Ambient, logs: &Logs) -> WasiCtx {
    let mut builder = WasiCtx::builder();
    builder
        .wall_clock(ambient.clone())
        .monotonic_clock(ambient.clone())
        .secure_random(ambient.clone())
        .insecure_random(ambient.clone())
        .insecure_random_seed(0)
        .stdout(Output {
            level: "info",
            ambient: ambient.clone(),
            logs: logs.clone(),
        })
        .stderr(Output {
            level: "error",
            ambient: ambient.clone(),
            logs: logs.clone(),
        })
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false);
    builder.build()
}

impl HostWallClock for Ambient {
    fn resolution(&self) -> Duration {
        Duration::from_millis(1)
    }

    fn now(&self) -> Duration {
        Duration::from_millis(self.now().0)
    }
}

impl HostMonotonicClock for Ambient {
    fn resolution(&self) -> u64 {
        1_000_000
    }

    fn now(&self) -> u64 {
        self.now().0.saturating_mul(1_000_000)
    }
}

impl TryRng for Ambient {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((self.random() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.random())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for chunk in bytes.chunks_mut(8) {
            let random = self.random().to_le_bytes();
            chunk.copy_from_slice(&random[..chunk.len()]);
        }
        Ok(())
    }
}

/// Standard output or error: lines of the log.
#[derive(Clone)]
struct Output {
    level: &'static str,
    ambient: Ambient,
    logs: Logs,
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(Printer {
            output: self.clone(),
            line: Vec::new(),
        })
    }

    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(Printer {
            output: self.clone(),
            line: Vec::new(),
        })
    }
}

/// Collects what is printed into lines.
struct Printer {
    output: Output,
    line: Vec<u8>,
}

impl Printer {
    fn print(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            // What is longer than a line may be is cut by the log anyway.
            let room = (2 * limits::LOG_LINE_BYTES).saturating_sub(self.line.len());
            self.line.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.ends_with(b"\n") {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end();
        if !text.is_empty() {
            self.output
                .logs
                .write(self.output.ambient.now(), self.output.level, text);
        }
    }
}

impl Drop for Printer {
    fn drop(&mut self) {
        self.end_line();
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Printer {
    async fn ready(&mut self) {}
}

impl OutputStream for Printer {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.print(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(64 * 1024)
    }
}

impl AsyncWrite for Printer {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.print(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
