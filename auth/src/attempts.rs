//! Wrong tries: how many, how fast, from where. A pure machine; `now` is an argument.
//!
//! A short secret is guessed by trying. So a service has at most fifty tries verified that turn out wrong within any
//! 24 hours, whoever makes them, and each network that they come from waits longer after each. A success takes back
//! nothing but itself: who knows one password earns no tries at another. What was found wrong is known to be wrong, so
//! that a forgotten client with an old password uses up one try, not all of them.
//!
//! Everything is derived from the fifty tries that each service remembers. Nothing is ever evicted to make room, so
//! there is nothing to flood out.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use postern_model::ServiceId;

/// How long a try counts.
pub const WINDOW: Duration = Duration::from_secs(24 * 60 * 60);

/// How many wrong tries a service has verified within [`WINDOW`].
pub const CEILING: usize = 50;

/// How many tries a network has before it must wait between them.
const FREE: u32 = 5;

/// The first wait; each further wrong try doubles it.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(60 * 60);

/// The wrong tries of all services.
pub struct Attempts {
    key: hmac::Key,
    services: HashMap<ServiceId, Vec<Entry>>,
    next: u64,
}

/// Tries that count, oldest first.
struct Entry {
    number: u64,
    at: Instant,
    network: Network,
    guess: Guess,
    known_wrong: bool,
}

/// What was tried, so that it is recognised and cannot be read back.
type Guess = [u8; 32];

/// What the tries of one person are likely to share: 24 bits of an IPv4 address, 56 of an IPv6 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network(Ipv6Addr);

impl Network {
    fn of(source: IpAddr) -> Self {
        match source.to_canonical() {
            IpAddr::V4(v4) => Self(std::net::Ipv4Addr::from_bits(v4.to_bits() & !0xff).to_ipv6_mapped()),
            IpAddr::V6(v6) => Self(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 72))),
        }
    }
}

/// What to do with a try.
#[derive(Debug, PartialEq, Eq)]
pub enum Begin {
    /// Verify it, and say what came of it. It counts as wrong until it is found right.
    Verify(Try),
    /// It is wrong, as it was before; there is no need to verify it again.
    KnownWrong,
    /// Do not look at it before so much time has passed.
    TooMany {
        /// At least this long.
        retry_after: Duration,
    },
}

/// A try that is being verified. Dropped without a word, it stays counted: who hangs up early learns nothing for free.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Try {
    service: ServiceId,
    number: u64,
}

impl Attempts {
    /// Nothing was tried yet. `seed` is secret and random: guesses are remembered under it.
    #[must_use]
    pub fn new(seed: &[u8; 32]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, seed), services: HashMap::new(), next: 0 }
    }

    /// Asks whether a try may be verified. `credential` is all that its verdict depends on, in parts: what was
    /// presented, and the service's session key, which changes with its passwords.
    pub fn begin(&mut self, service: &ServiceId, source: IpAddr, credential: &[&[u8]], now: Instant) -> Begin {
        let network = Network::of(source);
        let guess = self.guess(credential);
        let entries = self.services.entry(service.clone()).or_default();
        entries.retain(|entry| now.saturating_duration_since(entry.at) < WINDOW);
        if entries.iter().any(|entry| entry.known_wrong && entry.guess == guess) {
            return Begin::KnownWrong;
        }
        let wait = wait(entries, network, now);
        if !wait.is_zero() {
            return Begin::TooMany { retry_after: wait };
        }
        let number = self.next;
        self.next += 1;
        entries.push(Entry { number, at: now, network, guess, known_wrong: false });
        Begin::Verify(Try { service: service.clone(), number })
    }

    /// The try was right: it does not count.
    pub fn right(&mut self, right: Try) {
        if let Some(entries) = self.services.get_mut(&right.service) {
            entries.retain(|entry| entry.number != right.number);
            if entries.is_empty() {
                self.services.remove(&right.service);
            }
        }
    }

    /// The try was wrong. `true` if it was the last that the service had: its owner should be told.
    pub fn wrong(&mut self, wrong: Try) -> bool {
        let Some(entries) = self.services.get_mut(&wrong.service) else { return false };
        if let Some(entry) = entries.iter_mut().find(|entry| entry.number == wrong.number) {
            entry.known_wrong = true;
        }
        entries.len() >= CEILING && entries.iter().all(|entry| entry.known_wrong)
    }

    /// The try could not be verified, through no fault of the client: it does not count.
    pub fn unverified(&mut self, unverified: Try) {
        self.right(unverified);
    }

    /// Forgets a service that is no more.
    pub fn forget(&mut self, service: &ServiceId) {
        self.services.remove(service);
    }

    /// Each part is hashed with its length, so that no two lists of parts are the same guess.
    fn guess(&self, credential: &[&[u8]]) -> Guess {
        let mut context = hmac::Context::with_key(&self.key);
        for part in credential {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        context.sign().as_ref().try_into().expect("HMAC-SHA256 has 32 bytes")
    }
}

impl std::fmt::Debug for Attempts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attempts").field("services", &self.services.len()).finish_non_exhaustive()
    }
}

/// How long a try from this network has to wait; zero if it need not. `entries` are oldest first.
fn wait(entries: &[Entry], network: Network, now: Instant) -> Duration {
    let until = |at: Instant, pause: Duration| (at + pause).saturating_duration_since(now);
    let for_service = match entries.len().checked_sub(CEILING) {
        Some(surplus) => until(entries[surplus].at, WINDOW),
        None => Duration::ZERO,
    };
    let from_here = || entries.iter().filter(|entry| entry.network == network);
    let tries = u32::try_from(from_here().count()).unwrap_or(u32::MAX);
    let for_network = match (from_here().next_back(), tries.checked_sub(FREE)) {
        (Some(last), Some(more)) => until(last.at, pause(more)),
        (Some(_), None) | (None, _) => Duration::ZERO,
    };
    for_service.max(for_network)
}

/// After the free tries: 1 s, 2 s, 4 s … an hour.
fn pause(more: u32) -> Duration {
    2_u32.checked_pow(more).map_or(LONGEST_WAIT, |factor| FIRST_WAIT.saturating_mul(factor)).min(LONGEST_WAIT)
}
