//! Questions and their answers.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{DNSClass, RecordType};
use tepui_discovery::Agent;
use tepui_types::AgentId;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::host::*;

#[tokio::test]
async fn a_change_answers_as_soon_as_it_is_published() {
    let mut host = Host::new(&config()).await;
    let name = "web-1.batch.tepui.";
    let before = ask(host.address, name, RecordType::A).await;
    assert_eq!(before.metadata.response_code, ResponseCode::NXDomain);
    host.directory.put(web(1));
    host.published.publish(&host.directory);
    let after = ask(host.address, "WEB-1.batch.TEPUI.", RecordType::A).await;
    assert!(after.metadata.authoritative);
    assert_eq!(after.answers[0].data.to_string(), "10.0.0.1");
    assert_eq!(after.answers[0].ttl, 5);
    // The name comes back as it was asked, letter by letter.
    assert_eq!(after.queries[0].name.to_ascii(), "WEB-1.batch.TEPUI.");
    assert_eq!(after.answers[0].name.to_ascii(), "WEB-1.batch.TEPUI.");
    host.directory.remove(&web(1).id);
    host.published.publish(&host.directory);
    let gone = ask(host.address, name, RecordType::A).await;
    assert_eq!(gone.metadata.response_code, ResponseCode::NXDomain);
}

#[tokio::test]
async fn what_does_not_fit_is_asked_again_over_tcp() {
    let host = Host::with_web(&config(), 60).await;
    let asker = Asker::new(host.address).await;
    let asked = question(1, "web.batch.tepui.", RecordType::A, None);
    let (cut, length) = asker.ask(&asked).await;
    assert!(cut.metadata.truncation);
    assert!(length <= 512, "{length}");
    assert!(length > 480, "as many as fit: {length}");
    assert!((1..60).contains(&cut.answers.len()));

    let mut stream = TcpStream::connect(host.address).await.unwrap();
    send_tcp(&mut stream, &asked.to_vec().unwrap()).await;
    let whole = receive_tcp(&mut stream).await;
    assert!(!whole.metadata.truncation);
    assert_eq!(whole.answers.len(), 60);
    // The same connection takes another question.
    send_tcp(
        &mut stream,
        &question(2, "web-1.batch.tepui.", RecordType::A, None)
            .to_vec()
            .unwrap(),
    )
    .await;
    assert_eq!(receive_tcp(&mut stream).await.answers.len(), 1);
    let counts = host.server.stop().await;
    assert_eq!((counts.udp, counts.tcp, counts.truncated), (1, 2, 1));
}

#[tokio::test]
async fn who_takes_more_bytes_gets_more() {
    let host = Host::with_web(&config(), 60).await;
    let asker = Asker::new(host.address).await;
    let (answer, length) = asker
        .ask(&question(1, "web.batch.tepui.", RecordType::A, Some(4096)))
        .await;
    assert!(!answer.metadata.truncation);
    assert_eq!(answer.answers.len(), 60);
    assert!(length <= 1232, "{length}");
    assert!(answer.edns.is_some());
    // Addresses beside an answer are left away without a word; the answer is not.
    let (ports, length) = asker
        .ask(&question(
            2,
            "web.batch.tepui.",
            RecordType::SRV,
            Some(65_535),
        ))
        .await;
    assert!(ports.metadata.truncation && length <= 1232, "{length}");
}

#[tokio::test]
async fn glue_that_does_not_fit_is_left_away_and_the_answer_is_whole() {
    let host = Host::with_web(&config(), 10).await;
    let asker = Asker::new(host.address).await;
    let asked = question(1, "_http._tcp.web.batch.tepui.", RecordType::SRV, None);
    let (answer, length) = asker.ask(&asked).await;
    assert!(!answer.metadata.truncation && length <= 512, "{length}");
    assert_eq!((answer.answers.len(), answer.additionals.len()), (10, 0));
    let roomy = question(
        1,
        "_http._tcp.web.batch.tepui.",
        RecordType::SRV,
        Some(1232),
    );
    let (answer, _) = asker.ask(&roomy).await;
    assert_eq!((answer.answers.len(), answer.additionals.len()), (10, 10));
}

#[tokio::test]
async fn what_this_server_does_not_do_is_refused() {
    let host = Host::with_web(&config(), 1).await;
    let asker = Asker::new(host.address).await;
    for (name, kind) in [
        ("example.com.", RecordType::A),
        ("1.2.0.192.in-addr.arpa.", RecordType::PTR),
        ("tepui.", RecordType::AXFR),
    ] {
        let (answer, _) = asker.ask(&question(1, name, kind, None)).await;
        assert_eq!(
            answer.metadata.response_code,
            ResponseCode::Refused,
            "{name} {kind}"
        );
        assert!(!answer.metadata.authoritative && answer.answers.is_empty());
    }
    let mut chaos = question(2, "web.batch.tepui.", RecordType::A, None);
    chaos.queries[0].query_class = DNSClass::CH;
    let (answer, _) = asker.ask(&chaos).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
    let mut newer = question(3, "web.batch.tepui.", RecordType::A, Some(1232));
    newer.edns.as_mut().unwrap().set_version(1);
    let (answer, _) = asker.ask(&newer).await;
    // BADVERS and BADSIG are one number, and a decoder cannot tell them apart.
    assert_eq!(u16::from(answer.metadata.response_code), 16);
    assert_eq!(host.server.counts().refused, 4);
}

#[tokio::test]
async fn several_addresses_are_listened_on_with_ports_of_their_own() {
    let mut config = config();
    config.listen.push(loopback());
    let mut host = Host::new(&config).await;
    host.directory.put_agent(Agent {
        id: AgentId(3),
        hostname: "n".to_string(),
        addresses: vec!["192.168.0.3".parse().unwrap()],
    });
    host.published.publish(&host.directory);
    let [one, two] = host.server.addresses() else {
        panic!("{:?}", host.server.addresses());
    };
    assert_ne!(one, two);
    for address in [*one, *two] {
        let answer = ask(address, "a3.agent.tepui.", RecordType::A).await;
        assert_eq!(answer.answers.len(), 1);
    }
}

#[tokio::test]
async fn a_taken_port_is_told_with_what_to_do() {
    let host = Host::new(&config()).await;
    let mut config = config();
    config.listen = vec![host.address];
    let error = tepui_discovery::DnsServer::start(&config, host.published.clone())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("free the port"), "{error}");
    config.listen.clear();
    let error = tepui_discovery::DnsServer::start(&config, host.published.clone()).await;
    assert!(error.unwrap_err().to_string().contains("name at least one"));
}

#[tokio::test]
async fn a_stop_closes_connections_and_frees_the_port() {
    let host = Host::with_web(&config(), 1).await;
    let mut stream = TcpStream::connect(host.address).await.unwrap();
    send_tcp(
        &mut stream,
        &question(1, "web.batch.tepui.", RecordType::A, None)
            .to_vec()
            .unwrap(),
    )
    .await;
    receive_tcp(&mut stream).await;
    host.server.stop().await;
    let ended = timeout(DEADLINE, stream.read_u8())
        .await
        .expect("still open");
    assert!(ended.is_err());
    let mut again = config();
    again.listen = vec![host.address];
    // The connection's remains would hold a TCP port, were it not for SO_REUSEADDR.
    Host::new(&again).await;
}
