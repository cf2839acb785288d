//! Questions for other domains: an upstream resolver that answers, and some that do not.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record, RecordType};
use tepui_discovery::{DnsConfig, Upstreams};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use crate::host::*;

fn with_upstreams(servers: Vec<SocketAddr>, timeout: Duration, most_waiting: usize) -> DnsConfig {
    let mut config = config();
    config.upstreams = Some(Upstreams {
        servers,
        timeout,
        most_waiting,
    });
    config
}

/// A resolver that says that every name is at 192.0.2.`last`, after the packets of `before`.
async fn resolver(last: u8, before: fn(&Message) -> Vec<Message>) -> (SocketAddr, JoinHandle<()>) {
    let socket = UdpSocket::bind(loopback()).await.unwrap();
    let address = socket.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let mut answer = Message::from_vec(&buffer[..length]).unwrap();
            answer.metadata.message_type = MessageType::Response;
            let name = answer.queries[0].name.clone();
            let data = RData::A(A::new(192, 0, 2, last));
            for message in before(&answer) {
                let bytes = message.to_vec().unwrap();
                socket.send_to(&bytes, from).await.unwrap();
            }
            answer.add_answer(Record::from_rdata(name, 60, data));
            socket
                .send_to(&answer.to_vec().unwrap(), from)
                .await
                .unwrap();
        }
    });
    (address, serving)
}

/// Answers that are none: of another id, to another question, and a question.
fn forgeries(answer: &Message) -> Vec<Message> {
    let mut forged = answer.clone();
    let name = forged.queries[0].name.clone();
    let data = RData::A(A::new(6, 6, 6, 6));
    forged.add_answer(Record::from_rdata(name, 60, data));
    let mut other_id = forged.clone();
    other_id.metadata.id ^= 1;
    let mut other_question = forged.clone();
    other_question.queries[0].query_type = RecordType::AAAA;
    let mut no_answer = forged;
    no_answer.metadata.message_type = MessageType::Query;
    vec![other_id, other_question, no_answer]
}

#[tokio::test]
async fn other_domains_are_asked_of_upstream_and_ours_never() {
    let (upstream, serving) = resolver(1, |_| Vec::new()).await;
    let host = Host::with_web(&with_upstreams(vec![upstream], DEADLINE, 8), 1).await;
    let answer = ask(host.address, "example.com.", RecordType::A).await;
    assert_eq!(answer.answers[0].data.to_string(), "192.0.2.1");
    assert!(!answer.metadata.authoritative);
    let ours = ask(host.address, "web.batch.tepui.", RecordType::A).await;
    assert_eq!(ours.answers[0].data.to_string(), "10.0.0.0");
    assert!(ours.metadata.recursion_available && answer.metadata.recursion_available);
    let nobody = ask(host.address, "x.tepui.", RecordType::A).await;
    assert_eq!(nobody.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(host.server.counts().forwarded, 1);
    serving.abort();
}

#[tokio::test]
async fn forged_answers_are_passed_over() {
    let (upstream, serving) = resolver(1, forgeries).await;
    let host = Host::new(&with_upstreams(vec![upstream], DEADLINE, 8)).await;
    let answer = ask(host.address, "example.com.", RecordType::A).await;
    assert_eq!(answer.answers.len(), 1);
    assert_eq!(answer.answers[0].data.to_string(), "192.0.2.1");
    serving.abort();
}

#[tokio::test]
async fn a_resolver_that_says_nothing_is_passed_over_for_the_next() {
    let silent = UdpSocket::bind(loopback()).await.unwrap();
    let servers = vec![silent.local_addr().unwrap()];
    let short = Duration::from_millis(50);
    let host = Host::new(&with_upstreams(servers.clone(), short, 8)).await;
    let failed = ask(host.address, "example.com.", RecordType::A).await;
    assert_eq!(failed.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(host.server.counts().failed, 1);

    let (upstream, serving) = resolver(2, |_| Vec::new()).await;
    let host = Host::new(&with_upstreams(
        [servers, vec![upstream]].concat(),
        short,
        8,
    ))
    .await;
    let answer = ask(host.address, "example.com.", RecordType::A).await;
    assert_eq!(answer.answers[0].data.to_string(), "192.0.2.2");
    serving.abort();
}

#[tokio::test]
async fn no_more_questions_wait_than_may_and_ours_do_not_wait_behind_them() {
    let silent = UdpSocket::bind(loopback()).await.unwrap();
    let servers = vec![silent.local_addr().unwrap()];
    let host = Host::with_web(&with_upstreams(servers, DEADLINE * 10, 2), 1).await;
    let asker = Asker::new(host.address).await;
    for id in 1..=3 {
        let bytes = question(id, "example.com.", RecordType::A, None)
            .to_vec()
            .unwrap();
        asker.0.send(&bytes).await.unwrap();
    }
    let refused = Message::from_vec(&asker.receive().await).unwrap();
    assert_eq!(refused.metadata.response_code, ResponseCode::ServFail);
    let ours = ask(host.address, "web.batch.tepui.", RecordType::A).await;
    assert_eq!(ours.answers.len(), 1);
    host.server.stop().await;
}
