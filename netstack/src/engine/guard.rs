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

use super::protocol::{COOKIE_LEN, INITIATION, RESPONSE};
use crate::counters::Drop;
use crate::path::Path;

/// Handshake messages of one source in a second, while there is load (as in the Linux kernel).
const SHARE: u32 = 20;
/// How many of them may come at once.
const BURST: u32 = 5;
/// Cookies for one source in a second, and how many of them may be asked for at once: machines behind one address get theirs
/// one after the other. With [`BUCKETS`] this bounds what a flood from invented addresses has us make and send.
pub(crate) const COOKIE_SHARE: u32 = 4;
/// Sources told apart. Two that meet in one bucket share it; more would not make a flood cheaper.
pub(crate) const BUCKETS: usize = 1024;
/// The second code of a message, and its last bytes.
const MAC2_LEN: usize = 16;

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
    handshakes: Shares,
    cookies: Shares,
}

/// So many of something in a second for each source.
struct Shares {
    /// When each bucket is full again.
    full: Box<[Instant]>,
    /// Between two that are granted, in the long run.
    gap: Duration,
    /// How many are granted at once.
    burst: u32,
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
            handshakes: Shares::new(SHARE, BURST, now),
            cookies: Shares::new(COOKIE_SHARE, COOKIE_SHARE, now),
        }
    }

    /// A limiter that never limits.
    pub(crate) fn unlimited(&self) -> Arc<RateLimiter> {
        self.calm.clone()
    }

    /// Judges a message that is no data message.
    pub(crate) fn check<'a>(&mut self, from: Path, datagram: &'a [u8], now: Instant) -> Verdict<'a> {
        if self.is_loaded(now) {
            return self.check_under_load(source(from), datagram, now);
        }
        match self.calm.verify_packet(None, datagram, &mut []) {
            Ok(packet) => {
                self.seen += u32::from(!matches!(packet, Packet::PacketCookieReply(_)));
                Verdict::Pass(packet)
            }
            Err(error) => Verdict::Refuse(reason(&error)),
        }
    }

    /// What costs least is asked first: a flood is refused for less than it takes to receive it.
    fn check_under_load<'a>(&mut self, source: IpAddr, datagram: &'a [u8], now: Instant) -> Verdict<'a> {
        let place = self.hasher.hash_one(network(source)) as usize % BUCKETS;
        let has_cookie = self.cookies.has(place, now);
        if !has_cookie && is_without_mac2(datagram) {
            return Verdict::Refuse(Drop::UnderLoad);
        }
        let mut cookie = [0; COOKIE_LEN];
        // Into a buffer without room no cookie is made.
        let room = if has_cookie { COOKIE_LEN } else { 0 };
        match self.strict.verify_packet(Some(source), datagram, &mut cookie[..room]) {
            Ok(packet @ Packet::PacketCookieReply(_)) => Verdict::Pass(packet),
            Ok(packet) if self.handshakes.take(place, now) => Verdict::Pass(packet),
            Ok(_) => Verdict::Refuse(Drop::UnderLoad),
            Err(TunnResult::WriteToNetwork(_)) => {
                self.cookies.take(place, now);
                Verdict::Cookie(cookie)
            }
            Err(error) => Verdict::Refuse(reason(&error)),
        }
    }

    fn is_loaded(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.second) >= Duration::from_secs(1) {
            self.second = now;
            self.seen = 0;
        }
        self.seen >= self.limit
    }
}

impl Shares {
    fn new(in_a_second: u32, burst: u32, now: Instant) -> Self {
        let full = vec![now; BUCKETS].into_boxed_slice();
        Self { full, gap: Duration::from_secs(1) / in_a_second, burst }
    }

    fn has(&self, place: usize, now: Instant) -> bool {
        (self.full[place].max(now) + self.gap).duration_since(now) <= self.gap * self.burst
    }

    fn take(&mut self, place: usize, now: Instant) -> bool {
        let granted = self.has(place, now);
        if granted {
            self.full[place] = self.full[place].max(now) + self.gap;
        }
        granted
    }
}

/// Whether a handshake message does not even try to prove an address.
fn is_without_mac2(datagram: &[u8]) -> bool {
    matches!(datagram.first(), Some(&INITIATION | &RESPONSE)) && datagram.ends_with(&[0; MAC2_LEN])
}

fn reason(error: &TunnResult<'_>) -> Drop {
    match error {
        TunnResult::Err(WireGuardError::InvalidMac) => Drop::BadMac,
        TunnResult::Err(WireGuardError::DestinationBufferTooSmall) => Drop::UnderLoad,
        TunnResult::Err(_)
        | TunnResult::Done
        | TunnResult::WriteToNetwork(_)
        | TunnResult::WriteToTunnelV4(..)
        | TunnResult::WriteToTunnelV6(..) => Drop::Malformed,
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
