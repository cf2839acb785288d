//! Packets that are none, floods, and connections that never end.

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use tepui_discovery::Rate;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::host::*;

/// Bytes that look like chance, the same each time.
fn noise(seed: u32, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let byte = |_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[1]
    };
    (0..length).map(byte).collect()
}

#[tokio::test]
async fn whatever_comes_in_the_next_question_is_answered() {
    let mut config = config();
    config.rate = None;
    let host = Host::with_web(&config, 3).await;
    let asker = Asker::new(host.address).await;
    let good = question(9, "web.batch.tepui.", RecordType::A, Some(1232));
    let bytes = good.to_vec().unwrap();
    let mut packets: Vec<Vec<u8>> = (0..400).map(|n| noise(n, 1 + n as usize % 300)).collect();
    // A good question with one byte changed, and cut at each place.
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 0xff;
        packets.push(changed);
        packets.push(bytes[..at].to_vec());
    }
    packets.push(vec![0xff; 4096]);
    packets.push(vec![0; 60_000]);
    for packet in packets {
        asker.0.send(&packet).await.unwrap();
        // Its own socket may answer that; what matters is that the next question is answered.
        let fresh = Asker::new(host.address).await;
        let (answer, _) = fresh.ask(&good).await;
        assert_eq!(answer.answers.len(), 3);
    }
    let counts = host.server.stop().await;
    assert!(counts.ignored > 0 && counts.malformed > 0, "{counts:?}");
}

#[tokio::test]
async fn a_question_that_cannot_be_read_gets_a_header_alone() {
    let host = Host::new(&config()).await;
    let asker = Asker::new(host.address).await;
    let mut two = question(5, "a.tepui.", RecordType::A, None);
    two.queries.push(two.queries[0].clone());
    let mut unread = question(6, "a.tepui.", RecordType::A, None)
        .to_vec()
        .unwrap();
    unread.truncate(14);
    let mut pointing = question(7, "a.tepui.", RecordType::A, None)
        .to_vec()
        .unwrap();
    // A name that points to itself.
    pointing.splice(12.., [0xc0, 12, 0, 1, 0, 1]);
    let mut many = question(8, "a.tepui.", RecordType::A, None)
        .to_vec()
        .unwrap();
    many[4..12].fill(0xff);
    for packet in [two.to_vec().unwrap(), unread, pointing, many] {
        asker.0.send(&packet).await.unwrap();
        let bytes = asker.receive().await;
        assert_eq!(bytes.len(), 12);
        let answer = Message::from_vec(&bytes).unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::FormErr);
        assert_eq!(bytes[..2], packet[..2]);
    }
    let mut update = question(9, "a.tepui.", RecordType::A, None)
        .to_vec()
        .unwrap();
    update[2] |= 5 << 3;
    asker.0.send(&update).await.unwrap();
    let bytes = asker.receive().await;
    let answer = Message::from_vec(&bytes).unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::NotImp);
}

#[tokio::test]
async fn responses_are_never_answered() {
    let host = Host::with_web(&config(), 1).await;
    let asker = Asker::new(host.address).await;
    let mut response = question(1, "web.batch.tepui.", RecordType::A, None)
        .to_vec()
        .unwrap();
    response[2] |= 0x80;
    asker.0.send(&response).await.unwrap();
    // The one answer that comes is that of the question after it.
    let (answer, _) = asker
        .ask(&question(2, "web.batch.tepui.", RecordType::A, None))
        .await;
    assert_eq!(answer.metadata.id, 2);
}

#[tokio::test]
async fn a_burst_beyond_the_rate_is_not_answered_but_sent_to_tcp() {
    let mut config = config();
    config.rate = Some(Rate {
        per_second: 1,
        burst: 10,
    });
    let host = Host::with_web(&config, 3).await;
    let asker = Asker::new(host.address).await;
    let asked = question(1, "web.batch.tepui.", RecordType::A, None);
    let bytes = asked.to_vec().unwrap();
    let (mut whole, mut hints) = (0, 0);
    // Each is counted before the next is sent, so that none is lost on the way.
    for sent in 1..=60 {
        asker.0.send(&bytes).await.unwrap();
        let counted = async {
            while host.server.counts().udp < sent {
                tokio::task::yield_now().await;
            }
        };
        timeout(DEADLINE, counted)
            .await
            .expect("a question was lost");
    }
    let end = async {
        let mut counts = host.server.counts();
        while counts.answered + counts.limited < 60 {
            tokio::task::yield_now().await;
            counts = host.server.counts();
        }
        counts
    };
    let counts = timeout(DEADLINE, end).await.expect("not all were seen");
    assert!(counts.limited > 0 && counts.answered >= 10, "{counts:?}");
    for _ in 0..counts.answered + counts.truncated {
        let answer = Message::from_vec(&asker.receive().await).unwrap();
        match answer.metadata.truncation {
            true => {
                assert!(answer.answers.is_empty());
                hints += 1;
            }
            false => whole += 1,
        }
    }
    assert_eq!((whole, hints), (counts.answered, counts.truncated));
    assert!(hints > 0 && hints <= counts.limited.div_ceil(2));
    // Where addresses cannot be forged, the same asker is answered.
    let mut stream = TcpStream::connect(host.address).await.unwrap();
    send_tcp(&mut stream, &bytes).await;
    assert_eq!(receive_tcp(&mut stream).await.answers.len(), 3);
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_and_come_back_when_others_end() {
    let host = Host::with_web(&config(), 1).await;
    let bytes = question(1, "web.batch.tepui.", RecordType::A, None)
        .to_vec()
        .unwrap();
    let mut open = Vec::new();
    let refused = async {
        while host.server.counts().connections_refused == 0 {
            assert!(open.len() < 1_000, "nothing is ever refused");
            open.push(TcpStream::connect(host.address).await.unwrap());
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, refused).await.expect("no limit in time");
    // What one address has taken up leaves room for another.
    let other = TcpSocket::new_v4().unwrap();
    other.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut stream = other.connect(host.address).await.unwrap();
    send_tcp(&mut stream, &bytes).await;
    assert_eq!(receive_tcp(&mut stream).await.answers.len(), 1);
    drop(open);
    let answered = async {
        loop {
            let mut stream = TcpStream::connect(host.address).await.unwrap();
            let length = u16::try_from(bytes.len()).unwrap();
            let framed = [&length.to_be_bytes(), &bytes[..]].concat();
            // A connection that is closed at once fails here or there.
            if stream.write_all(&framed).await.is_ok() && stream.read_u16().await.is_ok() {
                return;
            }
        }
    };
    timeout(DEADLINE, answered).await.expect("never free again");
}

#[tokio::test]
async fn a_connection_that_sends_nonsense_is_closed() {
    let host = Host::new(&config()).await;
    for nonsense in [vec![0xff, 0xff, 1, 2], vec![0, 3, 1, 2, 3]] {
        let mut stream = TcpStream::connect(host.address).await.unwrap();
        stream.write_all(&nonsense).await.unwrap();
        let ended = timeout(DEADLINE, stream.read_u8())
            .await
            .expect("still open");
        assert!(ended.is_err());
    }
}

// In real time: a paused clock would run on before the other side's end is read.
#[tokio::test]
async fn a_connection_that_asks_nothing_is_closed() {
    let host = Host::new(&config()).await;
    let mut stream = TcpStream::connect(host.address).await.unwrap();
    stream.write_all(&[0]).await.unwrap();
    let ended = timeout(DEADLINE, stream.read_u8())
        .await
        .expect("still open");
    assert!(ended.is_err());
}
