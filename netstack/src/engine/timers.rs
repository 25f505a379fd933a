//! The timers of one peer. They are computed from what happened and never tick: a peer that has nothing to do has no deadline.

use std::time::{Duration, Instant};

use super::protocol::{KEEPALIVE_TIMEOUT, REJECT_AFTER, REKEY_ATTEMPT, REKEY_TIMEOUT};

/// The longest time between two initiations to a peer that does not answer.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Initiations at the protocol's own pace; after them the pauses grow.
const STEADY_TRIES: u32 = (REKEY_ATTEMPT.as_secs() / REKEY_TIMEOUT.as_secs()) as u32;

/// What one peer waits for.
pub(crate) struct Timers {
    /// Something is sent so often at least.
    keep_alive: Option<Duration>,
    /// By how much sooner than it has to be a keepalive is sent. Of two sides that both send them, the one that sent the last
    /// initiation is so the first, and the other has no need to.
    sooner: Duration,
    /// The last time that something authentic came or went.
    traversal: Instant,
    /// The peer sent data and has heard nothing since: it hears something by then.
    reply_by: Option<Instant>,
    /// Data went to the peer and nothing has come since: by then a handshake begins.
    answer_by: Option<Instant>,
    /// The handshake that we try.
    attempt: Option<Attempt>,
    /// The youngest keys are too old by then.
    erase_at: Option<Instant>,
    /// A deadline was set that was not there before.
    moved: bool,
}

#[derive(Clone, Copy)]
struct Attempt {
    tries: u32,
    next: Instant,
    /// Nobody needs it at the moment. It is kept so that the pauses go on where they were.
    resting: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Let go of the keys.
    Erase,
    /// Begin a handshake, or go on with one.
    Handshake,
    /// Send a keepalive; there is a session for it.
    Keepalive,
}

/// What the timers depend on besides themselves.
#[derive(Clone, Copy)]
pub(crate) struct Needs {
    /// There is a session to send with.
    pub(crate) can_seal: bool,
    /// Packets wait for a session.
    pub(crate) waiting: bool,
}

impl Timers {
    /// By how much a pause is longer than it has to be, at most, so that peers do not act in step.
    pub(crate) const JITTER: Duration = Duration::from_millis(333);

