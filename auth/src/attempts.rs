//! Wrong tries: how many, how fast, from where. A pure machine; `now` is an argument.
//!
//! A short secret is guessed by trying. So a service has at most fifty tries verified that turn out wrong within any
//! 24 hours, whoever makes them, and each network that they come from waits longer after each. A success takes back
//! nothing but itself: who knows one password earns no tries at another. What was found wrong is known to be wrong, so
//! that a forgotten client with an old password uses up one try, not all of them.
//!
//! A try that is being verified may turn out either way. It takes up a place until then, so that a burst can never
//! verify more than it may, but it turns nobody away: who could be let in or not by its verdict waits for that. So an
//! office full of people with the right password gets in, behind one address, all at once.
//!
//! Everything is derived from the fifty tries that each service remembers. Nothing is ever evicted to make room, so
//! there is nothing to flood out.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
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

/// A verdict takes a second. A try without one for so long was given up, and counts as wrong from then on.
const OVERDUE: Duration = Duration::from_secs(30);

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

impl Entry {
    /// Nothing that is still to come takes it back.
    fn is_settled(&self, now: Instant) -> bool {
        self.known_wrong || now.saturating_duration_since(self.at) >= OVERDUE
    }
}

/// What was tried, so that it is recognised and cannot be read back.
type Guess = [u8; 32];

/// What the tries of one person are likely to share: 24 bits of an IPv4 address, 56 of an IPv6 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network(Ipv6Addr);

