//! What stands before the handshake, so that strangers cost little: message authentication codes first, cookies under load,
//! and then a share for each source that has proved where it is.

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

/// Handshake messages of one source in a second, while there is load (as in the Linux kernel), and how many of them may come
/// at once. Only who has proved its address takes from a share, so nobody uses up another's in its name.
const SHARE: Rate = Rate::new(20, 5);
/// Cookies in a second for everybody together. Not by source, for invented sources would use up what is meant for real ones;
/// and not scarce, for beyond this chance decides who gets one. A cookie is smaller than what it answers and costs some 3 us and
/// a system call. So many are ten times what ten thousand peers ask for that all come back in one second, and at most two
/// thirds of a core.
pub(crate) const COOKIES: Rate = Rate::new(100_000, 1000);
/// As many are made, a thirtieth of a core, when datagrams arrive faster than they are taken: what time cookies take, the
/// system drops data for. Whoever catches up by that makes more again, so there are always as many as there is time for.
pub(crate) const COOKIES_BEHIND: Rate = Rate::new(4096, 8);
/// Sources told apart. Those that meet in one bucket share it, until the next second, which has other buckets.
const BUCKETS: usize = 4096;
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
    /// Secret, so that nobody can aim at another's bucket, and another each second.
    hasher: RandomState,
    /// When each bucket has its whole burst again.
    shares: Box<[Instant]>,
    /// When the cookies have.
    cookies: Instant,
    /// Datagrams arrive faster than they are taken.
    pub(crate) behind: bool,
}

/// So many of something in a second.
pub(crate) struct Rate {
    /// Between two, in the long run.
    gap: Duration,
    /// How many may come at once.
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
            shares: vec![now; BUCKETS].into_boxed_slice(),
            cookies: now,
            behind: false,
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
        let cookies = if self.behind { COOKIES_BEHIND } else { COOKIES };
        let has_cookie = cookies.has(self.cookies, now);
        if !has_cookie && is_without_mac2(datagram) {
            return Verdict::Refuse(Drop::UnderLoad);
        }
        let mut cookie = [0; COOKIE_LEN];
        // Into a buffer without room no cookie is made.
        let room = if has_cookie { COOKIE_LEN } else { 0 };
        match self.strict.verify_packet(Some(source), datagram, &mut cookie[..room]) {
            Ok(packet @ Packet::PacketCookieReply(_)) => Verdict::Pass(packet),
            Ok(packet) if SHARE.take(self.share(source), now) => Verdict::Pass(packet),
            Ok(_) => Verdict::Refuse(Drop::UnderLoad),
            Err(TunnResult::WriteToNetwork(_)) => {
                cookies.take(&mut self.cookies, now);
                Verdict::Cookie(cookie)
            }
            Err(error) => Verdict::Refuse(reason(&error)),
        }
    }

    fn share(&mut self, source: IpAddr) -> &mut Instant {
        let place = self.hasher.hash_one(network(source)) as usize % BUCKETS;
        &mut self.shares[place]
    }

    fn is_loaded(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.second) >= Duration::from_secs(1) {
            self.second = now;
            self.seen = 0;
            self.hasher = RandomState::new();
        }
        self.seen >= self.limit
    }
}

impl Rate {
    const fn new(in_a_second: u64, burst: u32) -> Self {
        Self { gap: Duration::from_nanos(1_000_000_000 / in_a_second), burst }
    }

    /// The most in a span that begins with the whole burst.
    #[cfg(test)]
    pub(crate) fn most(&self, span: Duration) -> u128 {
        u128::from(self.burst) + span.as_nanos() / self.gap.as_nanos()
    }

    /// Whether there is one, where `full` is when the whole burst is there again.
    fn has(&self, full: Instant, now: Instant) -> bool {
        (full.max(now) + self.gap).duration_since(now) <= self.gap * self.burst
    }

    fn take(&self, full: &mut Instant, now: Instant) -> bool {
        let granted = self.has(*full, now);
        if granted {
            *full = (*full).max(now) + self.gap;
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
