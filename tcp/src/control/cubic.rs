//! CUBIC (RFC 9438) with HyStart++ (RFC 9406), proportional rate reduction (RFC 6937bis) and pacing.

mod hystart;
mod reduction;

use super::controller::{Acked, Controller, initial_window};
use crate::clock::{Duration, Instant};
use hystart::{HyStart, Pace};
use reduction::Reduction;

/// Loss-based control. Windows are in bytes here; RFC 9438 counts segments.
#[derive(Debug)]
pub(crate) struct Cubic {
    mss: u64,
    window: u64,
    threshold: u64,
    slow_start: HyStart,
    epoch: Option<Epoch>,
    /// The window before the last reduction (W_max).
    most: u64,
    reduction: Option<Reduction>,
    /// What to return to if the reduction was a mistake.
    before: Option<Before>,
    smoothed: Duration,
}

/// A stretch of congestion avoidance (RFC 9438 section 4.2).
#[derive(Debug, Clone, Copy)]
struct Epoch {
    began: Instant,
    /// Seconds until the plateau (K).
    plateau_after: f64,
    /// The window at the plateau (W_max, or the window itself above it).
    plateau: f64,
    /// What Reno would have (W_est).
    reno: f64,
}

#[derive(Debug, Clone, Copy)]
struct Before {
    window: u64,
    threshold: u64,
    most: u64,
    epoch: Option<Epoch>,
}

/// RFC 9438 section 4.6.
const BETA: f64 = 0.7;
/// RFC 9438 section 5: segments per second cubed.
const C: f64 = 0.4;
/// RFC 9438 section 4.3, from beta.
const ALPHA: f64 = 3.0 * (1.0 - BETA) / (1.0 + BETA);
/// A window below this cannot be halved into one that keeps acknowledgements coming.
const LEAST_SEGMENTS: u64 = 2;
/// How much faster than the window per round trip: so that slow start can double, and growth later is not held up (as the
/// pacing ratios of Linux).
const PACING_SLOW_START: f64 = 2.0;
const PACING: f64 = 1.25;

impl Cubic {
    #[inline(always)]
    pub(crate) fn new(mss: u64) -> Self {
        Self {
            mss,
            window: initial_window(mss),
            threshold: u64::MAX,
            slow_start: HyStart::default(),
            epoch: None,
            most: 0,
            reduction: None,
            before: None,
            smoothed: Duration::ZERO,
        }
    }

    fn grow_slow_start(&mut self, ack: &Acked) {
        let growth = match self.slow_start.on_ack(ack) {
            Pace::Double => ack.bytes.min(8 * self.mss),
            Pace::Careful => (ack.bytes / hystart::CAREFUL_DIVISOR).min(2 * self.mss),
            Pace::Over => {
                self.threshold = self.window;
                0
            }
        };
        self.window += growth;
    }

    /// RFC 9438 sections 4.2 to 4.5.
    fn grow(&mut self, ack: &Acked) {
        let mss = self.mss as f64;
        let window = self.window as f64;
        let (most, window_now) = (self.most, self.window);
        let epoch = self.epoch.get_or_insert_with(|| {
            let below = most.saturating_sub(window_now) as f64 / mss;
            let plateau_after = (below / C).cbrt();
            Epoch { began: ack.now, plateau_after, plateau: window.max(most as f64), reno: window }
        });
        let elapsed = ack.now.duration_since(epoch.began) + self.smoothed;
        let target = epoch.plateau + C * (elapsed.as_secs_f64() - epoch.plateau_after).powi(3) * mss;
        let alpha = if epoch.reno < most as f64 { ALPHA } else { 1.0 };
        epoch.reno += alpha * mss * ack.bytes as f64 / window;
        let step = (target.clamp(window, 1.5 * window) - window) * ack.bytes as f64 / window;
        self.window = (window + step).max(epoch.reno) as u64;
    }

    fn reduce(&mut self, base: u64) {
        self.before =
            Some(Before { window: self.window, threshold: self.threshold, most: self.most, epoch: self.epoch });
        // Fast convergence (RFC 9438 section 4.7): a flow that is shrinking makes room for others.
        let shrinking = self.window < self.most;
        self.most = if shrinking { (self.window as f64 * (1.0 + BETA) / 2.0) as u64 } else { self.window };
        self.threshold = ((base as f64 * BETA) as u64).max(LEAST_SEGMENTS * self.mss);
        self.epoch = None;
    }
}

