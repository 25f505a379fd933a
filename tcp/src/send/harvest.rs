//! What one acknowledgement brings, summed up over the ranges that it reports.

use super::recovery::Evidence;
use super::transmission::Delivered;
use crate::clock::{Duration, Instant};

/// What an acknowledgement brought.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Harvest {
    pub(crate) bytes: u64,
    pub(crate) newest: Option<Delivered>,
    pub(crate) evidence: Evidence,
}

impl Harvest {
    /// Adds a delivery.
    pub(crate) fn add(&mut self, delivered: &Delivered, least: Option<Duration>, now: Instant) {
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
        let key = |delivered: &Delivered| (delivered.number, delivered.end);
        if delivered.transmission.is_some() && self.newest.as_ref().is_none_or(|newest| key(newest) < key(delivered)) {
            self.newest = Some(*delivered);
        }
    }
}
