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
/// How long what has left may hold back what follows: a rate learned in the meantime is followed after this at the latest.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

impl Pacer {
    /// How many bytes may leave now; `None` without a limit.
    pub(crate) fn allowance(&mut self, rate: Option<u64>, mss: u64, now: Instant) -> Option<u64> {
        let Some(rate) = rate else {
            // Nothing is to be waited for, nor to be made up for at a rate to come.
            *self = Self::default();
            return None;
        };
        let release = whole(RELEASE.at(rate)).max(2 * mss);
        if self.left == 0 && self.next.is_none_or(|next| next <= now) {
            self.left = release;
        }
        // What a faster rate had released is paid for at the present one.
        self.left = self.left.min(release);
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
        self.next = Some((from + Duration::of(bytes, rate)).min(now + LONGEST_WAIT));
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

    /// A pacer that has used up what was released at the beginning.
    fn used_up(rate: u64) -> Pacer {
        let mut pacer = Pacer::default();
        let released = pacer.allowance(Some(rate), 1400, Instant::START).expect("a rate is a limit");
        pacer.sent(released, Some(rate), Instant::START);
        pacer
    }

    #[test]
    fn a_rate_that_is_gone_leaves_nothing_to_wait_for() {
        let mut pacer = used_up(1_000_000);
        assert!(pacer.deadline() < Instant::NEVER);
        assert_eq!(pacer.allowance(None, 1400, Instant::START), None);
        assert_eq!(pacer.deadline(), Instant::NEVER);
    }

    #[test]
    fn what_a_fast_rate_released_is_not_sent_at_a_slow_one() {
        let mut pacer = Pacer::default();
        assert_eq!(pacer.allowance(Some(40_000_000), 1400, Instant::START), Some(40_000));
        assert_eq!(pacer.allowance(Some(1000), 1400, Instant::START), Some(2800));
    }

    #[test]
    fn no_wait_is_longer_than_a_second() {
        let pacer = used_up(3);
        assert_eq!(pacer.deadline(), Instant::START + Duration::from_secs(1));
        assert!(used_up(10_000).deadline() < Instant::START + Duration::from_secs(1), "a slow path is paced as it is");
    }
}
