//! When the next bytes may leave.

use crate::clock::{Duration, Instant, whole};

/// Spreads sending over time at the controller's rate, in releases of about a millisecond's worth: timers are no finer, and
/// smaller pieces cost more per byte.
#[derive(Debug, Default)]
pub(crate) struct Pacer {
    /// When the next release opens.
    next: Option<Instant>,
    /// Bytes left of the open release.
    left: u64,
}

/// What one release is worth, and how much a late timer may catch up.
const RELEASE: Duration = Duration::from_millis(1);

impl Pacer {
    /// How many bytes may leave now; `None` without a limit.
    pub(crate) fn allowance(&mut self, rate: Option<u64>, mss: u64, now: Instant) -> Option<u64> {
        let rate = rate?;
        if self.left == 0 && self.next.is_none_or(|next| next <= now) {
            self.left = whole(RELEASE.at(rate)).max(2 * mss);
        }
        Some(self.left)
    }

    /// When more may leave, if none may leave now.
    pub(crate) fn deadline(&self) -> Instant {
        self.next.filter(|_| self.left == 0).unwrap_or(Instant::NEVER)
    }

    /// Bytes have left.
    pub(crate) fn sent(&mut self, bytes: u64, rate: Option<u64>, now: Instant) {
        let Some(rate) = rate.filter(|rate| *rate > 0) else { return };
        self.left = self.left.saturating_sub(bytes);
        let from = self.next.map_or(now, |next| next.max(now - RELEASE));
        self.next = Some(from + Duration::of(bytes, rate));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends as much as the pacer allows for a second, with a timer that is `late`; returns the bytes sent.
    fn second(rate: u64, late: Duration) -> u64 {
        let start = Instant::START;
        let mut pacer = Pacer::default();
        let (mut now, mut sent) = (start, 0);
        while now < start + Duration::from_secs(1) {
            while let Some(bytes @ 1..) = pacer.allowance(Some(rate), 1400, now) {
                pacer.sent(bytes.min(1400), Some(rate), now);
                sent += bytes.min(1400);
            }
            now = pacer.deadline().max(now) + late;
        }
        sent
    }

    #[test]
    fn keeps_the_rate_whatever_the_timers() {
        for late in [0, 200, 900].map(Duration::from_micros) {
            for rate in [200_000, 1_000_000, 40_000_000] {
                let share = second(rate, late) as f64 / rate as f64;
                assert!((0.97..1.04).contains(&share), "{share} of {rate} with timers {late:?} late");
            }
        }
    }

    #[test]
    fn without_a_rate_there_is_no_limit() {
        assert_eq!(Pacer::default().allowance(None, 1400, Instant::START), None);
    }
}
