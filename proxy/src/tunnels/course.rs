//! What the supervisor of a tunnel does next: a pure state machine.
//!
//! Three things make a tunnel: a bound socket with a driver, our being a peer of it at management, and a peer map. The socket and
//! the conversation with management break down and come back independently of each other, each with a back-off of its own; a map
//! stays in force until there is another.

use std::time::{Duration, Instant};

use super::ticket::{Ticket, Tickets};

/// What to do.
#[derive(Debug)]
pub(super) enum Step {
    /// Bind the socket and hand the driver to its worker.
    Bind,
    /// Become a peer with this ticket.
    Register(Ticket),
    /// Ask for the stream of peer maps.
    Watch,
    /// Ask for a snapshot of the mappings, which brings tickets.
    Resync,
    /// Nothing, before this time or until something happens.
    Wait(Option<Instant>),
}

/// What has happened.
#[derive(Debug)]
pub(super) enum Happened {
    /// A mapping of the account came with this.
    Ticket(Ticket),
    /// The socket is there.
    Bound,
    /// It cannot be had, for this reason.
    Unbound(String),
    /// The driver has ended, for this reason.
    Died(String),
    /// Management has made us a peer.
    Registered,
    /// It has not, for this reason, and the ticket is used.
    Unregistered(String),
    /// It did not answer, for this reason: the ticket may still be good.
    Unanswered(String),
    /// There is a stream of peer maps.
    Watching,
    /// There is none, for this reason.
    Unwatched(String),
    /// There is none, because management does not know us.
    Unknown,
    /// A map is in force.
    Mapped,
    /// The stream has ended.
    Forgotten,
}

/// How the tunnel stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage<'a> {
    Coming,
    Up,
    Down(&'a str),
}

/// The state machine.
#[derive(Debug)]
pub(super) struct Course {
    tickets: Tickets,
    socket: BackOff,
    bound: Option<Instant>,
    management: BackOff,
    snapshot: BackOff,
    /// Management does not know us, and there is nothing to make ourselves known with.
    stranded: bool,
    talk: Talk,
    registered: bool,
    mapped: bool,
    /// Why the last attempt failed; forgotten once the tunnel is up.
    failure: Option<String>,
}

/// How the conversation with management stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Talk {
    Silent,
    Asking,
    Watching,
}

impl Course {
    /// Waits are shortened by up to half: `share`, from 0 to 1, says by how much, so that not everybody comes back at once.
    pub(super) fn new(share: f64) -> Self {
        Self {
            tickets: Tickets::default(),
            socket: BackOff::new(share, LONGEST),
            bound: None,
            management: BackOff::new(share, LONGEST),
            snapshot: BackOff::new(share, RAREST),
            stranded: false,
            talk: Talk::Silent,
            registered: false,
            mapped: false,
            failure: None,
        }
    }

    /// What to do `now`. A step that is returned is taken to have begun.
    pub(super) fn next(&mut self, now: Instant) -> Step {
        if self.bound.is_none() {
            // Without a socket there is no port to tell management of.
            return if self.socket.allows(now) { Step::Bind } else { Step::Wait(self.socket.not_before) };
        }
        if self.talk != Talk::Silent {
            return Step::Wait(None);
        }
        if self.stranded && self.snapshot.allows(now) {
            self.stranded = false;
            self.snapshot.failed(now);
            return Step::Resync;
        }
        if !self.management.allows(now) {
            return Step::Wait(self.management.not_before);
        }
        self.talk = Talk::Asking;
        if !self.registered
            && let Some(ticket) = self.tickets.take(now)
        {
            return Step::Register(ticket);
        }
        // Without a ticket too: management may know us from before.
        Step::Watch
    }