impl Controller for Cubic {
    fn on_restart(&mut self, _now: Instant) {
        // A pause says nothing about the path, so it is not part of the growth over time (RFC 9438 section 4.2).
        self.epoch = None;
    }

    fn on_ack(&mut self, ack: &Acked) {
        self.smoothed = ack.smoothed;
        if let Some(reduction) = &mut self.reduction {
            self.window = reduction.on_ack(ack, self.threshold, self.mss);
            return;
        }
        if ack.recovering && self.window >= self.threshold || !ack.window_limited {
            return;
        }
        if self.window < self.threshold {
            self.grow_slow_start(ack);
        } else {
            self.grow(ack);
        }
    }

    fn on_loss(&mut self, in_flight: u64, _now: Instant) {
        self.reduce(self.window);
        self.reduction = Some(Reduction::new(self.window.max(in_flight)));
    }

    fn on_timeout(&mut self, in_flight: u64, _now: Instant) {
        // A second timeout in a row says nothing new (RFC 5681 section 3.1): the threshold is kept.
        if self.window > self.mss {
            self.reduce(self.window);
        }
        self.reduction = None;
        // The loss window of RFC 5681 is one segment; what was sent just now may still arrive and does not count.
        self.window = in_flight + self.mss;
    }

    fn on_repaired(&mut self, _now: Instant) {
        if self.reduction.take().is_some() {
            self.window = self.threshold;
        }
        self.before = None;
    }

    fn on_mistake(&mut self, _now: Instant) {
        self.reduction = None;
        if let Some(before) = self.before.take() {
            self.window = self.window.max(before.window);
            self.threshold = before.threshold;
            self.most = before.most;
            self.epoch = before.epoch;
        }
    }

    fn set_mss(&mut self, mss: u64) {
        self.mss = mss;
        self.window = self.window.max(LEAST_SEGMENTS * mss);
    }

    fn window(&self) -> u64 {
        self.window
    }

    fn rate(&self) -> Option<u64> {
        let gain = if self.window < self.threshold { PACING_SLOW_START } else { PACING };
        (!self.smoothed.is_zero()).then(|| (self.window as f64 * gain / self.smoothed.as_secs_f64()) as u64 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: u64 = 1000;

    fn ack(now: Instant, bytes: u64, in_flight: u64) -> Acked {
        Acked {
            now,
            bytes,
            delivered: 0,
            was_in_flight: in_flight + bytes,
            in_flight,
            lost: 0,
            rtt: None,
            smoothed: Duration::from_millis(50),
            sample: None,
            recovering: false,
            window_limited: true,
        }
    }

    #[test]
    fn loses_three_tenths_and_comes_back_to_the_plateau_in_k_seconds() {
        let start = Instant::START;
        let mut cubic = Cubic::new(MSS);
        cubic.window = 1000 * MSS;
        cubic.on_loss(1000 * MSS, start);
        cubic.on_repaired(start);
        assert_eq!(cubic.window(), 700 * MSS);
        // K = cbrt(300 / 0.4) = 9.1 s; so large a window that Reno would take longer.
        let mut now = start;
        while now < start + Duration::from_millis(9100) {
            now = now + Duration::from_millis(50);
            let window = cubic.window();
            cubic.on_ack(&ack(now, window, 0));
        }
        let segments = cubic.window() / MSS;
        assert!((990..=1010).contains(&segments), "{segments}");
    }

    #[test]
    fn a_mistake_gives_the_window_back() {
        let start = Instant::START;
        let mut cubic = Cubic::new(MSS);
        cubic.window = 100 * MSS;
        cubic.on_timeout(0, start);
        assert_eq!(cubic.window(), MSS);
        cubic.on_mistake(start);
        assert_eq!(cubic.window(), 100 * MSS);
    }

    #[test]
    fn slow_start_doubles_per_round_trip() {
        let mut cubic = Cubic::new(MSS);
        for _ in 0..10 {
            cubic.on_ack(&ack(Instant::START, MSS, 9 * MSS));
        }
        assert_eq!(cubic.window(), 20 * MSS);
    }

    #[test]
    fn an_idle_application_earns_no_window() {
        let mut cubic = Cubic::new(MSS);
        cubic.on_ack(&Acked { window_limited: false, ..ack(Instant::START, MSS, 0) });
        assert_eq!(cubic.window(), 10 * MSS);
    }
}
