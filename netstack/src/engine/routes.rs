//! Which peer has which address.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::index::PeerIndex;

/// The allowed IPs of all peers; the longest prefix wins. A lookup takes one probe for each length of prefix in use: one or
/// two in practice, however many peers there are.
#[derive(Default)]
pub(crate) struct Routes {
    owners: HashMap<IpNet, PeerIndex>,
    /// Lengths in use, longest first.
    v4: Vec<u8>,
    v6: Vec<u8>,
}

impl Routes {
    /// Gives a range to a peer. Whether it has it: the first that asks for a range keeps it.
    pub(crate) fn insert(&mut self, range: IpNet, peer: PeerIndex) -> bool {
        let range = range.trunc();
        let lengths = match range {
            IpNet::V4(_) => &mut self.v4,
            IpNet::V6(_) => &mut self.v6,
        };
        if let Err(place) = lengths.binary_search_by(|length| range.prefix_len().cmp(length)) {
            lengths.insert(place, range.prefix_len());
        }
        *self.owners.entry(range).or_insert(peer) == peer
    }

    /// Whose address it is.
    pub(crate) fn find(&self, address: IpAddr) -> Option<PeerIndex> {
        let lengths = match address {
            IpAddr::V4(_) => &self.v4,
            IpAddr::V6(_) => &self.v6,
        };
        lengths.iter().find_map(|&length| {
            let range = IpNet::new(address, length).expect("a length in use fits its family").trunc();
            self.owners.get(&range).copied()
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address() -> impl Strategy<Value = IpAddr> {
        // Few different bits, so that ranges overlap and addresses hit them.
        prop_oneof![
            (0u8..3, 0u8..3, 0u8..4).prop_map(|(a, b, c)| IpAddr::from([10, a, b, c])),
            (0u16..3, 0u16..4).prop_map(|(a, b)| IpAddr::from([0xfd00, a, 0, 0, 0, 0, 0, b])),
        ]
    }

    fn range() -> impl Strategy<Value = IpNet> {
        (address(), any::<u8>()).prop_map(|(address, length)| {
            let longest = if address.is_ipv4() { 32 } else { 128 };
            IpNet::new(address, length % (longest + 1)).unwrap()
        })
    }

    proptest! {
        #[test]
        fn finds_what_a_linear_search_finds(
            ranges in prop::collection::vec((range(), 0u32..6), 0..40),
            addresses in prop::collection::vec(address(), 40),
        ) {
            let mut routes = Routes::default();
            let mut linear: Vec<(IpNet, u32)> = Vec::new();
            for (range, peer) in ranges {
                let owner = linear.iter().find(|(other, _)| *other == range.trunc()).map(|(_, owner)| *owner);
                prop_assert_eq!(routes.insert(range, PeerIndex(peer)), owner.is_none_or(|owner| owner == peer));
                if owner.is_none() {
                    linear.push((range.trunc(), peer));
                }
            }
            for address in addresses {
                let best = linear.iter().filter(|(range, _)| range.contains(&address)).max_by_key(|(range, _)| range.prefix_len());
                prop_assert_eq!(routes.find(address).map(|peer| peer.0), best.map(|(_, peer)| *peer));
            }
        }
    }
}
