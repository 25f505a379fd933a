//! Whether a peer that has nothing to say still lives (RFC 9293 section 3.8.4).

use crate::clock::{Duration, Instant};
use crate::config::KeepAlive;

/// When the peer was heard last, and how often it has been asked since.
#[derive(Debug)]
pub(crate) struct Alive {
    heard: Instant,
    asked: u16,
}

impl Alive {
    /// The peer was heard just now.
    pub(crate) fn new(now: Instant) -> Self {
        Self { heard: now, asked: 0 }
    }

    /// When to ask next.
    pub(crate) fn ask_at(&self, keep: &KeepAlive) -> Instant {
        self.heard + keep.idle.into() + Duration::from(keep.interval) * u32::from(self.asked)
    }

    /// It is asked once more. Returns how often that makes.
    pub(crate) fn ask(&mut self) -> u16 {
        self.asked = self.asked.saturating_add(1);
        self.asked
    }
}
