//! Who may speak with us, as the owner of a netstack says it, and what is known of them.

use std::time::{Duration, Instant};

use ipnet::IpNet;

use crate::path::Path;

/// One peer that may speak with us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its public key.
    pub key: [u8; 32],
    /// Which identity of the key: another one ends all that was accepted from the one before.
    pub generation: u64,
    /// The addresses it may send from and is sent to. Where two peers' ranges overlap, the longer prefix wins.
    pub allowed_ips: Vec<IpNet>,
    /// Where it listens; `None` for a peer that calls by itself.
    pub path: Option<Path>,
    /// How often something is sent to it at least, so that a NAT on the way keeps its mapping.
    pub keep_alive: Option<Duration>,
}

impl Peer {
    /// Whether more than one machine may be behind the key: it has more than one address of a family.
    #[must_use]
    pub fn site(&self) -> bool {
        let wide = |range: &IpNet| range.prefix_len() != range.max_prefix_len();
        let several = |v4| self.allowed_ips.iter().filter(|range| range.addr().is_ipv4() == v4).count() > 1;
        several(true) || several(false) || self.allowed_ips.iter().any(wide)
    }

    /// What its flows are known by.
    #[must_use]
    pub fn identity(&self) -> PeerIdentity {
        PeerIdentity { key: self.key, generation: self.generation, site: self.site() }
    }
}

/// Whom a flow belongs to, proved by the key that decrypted its packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerIdentity {
    /// The public key.
    pub key: [u8; 32],
    /// Which identity of the key.
    pub generation: u64,
    /// See [`Peer::site`].
    pub site: bool,
}

/// What is known of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its public key.
    pub key: [u8; 32],
    /// Where it was last heard from, or where it is said to listen.
    pub path: Option<Path>,
    /// When keys were last agreed on.
    pub last_handshake: Option<Instant>,
    /// Bytes of datagrams that it proved to have sent.
    pub received: u64,
    /// Bytes of datagrams sent to it.
    pub sent: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_one_address_of_a_family_makes_a_site() {
        let site = |ranges: &[&str]| {
            let allowed_ips = ranges.iter().map(|range| range.parse().unwrap()).collect();
            Peer { key: [7; 32], generation: 1, allowed_ips, path: None, keep_alive: None }.site()
        };
        for device in [&["100.72.0.3/32", "fd00::3/128"][..], &["100.72.0.3/32"], &["fd00::3/128"]] {
            assert!(!site(device), "{device:?}");
        }
        for several in [&["100.72.0.3/32", "10.20.0.5/32"][..], &["fd00::3/128", "fd00::4/128"], &["10.0.0.0/31"]] {
            assert!(site(several), "{several:?}");
        }
    }
}