    /// Takes in what has happened.
    pub(super) fn hear(&mut self, happened: Happened, now: Instant) {
        match happened {
            Happened::Ticket(ticket) => {
                self.tickets.put(ticket, now);
                self.stranded = false;
                if !self.registered && self.talk == Talk::Silent {
                    self.management.not_before = None;
                }
            }
            Happened::Bound => (self.bound, self.failure) = (Some(now), None),
            Happened::Unbound(reason) => {
                self.socket.failed(now);
                self.failure = Some(reason);
            }
            Happened::Died(reason) => {
                if self.bound.take().is_some_and(|since| now.saturating_duration_since(since) >= SOUND) {
                    self.socket.succeeded();
                }
                self.socket.failed(now);
                self.failure = Some(reason);
            }
            Happened::Registered => {
                (self.registered, self.talk) = (true, Talk::Silent);
            }
            Happened::Unregistered(reason) | Happened::Unwatched(reason) => {
                self.refused(now);
                self.failure = Some(reason);
            }
            Happened::Unanswered(reason) => {
                // Whoever is overloaded is asked ever more rarely, whatever else there is to try.
                self.talk = Talk::Silent;
                self.management.failed(now);
                self.tickets.put_back();
                self.failure = Some(reason);
            }
            Happened::Unknown => {
                self.refused(now);
                self.stranded = !self.tickets.any(now);
                // Why it did not want to know us says more.
                self.failure.get_or_insert_with(|| UNKNOWN.to_owned());
            }
            Happened::Watching => self.talk = Talk::Watching,
            Happened::Mapped => {
                self.mapped = true;
                self.management.succeeded();
                self.snapshot.succeeded();
            }
            Happened::Forgotten => {
                self.talk = Talk::Silent;
                self.management.failed(now);
            }
        }
        if self.stage() == Stage::Up {
            self.failure = None;
        }
    }

    fn refused(&mut self, now: Instant) {
        (self.registered, self.talk) = (false, Talk::Silent);
        self.management.failed(now);
        if self.tickets.any(now) {
            self.management.not_before = self.management.not_before.map(|at| at.min(now + AGAIN));
        }
    }

    pub(super) fn stage(&self) -> Stage<'_> {
        match &self.failure {
            _ if self.bound.is_some() && self.mapped => Stage::Up,
            Some(reason) => Stage::Down(reason),
            None => Stage::Coming,
        }
    }
}

/// A driver that ran this long was not broken from the start.
const SOUND: Duration = Duration::from_secs(60);

/// When to try the next ticket, where there is one.
const AGAIN: Duration = Duration::from_secs(1);

const UNKNOWN: &str = "management does not know this proxy's tunnel key, and the one-time tokens to register it are used up or \
                       too old: others are asked for; if this lasts, look into the log of management";

/// Ever longer waits.
#[derive(Debug)]
struct BackOff {
    share: f64,
    longest: Duration,
    wait: Duration,
    not_before: Option<Instant>,
}

const SHORTEST: Duration = Duration::from_millis(800);
const LONGEST: Duration = Duration::from_secs(30);
/// For a snapshot, which may be of very many mappings.
const RAREST: Duration = Duration::from_secs(600);

impl BackOff {
    fn new(share: f64, longest: Duration) -> Self {
        Self { share: share.clamp(0.0, 1.0), longest, wait: Duration::ZERO, not_before: None }
    }

    fn allows(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|at| at <= now)
    }

    fn failed(&mut self, now: Instant) {
        self.wait = (self.wait * 2).clamp(SHORTEST, self.longest);
        self.not_before = Some(now + self.wait.mul_f64(1.0 - self.share / 2.0));
    }

    fn succeeded(&mut self) {
        (self.wait, self.not_before) = (Duration::ZERO, None);
    }
}

#[cfg(test)]
mod tests {
    use postern_model::{AccountId, OneTimeToken, Secret, ServiceId};
    use proptest::prelude::*;

    use super::*;

    fn ticket(name: &str) -> Ticket {
        Ticket {
            account: AccountId::parse("acc").unwrap(),
            service: ServiceId::parse(name).unwrap(),
            token: OneTimeToken(Secret::from(name)),
        }
    }

    struct World {
        course: Course,
        now: Instant,
    }

