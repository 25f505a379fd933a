//! The one timer of a flight, in the order of RFC 8985: what may only be late, then the probe, then the timeout.

use crate::clock::{Duration, Instant};
use crate::rtt::Rtt;

/// What decides when to act if nothing comes back.
#[derive(Debug)]
pub(crate) struct Timer {
    /// Timeouts in a row.
    backoff: u32,
    /// When it was started anew: by sending into an empty network, or by progress.
    restarted: Instant,
    /// When the last bytes were sent.
    last_sent: Instant,
}

/// What the timer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Alarm {
    /// What may only be late is then lost (RFC 8985 section 6.2).
    Reorder,
    /// The last segment may be lost: ask (RFC 8985 section 7).
    Probe,
    /// Nothing comes back (RFC 6298).
    Retransmit,
}

/// Whether to probe for a lost tail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tail {
    /// There is nothing to learn from that.
    Leave,
    /// One segment is on its way, whose acknowledgement the peer may delay.
    Single,
    /// Several are.
    Several,
}

/// How long a peer may wait before it acknowledges a single segment: Linux's 40 ms, and some more (RFC 8985 section 7.2
/// allows for 200, which would make the probe come after the timeout).
const PEER_DELAY: Duration = Duration::from_millis(50);
/// How much later than two round trips several segments may be acknowledged (RFC 8985 section 7.2).
const SEVERAL_DELAY: Duration = Duration::from_millis(2);

impl Timer {
    pub(crate) fn new(now: Instant) -> Self {
        Self { backoff: 0, restarted: now, last_sent: now }
    }

    /// Bytes have left.
    pub(crate) fn sent(&mut self, now: Instant) {
        self.last_sent = now;
    }

    /// Waits anew from now on.
    pub(crate) fn restart(&mut self, now: Instant) {
        self.restarted = now;
    }

    /// Something was acknowledged: waits anew, with all patience.
    pub(crate) fn progress(&mut self, now: Instant) {
        (self.restarted, self.backoff) = (now, 0);
    }

    /// A timeout: waits anew, twice as long. Returns how long it had waited.
    pub(crate) fn back_off(&mut self, rtt: &Rtt, now: Instant) -> Duration {
        let waited = rtt.timeout(self.backoff);
        self.backoff += 1;
        self.restarted = now;
        waited
    }

    /// When it rings and what for, while something is on its way; loss detection wants to look again at `reorder`.
    pub(crate) fn next(&self, reorder: Instant, tail: Tail, rtt: &Rtt) -> (Instant, Alarm) {
        if reorder < Instant::NEVER {
            return (reorder, Alarm::Reorder);
        }
        let timeout = self.restarted + rtt.timeout(self.backoff);
        match self.probe_at(tail, rtt) {
            Some(probe) if probe < timeout => (probe, Alarm::Probe),
            Some(_) | None => (timeout, Alarm::Retransmit),
        }
    }

    /// RFC 8985 section 7.2.
    fn probe_at(&self, tail: Tail, rtt: &Rtt) -> Option<Instant> {
        let patience = match tail {
            Tail::Leave => return None,
            Tail::Single => PEER_DELAY,
            Tail::Several => SEVERAL_DELAY,
        };
        let (smoothed, _) = rtt.smoothed().zip(rtt.least())?;
        Some(self.last_sent.max(self.restarted) + smoothed * 2 + patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A timer started at the beginning of a path of 100 ms.
    fn timer() -> (Timer, Rtt) {
        let mut rtt = Rtt::new(None);
        rtt.sample(MS * 100, Instant::START);
        (Timer::new(Instant::START), rtt)
    }

    #[test]
    fn what_may_be_late_comes_before_the_probe_and_that_before_the_timeout() {
        let (timer, rtt) = timer();
        let start = Instant::START;
        assert_eq!(timer.next(start + MS * 10, Tail::Several, &rtt), (start + MS * 10, Alarm::Reorder));
        assert_eq!(timer.next(Instant::NEVER, Tail::Several, &rtt), (start + MS * 202, Alarm::Probe));
        assert_eq!(timer.next(Instant::NEVER, Tail::Leave, &rtt), (start + MS * 300, Alarm::Retransmit));
    }

    #[test]
    fn a_timeout_doubles_the_wait_until_there_is_progress() {
        let (mut timer, rtt) = timer();
        let start = Instant::START;
        assert_eq!(timer.back_off(&rtt, start), MS * 300);
        assert_eq!(timer.next(Instant::NEVER, Tail::Leave, &rtt).0, start + MS * 600);
        timer.progress(start);
        assert_eq!(timer.next(Instant::NEVER, Tail::Leave, &rtt).0, start + MS * 300);
    }
}
