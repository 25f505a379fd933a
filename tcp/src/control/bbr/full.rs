//! Whether startup has filled the pipe (draft-ietf-ccwg-bbr sections 5.3.1.2 and 5.3.1.3).

/// What startup has found.
#[derive(Debug, Default)]
pub(crate) struct Full {
    bandwidth: u64,
    rounds: u32,
    end: Option<End>,
}

/// What has ended startup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The bandwidth grew no more.
    Plateau,
    /// More was lost than tolerated.
    Losses,
}

/// Startup goes on as long as the bandwidth grows by a quarter, and ends after three rounds without.
const GROWTH: f64 = 1.25;
const ROUNDS: u32 = 3;
/// It also ends by more loss than tolerated, if so many acknowledgements of a round told of it, which stand for gaps: a few
/// packets lost at random are a great share of a small window.
const REPORTS: u32 = 6;

impl Full {
    /// Whether the pipe is full.
    pub(crate) fn reached(&self) -> bool {
        self.end.is_some()
    }

    /// Whether losses have shown it, so that the bandwidth may still have been growing.
    pub(crate) fn by_losses(&self) -> bool {
        self.end == Some(End::Losses)
    }

    /// A round has begun, in which the bandwidth is known to be at least this.
    pub(crate) fn on_round(&mut self, bandwidth: u64) {
        if self.reached() {
            return;
        }
        if bandwidth as f64 >= self.bandwidth as f64 * GROWTH {
            (self.bandwidth, self.rounds) = (bandwidth, 0);
            return;
        }
        self.rounds += 1;
        self.end = (self.rounds >= ROUNDS).then_some(End::Plateau);
    }

    /// More was lost than is tolerated, and so many acknowledgements told of it. Returns whether that is the end.
    pub(crate) fn on_losses(&mut self, reports: u32) -> bool {
        let ends = !self.reached() && reports >= REPORTS;
        if ends {
            self.end = Some(End::Losses);
        }
        ends
    }
}