    impl World {
        fn new() -> Self {
            Self { course: Course::new(0.0), now: Instant::now() }
        }

        fn hear(&mut self, happened: Happened) -> &mut Self {
            self.course.hear(happened, self.now);
            self
        }

        /// One word for the next step, waits skipped.
        fn next(&mut self) -> String {
            loop {
                match self.course.next(self.now) {
                    Step::Bind => return "bind".to_owned(),
                    Step::Register(ticket) => return format!("register {}", ticket.service),
                    Step::Watch => return "watch".to_owned(),
                    Step::Resync => return "resync".to_owned(),
                    Step::Wait(Some(at)) => self.now = at,
                    Step::Wait(None) => return "wait".to_owned(),
                }
            }
        }

        fn up() -> Self {
            let mut world = Self::new();
            world.hear(Happened::Ticket(ticket("a")));
            assert_eq!(world.next(), "bind");
            assert_eq!(world.hear(Happened::Bound).next(), "register a");
            assert_eq!(world.hear(Happened::Registered).next(), "watch");
            assert_eq!(world.hear(Happened::Watching).next(), "wait");
            assert_eq!(world.course.stage(), Stage::Coming);
            world.hear(Happened::Mapped);
            assert_eq!(world.course.stage(), Stage::Up);
            world
        }
    }

    #[test]
    fn a_tunnel_comes_up() {
        World::up();
    }

    #[test]
    fn without_a_ticket_management_is_asked_whether_it_knows_us() {
        let mut world = World::new();
        assert_eq!(world.next(), "bind");
        assert_eq!(world.hear(Happened::Bound).next(), "watch");
        world.hear(Happened::Watching).hear(Happened::Mapped);
        assert_eq!(world.course.stage(), Stage::Up);
    }

    #[test]
    fn a_ticket_is_used_once_and_the_newest_first() {
        let mut world = World::new();
        world.next();
        world.hear(Happened::Bound).hear(Happened::Ticket(ticket("a"))).hear(Happened::Ticket(ticket("b")));
        assert_eq!(world.next(), "register b");
        assert_eq!(world.hear(Happened::Unregistered("used".into())).next(), "register a");
        assert_eq!(world.course.stage(), Stage::Down("used"));
        assert_eq!(world.hear(Happened::Unregistered("used".into())).next(), "watch");
        world.hear(Happened::Unwatched("unknown".into()));
        assert_eq!(world.course.stage(), Stage::Down("unknown"));
        let before = world.now;
        assert_eq!(world.hear(Happened::Ticket(ticket("c"))).next(), "register c");
        assert_eq!(world.now, before, "a fresh ticket is used at once");
    }

    #[test]
    fn an_old_ticket_is_not_used() {
        let mut world = World::new();
        world.hear(Happened::Ticket(ticket("a")));
        world.next();
        world.hear(Happened::Bound);
        world.now += Duration::from_secs(300);
        assert_eq!(world.next(), "watch");
    }

    #[test]
    fn a_ticket_that_management_did_not_answer_to_is_tried_again_and_ever_more_rarely() {
        let mut world = World::new();
        world.next();
        world.hear(Happened::Bound).hear(Happened::Ticket(ticket("a")));
        assert_eq!(world.next(), "register a");
        for wait in [800, 1600, 3200, 6400] {
            world.hear(Happened::Unanswered("starting".into()));
            assert_eq!(world.course.stage(), Stage::Down("starting"));
            let before = world.now;
            assert_eq!(world.next(), "register a");
            assert_eq!((world.now - before).as_millis(), wait);
        }
        // What came meanwhile is tried before it, and it goes no further back.
        world.hear(Happened::Ticket(ticket("b"))).hear(Happened::Unanswered("starting".into()));
        assert_eq!(world.next(), "register b");
        world.hear(Happened::Unregistered("used".into()));
        assert_eq!(world.next(), "register a");
        world.hear(Happened::Unanswered("starting".into()));
        world.now += Duration::from_secs(285);
        assert_eq!(world.next(), "watch", "it is too old");
    }

