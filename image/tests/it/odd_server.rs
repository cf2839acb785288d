//! A server that does what no good registry does: it answers by a script, and keeps what it was asked.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tepui_types::image::ImageRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::fixture::World;

/// What was asked.
#[derive(Debug, Clone)]
pub struct Request {
    pub path: String,
    /// The whole head, in lower case.
    pub head: String,
}

impl Request {
    /// Where the rest of something is to begin.
    pub fn from(&self) -> Option<usize> {
        let rest = self.head.split("range: bytes=").nth(1)?;
        rest.split('-').next()?.parse().ok()
    }

    /// As whom the server was asked.
    pub fn host(&self) -> &str {
        let rest = self.head.split("host: ").nth(1).unwrap();
        rest.split("\r\n").next().unwrap()
    }

    pub fn has(&self, text: &str) -> bool {
        self.head.contains(text)
    }
}

/// What is answered.
pub enum Answer {
    Status(u16, String),
    Body(Vec<u8>),
    /// The rest of something.
    Rest(Vec<u8>, usize),
    /// So many bytes, and then the connection is closed.
    Cut(Vec<u8>, usize),
    /// So many bytes, and then nothing.
    Stall(Vec<u8>, usize),
    /// Nothing at all.
    Silence,
    /// Bytes without end.
    Endless,
}

/// A layout with one image of one layer.
pub fn layout(world: &World) -> PathBuf {
    world.layout("layout").busybox("a").folder.clone()
}

/// What a server has of it.
pub fn image(server: &OddServer) -> ImageRef {
    format!("{}/x:1", server.address).parse().unwrap()
}

type Script = dyn Fn(&Request, usize) -> Answer + Send + Sync;

pub struct OddServer {
    pub address: String,
    requests: Arc<Mutex<Vec<Request>>>,
    task: JoinHandle<()>,
}

impl OddServer {
    /// `script` is given a request, and how often its path was asked before.
    pub async fn start(script: impl Fn(&Request, usize) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, script) = (requests.clone(), Arc::new(script) as Arc<Script>);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, script.clone(), seen.clone()));
            }
        });
        Self {
            address,
            requests,
            task,
        }
    }

    /// What was asked for whose path holds this.
    pub fn requests(&self, part: &str) -> Vec<Request> {
        let requests = self.requests.lock().unwrap();
        requests
            .iter()
            .filter(|request| request.path.contains(part))
            .cloned()
            .collect()
    }
}

impl Drop for OddServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, script: Arc<Script>, seen: Arc<Mutex<Vec<Request>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let request = Request {
        path: head.split(' ').nth(1).unwrap().to_owned(),
        head: head.to_lowercase(),
    };
    let before = {
        let mut seen = seen.lock().unwrap();
        let before = seen
            .iter()
            .filter(|other| other.path == request.path)
            .count();
        seen.push(request.clone());
        before
    };
    // A caller that has gone is no failure of the server.
    let _ = answer(&mut stream, script(&request, before)).await;
}

async fn answer(stream: &mut TcpStream, answer: Answer) -> std::io::Result<()> {
    let head = |status: &str, length: usize, more: &str| {
        format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n{more}\r\n")
    };
    match answer {
        Answer::Status(status, more) => {
            stream
                .write_all(head(&format!("{status} x"), 0, &more).as_bytes())
                .await
        }
        Answer::Body(bytes) => {
            stream
                .write_all(head("200 OK", bytes.len(), "").as_bytes())
                .await?;
            stream.write_all(&bytes).await
        }
        Answer::Rest(bytes, from) => {
            let range = format!("content-range: bytes {from}-{}/{0}\r\n", bytes.len());
            let rest = &bytes[from..];
            let head = head("206 Partial Content", rest.len(), &range);
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(rest).await
        }
        Answer::Cut(bytes, at) => {
            stream
                .write_all(head("200 OK", bytes.len(), "").as_bytes())
                .await?;
            stream.write_all(&bytes[..at]).await
        }
        Answer::Stall(bytes, at) => {
            stream
                .write_all(head("200 OK", bytes.len(), "").as_bytes())
                .await?;
            stream.write_all(&bytes[..at]).await?;
            // Until the caller goes.
            stream.read_u8().await.map(|_| ())
        }
        Answer::Silence => stream.read_u8().await.map(|_| ()),
        Answer::Endless => {
            let head = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n";
            stream.write_all(head.as_bytes()).await?;
            loop {
                stream.write_all(&[b' '; 64 * 1024]).await?;
            }
        }
    }
}

/// What a good registry answers, out of a layout folder whose index has one image.
pub fn good(folder: &Path, request: &Request) -> Answer {
    let index = std::fs::read_to_string(folder.join("index.json")).unwrap();
    let only = index.split("sha256:").nth(1).map(|rest| &rest[..64]);
    let hex = match request.path.rsplit_once("sha256:") {
        Some((_, hex)) => hex,
        None if request.path.contains("/manifests/") => only.unwrap(),
        None => return Answer::Body(Vec::new()),
    };
    match std::fs::read(folder.join("blobs/sha256").join(hex)) {
        Ok(bytes) => Answer::Body(bytes),
        Err(_) => Answer::Status(404, String::new()),
    }
}

/// Whether a request is for something as large as a layer.
pub fn is_layer(folder: &Path, request: &Request) -> bool {
    match good(folder, request) {
        Answer::Body(bytes) => bytes.len() > 100_000,
        _ => false,
    }
}
