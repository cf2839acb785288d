//! The cluster's event stream: server-sent events, resumed where they broke.
//!
//! `tepui events` reads it. A lost connection is opened again with the last
//! sequence seen, so that nothing is missed and nothing comes twice.

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, StreamExt};
use reqwest::Method;
use tepui_types::api::event::{Event, Sequence};

use super::{Client, ClientError, Result};

/// The longest record that is read; a master's are a few hundred bytes.
const MAX_RECORD: usize = 256 * 1024;
/// How long a stream may be silent; masters send a comment well before.
const SILENCE: Duration = Duration::from_secs(60);
/// How often a lost connection is opened again in a row.
const MAX_LOST: u32 = 20;
/// The pause before that.
const PAUSE: Duration = Duration::from_millis(300);

type Chunks = Pin<Box<dyn Stream<Item = reqwest::Result<bytes::Bytes>> + Send>>;

/// An open stream of events.
pub struct EventStream<'a> {
    client: &'a Client,
    after: Option<Sequence>,
    chunks: Option<Chunks>,
    parser: Parser,
    ready: VecDeque<String>,
    lost: u32,
}

impl Client {
    /// The events after a sequence, or from now on.
    pub fn events(&self, after: Option<Sequence>) -> EventStream<'_> {
        EventStream {
            client: self,
            after,
            chunks: None,
            parser: Parser::default(),
            ready: VecDeque::new(),
            lost: 0,
        }
    }
}

impl EventStream<'_> {
    /// The next event. Waits as long as there is none.
    pub async fn next(&mut self) -> Result<Event> {
        loop {
            if let Some(data) = self.ready.pop_front() {
                let event: Event = serde_json::from_str(&data).map_err(|source| {
                    let path = "/v1/events".into();
                    ClientError::Answer { path, source }
                })?;
                self.after = Some(event.sequence);
                self.lost = 0;
                return Ok(event);
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> Result<()> {
        let Some(chunks) = &mut self.chunks else {
            match self.connect().await {
                Ok(chunks) => self.chunks = Some(chunks),
                Err(error) if error.is_connection() && self.may_try_again() => {
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(error),
            }
            return Ok(());
        };
        match tokio::time::timeout(SILENCE, chunks.next()).await {
            Ok(Some(Ok(chunk))) => self.ready.extend(self.parser.push(&chunk)),
            // Broken, ended or silent: the next round opens it again.
            Ok(Some(Err(_)) | None) | Err(_) => {
                self.chunks = None;
                self.parser = Parser::default();
            }
        }
        Ok(())
    }

    /// A first connection is tried once; one that worked before, many times.
    fn may_try_again(&mut self) -> bool {
        self.lost += 1;
        self.after.is_some() && self.lost <= MAX_LOST
    }

    async fn connect(&self) -> Result<Chunks> {
        let path = "/v1/events";
        let mut request = self.client.request(Method::GET, path);
        if let Some(after) = self.after {
            request = request.header("Last-Event-ID", after.to_string());
        }
        let response = self.client.open(request, path).await?;
        Ok(Box::pin(response.bytes_stream()))
    }
}

/// Cuts a byte stream into records and gives the data of each.
#[derive(Debug, Default)]
struct Parser {
    line: Vec<u8>,
    data: String,
}

impl Parser {
    fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut records = Vec::new();
        for &byte in bytes {
            if byte != b'\n' {
                if self.line.len() < MAX_RECORD {
                    self.line.push(byte);
                }
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches('\r');
            if line.is_empty() {
                if !self.data.is_empty() {
                    records.push(std::mem::take(&mut self.data));
                }
            } else if let Some(data) = line.strip_prefix("data:")
                && self.data.len() < MAX_RECORD
            {
                if !self.data.is_empty() {
                    self.data.push('\n');
                }
                self.data.push_str(data.strip_prefix(' ').unwrap_or(data));
            }
        }
        records
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_found_wherever_the_stream_is_cut() {
        let text = b": heartbeat\n\nid: 1.0\nevent: task\ndata: {\"a\":1}\n\ndata:x\r\ndata: y\r\n\r\ndata: half";
        let expected = ["{\"a\":1}".to_owned(), "x\ny".to_owned()];
        for size in 1..text.len() {
            let mut parser = Parser::default();
            let records: Vec<_> = text
                .chunks(size)
                .flat_map(|chunk| parser.push(chunk))
                .collect();
            assert_eq!(records, expected, "in pieces of {size}");
        }
    }
}
