//! What a tunnel tells of itself.

use std::net::SocketAddr;
use std::time::Instant;

use postern_model::PublicKey;
use postern_netstack::{Drop, Netstack, Path};

/// A tunnel at one moment.
#[derive(Clone, Debug)]
pub struct Status {
    /// Everybody in the map.
    pub peers: Vec<PeerStatus>,
    /// Flows that exist.
    pub flows: u64,
    /// Bytes of memory that they take for data.
    pub memory: u64,
    /// What was counted since the start: each reason why a packet was dropped, and a few totals.
    pub counters: Vec<(&'static str, u64)>,
}

/// What is known of one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its key.
    pub key: PublicKey,
    /// Where it was last heard from, or where it is said to listen.
    pub endpoint: Option<SocketAddr>,
    /// When keys were last agreed on.
    pub last_handshake: Option<Instant>,
    /// Bytes of datagrams received from it.
    pub received: u64,
    /// Bytes of datagrams sent to it.
    pub sent: u64,
}

impl Status {
    /// How much was counted under a name.
    #[must_use]
    pub fn counter(&self, name: &str) -> Option<u64> {
        self.counters.iter().find(|(known, _)| *known == name).map(|(_, count)| *count)
    }

    pub(crate) fn of(netstack: &Netstack, refused: u64) -> Self {
        let counted = netstack.counters();
        let drops = Drop::ALL.into_iter().map(|reason| (reason.name(), counted.dropped(reason)));
        let totals = [
            ("refused_by_system", refused),
            ("accepted", counted.accepted),
            ("connected", counted.connected),
            ("merged", counted.merged),
            ("polls", counted.polls),
            ("ignored", counted.ignored),
        ];
        Self {
            peers: netstack.peers().map(|peer| PeerStatus::of(&peer)).collect(),
            flows: counted.flows,
            memory: counted.memory,
            counters: drops.chain(totals).collect(),
        }
    }
}

impl PeerStatus {
    fn of(peer: &postern_netstack::PeerStatus) -> Self {
        let endpoint = peer.path.and_then(|path| match path {
            Path::Udp(address) => Some(address),
            Path::Stream(_) => None,
        });
        Self {
            key: PublicKey(peer.key),
            endpoint,
            last_handshake: peer.last_handshake,
            received: peer.received,
            sent: peer.sent,
        }
    }
}
