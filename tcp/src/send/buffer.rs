//! How much the application may write ahead.

/// A bound on the send buffer that follows the path: three windows. One is on its way, one was delivered beyond a hole while the
/// hole is repaired, and one is what the window may grow by in the meantime.
#[derive(Debug)]
pub(crate) struct Buffer {
    size: u64,
    limit: u64,
}

/// What a first flight needs, and what an application writes before it looks again.
const FIRST_BUFFER: u64 = 64 << 10;

impl Buffer {
    pub(crate) fn new(limit: usize) -> Self {
        let limit = limit as u64;
        Self { size: FIRST_BUFFER.min(limit), limit }
    }

    /// Most bytes that are written and not acknowledged.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The congestion window is so large by now.
    pub(crate) fn grow(&mut self, window: u64) {
        self.size = (3 * window).min(self.limit).max(self.size);
    }

    /// Never more than this from now on. What has been written stays.
    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.limit = limit as u64;
        self.size = self.size.min(self.limit);
    }
}