    #[test]
    fn whoever_is_unknown_and_has_no_ticket_asks_for_a_snapshot_ever_more_rarely() {
        let mut world = World::new();
        world.hear(Happened::Ticket(ticket("a")));
        assert_eq!(world.next(), "bind");
        world.hear(Happened::Unbound("the port is taken".into()));
        world.now += Duration::from_secs(300);
        assert_eq!(world.next(), "bind");
        assert_eq!(world.hear(Happened::Bound).next(), "watch");
        assert_eq!(world.hear(Happened::Unknown).next(), "resync");
        assert_eq!(world.course.stage(), Stage::Down(UNKNOWN));
        let (begun, mut asked) = (world.now, Vec::new());
        while world.now - begun < Duration::from_secs(7200) {
            match world.next().as_str() {
                "watch" => drop(world.hear(Happened::Unknown)),
                "resync" => asked.push((world.now - begun).as_secs()),
                other => panic!("{other}"),
            }
        }
        assert!((15..25).contains(&asked.len()), "{asked:?}");
        assert!(asked.windows(2).rev().take(5).all(|pair| (600..640).contains(&(pair[1] - pair[0]))), "{asked:?}");
        let before = world.now;
        assert_eq!(world.hear(Happened::Ticket(ticket("b"))).next(), "register b");
        assert_eq!(world.now, before, "at once");
        assert_eq!(world.hear(Happened::Registered).next(), "watch");
        world.hear(Happened::Watching).hear(Happened::Mapped);
        assert_eq!(world.course.stage(), Stage::Up);
    }

    #[test]
    fn whoever_has_another_ticket_or_is_not_unknown_asks_for_no_snapshot() {
        let mut world = World::new();
        world.next();
        assert_eq!(world.hear(Happened::Bound).next(), "watch");
        world.hear(Happened::Ticket(ticket("a"))).hear(Happened::Unknown);
        assert_eq!(world.next(), "register a");
        world.hear(Happened::Unregistered("the network is full".into()));
        assert_eq!(world.next(), "watch");
        assert_eq!(world.hear(Happened::Unwatched("no peer maps".into())).next(), "watch");
        assert_eq!(world.course.stage(), Stage::Down("no peer maps"));
    }

    #[test]
    fn why_management_refused_us_is_what_is_said() {
        let mut world = World::new();
        world.next();
        world.hear(Happened::Bound).hear(Happened::Ticket(ticket("a")));
        assert_eq!(world.next(), "register a");
        assert_eq!(world.hear(Happened::Unregistered("the network is full".into())).next(), "watch");
        assert_eq!(world.hear(Happened::Unknown).next(), "resync");
        assert_eq!(world.course.stage(), Stage::Down("the network is full"));
    }

    #[test]
    fn what_is_in_force_stays_when_the_stream_ends() {
        let mut world = World::up();
        world.hear(Happened::Forgotten);
        assert_eq!(world.course.stage(), Stage::Up);
        assert_eq!(world.next(), "watch");
        for _ in 0..20 {
            world.hear(Happened::Unwatched("gone".into()));
            assert_eq!(world.course.stage(), Stage::Up);
            let before = world.now;
            assert_eq!(world.next(), "watch");
            assert!(world.now - before >= SHORTEST && world.now - before <= LONGEST);
        }
    }

    #[test]
    fn management_that_has_forgotten_us_gets_what_came_meanwhile() {
        let mut world = World::up();
        world.hear(Happened::Ticket(ticket("b"))).hear(Happened::Forgotten);
        assert_eq!(world.next(), "watch");
        assert_eq!(world.hear(Happened::Unwatched("who are you".into())).next(), "register b");
        assert_eq!(world.hear(Happened::Registered).next(), "watch");
        assert_eq!(world.course.stage(), Stage::Up);
    }

