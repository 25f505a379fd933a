//! What is remembered of a handing-out of bytes, and what comes of it.

use crate::clock::Instant;

/// One handing-out of bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Transmission {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) at: Instant,
    pub(crate) sample: Snapshot,
    /// How many of its bytes are in flight.
    pub(super) flying: u64,
    /// How many of its bytes are in flight, or lost and not sent again: while there are any, it is remembered.
    pub(super) live: u64,
}

/// The delivery counters at the moment of sending (draft-ietf-ccwg-bbr section 4.1.2.2, "Transmitting a data packet").
#[derive(Debug, Clone, Copy)]
pub(crate) struct Snapshot {
    /// Bytes delivered so far.
    pub(crate) delivered: u64,
    /// When the last of them was acknowledged.
    pub(crate) delivered_at: Instant,
    /// When the first transmission of this sampling interval was sent.
    pub(crate) first_at: Instant,
    /// Bytes lost so far.
    pub(crate) lost: u64,
    /// Bytes in flight, these included.
    pub(crate) in_flight: u64,
    /// Whether the application, not the network, set the pace.
    pub(crate) app_limited: bool,
}

/// Bytes that have been delivered, as far as one range goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Delivered<'a> {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// Number of the transmission that the acknowledgement belongs to, as far as one can know.
    pub(crate) number: u64,
    /// That transmission; `None` if it has been forgotten.
    pub(crate) transmission: Option<&'a Transmission>,
    /// Sent more than once, so that it is unknown which transmission was delivered.
    pub(crate) resent: bool,
    /// It had been taken for lost and not been sent again.
    pub(crate) was_lost: bool,
}

/// All that was on its way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Only {
    /// Where it began; what lies before had been acknowledged.
    pub(crate) start: u64,
    pub(crate) number: u64,
    pub(crate) transmission: Transmission,
}
