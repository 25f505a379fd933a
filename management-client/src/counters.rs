use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What became of the access-log lines since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineCounts {
    /// Accepted by the server.
    pub sent: u64,
    /// Refused by the server, for a reason of its own.
    pub refused: u64,
    /// Lost: the queue was full, or the time to shut down was over.
    pub dropped: u64,
    /// Still to be delivered.
    pub waiting: u64,
}

/// The same, while it is being counted.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    logged: AtomicU64,
    sent: AtomicU64,
    refused: AtomicU64,
    dropped: AtomicU64,
}

impl Counters {
    pub(crate) fn logged(&self) {
        self.logged.fetch_add(1, Relaxed);
    }

    pub(crate) fn sent(&self, lines: usize) {
        self.sent.fetch_add(lines as u64, Relaxed);
    }

    pub(crate) fn refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    pub(crate) fn dropped(&self, lines: u64) {
        self.dropped.fetch_add(lines, Relaxed);
    }

    pub(crate) fn get(&self) -> LineCounts {
        let (sent, refused, dropped) =
            (self.sent.load(Relaxed), self.refused.load(Relaxed), self.dropped.load(Relaxed));
        let waiting = self.logged.load(Relaxed).saturating_sub(sent + refused + dropped);
        LineCounts { sent, refused, dropped, waiting }
    }
}
