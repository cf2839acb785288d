//! What every socket shares: from a packet to its answer.
//!
//! An answer comes from the directory that is the newest when its question is read; nothing is
//! waited for, except for upstream resolvers.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hickory_proto::op::ResponseCode;
use tokio::time::Instant;

use crate::counters::{Counters, Kind};
use crate::message::{Handled, Request, Transport, handle, hint};
use crate::published::Published;
use crate::rate::{Allowed, RateLimit};
use crate::server::DnsConfig;
use crate::upstream::{Forwarder, is_near};
use crate::zone::Zone;

/// Answers packets. See the module's header.
#[derive(Debug)]
pub(crate) struct Answerer {
    zone: Zone,
    published: Arc<Published>,
    limit: Option<Mutex<RateLimit>>,
    forwarder: Option<Forwarder>,
    started: Instant,
    asked: AtomicU64,
    hash: RandomState,
    pub counters: Counters,
}

/// What follows from a packet at once.
pub(crate) enum Next {
    /// Send this.
    Send(Vec<u8>),
    /// Have it forwarded.
    Forward(Box<Request>),
    /// Say nothing.
    Nothing,
}

impl Answerer {
    pub fn new(config: &DnsConfig, published: Arc<Published>) -> Self {
        let limit = config.rate.map(|rate| Mutex::new(RateLimit::new(rate)));
        Self {
            zone: config.zone.clone(),
            published,
            limit,
            forwarder: config.upstreams.clone().map(Forwarder::new),
            started: Instant::now(),
            asked: AtomicU64::new(0),
            hash: RandomState::new(),
            counters: Counters::default(),
        }
    }

    /// A packet that came over UDP.
    pub fn datagram(&self, packet: &[u8], from: IpAddr) -> Next {
        self.counters.udp();
        match self.allowed(from) {
            Allowed::Yes => self.packet(packet, from, Transport::Udp),
            Allowed::Hint => match hint(packet) {
                Handled::Ignore => self.nothing(Kind::Limited),
                handled => self.next(handled, from),
            },
            Allowed::No => self.nothing(Kind::Limited),
        }
    }

    /// A message that came over TCP.
    pub fn message(&self, packet: &[u8], from: IpAddr) -> Next {
        self.counters.tcp();
        self.packet(packet, from, Transport::Tcp)
    }

    /// The answer of upstream resolvers.
    pub async fn forward(&self, request: &Request, transport: Transport) -> Option<Vec<u8>> {
        let forwarder = self.forwarder.as_ref()?;
        self.count(forwarder.forward(request, transport).await)
    }

    fn packet(&self, packet: &[u8], from: IpAddr, transport: Transport) -> Next {
        let directory = self.published.load();
        let seed = self
            .hash
            .hash_one(self.asked.fetch_add(1, Ordering::Relaxed));
        self.next(
            handle(&directory, &self.zone, packet, transport, seed),
            from,
        )
    }

    fn next(&self, handled: Handled, from: IpAddr) -> Next {
        match handled {
            Handled::Outside(request) if self.forwarder.is_some() && is_near(from) => {
                Next::Forward(request)
            }
            Handled::Outside(request) => {
                let refusal = request.refuse(ResponseCode::Refused, Kind::Refused);
                self.count(refusal).map_or(Next::Nothing, Next::Send)
            }
            handled => self.count(handled).map_or(Next::Nothing, Next::Send),
        }
    }

    fn count(&self, handled: Handled) -> Option<Vec<u8>> {
        let Handled::Reply(mut bytes, kind) = handled else {
            self.counters.count(Kind::Ignored);
            return None;
        };
        self.counters.count(kind);
        // The bit TC of a header.
        if bytes.get(2).is_some_and(|flags| flags & 0x02 != 0) {
            self.counters.truncated();
        }
        // The bit RA: a resolver that does not see it may never ask for other domains here.
        if let (Some(flags), Some(_)) = (bytes.get_mut(3), &self.forwarder) {
            *flags |= 0x80;
        }
        Some(bytes)
    }

    fn nothing(&self, kind: Kind) -> Next {
        self.counters.count(kind);
        Next::Nothing
    }

    fn allowed(&self, from: IpAddr) -> Allowed {
        let Some(limit) = &self.limit else {
            return Allowed::Yes;
        };
        // A table of numbers is whole after any panic.
        let mut limit = limit.lock().unwrap_or_else(PoisonError::into_inner);
        limit.ask(from, self.started.elapsed())
    }
}
