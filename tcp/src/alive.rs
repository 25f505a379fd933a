//! Whether a peer that has nothing to say still lives (RFC 9293 section 3.8.4).

use crate::clock::{Duration, Instant};
use crate::config::KeepAlive;

/// When the peer was heard last, and how often it has been asked since.
#[derive(Debug)]
pub(crate) struct Alive {
    rule: Option<Rule>,
    heard: Instant,
    asked: u16,
}

/// When to ask, and how often.
#[derive(Debug)]
struct Rule {
    idle: Duration,
    interval: Duration,
    probes: u8,
}

impl Alive {
    /// The peer was heard just now.
    pub(crate) fn new(keep: Option<KeepAlive>, now: Instant) -> Self {
        let rule =
            keep.map(|keep| Rule { idle: keep.idle.into(), interval: keep.interval.into(), probes: keep.probes });
        Self { rule, heard: now, asked: 0 }
    }

    /// The peer was heard.
    pub(crate) fn hear(&mut self, now: Instant) {
        (self.heard, self.asked) = (now, 0);
    }

    /// When to ask next.
    pub(crate) fn ask_at(&self) -> Instant {
        match &self.rule {
            Some(rule) => self.heard + rule.idle + rule.interval * u32::from(self.asked),
            None => Instant::NEVER,
        }
    }

    /// It is asked once more. Returns whether it has been asked often enough.
    pub(crate) fn ask(&mut self) -> bool {
        self.asked = self.asked.saturating_add(1);
        self.rule.as_ref().is_some_and(|rule| self.asked > u16::from(rule.probes))
    }
}
