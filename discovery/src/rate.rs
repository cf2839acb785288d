//! How much one asker may ask over UDP: a bucket of tokens each. Pure; its time comes in.
//!
//! Addresses over UDP can be forged, and answers are longer than questions, so that an unbounded
//! server would flood others in a stranger's name. The table has a fixed number of buckets; an
//! address finds its own by a keyed hash, so that nobody can choose whose bucket they empty. Two
//! addresses may share one: they then have one rate together.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// How many buckets there are: 16 bytes each make 1 MiB, and a cluster's machines rarely share one.
const BUCKETS: usize = 65_536;
/// Fractions of a token: a bucket that is filled every nanosecond still fills exactly.
const NANOS: u64 = 1_000_000_000;

/// How many answers a client address (over IPv6 a network of 64 bits) gets over UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Each second, on average; from 1.
    pub per_second: u32,
    /// At once; from 1.
    pub burst: u32,
}

impl Default for Rate {
    /// Far above what a machine full of tasks asks with answers kept for 5 s, and far below what
    /// would be worth forging.
    fn default() -> Self {
        Self {
            per_second: 1_000,
            burst: 2_000,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// When it has been full, or will be if nobody takes any, in nanoseconds.
    full_at: u64,
    /// How many were refused, to let a few askers know.
    refused: u64,
}

/// Whether a question is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Allowed {
    /// It is.
    Yes,
    /// With no more than a hint to ask over TCP, where addresses cannot be forged.
    Hint,
    /// Not at all.
    No,
}

/// All buckets.
#[derive(Debug)]
pub(crate) struct RateLimit {
    buckets: Box<[Bucket]>,
    hash: RandomState,
    token_ns: u64,
    burst_ns: u64,
}

impl RateLimit {
    pub fn new(rate: Rate) -> Self {
        let token_ns = NANOS / u64::from(rate.per_second.max(1));
        let full = Bucket {
            full_at: 0,
            refused: 0,
        };
        Self {
            buckets: vec![full; BUCKETS].into(),
            hash: RandomState::new(),
            token_ns,
            burst_ns: token_ns * u64::from(rate.burst.max(1)),
        }
    }

    /// Takes a token at a time that never goes back.
    pub fn ask(&mut self, from: IpAddr, now: Duration) -> Allowed {
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let place = self.hash.hash_one(network(from)) as usize % BUCKETS;
        let bucket = &mut self.buckets[place];
        let full_at = bucket.full_at.max(now).saturating_add(self.token_ns);
        if full_at - now <= self.burst_ns {
            bucket.full_at = full_at;
            return Allowed::Yes;
        }
        bucket.refused = bucket.refused.wrapping_add(1);
        // Every second one: an honest asker soon sees it, and a flood is at most halved, not grown.
        match bucket.refused % 2 {
            1 => Allowed::Hint,
            _ => Allowed::No,
        }
    }
}

/// What counts as one asker.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate {
        per_second: 10,
        burst: 5,
    };

    fn allowed(limit: &mut RateLimit, from: &str, at_ms: u64, times: usize) -> usize {
        let from = from.parse().unwrap();
        let ask = |_: &usize| limit.ask(from, Duration::from_millis(at_ms)) == Allowed::Yes;
        (0..times).filter(ask).count()
    }

    #[test]
    fn an_asker_has_its_burst_and_then_its_rate() {
        let mut limit = RateLimit::new(RATE);
        assert_eq!(allowed(&mut limit, "192.0.2.1", 0, 20), 5);
        assert_eq!(allowed(&mut limit, "192.0.2.1", 300, 20), 3);
        assert_eq!(allowed(&mut limit, "192.0.2.1", 60_000, 20), 5);
    }

    #[test]
    fn every_second_refusal_is_a_hint() {
        let mut limit = RateLimit::new(RATE);
        allowed(&mut limit, "192.0.2.1", 0, 5);
        let from = "192.0.2.1".parse().unwrap();
        let refusals: Vec<_> = (0..4).map(|_| limit.ask(from, Duration::ZERO)).collect();
        assert_eq!(
            refusals,
            [Allowed::Hint, Allowed::No, Allowed::Hint, Allowed::No]
        );
    }

    #[test]
    fn a_network_of_ipv6_is_one_asker_and_so_is_a_mapped_address() {
        assert_eq!(
            network("2001:db8::1".parse().unwrap()),
            network("2001:db8::ffff:2".parse().unwrap())
        );
        assert_eq!(
            network("::ffff:192.0.2.1".parse().unwrap()),
            network("192.0.2.1".parse().unwrap())
        );
    }
}
