//! Who is to be woken when.

use std::collections::BTreeSet;
use std::time::Instant;

use super::index::PeerIndex;

/// At most one wake-up for each peer. Those without one cost nothing.
#[derive(Default)]
pub(crate) struct Schedule {
    order: BTreeSet<(Instant, PeerIndex)>,
}

impl Schedule {
    /// Moves a peer's wake-up. `from` is what was last set.
    pub(crate) fn set(&mut self, peer: PeerIndex, from: Option<Instant>, to: Option<Instant>) {
        if let Some(at) = from {
            self.order.remove(&(at, peer));
        }
        if let Some(at) = to {
            self.order.insert((at, peer));
        }
    }

    /// The earliest.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }

    /// The earliest, if it is due.
    pub(crate) fn due(&self, now: Instant) -> Option<PeerIndex> {
        self.order.first().filter(|(at, _)| *at <= now).map(|(_, peer)| *peer)
    }
}