impl Network {
    fn of(source: IpAddr) -> Self {
        match source.to_canonical() {
            IpAddr::V4(v4) => Self(Ipv4Addr::from_bits(v4.to_bits() & !0xff).to_ipv6_mapped()),
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
    /// Ask again once a try that is being verified has its verdict: it depends on that.
    Wait,
    /// Do not look at it before so much time has passed.
    TooMany {
        /// At least this long.
        retry_after: Duration,
    },
}

/// A try that is being verified. Dropped without a word, it counts as wrong: who hangs up early learns nothing for free.
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
    /// presented, and the service's session key, which changes with its passwords. Memory is bounded by the number of
    /// services, so ask for services that exist only.
    pub fn begin(&mut self, service: &ServiceId, source: IpAddr, credential: &[&[u8]], now: Instant) -> Begin {
        let network = Network::of(source);
        let guess = self.guess(credential);
        let entries = self.services.entry(service.clone()).or_default();
        entries.retain(|entry| now.saturating_duration_since(entry.at) < WINDOW);
        if entries.iter().any(|entry| entry.known_wrong && entry.guess == guess) {
            return Begin::KnownWrong;
        }
        let retry_after = wait(entries.iter().filter(|entry| entry.is_settled(now)), network, now);
        if !retry_after.is_zero() {
            return Begin::TooMany { retry_after };
        }
        if !wait(entries.iter(), network, now).is_zero() {
            return Begin::Wait;
        }
        let number = self.next;
        self.next += 1;
        entries.push(Entry { number, at: now, network, guess, known_wrong: false });
        Begin::Verify(Try { service: service.clone(), number })
    }

    /// The try was right: it does not count.
    pub fn right(&mut self, right: Try) {
        let Try { service, number } = right;
        if let Some(entries) = self.services.get_mut(&service) {
            entries.retain(|entry| entry.number != number);
            if entries.is_empty() {
                self.services.remove(&service);
            }
        }
    }

    /// The try was wrong. `true` if the service has none left: its owner should be told.
    pub fn wrong(&mut self, wrong: Try) -> bool {
        let Try { service, number } = wrong;
        let Some(entries) = self.services.get_mut(&service) else { return false };
        if let Some(entry) = entries.iter_mut().find(|entry| entry.number == number) {
            entry.known_wrong = true;
        }
        entries.iter().filter(|entry| entry.known_wrong).count() >= CEILING
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

/// How long a try from this network has to wait if all these count; zero if it need not. They are oldest first.
fn wait<'e>(entries: impl DoubleEndedIterator<Item = &'e Entry> + Clone, network: Network, now: Instant) -> Duration {
    let until = |at: Instant, pause: Duration| (at + pause).saturating_duration_since(now);
    let oldest_that_must_go = entries.clone().rev().nth(CEILING - 1);
    let for_service = oldest_that_must_go.map_or(Duration::ZERO, |entry| until(entry.at, WINDOW));
    let mut from_here = entries.filter(|entry| entry.network == network);
    let tries = u32::try_from(from_here.clone().count()).unwrap_or(u32::MAX);
    let for_network = match (from_here.next_back(), tries.checked_sub(FREE)) {
        (Some(last), Some(more)) => until(last.at, pause(more)),
        (Some(_), None) | (None, _) => Duration::ZERO,
    };
    for_service.max(for_network)
}

/// After the free tries: 1 s, 2 s, 4 s … an hour.
fn pause(more: u32) -> Duration {
    2_u32.checked_pow(more).map_or(LONGEST_WAIT, |factor| FIRST_WAIT.saturating_mul(factor)).min(LONGEST_WAIT)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn service(name: &str) -> ServiceId {
        ServiceId::parse(name).expect("an id")
    }

    fn source(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    /// Tries `guess` and finds it wrong, if it may be verified at all.
    fn fail(attempts: &mut Attempts, from: IpAddr, guess: u64, now: Instant) -> bool {
        match attempts.begin(&service("svc"), from, &[&guess.to_be_bytes()], now) {
            Begin::Verify(attempt) => {
                attempts.wrong(attempt);
                true
            }
            Begin::KnownWrong | Begin::Wait | Begin::TooMany { .. } => false,
        }
    }

    #[test]
    fn a_network_waits_longer_and_longer() {
        let (mut attempts, mut now) = (Attempts::new(&[7; 32]), Instant::now());
        for guess in 0..u64::from(FREE) {
            assert!(fail(&mut attempts, source("192.0.2.1"), guess, now));
        }
        for more in 0..14 {
            let refused = attempts.begin(&service("svc"), source("192.0.2.200"), &[b"x"], now);
            assert_eq!(refused, Begin::TooMany { retry_after: pause(more) });
            assert_eq!(pause(more), Duration::from_secs(3600.min(1 << more)));
            now += pause(more);
            assert!(fail(&mut attempts, source("192.0.2.1"), 100 + u64::from(more), now));
        }
        assert!(fail(&mut attempts, source("192.0.3.1"), 200, now), "another network is not concerned");
    }

    #[test]
    fn addresses_of_one_network_count_together() {
        for (one, other, together) in [
            ("192.0.2.1", "192.0.2.254", true),
            ("192.0.2.1", "::ffff:192.0.2.9", true),
            ("192.0.2.1", "192.0.3.1", false),
            ("2001:db8:0:aa00::1", "2001:db8:0:aaff:ffff::2", true),
            ("2001:db8:0:aa00::1", "2001:db8:0:ab00::1", false),
        ] {
            assert_eq!(Network::of(source(one)) == Network::of(source(other)), together, "{one} {other}");
        }
    }

    #[test]
    fn a_flood_from_ten_thousand_networks_is_fifty_tries() {
        let (mut attempts, start) = (Attempts::new(&[7; 32]), Instant::now());
        let mut verified = 0;
        for n in 0..100_000_u32 {
            let from = IpAddr::V4(Ipv4Addr::from_bits((n % 10_000) << 8));
            verified +=
                usize::from(fail(&mut attempts, from, u64::from(n), start + Duration::from_millis(u64::from(n) * 800)));
        }
        assert_eq!(verified, CEILING);
        let tomorrow = start + Duration::from_secs(80_000) + WINDOW;
        assert!(fail(&mut attempts, source("192.0.2.1"), 1, tomorrow));
    }

    #[test]
    fn a_success_takes_back_itself_alone() {
        let (mut attempts, now) = (Attempts::new(&[7; 32]), Instant::now());
        let mut wrong = 0;
        for n in 0..200_u32 {
            let from = IpAddr::V4(Ipv4Addr::from_bits(n << 8));
            wrong += usize::from(fail(&mut attempts, from, u64::from(n), now));
            if let Begin::Verify(attempt) = attempts.begin(&service("svc"), source("10.0.0.1"), &[b"mine"], now) {
                attempts.right(attempt);
            }
        }
        assert_eq!(wrong, CEILING);
    }

    #[test]
    fn parallel_tries_are_counted_before_they_are_verified() {
        let (mut attempts, now) = (Attempts::new(&[7; 32]), Instant::now());
        let mut open = Vec::new();
        for n in 0..1000_u32 {
            let from = IpAddr::V4(Ipv4Addr::from_bits(n << 8));
            if let Begin::Verify(attempt) = attempts.begin(&service("svc"), from, &[&n.to_be_bytes()], now) {
                open.push(attempt);
            }
        }
        assert_eq!(open.len(), CEILING);
        assert_eq!(attempts.begin(&service("svc"), source("203.0.113.1"), &[b"x"], now), Begin::Wait);
        attempts.unverified(open.pop().expect("one"));
        assert!(fail(&mut attempts, source("203.0.113.1"), 5000, now), "what was not verified makes room");
        drop(open);
        assert!(!fail(&mut attempts, source("203.0.114.1"), 5001, now), "what was given up does not");
        let refused = attempts.begin(&service("svc"), source("203.0.114.1"), &[b"x"], now + OVERDUE);
        assert_eq!(refused, Begin::TooMany { retry_after: WINDOW - OVERDUE }, "and nobody waits for it for long");
    }

    /// Everybody in an office comes at once, as after a restart, and asks again whenever there is a verdict. Answers how
    /// many were verified and how many turned away.
    fn burst(people: u64, right: bool) -> (usize, usize) {
        let (mut attempts, now) = (Attempts::new(&[7; 32]), Instant::now());
        let mut waiting: std::collections::VecDeque<u64> = (0..people).collect();
        let (mut open, mut verified, mut refused) = (std::collections::VecDeque::new(), 0, 0);
        loop {
            for _ in 0..waiting.len() {
                let Some(person) = waiting.pop_front() else { break };
                match attempts.begin(&service("svc"), source("192.0.2.1"), &[&person.to_be_bytes()], now) {
                    Begin::Verify(attempt) => open.push_back(attempt),
                    Begin::Wait => waiting.push_back(person),
                    Begin::TooMany { .. } => refused += 1,
                    Begin::KnownWrong => panic!("all are different"),
                }
            }
            let Some(attempt) = open.pop_front() else { return (verified, refused) };
            verified += 1;
            if right {
                attempts.right(attempt);
            } else {
                attempts.wrong(attempt);
            }
        }
    }

    #[test]
    fn a_burst_that_is_right_gets_in_and_one_that_is_wrong_gets_five_tries() {
        assert_eq!(burst(300, true), (300, 0));
        assert_eq!(burst(300, false), (5, 295));
    }

    #[test]
    fn an_old_password_uses_up_one_try() {
        let (mut attempts, mut now) = (Attempts::new(&[7; 32]), Instant::now());
        let old: [&[u8]; 2] = [b"key 1", b"old password"];
        let Begin::Verify(attempt) = attempts.begin(&service("svc"), source("192.0.2.1"), &old, now) else {
            panic!("the first try is verified");
        };
        assert!(matches!(attempts.begin(&service("svc"), source("192.0.2.1"), &old, now), Begin::Verify(_)));
        assert!(!attempts.wrong(attempt));
        for _ in 0..500 {
            now += SECOND;
            assert_eq!(attempts.begin(&service("svc"), source("198.51.100.1"), &old, now), Begin::KnownWrong);
        }
        let renewed: [&[u8]; 2] = [b"key 2", b"old password"];
        assert!(matches!(attempts.begin(&service("svc"), source("192.0.2.1"), &renewed, now), Begin::Verify(_)));
        let shifted: [&[u8]; 2] = [b"key 1o", b"ld password"];
        assert!(matches!(attempts.begin(&service("svc"), source("192.0.2.1"), &shifted, now), Begin::Verify(_)));
        let elsewhere = attempts.begin(&service("other"), source("192.0.2.1"), &old, now);
        assert!(matches!(elsewhere, Begin::Verify(_)), "another service has a memory of its own");
    }

    #[test]
    fn the_owner_hears_of_the_last_try() {
        let (mut attempts, now) = (Attempts::new(&[7; 32]), Instant::now());
        for n in 1..=50_u32 {
            let from = IpAddr::V4(Ipv4Addr::from_bits(n << 8));
            let Begin::Verify(attempt) = attempts.begin(&service("svc"), from, &[&n.to_be_bytes()], now) else {
                panic!("within the ceiling");
            };
            assert_eq!(attempts.wrong(attempt), n == 50);
        }
    }

    #[derive(Clone, Debug)]
    struct Step {
        pass: u64,
        service: bool,
        network: u8,
        guess: u8,
        outcome: Outcome,
        /// After how many further steps there is a verdict.
        takes: usize,
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Outcome {
        Right,
        Wrong,
        GivenUp,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let outcome = prop_oneof![2 => Just(Outcome::Right), 6 => Just(Outcome::Wrong), 1 => Just(Outcome::GivenUp)];
        let pass = prop_oneof![2 => Just(0), 1 => 0..5_u64, 1 => 0..60_u64, 1 => 0..5_000_u64, 1 => 0..50_000_u64];
        let takes = prop_oneof![Just(0), 0..10_usize, 0..80_usize];
        let step = (pass, any::<bool>(), 0..60_u8, any::<u8>(), outcome, takes).prop_map(
            |(pass, service, network, guess, outcome, takes)| Step { pass, service, network, guess, outcome, takes },
        );
        proptest::collection::vec(step, 1..400)
    }

    /// One past try of the reference.
    struct Past {
        at: Instant,
        step: Step,
        /// When it has its verdict, in steps.
        due: usize,
        attempt: Option<Try>,
    }

    /// Whether these tries, all of one service, stand in the way of one from this network.
    fn in_the_way(counted: &[&Past], network: u8, now: Instant) -> bool {
        let here: Vec<_> = counted.iter().filter(|past| past.step.network / 20 == network / 20).collect();
        let rested = match (here.last(), here.len().checked_sub(5)) {
            (Some(last), Some(n)) => now - last.at >= Duration::from_secs(3600.min(1_u64 << n.min(20))),
            _ => true,
        };
        counted.len() >= 50 || !rested
    }

    proptest! {
        /// The reference keeps the whole history and looks through it each time.
        #[test]
        fn the_machine_does_what_the_history_says(steps in steps()) {
            let (mut attempts, mut now) = (Attempts::new(&[7; 32]), Instant::now());
            let mut history: Vec<Past> = Vec::new();
            for (n, step) in steps.into_iter().enumerate() {
                now += Duration::from_secs(step.pass);
                for past in history.iter_mut().filter(|past| past.due <= n) {
                    match (past.attempt.take(), past.step.outcome) {
                        (Some(attempt), Outcome::Right) => attempts.right(attempt),
                        (Some(attempt), Outcome::Wrong) => drop(attempts.wrong(attempt)),
                        (None, _) | (_, Outcome::GivenUp) => {}
                    }
                }
                history.retain(|past| past.due > n || past.step.outcome != Outcome::Right);
                let wrong = |past: &Past| past.due <= n && past.step.outcome == Outcome::Wrong;
                let counted: Vec<_> =
                    history.iter().filter(|past| now - past.at < WINDOW && past.step.service == step.service).collect();
                let known = counted.iter().any(|past| wrong(past) && past.step.guess == step.guess);
                let old = |past: &Past| now - past.at >= Duration::from_secs(30);
                let settled: Vec<_> = counted.iter().copied().filter(|past| wrong(past) || old(past)).collect();
                let hopeless = in_the_way(&settled, step.network, now);
                let unsure = in_the_way(&counted, step.network, now);
                let id = service(if step.service { "a" } else { "b" });
                let from = IpAddr::V4(Ipv4Addr::new(10, 0, step.network / 20, step.network));
                match attempts.begin(&id, from, &[&[step.guess]], now) {
                    Begin::KnownWrong => prop_assert!(known),
                    Begin::TooMany { retry_after } => {
                        prop_assert!(!known && hopeless);
                        prop_assert!(retry_after > Duration::ZERO && retry_after <= WINDOW);
                    }
                    Begin::Wait => prop_assert!(!known && !hopeless && unsure),
                    Begin::Verify(attempt) => {
                        prop_assert!(!known && !hopeless && !unsure);
                        let due = n + 1 + step.takes;
                        history.push(Past { at: now, step, due, attempt: Some(attempt) });
                    }
                }
            }
        }
    }
}
