//! Which window and which rate follow from the model of the path.

use crate::clock::{Duration, real, whole};
use crate::control::controller::initial_window;

/// The window and the rate to come to, and what they follow from: computed anew when that has changed.
#[derive(Debug, Default)]
pub(crate) struct Aim {
    basis: Basis,
    window: u64,
    rate: u64,
}

/// What they follow from.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Basis {
    /// Bytes per second to go by.
    pub(crate) bandwidth: u64,
    pub(crate) least_rtt: Option<Duration>,
    /// Bytes to have in flight because acknowledgements come in clumps.
    pub(crate) clumping: u64,
    pub(crate) mss: u64,
    pub(crate) window_gain: f64,
    pub(crate) pacing_gain: f64,
}

/// Paces a little below the bandwidth, so that a queue drains rather than grows.
const MARGIN: f64 = 0.99;
/// The largest piece handed out at once.
const LARGEST_PIECE: u64 = 65_536;

impl Aim {
    /// Bytes to have in flight.
    pub(crate) fn window(&self) -> u64 {
        self.window
    }

    /// Bytes per second.
    pub(crate) fn rate(&self) -> u64 {
        self.rate
    }

    /// Follows the model of the path.
    pub(crate) fn follow(&mut self, basis: Basis) {
        if basis == self.basis {
            return;
        }
        let bandwidth = basis.bandwidth;
        // Three pieces on their way through sender, network and receiver do not count as a queue. That they are the same for
        // every flow also lets the smaller of two grow. On a path that holds less, or less than a millisecond's worth, they are that.
        let small = basis.volume(1.0).max(bandwidth / 1000).max(6 * basis.mss);
        let pieces = (3 * LARGEST_PIECE).min(small);
        self.window = basis.volume(basis.window_gain) + basis.clumping + pieces;
        self.rate = whole(real(bandwidth) * basis.pacing_gain * MARGIN) + 1;
        self.basis = basis;
    }
}

impl Basis {
    /// Bytes in flight that fill the path, times `gain`.
    fn volume(&self, gain: f64) -> u64 {
        match self.least_rtt {
            Some(rtt) if self.bandwidth > 0 => whole(rtt.at(self.bandwidth) * gain),
            Some(_) | None => initial_window(self.mss),
        }
    }
}
