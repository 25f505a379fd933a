//! What a caller decides about a flow.

use std::time::Duration;

/// Everything a flow is told when it begins.
#[derive(Debug, Clone)]
pub struct Config {
    /// The address family: it decides how much of a packet the headers take.
    pub family: Family,
    /// Largest IP packet that the path carries, in bytes. See [`Flow::set_mtu`](crate::Flow::set_mtu).
    pub mtu: u16,
    /// How much memory the flow may take for data.
    pub buffers: Buffers,
    /// The congestion controller.
    pub control: Congestion,
    /// Any number that differs from flow to flow: flows that share a queue then probe it at different moments.
    pub salt: u32,
    /// What the caller knows about the path's round-trip time, such as the tunnel's own. A lost SYN is then repeated after
    /// three of them instead of after a second.
    pub rtt: Option<Duration>,
    /// How long the peer may be silent, while we wait for an answer, before the flow ends with
    /// [`Error::TimedOut`](crate::Error::TimedOut). While connecting, how long that may take in all.
    pub patience: Duration,
    /// When to ask a peer that has nothing to say whether it still lives.
    pub keep_alive: Option<KeepAlive>,
    /// How long an ended flow answers stragglers (2 MSL, RFC 9293 section 3.6.1).
    pub time_wait: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            family: Family::V4,
            mtu: 1280,
            buffers: Buffers::default(),
            control: Congestion::Bbr,
            salt: 0,
            rtt: None,
            // RFC 9293 section 3.8.3 asks for at least 100 seconds.
            patience: Duration::from_secs(120),
            keep_alive: None,
            // The 60 seconds of Linux.
            time_wait: Duration::from_secs(60),
        }
    }
}

/// The address family of the packets that carry a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4: 40 bytes of headers.
    V4,
    /// IPv6: 60 bytes of headers.
    V6,
}

impl Family {
    /// Most payload in a packet of `mtu` bytes without TCP options, in bytes (RFC 9293 section 3.7.1).
    pub(crate) fn payload(self, mtu: u16) -> usize {
        let headers = match self {
            Self::V4 => 40,
            Self::V6 => 60,
        };
        usize::from(mtu).saturating_sub(headers).max(LEAST_MSS)
    }
}

/// Least payload of a full packet. A peer that asks for less only wants us to work more.
pub(crate) const LEAST_MSS: usize = 88;

/// Bounds on the memory for data, in bytes, each direction on its own. Memory is taken as data needs it; a buffer grows
/// beyond 64 KiB only if the path and the application have shown that they can use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffers {
    /// Most bytes accepted from the application and not yet acknowledged by the peer.
    pub send: usize,
    /// Most bytes that the peer may send ahead of what the application has read. The window scale of the handshake follows
    /// from the first value: a later one can only use the window up to there.
    pub receive: usize,
}

impl Default for Buffers {
    fn default() -> Self {
        Self { send: 4 << 20, receive: 4 << 20 }
    }
}

/// The congestion controllers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Congestion {
    /// Model-based: fills lossy paths. The default.
    Bbr,
    /// Loss-based (RFC 9438): yields to others more readily, and to random loss too.
    Cubic,
}

/// Keep-alive probes (RFC 9293 section 3.8.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepAlive {
    /// Silence before the first probe.
    pub idle: Duration,
    /// Time between probes.
    pub interval: Duration,
    /// Unanswered probes before the flow ends with [`Error::TimedOut`](crate::Error::TimedOut).
    pub probes: u8,
}
