//! What a flow knows about its path, for people and tests.

use std::time::Duration;

/// A look at a flow's sending side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    /// Smoothed round-trip time; what the caller said about the path before the first sample.
    pub smoothed_rtt: Option<Duration>,
    /// Least round-trip time of the last minutes.
    pub least_rtt: Option<Duration>,
    /// Congestion window in bytes.
    pub window: u64,
    /// Pacing rate in bytes per second.
    pub rate: Option<u64>,
    /// Bytes believed to be in the network.
    pub in_flight: u64,
    /// Most payload in a packet, in bytes.
    pub mss: usize,
    /// Records that the scoreboard holds: what its memory grows with.
    pub records: usize,
    /// Records that all acknowledgements so far have visited: what their cost grows with.
    pub steps: u64,
}