    /// Nothing has happened.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            keep_alive: None,
            sooner: Duration::ZERO,
            traversal: now,
            reply_by: None,
            answer_by: None,
            attempt: None,
            erase_at: None,
            moved: true,
        }
    }

    /// Changes how often something is sent at least. A peer that has not been reached is called at once.
    pub(crate) fn set_keep_alive(&mut self, keep_alive: Option<Duration>, needs: Needs, now: Instant) {
        // Far above any jitter, and nobody is called more often than that.
        let keep_alive = keep_alive.map(|interval| interval.max(Duration::from_secs(1)));
        if self.keep_alive == keep_alive {
            return;
        }
        self.keep_alive = keep_alive;
        self.moved = true;
        if keep_alive.is_some() && !needs.can_seal {
            self.want_handshake(now);
        }
    }

    /// A datagram was sealed with the session.
    pub(crate) fn sent(&mut self, data: bool, now: Instant) {
        self.traversal = now;
        self.reply_by = None;
        if data && self.answer_by.is_none() {
            self.moved = true;
            self.answer_by = Some(now + KEEPALIVE_TIMEOUT + REKEY_TIMEOUT);
        }
    }

    /// An authentic datagram came.
    pub(crate) fn received(&mut self, data: bool, now: Instant) {
        self.traversal = now;
        self.answer_by = None;
        if data && self.reply_by.is_none() {
            self.moved = true;
            self.reply_by = Some(now + KEEPALIVE_TIMEOUT);
        }
    }

    /// A session was made. `ours`: it can be used for sending. Else the peer has to use it first, and has the time of one try
    /// for that before ours goes on.
    pub(crate) fn session(&mut self, ours: bool, now: Instant) {
        // One second more than the keys live by our clock, for boringtun's to be past it too.
        self.moved = true;
        self.erase_at = Some(now + REJECT_AFTER + Duration::from_secs(1));
        if ours {
            self.confirmed();
        } else {
            let attempt = self.attempt.get_or_insert(Attempt { tries: 0, next: now, resting: true });
            attempt.next = attempt.next.max(now + REKEY_TIMEOUT);
        }
    }

    /// There is a session to send with that was not there before: no handshake is needed.
    pub(crate) fn confirmed(&mut self) {
        self.moved = true;
        self.attempt = None;
        self.answer_by = None;
    }

    /// A handshake is wanted, if none is being tried. Whether it is to begin at once.
    pub(crate) fn want_handshake(&mut self, now: Instant) -> bool {
        let attempt = self.attempt.get_or_insert(Attempt { tries: 0, next: now, resting: true });
        attempt.resting = false;
        self.moved = true;
        attempt.next <= now
    }

    /// The peer may be somewhere else: what was learned from its silence is worth nothing.
    pub(crate) fn forget_silence(&mut self, now: Instant) {
        if let Some(attempt) = &mut self.attempt {
            *attempt = Attempt { tries: 0, next: now, resting: attempt.resting };
        }
    }

    /// Whether a deadline was set since the last call. All that happens else puts deadlines off.
    pub(crate) fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    /// Initiations since the peer last answered.
    pub(crate) fn tries(&self) -> u32 {
        self.attempt.map_or(0, |attempt| attempt.tries)
    }

    /// Whether no handshake is being tried.
    fn is_settled(&self) -> bool {
        self.attempt.is_none_or(|attempt| attempt.resting)
    }

    /// An initiation was sent. The next follows after 5 s for the first 90 s, then after twice as long each time up to a
    /// minute; `jitter` is up to [`Timers::JITTER`] and grows with the pause.
    pub(crate) fn initiated(&mut self, jitter: Duration, now: Instant) {
        self.moved = true;
        self.answer_by = None;
        self.sooner = jitter;
        let attempt = self.attempt.get_or_insert(Attempt { tries: 0, next: now, resting: false });
        attempt.tries = attempt.tries.saturating_add(1);
        attempt.resting = false;
        let doublings = attempt.tries.saturating_sub(STEADY_TRIES).min(8);
        let pause = (REKEY_TIMEOUT * 2u32.pow(doublings)).min(LONGEST_PAUSE);
        attempt.next = now + pause + jitter.mul_f64(pause.div_duration_f64(REKEY_TIMEOUT));
    }

    /// The next thing that is due, if any. What it returns must be done: `Handshake` by [`Timers::initiated`].
    pub(crate) fn due(&mut self, needs: Needs, now: Instant) -> Option<Due> {
        if take_due(&mut self.erase_at, now) {
            return Some(Due::Erase);
        }
        let keep_alive = self.keep_alive_at(needs).is_some_and(|at| at <= now);
        if keep_alive {
            // Whether or not it can be sent, the next one is an interval away.
            self.traversal = now;
        }
        if take_due(&mut self.answer_by, now) || (keep_alive && !needs.can_seal) {
            self.want_handshake(now);
        }
        if self.attempt_at().is_some_and(|at| at <= now) {
            if self.is_wanted(needs) {
                return Some(Due::Handshake);
            }
            if let Some(attempt) = &mut self.attempt {
                attempt.resting = true;
            }
        }
        let reply = take_due(&mut self.reply_by, now);
        (needs.can_seal && (reply || keep_alive)).then_some(Due::Keepalive)
    }

    /// When [`Timers::due`] has something to say; `None` while nothing is to come.
    pub(crate) fn deadline(&self, needs: Needs) -> Option<Instant> {
        [self.erase_at, self.answer_by, self.reply_by, self.attempt_at(), self.keep_alive_at(needs)]
            .into_iter()
            .flatten()
            .min()
    }

    fn attempt_at(&self) -> Option<Instant> {
        self.attempt.filter(|attempt| !attempt.resting).map(|attempt| attempt.next)
    }

    /// A handshake that nobody waits for ends after the protocol's time; one that is needed goes on for ever.
    fn is_wanted(&self, needs: Needs) -> bool {
        let early = self.attempt.is_some_and(|attempt| attempt.tries < STEADY_TRIES);
        early || needs.waiting || self.keep_alive.is_some()
    }

    fn keep_alive_at(&self, needs: Needs) -> Option<Instant> {
        let interval = self.keep_alive.filter(|_| needs.can_seal || self.is_settled())?;
        Some(self.traversal + interval - self.sooner)
    }
}

fn take_due(timer: &mut Option<Instant>, now: Instant) -> bool {
    timer.take_if(|at| *at <= now).is_some()
}
