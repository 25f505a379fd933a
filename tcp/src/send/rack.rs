//! Which bytes are lost (RFC 8985, RACK): those sent well before something that has already arrived.

use super::scoreboard::Scoreboard;
use super::transmission::Delivered;
use crate::clock::{Duration, Instant};
use crate::rtt::Rtt;

/// Loss detection by time of sending instead of by counting duplicates.
#[derive(Debug, Default)]
pub(crate) struct Rack {
    /// Of all that arrived, the one sent last.
    newest: Option<Newest>,
    /// The highest offset that arrived (RACK.fack).
    highest: u64,
    reordering_seen: bool,
    /// How many quarters of the least round-trip time to wait for what may only be late (RACK.reo_wnd_mult).
    patience: u32,
    /// Recoveries left before the patience is forgotten (RACK.reo_wnd_persist).
    patience_left: u32,
    /// The patience grows at most once before this offset is acknowledged (RACK.dsack_round).
    grown_until: u64,
}

#[derive(Debug, Clone, Copy)]
struct Newest {
    number: u64,
    end: u64,
    rtt: Duration,
}

/// Sacked segments that stand for a loss as long as no reordering was seen (RFC 8985 section 6.2 step 4).
const DUPLICATE_THRESHOLD: u64 = 3;
/// RFC 8985 section 6.2 step 4.
const PATIENCE_LASTS: u32 = 16;

impl Rack {
    /// Something was delivered (steps 2 and 3).
    pub(crate) fn delivered(&mut self, delivered: &Delivered<'_>, rtt: &Rtt, now: Instant) {
        if delivered.end > self.highest {
            self.highest = delivered.end;
        } else if delivered.end < self.highest && !delivered.resent {
            self.reordering_seen = true;
        }
        let Some(transmission) = delivered.transmission else { return };
        let age = now.duration_since(transmission.at);
        if delivered.resent && rtt.least().is_some_and(|least| age < least) {
            return;
        }
        let newer = |newest: Newest| (newest.number, newest.end) < (delivered.number, delivered.end);
        if self.newest.is_none_or(newer) {
            self.newest = Some(Newest { number: delivered.number, end: delivered.end, rtt: age });
        }
    }

    /// The peer received something twice: what was late had been taken for lost (step 4).
    pub(crate) fn repeated(&mut self, board: &Scoreboard) {
        if board.start() >= self.grown_until {
            self.grown_until = board.end();
            self.patience = (self.patience + 1).min(64);
            self.patience_left = PATIENCE_LASTS;
        }
        self.reordering_seen = true;
    }

    /// A recovery has ended.
    pub(crate) fn recovered(&mut self) {
        self.patience_left = self.patience_left.saturating_sub(1);
        if self.patience_left == 0 {
            self.patience = 0;
        }
    }

    /// Takes for lost what should have arrived by now (step 5). Returns how many bytes, and when to ask again.
    pub(crate) fn detect(&self, board: &mut Scoreboard, wait: Wait, now: Instant) -> (u64, Instant) {
        let Some(newest) = self.newest else { return (0, Instant::NEVER) };
        let limit = newest.rtt + self.window(board, wait);
        let mut lost = 0;
        loop {
            let Some((number, at)) = board.oldest_in_flight() else { return (lost, Instant::NEVER) };
            let until = if number < newest.number { u64::MAX } else { newest.end };
            if number > newest.number || !board.flies_before(number, until) {
                return (lost, Instant::NEVER);
            }
            let due = at + limit;
            if due > now {
                return (lost, due);
            }
            lost += board.lose_transmission(number, until);
        }
    }

    /// After a retransmission timeout: takes for lost the first segment and what should have arrived by now (section 6.3).
    pub(crate) fn detect_at_timeout(&self, board: &mut Scoreboard, wait: Wait, rto: Duration, now: Instant) -> u64 {
        let limit = self.newest.map_or(rto, |newest| newest.rtt + self.window(board, wait));
        let first = board.start();
        let mut lost = board.lose(first, first + wait.mss);
        while let Some((number, at)) = board.oldest_in_flight() {
            if at + limit > now {
                break;
            }
            lost += board.lose_transmission(number, u64::MAX);
        }
        lost
    }

    /// How long to wait for what may only be late (RACK_update_reo_wnd).
    fn window(&self, board: &Scoreboard, wait: Wait) -> Duration {
        let enough = board.sacked() >= DUPLICATE_THRESHOLD * wait.mss;
        if !self.reordering_seen && (wait.recovering || enough) {
            return Duration::ZERO;
        }
        (wait.least / 4 * (self.patience + 1)).min(wait.smoothed)
    }
}

/// What decides how long to wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wait {
    pub(crate) mss: u64,
    pub(crate) recovering: bool,
    pub(crate) least: Duration,
    pub(crate) smoothed: Duration,
}
