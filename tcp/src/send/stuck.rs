//! There is something to send, nothing on its way, and the peer's window is closed, or open by a sliver (RFC 9293 section
//! 3.8.6.1).

use crate::clock::Instant;
use crate::rtt::Rtt;

/// Waiting for the peer's window.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stuck {
    /// When to ask, or to use the sliver.
    pub(crate) ask_at: Instant,
    /// Since when the peer has not answered; never, if it has.
    pub(crate) asked: Instant,
    /// The sliver is used now.
    pub(crate) force: bool,
    tries: u32,
}

impl Stuck {
    pub(crate) fn new(rtt: &Rtt, now: Instant) -> Self {
        Self { ask_at: now + rtt.timeout(0), asked: Instant::NEVER, force: false, tries: 0 }
    }

    /// The peer was heard.
    pub(crate) fn answered(&mut self) {
        self.asked = Instant::NEVER;
    }

    /// Time to ask has come; or, if the window is `open` by a sliver, to use that.
    pub(crate) fn act(&mut self, open: bool, rtt: &Rtt, now: Instant) {
        self.tries += 1;
        self.ask_at = now + rtt.timeout(self.tries);
        self.force = open;
        if !open {
            self.asked = self.asked.min(now);
        }
    }
}
