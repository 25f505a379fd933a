//! What one acknowledgement brings, summed up over the ranges that it reports.

use super::rack::Rack;
use super::recovery::Evidence;
use super::scoreboard::Scoreboard;
use super::transmission::{Delivered, Snapshot};
use crate::clock::{Duration, Instant};
use crate::rtt::Rtt;

/// What an acknowledgement brought.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Harvest {
    pub(crate) bytes: u64,
    pub(crate) newest: Option<Newest>,
    pub(crate) evidence: Evidence,
}

/// Of the transmissions that an acknowledgement delivered, the one that was sent last.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Newest {
    number: u64,
    end: u64,
    pub(crate) at: Instant,
    pub(crate) sample: Snapshot,
    /// Sent more than once, so that it is unknown which transmission was delivered.
    pub(crate) resent: bool,
}

impl Newest {
    pub(crate) fn of(delivered: &Delivered<'_>) -> Option<Self> {
        let &Delivered { number, end, resent, .. } = delivered;
        delivered.transmission.map(|sent| Self { number, end, at: sent.at, sample: sent.sample, resent })
    }
}

impl Harvest {
    /// Takes from the board what has arrived: everything before the offset, and each of the blocks beyond it.
    pub(crate) fn gather(
        board: &mut Scoreboard,
        rack: &mut Rack,
        rtt: &Rtt,
        (ack, blocks): (u64, &[(u64, u64)]),
        now: Instant,
    ) -> Self {
        let mut harvest = Self::default();
        let mut reap = |delivered: Delivered<'_>| {
            rack.delivered(&delivered, rtt, now);
            harvest.add(&delivered, rtt.least(), now);
        };
        board.acknowledge(ack, &mut reap);
        for &(left, right) in blocks {
            board.sack(left.max(ack), right, &mut reap);
        }
        harvest
    }

    /// Adds a delivery.
    fn add(&mut self, delivered: &Delivered<'_>, least: Option<Duration>, now: Instant) {
        let bytes = delivered.end - delivered.start;
        self.bytes += bytes;
        let quick = |at: Instant| least.is_some_and(|least| now.duration_since(at) < least);
        let mistaken = if delivered.resent {
            delivered.transmission.is_some_and(|transmission| quick(transmission.at))
        } else {
            delivered.was_lost
        };
        if mistaken {
            self.evidence.mistaken += bytes;
        } else if delivered.resent {
            self.evidence.repaired = true;
        }
        let newer = |newest: &Newest| (newest.number, newest.end) < (delivered.number, delivered.end);
        if self.newest.as_ref().is_none_or(newer) {
            self.newest = Newest::of(delivered).or(self.newest);
        }
    }
}
