//! Packets: what a question is, and how an answer goes on the wire. Pure.
//!
//! What always holds: nothing that is a response, or shorter than a header, is answered, so that
//! two servers never talk to each other; a question that cannot be read is answered with twelve
//! bytes; an answer never has more bytes than the asker takes, and says so where some are missing.

use hickory_proto::op::{Edns, Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};

use crate::answer::{Answer, answer};
use crate::counters::Kind;
use crate::directory::Directory;
use crate::zone::Zone;

/// A message's header, in bytes.
const HEADER: usize = 12;
/// The most bytes over UDP for those who do not say how many they take (RFC 1035).
const PLAIN_UDP: u16 = 512;
/// The most bytes over UDP at all: they pass every usual network in one piece (DNS flag day 2020).
const MAX_UDP: u16 = 1232;
/// The most additional records in a question: OPT, and signatures that are not looked at.
const MAX_ADDITIONALS: u16 = 4;

/// How a question came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// A question that was read.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub id: u16,
    pub query: Query,
    recursion_desired: bool,
    edns: Option<Edns>,
    room: u16,
}

/// What is to be done about a packet.
#[derive(Debug)]
pub(crate) enum Handled {
    /// Send this.
    Reply(Vec<u8>, Kind),
    /// The name is not of the zone.
    Outside(Box<Request>),
    /// Say nothing.
    Ignore,
}

/// Reads a packet and answers it from the directory.
pub(crate) fn handle(
    directory: &Directory,
    zone: &Zone,
    packet: &[u8],
    transport: Transport,
    seed: u64,
) -> Handled {
    let request = match read(packet, transport) {
        Ok(request) => request,
        Err(handled) => return handled,
    };
    let edns_version = request.edns.as_ref().map_or(0, Edns::version);
    if edns_version > 0 {
        return request.refuse(ResponseCode::BADVERS, Kind::Malformed);
    }
    let query = &request.query;
    let transfer = matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR);
    if query.query_class() != DNSClass::IN || transfer {
        return request.refuse(ResponseCode::Refused, Kind::Refused);
    }
    match answer(directory, zone, query, seed) {
        Some(answer) => request.answer(answer),
        None => Handled::Outside(Box::new(request)),
    }
}

/// Answers a packet of someone who asks too much: with nothing but where to ask instead.
pub(crate) fn hint(packet: &[u8]) -> Handled {
    match read(packet, Transport::Udp) {
        Ok(request) => request.to_tcp(Kind::Limited),
        Err(_) => Handled::Ignore,
    }
}

/// Reads a question; else what to do about the packet.
fn read(packet: &[u8], transport: Transport) -> Result<Request, Handled> {
    let word = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    if packet.len() < HEADER || packet[2] & 0x80 != 0 {
        return Err(Handled::Ignore);
    }
    let op_code = OpCode::from_u8(packet[2] >> 3 & 0x0f);
    let short = |code, kind| {
        let message = Message::error_msg(word(0), op_code, code);
        match message.to_vec() {
            Ok(bytes) => Handled::Reply(bytes, kind),
            Err(_) => Handled::Ignore,
        }
    };
    if op_code != OpCode::Query {
        return Err(short(ResponseCode::NotImp, Kind::Refused));
    }
    // The counts are looked at before anything is made room for.
    let (questions, answers, authorities, additionals) = (word(4), word(6), word(8), word(10));
    let formed = questions == 1 && answers == 0 && authorities == 0;
    if !formed || additionals > MAX_ADDITIONALS {
        return Err(short(ResponseCode::FormErr, Kind::Malformed));
    }
    let message = Message::from_vec(packet);
    let Some((mut message, query)) = message.ok().and_then(|mut m| {
        let query = m.queries.pop()?;
        Some((m, query))
    }) else {
        return Err(short(ResponseCode::FormErr, Kind::Malformed));
    };
    let edns = message.edns.take();
    let taken = edns.as_ref().map_or(PLAIN_UDP, Edns::max_payload);
    Ok(Request {
        id: message.metadata.id,
        query,
        recursion_desired: message.metadata.recursion_desired,
        edns,
        room: match transport {
            Transport::Udp => taken.clamp(PLAIN_UDP, MAX_UDP),
            Transport::Tcp => u16::MAX,
        },
    })
}

