//! How fast bytes arrive at the peer: delivery-rate samples (draft-ietf-ccwg-bbr section 4.1).

use super::harvest::Newest;
use super::transmission::Snapshot;
use crate::clock::{Duration, Instant};
use crate::control::Sample;

/// The connection's delivery counters.
#[derive(Debug)]
pub(crate) struct Delivery {
    delivered: u64,
    delivered_at: Instant,
    first_at: Instant,
    lost: u64,
    /// Bytes lost that the controller has been told of.
    told: u64,
    /// The application runs dry until this many bytes are delivered; zero if it does not.
    app_limited_until: u64,
}

impl Delivery {
    pub(crate) fn new(now: Instant) -> Self {
        Self { delivered: 0, delivered_at: now, first_at: now, lost: 0, told: 0, app_limited_until: 0 }
    }

    /// Bytes delivered so far.
    pub(crate) fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Something is about to be sent while nothing is unacknowledged: a sampling interval begins.
    pub(crate) fn restart(&mut self, now: Instant) {
        (self.first_at, self.delivered_at) = (now, now);
    }

    /// What a transmission sent now has to remember; the scoreboard knows how much is in flight.
    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot {
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            first_at: self.first_at,
            lost: self.lost,
            in_flight: 0,
            app_limited: self.app_limited_until > 0,
        }
    }

    /// There is nothing to send although there would be room: what is in flight says little about the path.
    pub(crate) fn app_limited(&mut self, in_flight: u64) {
        self.app_limited_until = (self.delivered + in_flight).max(1);
    }

    /// Bytes were found to be lost.
    pub(crate) fn lose(&mut self, bytes: u64) {
        self.lost += bytes;
    }

    /// Bytes found to be lost since the last call.
    pub(crate) fn take_lost(&mut self) -> u64 {
        self.lost - std::mem::replace(&mut self.told, self.lost)
    }

    /// Bytes were delivered.
    pub(crate) fn deliver(&mut self, bytes: u64, now: Instant) {
        self.delivered += bytes;
        self.delivered_at = now;
        if self.delivered > self.app_limited_until {
            self.app_limited_until = 0;
        }
    }

    /// The sample of an acknowledgement, taken from the transmission that was sent last among those it delivered.
    pub(crate) fn sample(&mut self, newest: &Newest, least: Option<Duration>, now: Instant) -> Sample {
        let sent = newest.sample;
        self.first_at = newest.at;
        let sending = newest.at.duration_since(sent.first_at);
        let acknowledging = now.duration_since(sent.delivered_at);
        // Between two flows in one process nothing takes time; a microsecond then stands for "no limit".
        let interval = sending.max(acknowledging).max(Duration::from_micros(1));
        let delivered = self.delivered - sent.delivered;
        let long_enough = least.is_some_and(|least| interval >= least);
        Sample {
            rate: long_enough.then(|| interval.rate(delivered)),
            delivered,
            prior_delivered: sent.delivered,
            lost: self.lost - sent.lost,
            in_flight: sent.in_flight,
            app_limited: sent.app_limited,
        }
    }
}
