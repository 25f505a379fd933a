//! A stretch of what was sent.

/// Bytes in a row of which the same is known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Range {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) state: State,
    /// Number of the last transmission.
    pub(crate) sent_as: u64,
    /// Sent more than once.
    pub(crate) resent: bool,
}

/// What became of bytes that were sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    InFlight,
    /// Reported by the peer beyond a hole.
    Sacked,
    /// Taken for lost, and not sent again.
    Lost,
}
