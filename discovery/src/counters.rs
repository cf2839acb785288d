//! How many questions came, and what became of them.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// What became of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Answered,
    NoData,
    NoName,
    Refused,
    Malformed,
    Forwarded,
    Failed,
    Limited,
    Ignored,
}

/// Counts up; nothing waits for it.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    kinds: [AtomicU64; 9],
    udp: AtomicU64,
    tcp: AtomicU64,
    truncated: AtomicU64,
    connections_refused: AtomicU64,
}

/// What a DNS server has done since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct DnsCounts {
    /// Packets that came over UDP.
    pub udp: u64,
    /// Messages that came over TCP.
    pub tcp: u64,
    /// Answered with records.
    pub answered: u64,
    /// The name has no records of the type.
    pub no_data: u64,
    /// No such name.
    pub no_name: u64,
    /// Not of the domain, or nothing that this server does.
    pub refused: u64,
    /// Not to be read.
    pub malformed: u64,
    /// Answered by an upstream resolver.
    pub forwarded: u64,
    /// No upstream resolver answered, or too many questions waited for one.
    pub failed: u64,
    /// Dropped or sent to TCP, for their asker asks too much.
    pub limited: u64,
    /// No questions at all.
    pub ignored: u64,
    /// Answers that say that some of it is missing.
    pub truncated: u64,
    /// TCP connections that were closed at once, for there were too many.
    pub connections_refused: u64,
}

impl Counters {
    pub fn count(&self, kind: Kind) {
        self.kinds[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn udp(&self) {
        self.udp.fetch_add(1, Ordering::Relaxed);
    }

    pub fn tcp(&self) {
        self.tcp.fetch_add(1, Ordering::Relaxed);
    }

    pub fn truncated(&self) {
        self.truncated.fetch_add(1, Ordering::Relaxed);
    }

    pub fn connection_refused(&self) {
        self.connections_refused.fetch_add(1, Ordering::Relaxed);
    }

    pub fn read(&self) -> DnsCounts {
        let of = |kind: Kind| self.kinds[kind as usize].load(Ordering::Relaxed);
        DnsCounts {
            udp: self.udp.load(Ordering::Relaxed),
            tcp: self.tcp.load(Ordering::Relaxed),
            answered: of(Kind::Answered),
            no_data: of(Kind::NoData),
            no_name: of(Kind::NoName),
            refused: of(Kind::Refused),
            malformed: of(Kind::Malformed),
            forwarded: of(Kind::Forwarded),
            failed: of(Kind::Failed),
            limited: of(Kind::Limited),
            ignored: of(Kind::Ignored),
            truncated: self.truncated.load(Ordering::Relaxed),
            connections_refused: self.connections_refused.load(Ordering::Relaxed),
        }
    }
}
