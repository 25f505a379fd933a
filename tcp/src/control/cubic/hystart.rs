//! HyStart++ (RFC 9406): leaves slow start when round-trip times rise, before the queue overflows.

use crate::clock::Duration;
use crate::control::controller::Acked;

/// Slow start, watched.
#[derive(Debug, Default)]
pub(crate) struct HyStart {
    round_ends: u64,
    samples: u32,
    least: Option<Duration>,
    last_least: Option<Duration>,
    careful: Option<Careful>,
}

/// Conservative slow start, entered because round-trip times rose.
#[derive(Debug)]
struct Careful {
    rounds_left: u32,
    baseline: Duration,
}

/// How slow start goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Every byte acknowledged adds a byte.
    Double,
    /// Every byte acknowledged adds a [`CAREFUL_DIVISOR`]th.
    Careful,
    /// Congestion avoidance from here.
    Over,
}

/// RFC 9406 section 4.3, as all the numbers below.
pub(crate) const CAREFUL_DIVISOR: u64 = 4;
const SAMPLES: u32 = 8;
const LEAST_RISE: Duration = Duration::from_millis(4);
const MOST_RISE: Duration = Duration::from_millis(16);
const CAREFUL_ROUNDS: u32 = 5;

impl HyStart {
    pub(crate) fn on_ack(&mut self, ack: &Acked) -> Pace {
        if let Some(rtt) = ack.rtt {
            self.samples += 1;
            self.least = Some(self.least.map_or(rtt, |least| least.min(rtt)));
        }
        let over = self.look();
        if ack.delivered >= self.round_ends {
            self.round_ends = ack.delivered + ack.in_flight;
            self.last_least = self.least.take().or(self.last_least);
            self.samples = 0;
            if let Some(careful) = &mut self.careful {
                careful.rounds_left = careful.rounds_left.saturating_sub(1);
            }
        }
        match &self.careful {
            _ if over => Pace::Over,
            None => Pace::Double,
            Some(_) => Pace::Careful,
        }
    }

    /// Compares this round with the last one. Returns whether slow start is over.
    fn look(&mut self) -> bool {
        let (Some(least), Some(last), true) = (self.least, self.last_least, self.samples >= SAMPLES) else {
            return self.careful.as_ref().is_some_and(|careful| careful.rounds_left == 0);
        };
        match &self.careful {
            None if least >= last + (last / 8).clamp(LEAST_RISE, MOST_RISE) => {
                self.careful = Some(Careful { rounds_left: CAREFUL_ROUNDS, baseline: least });
                false
            }
            None => false,
            Some(careful) if least < careful.baseline => {
                self.careful = None;
                false
            }
            Some(careful) => careful.rounds_left == 0,
        }
    }
}
