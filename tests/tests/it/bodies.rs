//! Bodies that are too large, from a client that reads nothing before it has written all.

use tepui_tests::{Answer, Cluster};
use tepui_types::Digest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Result;

/// Far above what any of these routes takes, and above what sockets hold.
const HUGE: usize = 64 * 1024 * 1024;
/// Room for the frameworks of these tests.
const MAX_ARTIFACT: u64 = 16 * 1024 * 1024;
/// What is written at once.
const CHUNK: usize = 64 * 1024;

/// A connection without a client's manners.
struct Connection {
    stream: TcpStream,
    host: String,
}

impl Connection {
    async fn open(cluster: &Cluster) -> anyhow::Result<Self> {
        let host = cluster.url().trim_start_matches("http://").to_owned();
        let stream = TcpStream::connect(&host).await?;
        Ok(Self { stream, host })
    }

    async fn head(&mut self, request: &str, headers: &str) -> anyhow::Result<()> {
        let host = &self.host;
        let head = format!("{request} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n");
        Ok(self.stream.write_all(head.as_bytes()).await?)
    }

    /// A huge body, and only then the answer.
    async fn send(
        &mut self,
        request: &str,
        headers: &str,
        chunked: bool,
    ) -> anyhow::Result<Answer> {
        let length = match chunked {
            true => "Transfer-Encoding: chunked\r\n".to_owned(),
            false => format!("Content-Length: {HUGE}\r\n"),
        };
        self.head(request, &format!("{headers}{length}")).await?;
        let data = vec![b' '; CHUNK];
        for _ in 0..HUGE / CHUNK {
            if chunked {
                self.chunk(&data).await?;
            } else {
                self.stream.write_all(&data).await?;
            }
        }
        if chunked {
            self.stream.write_all(b"0\r\n\r\n").await?;
        }
        self.answer().await
    }

    async fn chunk(&mut self, data: &[u8]) -> std::io::Result<()> {
        let size = format!("{:x}\r\n", data.len());
        self.stream.write_all(size.as_bytes()).await?;
        self.stream.write_all(data).await?;
        self.stream.write_all(b"\r\n").await
    }

    async fn answer(&mut self) -> anyhow::Result<Answer> {
        let mut bytes = Vec::new();
        loop {
            if let Some(answer) = Answer::parse(&bytes)? {
                return Ok(answer);
            }
            if self.stream.read_buf(&mut bytes).await? == 0 {
                let said = String::from_utf8_lossy(&bytes);
                anyhow::bail!("the connection ended after {said:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_sends_too_much_is_told_so() -> Result {
    let cluster = Cluster::new()
        .agents(0)
        .master_flag("--max-artifact-bytes", &MAX_ARTIFACT.to_string())
        .start()
        .await?;
    let json = "Content-Type: application/json\r\n";
    let artifact = format!("PUT /v1/artifacts/{}", Digest::of(b"another"));
    for (request, headers) in [
        ("POST /v1/frameworks", json),
        ("POST /frameworks/batch/jobs", json),
        (artifact.as_str(), ""),
        (artifact.as_str(), "Connection: close\r\n"),
    ] {
        for chunked in [false, true] {
            let mut connection = Connection::open(&cluster).await?;
            let answer = connection.send(request, headers, chunked).await;
            let answer = answer.unwrap_or_else(|error| panic!("{request} {chunked}: {error:#}"));
            assert_eq!(answer.status, 413, "{request}: {}", answer.text());
            let problem = answer.problem();
            assert_eq!(problem.code, "too-large");
            assert!(problem.detail.contains("at most"), "{problem:?}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_nobody_wants_leaves_its_connection_as_it_was() -> Result {
    let cluster = Cluster::new().agents(0).start().await?;
    let mut connection = Connection::open(&cluster).await?;
    for (request, headers, status) in [
        ("GET /healthz", "", 200),
        ("POST /frameworks/nobody/x", "", 404),
        ("POST /v1/cluster", "", 405),
        (
            "POST /v1/frameworks",
            "Origin: http://evil.example\r\n",
            403,
        ),
        ("POST /v1/frameworks", "Authorization: Bearer x\r\n", 401),
    ] {
        let answer = connection.send(request, headers, true).await?;
        assert_eq!(answer.status, status, "{request}: {}", answer.text());
    }
    connection.head("GET /healthz", "").await?;
    assert_eq!(connection.answer().await?.status, 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_first_sends_nothing_in_vain() -> Result {
    let cluster = Cluster::new().agents(0).start().await?;
    let asks = "Content-Type: application/json\r\nExpect: 100-continue\r\n";
    let mut connection = Connection::open(&cluster).await?;
    let length = format!("{asks}Content-Length: {HUGE}\r\n");
    connection.head("POST /v1/frameworks", &length).await?;
    let answer = connection.answer().await?;
    assert_eq!(answer.status, 413, "{}", answer.text());
    assert_eq!(answer.headers["connection"], "close");

    let mut connection = Connection::open(&cluster).await?;
    let length = format!("{asks}Content-Length: 2\r\n");
    connection.head("POST /v1/frameworks", &length).await?;
    assert_eq!(connection.answer().await?.status, 100, "it is asked for");
    connection.stream.write_all(b"{}").await?;
    assert_eq!(connection.answer().await?.status, 422);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_without_an_end_ends_with_its_connection() -> Result {
    let cluster = Cluster::new().agents(0).start().await?;
    let mut connection = Connection::open(&cluster).await?;
    let chunked = "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n";
    connection.head("POST /v1/frameworks", chunked).await?;
    let data = vec![b' '; 1024 * 1024];
    let mut written = 0;
    while connection.chunk(&data).await.is_ok() {
        written += 1;
        assert!(written < 4096, "4 GiB were taken");
    }
    assert!(cluster.client().ready().await);
    Ok(())
}
