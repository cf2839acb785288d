//! A server on loopback, and those who ask it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use tepui_discovery::{Directory, DnsConfig, DnsServer, Entry, Port, Protocol, Published};
use tepui_types::{AgentId, FrameworkId, TaskId, TaskName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// Much longer than anything here takes; what never comes ends a test with its message.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// A server and its directory.
pub struct Host {
    pub server: DnsServer,
    pub address: SocketAddr,
    pub published: Arc<Published>,
    pub directory: Directory,
}

pub fn config() -> DnsConfig {
    DnsConfig::new(vec![loopback()])
}

pub fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

impl Host {
    pub async fn new(config: &DnsConfig) -> Self {
        let published = Arc::new(Published::new());
        let server = DnsServer::start(config, published.clone()).await.unwrap();
        Self {
            address: server.addresses()[0],
            server,
            published,
            directory: Directory::new(),
        }
    }

    /// With a service `web` of `instances` tasks.
    pub async fn with_web(config: &DnsConfig, instances: u32) -> Self {
        let mut host = Self::new(config).await;
        for n in 0..instances {
            host.directory.put(web(n));
        }
        host.published.publish(&host.directory);
        host
    }
}

pub fn web(n: u32) -> Entry {
    Entry {
        id: TaskId {
            framework: FrameworkId(1),
            name: TaskName::new(format!("web-{n}")).unwrap(),
            attempt: u64::from(n),
        },
        name: format!("web-{n}"),
        framework: "batch".to_string(),
        service: Some("web".to_string()),
        agent: AgentId(1),
        hostname: "node-1".to_string(),
        addresses: vec![IpAddr::from((0x0a00_0000 + n).to_be_bytes())],
        ports: vec![Port {
            number: 80,
            name: Some("http".to_string()),
            protocol: Protocol::Tcp,
        }],
        running: true,
        ready: true,
    }
}

/// A question; with EDNS for who takes so many bytes.
pub fn question(id: u16, name: &str, kind: RecordType, takes: Option<u16>) -> Message {
    let mut message = Message::query();
    message.metadata.id = id;
    message.metadata.op_code = OpCode::Query;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    if let Some(takes) = takes {
        let mut edns = Edns::new();
        edns.set_max_payload(takes);
        message.set_edns(edns);
    }
    message
}

/// Someone who asks over UDP.
pub struct Asker(pub UdpSocket);

impl Asker {
    pub async fn new(server: SocketAddr) -> Self {
        let socket = UdpSocket::bind(loopback()).await.unwrap();
        socket.connect(server).await.unwrap();
        Self(socket)
    }

    /// Sends a question and takes its answer, with its length.
    pub async fn ask(&self, question: &Message) -> (Message, usize) {
        self.0.send(&question.to_vec().unwrap()).await.unwrap();
        let bytes = self.receive().await;
        let answer = Message::from_vec(&bytes).unwrap();
        assert_eq!(answer.metadata.id, question.metadata.id);
        (answer, bytes.len())
    }

    pub async fn receive(&self) -> Vec<u8> {
        let mut buffer = vec![0; 65_536];
        let received = timeout(DEADLINE, self.0.recv(&mut buffer)).await;
        let length = received.expect("no answer in time").unwrap();
        buffer.truncate(length);
        buffer
    }
}

/// Asks once over UDP.
pub async fn ask(server: SocketAddr, name: &str, kind: RecordType) -> Message {
    let asker = Asker::new(server).await;
    asker.ask(&question(7, name, kind, None)).await.0
}

/// Sends a question over a connection.
pub async fn send_tcp(stream: &mut TcpStream, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).unwrap();
    let framed = [&length.to_be_bytes(), bytes].concat();
    stream.write_all(&framed).await.unwrap();
}

/// Takes an answer from a connection.
pub async fn receive_tcp(stream: &mut TcpStream) -> Message {
    let receiving = async {
        let length = stream.read_u16().await.unwrap();
        let mut bytes = vec![0; usize::from(length)];
        stream.read_exact(&mut bytes).await.unwrap();
        Message::from_vec(&bytes).unwrap()
    };
    timeout(DEADLINE, receiving)
        .await
        .expect("no answer in time")
}
