//! BBR's model of the path: bandwidth, round trips, propagation delay, and how acknowledgements clump.

use crate::clock::{Duration, Instant, whole};
use crate::control::controller::Acked;

/// What samples say about the path, whatever the controller is doing.
#[derive(Debug)]
pub(crate) struct Path {
    /// Greatest bandwidth of the present probing cycle and of the one before.
    bandwidth: [u64; 2],
    rounds: u64,
    round_ends: u64,
    round_started: bool,
    least_rtt: Option<Duration>,
    least_rtt_at: Instant,
    clumping: Clumping,
}

/// How long a least round-trip time is believed before it is measured again with an empty queue.
pub(crate) const LEAST_RTT_LIFETIME: Duration = Duration::from_secs(10);

impl Path {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            bandwidth: [0; 2],
            rounds: 0,
            round_ends: 0,
            round_started: false,
            least_rtt: None,
            least_rtt_at: now,
            clumping: Clumping::new(now),
        }
    }

    /// Bytes per second; zero before the first sample.
    pub(crate) fn bandwidth(&self) -> u64 {
        self.bandwidth[0].max(self.bandwidth[1])
    }

    /// The round-trip time without a queue, as far as known.
    pub(crate) fn least_rtt(&self) -> Option<Duration> {
        self.least_rtt
    }

    /// Whether the least round-trip time has not been seen for so long that it may no longer hold.
    pub(crate) fn least_rtt_expired(&self, now: Instant) -> bool {
        now.duration_since(self.least_rtt_at) > LEAST_RTT_LIFETIME
    }

    /// Believes the least round-trip time for another while.
    pub(crate) fn renew_least_rtt(&mut self, now: Instant) {
        self.least_rtt_at = now;
    }

    /// Rounds so far. A round ends when what was sent at its beginning is acknowledged.
    pub(crate) fn rounds(&self) -> u64 {
        self.rounds
    }

    /// Whether the last acknowledgement began a round.
    pub(crate) fn round_started(&self) -> bool {
        self.round_started
    }

    /// A new round begins now.
    pub(crate) fn restart_round(&mut self, delivered: u64) {
        self.round_ends = delivered;
    }

    /// Forgets the bandwidth of the cycle before the present one.
    pub(crate) fn advance_cycle(&mut self) {
        if self.bandwidth[0] > 0 {
            self.bandwidth = [0, self.bandwidth[0]];
        }
    }

    /// Bytes in flight that fill the path, times `gain`, at `bandwidth`.
    pub(crate) fn volume(&self, bandwidth: u64, gain: f64) -> Option<u64> {
        let rtt = self.least_rtt.filter(|_| bandwidth > 0)?;
        Some(whole(rtt.at(bandwidth) * gain))
    }

    /// Bytes to have in flight above that, because acknowledgements come in clumps.
    pub(crate) fn clumping(&self) -> u64 {
        self.clumping.most()
    }

    /// The network was idle: no acknowledgement was to be expected.
    pub(crate) fn restart_clumping(&mut self, now: Instant) {
        self.clumping.restart(now);
    }

    /// Takes an acknowledgement. `least_rtt_may_rise` is false if a rise must be measured on purpose.
    pub(crate) fn on_ack(&mut self, ack: &Acked, least_rtt_may_rise: bool) {
        self.round_started = false;
        if let Some(sample) = ack.sample {
            if sample.prior_delivered >= self.round_ends {
                self.round_ends = ack.delivered;
                self.rounds += 1;
                self.round_started = true;
            }
            // A pause of the application teaches nothing, unless it was fast all the same.
            if let Some(rate) = sample.rate.filter(|rate| !sample.app_limited || *rate >= self.bandwidth()) {
                self.bandwidth[0] = self.bandwidth[0].max(rate);
            }
        }
        self.clumping.on_ack(ack, self.bandwidth(), self.rounds);
        if let Some(rtt) = ack.rtt
            && (self.least_rtt.is_none_or(|least| rtt <= least)
                || (self.least_rtt_expired(ack.now) && least_rtt_may_rise))
        {
            self.least_rtt = Some(rtt);
            self.least_rtt_at = ack.now;
        }
    }
}

/// How many more bytes are acknowledged at times than the bandwidth explains (draft-ietf-ccwg-bbr section 5.5.9, after the
/// work on aggregation in Wi-Fi and cable networks): the greatest excess of the last five to ten rounds.
#[derive(Debug)]
struct Clumping {
    since: Instant,
    bytes: u64,
    most: [u64; 2],
    turn_at: u64,
}

/// Rounds after which the older maximum is forgotten.
const CLUMPING_ROUNDS: u64 = 5;

impl Clumping {
    fn new(now: Instant) -> Self {
        Self { since: now, bytes: 0, most: [0; 2], turn_at: CLUMPING_ROUNDS }
    }

    fn most(&self) -> u64 {
        self.most[0].max(self.most[1])
    }

    fn restart(&mut self, now: Instant) {
        self.since = now;
        self.bytes = 0;
    }

    fn on_ack(&mut self, ack: &Acked, bandwidth: u64, rounds: u64) {
        if rounds >= self.turn_at {
            self.turn_at = rounds + CLUMPING_ROUNDS;
            self.most = [0, self.most[0]];
        }
        let mut expected = whole(ack.now.duration_since(self.since).at(bandwidth));
        if self.bytes <= expected {
            self.restart(ack.now);
            expected = 0;
        }
        self.bytes += ack.bytes;
        self.most[0] = self.most[0].max(self.bytes.saturating_sub(expected));
    }
}