    #[test]
    fn a_dead_driver_is_bound_anew_while_management_is_listened_to() {
        let mut world = World::up();
        world.hear(Happened::Died("no socket".into()));
        assert_eq!(world.course.stage(), Stage::Down("no socket"));
        assert_eq!(world.next(), "bind");
        world.hear(Happened::Mapped).hear(Happened::Bound);
        assert_eq!(world.course.stage(), Stage::Up);
        assert_eq!(world.next(), "wait", "the stream is still there");
    }

    #[test]
    fn a_driver_that_dies_at_once_is_restarted_ever_more_rarely() {
        let mut world = World::up();
        let mut waits = Vec::new();
        for _ in 0..8 {
            world.hear(Happened::Died("again".into()));
            let before = world.now;
            assert_eq!(world.next(), "bind");
            waits.push((world.now - before).as_millis());
            world.hear(Happened::Bound);
        }
        assert_eq!(waits, [800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]);
        world.now += SOUND;
        world.hear(Happened::Died("once".into()));
        let before = world.now;
        assert_eq!((world.next().as_str(), (world.now - before).as_millis()), ("bind", 800));
    }

    proptest! {
        /// Whatever happens, in whatever order: no busy loop, one call at a time, no ticket twice.
        #[test]
        fn it_never_spins_and_never_repeats_a_ticket(script in prop::collection::vec((0..4_u8, 0..6_u8, 0..100_u64), 1..200)) {
            let mut course = Course::new(0.5);
            let mut now = Instant::now();
            let (mut bound, mut watching) = (false, false);
            let mut used = std::collections::BTreeSet::new();
            let (mut binds, mut resyncs, begun) = (0, 0, now);
            for (index, (outcome, noise, pause)) in script.into_iter().enumerate() {
                now += Duration::from_millis(pause * 20);
                match noise {
                    0 => course.hear(Happened::Ticket(ticket(&index.to_string())), now),
                    1 if bound => {
                        bound = false;
                        course.hear(Happened::Died("died".into()), now);
                    }
                    2 if watching => {
                        watching = false;
                        course.hear(Happened::Forgotten, now);
                    }
                    3 if watching => course.hear(Happened::Mapped, now),
                    _ => {}
                }
                let failed = || "failed".to_owned();
                match course.next(now) {
                    Step::Bind => {
                        prop_assert!(!bound);
                        binds += 1;
                        bound = outcome > 0;
                        course.hear(if bound { Happened::Bound } else { Happened::Unbound(failed()) }, now);
                    }
                    Step::Register(ticket) => {
                        prop_assert!(bound && !watching);
                        prop_assert!(!used.contains(&ticket.service));
                        prop_assert!(matches!(course.next(now), Step::Wait(None)), "one call at a time");
                        if outcome < 3 {
                            used.insert(ticket.service);
                        }
                        course.hear(
                            match outcome {
                                0 => Happened::Unregistered(failed()),
                                3 => Happened::Unanswered(failed()),
                                _ => Happened::Registered,
                            },
                            now,
                        );
                    }
                    Step::Watch => {
                        prop_assert!(bound && !watching);
                        watching = outcome == 1;
                        course.hear(
                            match outcome {
                                0 => Happened::Unwatched(failed()),
                                1 => Happened::Watching,
                                _ => Happened::Unknown,
                            },
                            now,
                        );
                    }
                    Step::Resync => {
                        prop_assert!(bound && !watching);
                        resyncs += 1;
                    }
                    Step::Wait(until) => prop_assert!(until.is_none_or(|at| at > now && at <= now + LONGEST)),
                }
                match course.stage() {
                    Stage::Up => prop_assert!(bound),
                    Stage::Coming | Stage::Down(_) => {}
                }
            }
            let elapsed = now.duration_since(begun).as_millis();
            prop_assert!(u128::from(binds as u32) <= elapsed / 400 + 1, "{binds} binds in {elapsed} ms");
            prop_assert!(u128::from(resyncs as u32) <= elapsed / 400 + 1, "{resyncs} resyncs in {elapsed} ms");
        }
    }
}
