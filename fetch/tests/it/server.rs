//! Servers: Python's, and one that answers as a test tells it and keeps what it was asked.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// `python3 -m http.server`.
pub struct Python {
    pub url: String,
    child: Child,
}

impl Python {
    pub fn serve(folder: &Path) -> Self {
        let arguments = ["-m", "http.server", "0", "--bind", "127.0.0.1"];
        Self::start(folder, &arguments, "http")
    }

    /// A server that a script makes, which says its port.
    pub fn script(folder: &Path, script: &str, argument: &str, scheme: &str) -> Self {
        Self::start(folder, &["-c", script, argument], scheme)
    }

    fn start(folder: &Path, arguments: &[&str], scheme: &str) -> Self {
        let mut child = Command::new("python3")
            .arg("-u")
            .args(arguments)
            .current_dir(folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut python = Self {
            url: String::new(),
            child,
        };
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let port = line.split("port ").nth(1).unwrap();
        let port = port.split(' ').next().unwrap();
        python.url = format!("{scheme}://127.0.0.1:{port}");
        python
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An answer, piece by piece.
#[derive(Debug, Default, Clone)]
pub struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
    /// Said, if not the body's.
    length: Option<usize>,
    end: End,
}

#[derive(Debug, Default, Clone, Copy)]
enum End {
    #[default]
    Close,
    Silence,
    Endless,
}

impl Answer {
    pub fn status(status: u16) -> Self {
        Self {
            status,
            ..Self::default()
        }
    }

    pub fn body(body: impl Into<Vec<u8>>) -> Self {
        Self {
            body: body.into(),
            ..Self::status(200)
        }
    }

    pub fn head(mut self, line: impl AsRef<str>) -> Self {
        self.head += &format!("{}\r\n", line.as_ref());
        self
    }

    /// Only so many bytes of what it says to send.
    pub fn cut(mut self, at: usize) -> Self {
        self.length = Some(self.body.len());
        self.body.truncate(at);
        self
    }

    /// Says that it is a part.
    pub fn partial(mut self) -> Self {
        self.status = 206;
        self
    }

    /// And then nothing, with the connection open.
    pub fn stall(mut self) -> Self {
        self.end = End::Silence;
        self
    }

    pub fn endless() -> Self {
        Self {
            end: End::Endless,
            ..Self::status(200)
        }
    }

    async fn send(self, stream: &mut TcpStream) -> std::io::Result<()> {
        let mut head = format!("HTTP/1.1 {} x\r\nconnection: close\r\n", self.status);
        if !matches!(self.end, End::Endless) {
            let length = self.length.unwrap_or(self.body.len());
            head += &format!("content-length: {length}\r\n");
        }
        head += &format!("{}\r\n", self.head);
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&self.body).await?;
        match self.end {
            End::Close => stream.shutdown().await,
            // Until the caller goes.
            End::Silence => stream.read_u8().await.map(drop),
            End::Endless => loop {
                stream.write_all(&[b' '; 64 * 1024]).await?;
            },
        }
    }
}

type Script = dyn Fn(&str, usize) -> Answer + Send + Sync;

/// A server that does as it is told.
pub struct Scripted {
    pub url: String,
    heads: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Scripted {
    /// `script` is given a request's head in lower case, and how many came before.
    pub async fn start(script: impl Fn(&str, usize) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let heads = Arc::new(Mutex::new(Vec::new()));
        let (seen, script) = (heads.clone(), Arc::new(script) as Arc<Script>);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, script.clone(), seen.clone()));
            }
        });
        Self { url, heads, task }
    }

    /// What was asked.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }

    pub fn asked(&self) -> usize {
        self.heads().len()
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.url)
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, script: Arc<Script>, seen: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let before = {
        let mut seen = seen.lock().unwrap();
        seen.push(head.clone());
        seen.len() - 1
    };
    // A caller that has gone is no failure of the server.
    let _ = script(&head, before).send(&mut stream).await;
}
