//! What a controller is told and asked.

use crate::clock::{Duration, Instant};

/// A congestion controller. Units are bytes, and bytes per second.
pub(crate) trait Controller {
    /// Data is about to be sent into an empty network.
    fn on_restart(&mut self, now: Instant);
    /// An acknowledgement has been evaluated, its losses included.
    fn on_ack(&mut self, ack: &Acked);
    /// The first loss of an episode was found; `in_flight` no longer counts what is lost.
    fn on_loss(&mut self, in_flight: u64, now: Instant);
    /// The retransmission timer ran out.
    fn on_timeout(&mut self, in_flight: u64, now: Instant);
    /// The episode is over: everything lost is repaired.
    fn on_repaired(&mut self, now: Instant);
    /// The episode is over: nothing had been lost. What was given up because of it comes back.
    fn on_mistake(&mut self, now: Instant);
    /// The size of a full packet's payload has changed.
    fn set_mss(&mut self, mss: u64);
    /// How many bytes may be in flight.
    fn window(&self) -> u64;
    /// How many bytes may leave per second; `None` if nothing is known about the path.
    fn rate(&self) -> Option<u64>;
}

/// What one acknowledgement taught.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Acked {
    pub(crate) now: Instant,
    /// Bytes it newly reported, in order or not.
    pub(crate) bytes: u64,
    /// Bytes delivered since the flow began.
    pub(crate) delivered: u64,
    /// Bytes in flight before it.
    pub(crate) was_in_flight: u64,
    /// Bytes in flight after it.
    pub(crate) in_flight: u64,
    /// Bytes found lost by it.
    pub(crate) lost: u64,
    /// A round-trip time measured by it.
    pub(crate) rtt: Option<Duration>,
    /// The smoothed round-trip time.
    pub(crate) smoothed: Duration,
    /// The delivery rate measured by it.
    pub(crate) sample: Option<Sample>,
    /// Whether a loss is being repaired.
    pub(crate) recovering: bool,
    /// Whether the window, rather than the application or the peer, keeps the sender from sending more.
    pub(crate) window_limited: bool,
}

/// What the acknowledgement of one transmission says about the path.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// Bytes per second; `None` if the interval was too short to tell.
    pub(crate) rate: Option<u64>,
    /// Bytes delivered since that transmission was sent.
    pub(crate) delivered: u64,
    /// Bytes that had been delivered when it was sent.
    pub(crate) prior_delivered: u64,
    /// Bytes lost since it was sent.
    pub(crate) lost: u64,
    /// Bytes in flight when it had been sent.
    pub(crate) in_flight: u64,
    /// Whether the application set the pace at the time.
    pub(crate) app_limited: bool,
}

/// RFC 6928: ten segments.
pub(crate) fn initial_window(mss: u64) -> u64 {
    10 * mss
}
