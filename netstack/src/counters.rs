//! What the netstack counts.

/// Why a datagram, the packet inside it, or what it asked for was not acted upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Drop {
    /// No WireGuard message: too short, an unknown type, a wrong length.
    Malformed,
    /// A session or handshake index that nobody was given.
    UnknownIndex,
    /// A handshake of a key that is no peer's.
    UnknownPeer,
    /// A handshake whose first MAC is not for our key.
    BadMac,
    /// A message that does not decrypt, or a handshake that repeats an old one.
    Unauthentic,
    /// A packet that arrived before (WireGuard's replay window).
    Replayed,
    /// A packet under a key that is too old.
    KeyExpired,
    /// A handshake while too many arrive: answered by a cookie at most.
    UnderLoad,
    /// A packet whose source address is not among the peer's allowed IPs.
    ForeignSource,
    /// No IP packet, or lengths in it that contradict each other.
    InnerMalformed,
    /// A packet for a peer whose path is not known.
    NoPath,
    /// A packet that was to wait for a session while too many did.
    QueueFull,
    /// A packet that waited for a session for too long.
    Stale,
    /// A reply of WireGuard's own while too many waited to be sent.
    RepliesFull,
    /// An allowed IP range that another peer has already.
    Overlap,
    /// A fragment: nothing reassembles them.
    Fragment,
    /// For an address that is not ours.
    NotOurs,
    /// A protocol that is not spoken here.
    Protocol,
    /// A TCP header that cannot be one.
    BadTcp,
    /// A TCP segment that belongs to no flow.
    NoFlow,
    /// A TCP segment for a flow of another peer.
    OtherPeer,
    /// A SYN for a port that nobody listens on.
    NoListener,
    /// A SYN while its peer has as many flows as it may have.
    FlowsOfPeer,
    /// A SYN while there are as many flows as there may be.
    Flows,
    /// A SYN while its peer has as many unfinished handshakes as it may have.
    Embryonic,
    /// A SYN while as many connections wait to be accepted as may.
    Backlog,
    /// Data for a flow while all flows together hold as much as they may.
    Memory,
    /// An ICMP message that says nothing to us, or is malformed.
    Icmp,
    /// An answer of ours (RST, ICMP) beyond what a peer gets in a second, or larger than what it answers.
    Unanswered,
    /// A packet of ours that could not be sealed, or that its peer's end left behind.
    Unsealed,
}

impl Drop {
    /// Every reason.
    pub const ALL: [Self; 30] = [
        Self::Malformed,
        Self::UnknownIndex,
        Self::UnknownPeer,
        Self::BadMac,
        Self::Unauthentic,
        Self::Replayed,
        Self::KeyExpired,
        Self::UnderLoad,
        Self::ForeignSource,
        Self::InnerMalformed,
        Self::NoPath,
        Self::QueueFull,
        Self::Stale,
        Self::RepliesFull,
        Self::Overlap,
        Self::Fragment,
        Self::NotOurs,
        Self::Protocol,
        Self::BadTcp,
        Self::NoFlow,
        Self::OtherPeer,
        Self::NoListener,
        Self::FlowsOfPeer,
        Self::Flows,
        Self::Embryonic,
        Self::Backlog,
        Self::Memory,
        Self::Icmp,
        Self::Unanswered,
        Self::Unsealed,
    ];

    /// Its name in metrics: lower case, words parted by `_`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnknownIndex => "unknown_index",
            Self::UnknownPeer => "unknown_peer",
            Self::BadMac => "bad_mac",
            Self::Unauthentic => "unauthentic",
            Self::Replayed => "replayed",
            Self::KeyExpired => "key_expired",
            Self::UnderLoad => "under_load",
            Self::ForeignSource => "foreign_source",
            Self::InnerMalformed => "inner_malformed",
            Self::NoPath => "no_path",
            Self::QueueFull => "queue_full",
            Self::Stale => "stale",
            Self::RepliesFull => "replies_full",
            Self::Overlap => "overlap",
            Self::Fragment => "fragment",
            Self::NotOurs => "not_ours",
            Self::Protocol => "protocol",
            Self::BadTcp => "bad_tcp",
            Self::NoFlow => "no_flow",
            Self::OtherPeer => "other_peer",
            Self::NoListener => "no_listener",
            Self::FlowsOfPeer => "flows_of_peer",
            Self::Flows => "flows",
            Self::Embryonic => "embryonic",
            Self::Backlog => "backlog",
            Self::Memory => "memory",
            Self::Icmp => "icmp",
            Self::Unanswered => "unanswered",
            Self::Unsealed => "unsealed",
        }
    }
}

/// How often each thing has happened, and how much there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    dropped: [u64; Drop::ALL.len()],
    /// Flows that exist, with those that only wait for their last packets.
    pub flows: u64,
    /// Flows that peers have opened and that were handed to a listener.
    pub accepted: u64,
    /// Flows that we have opened.
    pub connected: u64,
    /// TCP segments that were merged into the one before them.
    pub merged: u64,
    /// How often flows were asked for what to send or told of a deadline: what the work grows with.
    pub polls: u64,
    /// Segments, or parts of them, that flows ignored. Counted when a flow ends.
    pub ignored: u64,
    /// Bytes of memory that all flows take for data.
    pub memory: u64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            dropped: [0; Drop::ALL.len()],
            flows: 0,
            accepted: 0,
            connected: 0,
            merged: 0,
            polls: 0,
            ignored: 0,
            memory: 0,
        }
    }
}

impl Counters {
    /// How much was dropped for a reason.
    #[must_use]
    pub fn dropped(&self, reason: Drop) -> u64 {
        self.dropped[reason as usize]
    }

    pub(crate) fn drop(&mut self, reason: Drop) {
        self.drop_many(reason, 1);
    }

    pub(crate) fn drop_many(&mut self, reason: Drop, count: u64) {
        self.dropped[reason as usize] += count;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_reason_has_a_counter_and_a_name_of_its_own() {
        let mut counters = Counters::default();
        for (index, reason) in Drop::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
            counters.drop(reason);
        }
        assert!(Drop::ALL.iter().all(|reason| counters.dropped(*reason) == 1));
        assert_eq!(Drop::ALL.iter().map(|reason| reason.name()).collect::<HashSet<_>>().len(), Drop::ALL.len());
    }
}
