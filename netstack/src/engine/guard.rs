//! What stands before the handshake, so that strangers cost little: message authentication codes first, cookies under load,
//! and then a share for each source.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, TunnResult};
use x25519_dalek::PublicKey;

use super::protocol::COOKIE_LEN;
use crate::counters::Drop;
use crate::path::Path;

/// Handshake messages of one source in a second, while there is load (as in the Linux kernel).
const SHARE: u32 = 20;
/// How many of them may come at once.
const BURST: u32 = 5;
/// Sources told apart. Two that meet in one bucket share it; more would not make a flood cheaper.
const BUCKETS: usize = 1024;

/// One for the whole engine. Counts by itself, because boringtun's limiter would count a message once here and once more in
/// its `Tunn`.
pub(crate) struct Guard {
    /// Checks the first code alone.
    calm: Arc<RateLimiter>,
    /// Wants the second code always, which takes a cookie.
    strict: RateLimiter,
    second: Instant,
    seen: u32,
    limit: u32,
    hasher: RandomState,
    buckets: Box<[Bucket]>,
}

/// What a source may still send.
#[derive(Clone, Copy)]
struct Bucket {
    /// The time at which it is full again.
    full: Instant,
}

/// What becomes of a handshake message.
pub(crate) enum Verdict<'a> {
    /// It may be looked at.
    Pass(Packet<'a>),
    /// The sender is to prove its address with this first.
    Cookie([u8; COOKIE_LEN]),
    /// It is dropped.
    Refuse(Drop),
}

impl Guard {
    /// `limit` is how many handshake messages a second are taken without a cookie.
    pub(crate) fn new(public: [u8; 32], limit: u32, now: Instant) -> Self {
        let public = PublicKey::from(public);
        Self {
            calm: Arc::new(RateLimiter::new(&public, u64::MAX)),
            strict: RateLimiter::new(&public, 0),
            second: now,
            seen: 0,
            limit,
            hasher: RandomState::new(),
            buckets: vec![Bucket { full: now }; BUCKETS].into_boxed_slice(),
        }
    }

    /// A limiter that never limits.
    pub(crate) fn unlimited(&self) -> Arc<RateLimiter> {
        self.calm.clone()
    }

    /// Judges a message that is no data message.
    pub(crate) fn check<'a>(&mut self, from: Path, datagram: &'a [u8], now: Instant) -> Verdict<'a> {
        let mut cookie = [0; COOKIE_LEN];
        let packet = match self.calm.verify_packet(None, datagram, &mut cookie) {
            Ok(packet) => packet,
            Err(TunnResult::Err(WireGuardError::InvalidMac)) => return Verdict::Refuse(Drop::BadMac),
            Err(_) => return Verdict::Refuse(Drop::Malformed),
        };
        if matches!(packet, Packet::PacketCookieReply(_)) || !self.is_loaded(now) {
            return Verdict::Pass(packet);
        }
        let source = source(from);
        match self.strict.verify_packet(Some(source), datagram, &mut cookie) {
            Ok(packet) if self.spend(source, now) => Verdict::Pass(packet),
            Ok(_) => Verdict::Refuse(Drop::UnderLoad),
            Err(TunnResult::WriteToNetwork(_)) => Verdict::Cookie(cookie),
            Err(_) => Verdict::Refuse(Drop::Malformed),
        }
    }

    fn is_loaded(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.second) >= Duration::from_secs(1) {
            self.second = now;
            self.seen = 0;
        }
        self.seen = self.seen.saturating_add(1);
        self.seen > self.limit
    }

    fn spend(&mut self, source: IpAddr, now: Instant) -> bool {
        let place = self.hasher.hash_one(network(source)) as usize % BUCKETS;
        let bucket = &mut self.buckets[place];
        let full = bucket.full.max(now) + Duration::from_secs(1) / SHARE;
        let granted = full.duration_since(now) <= Duration::from_secs(1) / SHARE * BURST;
        if granted {
            bucket.full = full;
        }
        granted
    }
}

/// What a cookie is bound to. A stream's other end has proved where it is, so its number stands for it.
fn source(from: Path) -> IpAddr {
    match from {
        Path::Udp(address) => address.ip(),
        Path::Stream(id) => Ipv6Addr::from(u128::from(id)).into(),
    }
}

/// Whoever has one IPv6 address has a /64 of them; a stream's number lies in the lower half and stays whole.
fn network(source: IpAddr) -> u128 {
    match source {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) if address.to_bits() >> 64 == 0 => address.to_bits(),
        IpAddr::V6(address) => address.to_bits() >> 64 << 64,
    }
}
