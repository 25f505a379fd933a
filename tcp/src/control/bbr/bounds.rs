//! What losses teach BBR: a long-term bound on bytes in flight, found by probing, and short-term bounds that hold until the
//! next probe (draft-ietf-ccwg-bbr section 5.5.10).
//!
//! A loss rate below [`TOLERATED`] is taken for noise of the path, not for a full queue.

use crate::control::controller::Acked;

/// Bounds learned from losses. `None` is no bound.
#[derive(Debug, Default)]
pub(crate) struct Bounds {
    /// Bytes in flight that the path bears without more loss than tolerated (inflight_longterm).
    pub(crate) long: Option<u64>,
    /// Bytes in flight that were delivered of late, in spite of loss (inflight_shortterm).
    pub(crate) short: Option<u64>,
    /// Bandwidth that was reached of late, in spite of loss (bw_shortterm), in bytes per second.
    pub(crate) bandwidth: Option<u64>,
    round: Round,
    /// What the last lossy round delivered.
    latest: Latest,
    /// Bytes acknowledged since the long-term bound was raised last, and rounds that it has been raised.
    raised: Raised,
}

/// Losses and deliveries of the present round.
#[derive(Debug, Default)]
struct Round {
    ends: u64,
    delivered: u64,
    lost: u64,
    /// Acknowledgements that reported a loss.
    reports: u32,
    /// Greatest bandwidth and volume seen in it.
    bandwidth: u64,
    volume: u64,
}

#[derive(Debug, Default)]
struct Latest {
    bandwidth: u64,
    volume: u64,
}

#[derive(Debug, Default)]
struct Raised {
    acknowledged: u64,
    rounds: u32,
}

/// Share of lost bytes above which a queue has overflowed. Version 3 says 2 %; rounds of some hundred packets on a path that
/// loses 1 % at random reach that by chance.
pub(crate) const TOLERATED: f64 = 0.03;
/// What is left of a bound after an overflow (BBR.Beta).
const BETA: f64 = 0.7;
/// Segments by which the long-term bound may rise in the first round of probing. Version 3 begins with one: beside a larger flow a
/// probe is over before that becomes much, and the smaller one never leaves what its startup found.
const FIRST_RISE: u64 = 8;
/// Fewer lost segments than this are no overflow of a queue, whatever their share.
const LEAST_LOST_SEGMENTS: u64 = 3;

impl Bounds {
    /// Takes an acknowledgement. Returns whether a round has ended with it that lost more than tolerated.
    pub(crate) fn on_ack(&mut self, ack: &Acked, mss: u64) -> bool {
        let round = &mut self.round;
        round.delivered += ack.bytes;
        round.lost += ack.lost;
        round.reports += u32::from(ack.lost > 0);
        let Some(sample) = ack.sample else { return false };
        round.bandwidth = round.bandwidth.max(sample.rate.unwrap_or(0));
        round.volume = round.volume.max(sample.delivered);
        if sample.prior_delivered < round.ends {
            return false;
        }
        let ended = std::mem::take(round);
        round.ends = ack.delivered;
        let lossy = too_many(ended.lost, ended.delivered + ended.lost, mss);
        self.round.bandwidth = sample.rate.unwrap_or(0);
        self.round.volume = sample.delivered;
        if lossy {
            self.latest = Latest { bandwidth: ended.bandwidth, volume: ended.volume };
        }
        lossy
    }

    /// How many acknowledgements of the present round have told of a loss.
    pub(crate) fn reports(&self) -> u32 {
        self.round.reports
    }

    /// A lossy round outside of probing: settles at what was delivered, but gives up no more than 30 % at a time.
    pub(crate) fn lower(&mut self, bandwidth: u64, window: u64) {
        let keep = |bound: u64| (bound as f64 * BETA) as u64;
        self.bandwidth = Some(self.latest.bandwidth.max(keep(self.bandwidth.unwrap_or(bandwidth))));
        self.short = Some(self.latest.volume.max(keep(self.short.unwrap_or(window))));
    }

    /// Forgets the short-term bounds, before probing.
    pub(crate) fn forget_short(&mut self) {
        (self.short, self.bandwidth) = (None, None);
        self.raised = Raised::default();
    }

    /// Whether what the acknowledged transmission found in flight was more than the path bears.
    pub(crate) fn overflowed(ack: &Acked, mss: u64) -> bool {
        ack.sample.is_some_and(|sample| too_many(sample.lost, sample.in_flight, mss))
    }

    /// The bandwidth probe of the beginning ended in loss: `volume` fills the path.
    pub(crate) fn settle(&mut self, volume: u64) {
        self.long = Some(volume.max(self.round.volume));
    }

    /// While probing: `in_flight` was too much.
    pub(crate) fn overflow(&mut self, in_flight: u64, target: u64) {
        self.long = Some(in_flight.max((target as f64 * BETA) as u64));
    }

    /// While probing: what is in flight does no harm, so that the bound may rise, faster every round.
    pub(crate) fn raise(&mut self, ack: &Acked, window: u64, round_started: bool, mss: u64) {
        let Some(long) = self.long else { return };
        let Some(sample) = ack.sample else { return };
        let mut long = long.max(sample.in_flight);
        if ack.window_limited && window >= long {
            self.raised.rounds += u32::from(round_started);
            self.raised.acknowledged += ack.bytes;
            let per_round = (FIRST_RISE * mss) << self.raised.rounds.min(20);
            let step = (window / per_round).max(1) * mss;
            while self.raised.acknowledged >= step {
                self.raised.acknowledged -= step;
                long += mss;
            }
        }
        self.long = Some(long);
    }
}

fn too_many(lost: u64, of: u64, mss: u64) -> bool {
    lost >= LEAST_LOST_SEGMENTS * mss && lost as f64 > of as f64 * TOLERATED
}
