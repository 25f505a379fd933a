//! Round-trip times: the smoothed one, its variance, the least one, and the retransmission timeout (RFC 6298).

use crate::clock::{Duration, Instant};

/// What is known about a flow's round-trip time.
#[derive(Debug, Clone)]
pub(crate) struct Rtt {
    smoothed: Option<Duration>,
    variance: Duration,
    least: Option<(Duration, Instant)>,
    seed: Option<Duration>,
}

/// RFC 6298 says one second; Linux has shown for two decades that 200 ms is safe beside delayed acknowledgements.
const LEAST_TIMEOUT: Duration = Duration::from_millis(200);
/// RFC 6298 section 2.1, when nothing at all is known about the path.
const FIRST_TIMEOUT: Duration = Duration::from_secs(1);
/// RFC 6298 section 2.5 allows an upper bound of at least 60 seconds.
const MOST_TIMEOUT: Duration = Duration::from_secs(60);
/// A least round-trip time that is older than this may belong to a path that no longer exists (RFC 8985 section 6.2 step
/// 1 and Linux's `tcp_min_rtt_wlen`).
const LEAST_LIFETIME: Duration = Duration::from_secs(300);

impl Rtt {
    /// `seed` is what the caller knows about the path, such as the tunnel's own round-trip time.
    pub(crate) fn new(seed: Option<Duration>) -> Self {
        Self { smoothed: None, variance: Duration::ZERO, least: None, seed }
    }

    /// Takes a sample from data that was sent only once (Karn's rule, RFC 6298 section 3).
    pub(crate) fn sample(&mut self, rtt: Duration, now: Instant) {
        match self.smoothed {
            None => {
                self.smoothed = Some(rtt);
                self.variance = rtt / 2;
            }
            Some(smoothed) => {
                self.variance = (self.variance * 3 + smoothed.abs_diff(rtt)) / 4;
                self.smoothed = Some((smoothed * 7 + rtt) / 8);
            }
        }
        match self.least {
            Some((least, at)) if least < rtt && now.duration_since(at) < LEAST_LIFETIME => {}
            _ => self.least = Some((rtt, now)),
        }
    }

    /// The smoothed round-trip time, or what the caller said about the path.
    pub(crate) fn smoothed(&self) -> Option<Duration> {
        self.smoothed.or(self.seed)
    }

    /// The least round-trip time of late; `None` before the first sample.
    pub(crate) fn least(&self) -> Option<Duration> {
        self.least.map(|(least, _)| least)
    }

    /// The retransmission timeout after `backoff` timeouts in a row (RFC 6298 sections 2 and 5.5).
    pub(crate) fn timeout(&self, backoff: u32) -> Duration {
        let base = match (self.smoothed, self.seed) {
            (Some(smoothed), _) => smoothed + (self.variance * 4).max(LEAST_TIMEOUT / 2),
            // The rule for a first sample: the smoothed time is the sample and the variance half of it.
            (None, Some(seed)) => seed * 3,
            (None, None) => FIRST_TIMEOUT,
        };
        (base.max(LEAST_TIMEOUT) * (1 << backoff.min(16))).min(MOST_TIMEOUT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn nothing_known_is_a_second_and_a_known_path_is_quicker() {
        assert_eq!(Rtt::new(None).timeout(0), Duration::from_secs(1));
        assert_eq!(Rtt::new(Some(MS * 100)).timeout(0), MS * 300);
        assert_eq!(Rtt::new(Some(MS)).timeout(0), MS * 200);
    }

    #[test]
    fn doubles_and_is_bounded() {
        let rtt = Rtt::new(None);
        assert_eq!(rtt.timeout(1), Duration::from_secs(2));
        assert_eq!(rtt.timeout(5), Duration::from_secs(32));
        assert_eq!(rtt.timeout(6), Duration::from_secs(60));
        assert_eq!(rtt.timeout(u32::MAX), Duration::from_secs(60));
    }

    #[test]
    fn follows_the_samples() {
        let start = Instant::START;
        let mut rtt = Rtt::new(Some(MS * 500));
        rtt.sample(MS * 100, start);
        assert_eq!(rtt.timeout(0), MS * 300);
        for i in 0..200 {
            rtt.sample(MS * 100, start + MS * i);
        }
        assert_eq!(rtt.timeout(0), MS * 200);
        rtt.sample(MS * 80, start + MS * 300);
        assert_eq!(rtt.least(), Some(MS * 80));
        rtt.sample(MS * 90, start + MS * 301);
        assert_eq!(rtt.least(), Some(MS * 80));
        rtt.sample(MS * 95, start + Duration::from_secs(400));
        assert_eq!(rtt.least(), Some(MS * 95));
    }
}