impl Request {
    /// An answer with a code and nothing else.
    pub fn refuse(&self, code: ResponseCode, kind: Kind) -> Handled {
        let mut message = self.response(code);
        // Who does not answer for a name is no authority of it.
        message.metadata.authoritative = false;
        fit(message, self.room, kind)
    }

    /// An empty answer that sends the asker to TCP.
    fn to_tcp(&self, kind: Kind) -> Handled {
        let mut message = self.response(ResponseCode::NoError);
        message.metadata.authoritative = false;
        message.metadata.truncation = true;
        fit(message, self.room, kind)
    }

    /// The question for another server, under another id.
    pub fn to_upstream(&self, id: u16) -> Option<Vec<u8>> {
        let mut message = Message::query();
        message.metadata.id = id;
        message.metadata.recursion_desired = self.recursion_desired;
        message.add_query(self.query.clone());
        if let Some(edns) = &self.edns {
            let mut own = Edns::new();
            own.set_max_payload(MAX_UDP)
                .set_dnssec_ok(edns.flags().dnssec_ok);
            message.set_edns(own);
        }
        message.to_vec().ok()
    }

    /// What another server answered, for the asker.
    pub fn relay(&self, upstream: Message) -> Handled {
        let mut message = self.response(upstream.metadata.response_code);
        message.metadata.authoritative = false;
        message.metadata.truncation = upstream.metadata.truncation;
        message.answers = upstream.answers;
        message.authorities = upstream.authorities;
        message.additionals = upstream.additionals;
        fit(message, self.room, Kind::Forwarded)
    }

    fn answer(&self, answer: Answer) -> Handled {
        let kind = match (answer.code, answer.answers.is_empty()) {
            (ResponseCode::NXDomain, _) => Kind::NoName,
            (_, true) => Kind::NoData,
            (_, false) => Kind::Answered,
        };
        let mut message = self.response(answer.code);
        message.answers = answer.answers;
        message.authorities = answer.authorities;
        message.additionals = answer.additionals;
        fit(message, self.room, kind)
    }

    fn response(&self, code: ResponseCode) -> Message {
        let mut message = Message::response(self.id, OpCode::Query);
        message.metadata.response_code = code;
        message.metadata.authoritative = true;
        message.metadata.recursion_desired = self.recursion_desired;
        message.add_query(self.query.clone());
        if let Some(asked) = &self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(MAX_UDP)
                .set_dnssec_ok(asked.flags().dnssec_ok);
            message.set_edns(edns);
        }
        message
    }
}

/// Leaves away what does not fit: first what stands beside the answer, then, saying so, as many of
/// the answers as must be.
fn fit(mut message: Message, room: u16, kind: Kind) -> Handled {
    let room = usize::from(room);
    let fits = |message: &Message| message.to_vec().ok().filter(|bytes| bytes.len() <= room);
    if let Some(bytes) = fits(&message) {
        return Handled::Reply(bytes, kind);
    }
    message.additionals.clear();
    if let Some(bytes) = fits(&message) {
        return Handled::Reply(bytes, kind);
    }
    message.metadata.truncation = true;
    message.authorities.clear();
    let answers = std::mem::take(&mut message.answers);
    let (mut kept, mut missing) = (0, answers.len());
    // Half the answers fit, or do not: some old resolvers use what is there and never ask again.
    while missing - kept > 1 {
        let half = (kept + missing) / 2;
        message.answers = answers[..half].to_vec();
        match fits(&message) {
            Some(_) => kept = half,
            None => missing = half,
        }
    }
    message.answers = answers[..kept].to_vec();
    match fits(&message) {
        Some(bytes) => Handled::Reply(bytes, kind),
        None => Handled::Ignore,
    }
}
