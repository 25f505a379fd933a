//! Proportional rate reduction (RFC 6937bis): after a loss, sends in proportion to what is delivered, so that the network is
//! neither silenced for half a round trip nor hit by a burst.

use crate::control::controller::Acked;

/// A reduction of the window under way.
#[derive(Debug)]
pub(crate) struct Reduction {
    /// Bytes in flight when it began (RecoverFS).
    from: u64,
    delivered: u64,
    sent: u64,
    /// Bytes in flight after the last acknowledgement: what there is more before the next one was sent in between.
    left: Option<u64>,
}

impl Reduction {
    pub(crate) fn new(from: u64) -> Self {
        Self { from: from.max(1), delivered: 0, sent: 0, left: None }
    }

    /// The window after an acknowledgement, on the way down to `threshold`.
    pub(crate) fn on_ack(&mut self, ack: &Acked, threshold: u64, mss: u64) -> u64 {
        if let Some(left) = self.left {
            self.sent += ack.was_in_flight.saturating_sub(left);
        }
        self.delivered += ack.bytes;
        let allowance = if ack.in_flight > threshold {
            (self.delivered * threshold).div_ceil(self.from).saturating_sub(self.sent)
        } else {
            let conserved = self.delivered.saturating_sub(self.sent).max(ack.bytes);
            // While nothing more is lost, catch up as slow start would.
            let limit = if ack.lost == 0 { conserved + mss } else { conserved };
            (threshold - ack.in_flight).min(limit)
        };
        // The first repair must go out at once.
        let allowance = if self.sent == 0 { allowance.max(mss) } else { allowance };
        self.left = Some(ack.in_flight);
        ack.in_flight + allowance
    }
}
