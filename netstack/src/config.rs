//! What a caller decides.

use std::net::IpAddr;
use std::time::Duration;

use postern_tcp::{Buffers, Congestion, KeepAlive};

use crate::key::PrivateKey;

/// Everything a netstack is told when it begins.
#[derive(Debug)]
pub struct Config {
    /// Our WireGuard key.
    pub key: PrivateKey,
    /// Our addresses inside the tunnel, of either family. Connections of ours leave from the first of a family.
    pub addresses: Vec<IpAddr>,
    /// Largest IP packet inside the tunnel, in bytes: 1420 unless the network says otherwise. At most 64,960, which a datagram
    /// holds: more counts as that.
    pub mtu: u16,
    /// Bounds.
    pub limits: Limits,
    /// Secret and different each time: initial sequence numbers, ports and table keys follow from it.
    pub seed: [u8; 32],
}

/// Bounds on what peers can make us spend.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Most flows with one peer.
    pub flows_per_peer: u32,
    /// Most flows in all. A peer opens one more only while it has less than an eighth of those that are left, what we have
    /// opened to it included.
    pub flows: u32,
    /// Most connections per listener that have not been accepted, unfinished handshakes among them. Of what is left of it, a
    /// peer's unfinished handshakes take an eighth at most.
    pub backlog: u32,
    /// Most unfinished handshakes that one peer has opened.
    pub embryonic_per_peer: u32,
    /// Most bytes of data that one flow holds in each direction.
    pub buffers: Buffers,
    /// Bytes of data that all flows together may hold. Half of it is given freely, the other half ever more sparingly. When it
    /// is used up, a flow that holds little still gets on: up to 16 KiB in each direction, but with so many
    /// [`flows`](Self::flows) that this would be more than `memory` once again, less, down to 2 KiB. So the bound is twice this
    /// and one flow's [`buffers`](Self::buffers), if there are 4 KiB for each flow.
    pub memory: usize,
    /// Most ended flows that still answer stragglers; the oldest are forgotten first.
    pub time_waits: usize,
    /// Most answers of our own (RST, ICMP) to one peer in a second.
    pub answers_per_second: u32,
    /// Handshakes a second from which on a cookie is asked for.
    pub handshakes_per_second: u32,
    /// How long an unfinished handshake of a peer is kept.
    pub embryo_patience: Duration,
    /// How long a closed connection may take to end by itself.
    pub linger: Duration,
    /// How long the peer of an open connection may be silent while we wait for an answer.
    pub patience: Duration,
    /// When to ask a peer that has nothing to say whether it still lives.
    pub keep_alive: KeepAlive,
    /// The congestion controller of all flows.
    pub control: Congestion,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // What we open with a busy upstream; the eighth keeps what a peer opens to 7281.
            flows_per_peer: 16_384,
            flows: 65_536,
            // The somaxconn of Linux.
            backlog: 4096,
            embryonic_per_peer: 256,
            // What 300 Mbit/s need at 100 ms.
            buffers: Buffers { send: 4 << 20, receive: 4 << 20 },
            memory: 256 << 20,
            time_waits: 32_768,
            // The icmp_msgs_per_sec of Linux, per peer.
            answers_per_second: 1000,
            handshakes_per_second: 100,
            // Five tries of the peer, at 1, 2, 4, 8 seconds' distance.
            embryo_patience: Duration::from_secs(20),
            // The tcp_fin_timeout of Linux.
            linger: Duration::from_secs(60),
            patience: Duration::from_secs(120),
            // Rare enough not to keep a device awake, often enough that a vanished one is noticed within seven minutes.
            keep_alive: KeepAlive { idle: Duration::from_secs(300), interval: Duration::from_secs(20), probes: 5 },
            control: Congestion::Bbr,
        }
    }
}
