use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

const FIRST: Duration = Duration::from_millis(800);
const FACTOR: f64 = 1.7;
const LONGEST: Duration = Duration::from_secs(10);

/// How long to wait after a failure: from 0.8 s, 1.7 times as long after each further one, 10 s at most. Each wait is cut by
/// up to a half at random, so that proxies that lost their server together do not come back together.
pub(crate) struct Backoff {
    next: Duration,
    random: StdRng,
}

impl Backoff {
    pub(crate) fn new(seed: u64) -> Self {
        Self { next: FIRST, random: StdRng::seed_from_u64(seed) }
    }

    /// The wait after one more failure.
    pub(crate) fn failed(&mut self) -> Duration {
        let wait = self.next.mul_f64(self.random.random_range(0.5..=1.0));
        self.next = self.next.mul_f64(FACTOR).min(LONGEST);
        wait
    }

    /// The server has answered: the next failure is a first one.
    pub(crate) fn answered(&mut self) {
        self.next = FIRST;
    }

    /// Waits as [`Backoff::failed`] says; the beginning of the shutdown cuts the wait short, for a last try.
    pub(crate) async fn pause(&mut self, closing: &CancellationToken) {
        let until = Instant::now() + self.failed();
        if closing.is_cancelled() {
            sleep_until(until).await;
        } else {
            let _ = closing.run_until_cancelled(sleep_until(until)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn waits_grow_within_their_bounds(seed: u64, failures in 1usize..20) {
            let mut backoff = Backoff::new(seed);
            for round in 0..2 {
                let mut bound = 0.8f64;
                for _ in 0..failures {
                    let wait = backoff.failed().as_secs_f64();
                    prop_assert!(wait >= bound / 2.0 - 1e-6 && wait <= bound + 1e-6, "{} of {} in round {}", wait, bound, round);
                    bound = (bound * 1.7).min(10.0);
                }
                backoff.answered();
            }
        }
    }
}
