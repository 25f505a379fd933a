//! Management's map of peers as the netstack takes it, and what in it cannot be.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;

use ipnet::IpNet;
use postern_model::{MappedPeer, PeerMap, PublicKey};
use postern_netstack::{Path, Peer};

/// Something in a map that contradicts the rest of it. The rest of the map is in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// Two peers have one key.
    #[error("the peers {first} and {second} have the same key: {second} is left out; give it a key of its own")]
    SameKey {
        /// Who has it.
        first: String,
        /// Who is left out.
        second: String,
    },
    /// A peer has our own key.
    #[error("the peer {peer} has this proxy's own key: it is left out; give it a key of its own")]
    OwnKey {
        /// Who is left out.
        peer: String,
    },
    /// Two peers have the same addresses.
    #[error("the peers {first} and {second} both have {range}: it stays with {first}; give {second} another address")]
    SameRange {
        /// Who has it.
        first: String,
        /// Who does not.
        second: String,
        /// The addresses.
        range: IpNet,
    },
    /// Some of a peer's addresses are another one's.
    #[error("{range} of the peer {inner} lies within {wide} of {outer}: it belongs to {inner}")]
    Nested {
        /// Who has the range that is in force.
        inner: String,
        /// It.
        range: IpNet,
        /// Who has what is left of the wide one.
        outer: String,
        /// It.
        wide: IpNet,
    },
    /// A peer has one of our own addresses.
    #[error("{range} of the peer {peer} has this proxy's own address {address} in it, which stays the proxy's")]
    OwnAddress {
        /// Who.
        peer: String,
        /// Its addresses.
        range: IpNet,
        /// Ours.
        address: IpAddr,
    },
}

/// The peers of a map for a netstack whose key is `own`. A range that two have stays in both: the netstack gives it to the
/// first, and who is a site does not become a device by losing it.
pub(crate) fn peers(map: &PeerMap, own: PublicKey) -> (Vec<Peer>, Vec<Misfit>) {
    let mut misfits = Vec::new();
    let mapped = distinct(map, own, &mut misfits);
    contradictions(&mapped, &map.addresses, &mut misfits);
    (mapped.into_iter().map(|peer| convert(peer, &map.addresses)).collect(), misfits)
}

fn convert(peer: &MappedPeer, own: &[IpAddr]) -> Peer {
    let is_ours = |range: &IpNet| range.prefix_len() == range.max_prefix_len() && own.contains(&range.addr());
    Peer {
        key: peer.key.0,
        generation: peer.generation.0,
        allowed_ips: peer.allowed_ips.iter().filter(|range| !is_ours(range)).map(IpNet::trunc).collect(),
        path: peer.endpoint.map(Path::Udp),
        keep_alive: peer.keep_alive,
    }
}

fn distinct<'a>(map: &'a PeerMap, own: PublicKey, misfits: &mut Vec<Misfit>) -> Vec<&'a MappedPeer> {
    let mut first: HashMap<PublicKey, &MappedPeer> = HashMap::new();
    let mut distinct = Vec::with_capacity(map.peers.len());
    for peer in &map.peers {
        if peer.key == own {
            misfits.push(Misfit::OwnKey { peer: peer.name.clone() });
            continue;
        }
        match first.entry(peer.key) {
            Entry::Occupied(first) => {
                misfits.push(Misfit::SameKey { first: first.get().name.clone(), second: peer.name.clone() });
            }
            Entry::Vacant(place) => {
                place.insert(peer);
                distinct.push(peer);
            }
        }
    }
    distinct
}

/// Sorted, a range comes right before those within it, and equal ones lie side by side: whoever looks at the narrowest range
/// around each finds every contradiction.
fn contradictions(peers: &[&MappedPeer], own: &[IpAddr], misfits: &mut Vec<Misfit>) {
    let ranges = peers.iter().enumerate();
    let ranges = ranges.flat_map(|(at, peer)| peer.allowed_ips.iter().map(move |range| (range.trunc(), at)));
    let mut ranges: Vec<_> = ranges.collect();
    ranges.sort_unstable();
    ranges.dedup();
    let name = |at: usize| peers[at].name.clone();
    let mut around: Vec<(IpNet, usize)> = Vec::new();
    for (range, at) in ranges {
        if let Some(&address) = own.iter().find(|address| range.contains(*address)) {
            misfits.push(Misfit::OwnAddress { peer: name(at), range, address });
        }
        while around.last().is_some_and(|(outside, _)| !outside.contains(&range)) {
            around.pop();
        }
        match around.last() {
            Some(&(same, first)) if same == range => {
                misfits.push(Misfit::SameRange { first: name(first), second: name(at), range });
                continue;
            }
            Some(&(wide, outer)) if outer != at => {
                misfits.push(Misfit::Nested { inner: name(at), range, outer: name(outer), wide });
            }
            Some(_) | None => {}
        }
        around.push((range, at));
    }
}

#[cfg(test)]
mod tests {
    use postern_model::{Generation, PeerKind};
    use proptest::prelude::*;

    use super::*;

    const OWN: PublicKey = PublicKey([0; 32]);

    fn peer(name: &str, key: u8, ranges: &[&str]) -> MappedPeer {
        MappedPeer {
            name: name.to_owned(),
            key: PublicKey([key; 32]),
            generation: Generation(u64::from(key)),
            allowed_ips: ranges.iter().map(|range| range.parse().unwrap()).collect(),
            endpoint: None,
            keep_alive: None,
        }
    }

    fn convert(peers: Vec<MappedPeer>) -> (Vec<(u8, Vec<String>)>, Vec<String>) {
        let addresses = vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        let (peers, misfits) = super::peers(&PeerMap { addresses, mtu: 1420, peers }, OWN);
        let peers = peers.into_iter();
        let peers = peers.map(|peer| (peer.key[0], peer.allowed_ips.iter().map(IpNet::to_string).collect())).collect();
        (peers, misfits.iter().map(Misfit::to_string).collect())
    }

    #[test]
    fn a_sound_map_is_taken_as_it_is() {
        let (peers, misfits) = convert(vec![
            peer("a", 1, &["10.0.0.2/32", "fd00::2/128"]),
            peer("b", 2, &["10.1.0.7/16"]),
            peer("c", 3, &[]),
        ]);
        let expected = [(1, vec!["10.0.0.2/32", "fd00::2/128"]), (2, vec!["10.1.0.0/16"]), (3, vec![])];
        assert_eq!(peers, expected.map(|(key, ranges)| (key, ranges.into_iter().map(str::to_owned).collect())));
        assert_eq!(misfits, Vec::<String>::new());
    }

    #[test]
    fn an_address_belongs_to_the_first_who_has_it() {
        let (peers, misfits) =
            convert(vec![peer("b", 2, &["10.0.0.2/32"]), peer("a", 1, &["10.0.0.2/32", "10.0.0.3/32"])]);
        assert_eq!(peers[1].1, ["10.0.0.2/32", "10.0.0.3/32"]);
        assert_eq!(misfits, ["the peers b and a both have 10.0.0.2/32: it stays with b; give a another address"]);
    }

    #[test]
    fn a_range_within_another_is_told_and_both_stay() {
        let (peers, misfits) = convert(vec![
            peer("site", 1, &["10.1.0.0/16", "10.1.2.0/24"]),
            peer("inside", 2, &["10.1.2.3/32"]),
            peer("beside", 3, &["10.2.0.0/16"]),
        ]);
        assert_eq!(peers.iter().map(|(_, ranges)| ranges.len()).collect::<Vec<_>>(), [2, 1, 1]);
        assert_eq!(misfits, ["10.1.2.3/32 of the peer inside lies within 10.1.2.0/24 of site: it belongs to inside"]);
    }

    #[test]
    fn nobody_takes_our_own_address() {
        let (peers, misfits) =
            convert(vec![peer("thief", 1, &["10.0.0.1/32", "10.0.0.9/32"]), peer("site", 2, &["fd00::/64"])]);
        assert_eq!(peers, [(1, vec!["10.0.0.9/32".to_owned()]), (2, vec!["fd00::/64".to_owned()])]);
        assert_eq!(
            misfits,
            [
                "10.0.0.1/32 of the peer thief has this proxy's own address 10.0.0.1 in it, which stays the proxy's",
                "fd00::/64 of the peer site has this proxy's own address fd00::1 in it, which stays the proxy's",
            ]
        );
    }

    #[test]
    fn a_key_is_one_peer_and_never_us() {
        let (peers, misfits) = convert(vec![
            peer("self", 0, &["10.0.0.2/32"]),
            peer("a", 1, &["10.0.0.3/32"]),
            peer("again", 1, &["10.0.0.4/32"]),
            peer("third", 1, &[]),
        ]);
        assert_eq!(peers, [(1, vec!["10.0.0.3/32".to_owned()])]);
        assert_eq!(misfits.len(), 3);
        assert!(misfits[0].starts_with("the peer self has this proxy's own key"));
        assert!(misfits[1].starts_with("the peers a and again have the same key: again is left out"));
        assert!(misfits[2].starts_with("the peers a and third have the same key"));
    }

    #[test]
    fn a_site_that_loses_its_range_is_no_device() {
        let site = peer("b", 2, &["10.9.0.0/16", "10.0.0.2/32"]);
        assert_eq!(site.kind(), PeerKind::Site);
        let map = PeerMap { addresses: vec![], mtu: 1420, peers: vec![peer("a", 1, &["10.9.0.0/16"]), site] };
        let (peers, _) = peers(&map, OWN);
        assert!(peers[1].site());
    }

    /// Ranges of a small world, so that they meet often.
    fn ranges() -> impl Strategy<Value = Vec<Vec<IpNet>>> {
        let range = (0_u8..16, 28_u8..=32)
            .prop_map(|(low, prefix)| IpNet::new([10, 0, 0, low].into(), prefix).unwrap().trunc());
        prop::collection::vec(prop::collection::vec(range, 0..4), 0..6)
    }

    proptest! {
        #[test]
        fn every_contradiction_is_found_as_by_looking_at_all_pairs(ranges in ranges()) {
            let peers = (1..).zip(&ranges).map(|(key, ranges)| MappedPeer { allowed_ips: ranges.clone(), ..peer("", key, &[]) });
            let peers: Vec<_> = peers.map(|peer| MappedPeer { name: peer.key.0[0].to_string(), ..peer }).collect();
            let (_, misfits) = super::peers(&PeerMap { addresses: vec![], mtu: 1420, peers }, OWN);
            let mut found: Vec<_> = misfits.iter().map(|misfit| match misfit {
                Misfit::SameRange { first, second, range } => (second.clone(), *range, *range, first.clone()),
                Misfit::Nested { inner, range, outer, wide } => (inner.clone(), *range, *wide, outer.clone()),
                Misfit::SameKey { .. } | Misfit::OwnKey { .. } | Misfit::OwnAddress { .. } => panic!("{misfit}"),
            }).collect();
            found.sort();
            prop_assert_eq!(found, expected(&ranges));
        }
    }

    /// For each range of each peer: another's that is equal and comes first, else the narrowest around it if it is another's.
    fn expected(ranges: &[Vec<IpNet>]) -> Vec<(String, IpNet, IpNet, String)> {
        let all: Vec<(usize, IpNet)> =
            (1..).zip(ranges).flat_map(|(at, ranges)| ranges.iter().map(move |range| (at, *range))).collect();
        let holder = |range: IpNet| all.iter().filter(|(_, other)| *other == range).map(|(at, _)| *at).min();
        let mut expected = Vec::new();
        for (at, range) in &all {
            let wider = all.iter().filter(|(_, other)| other.contains(range) && other != range);
            let around = match holder(*range) {
                Some(first) if first != *at => Some((first, *range)),
                _ => wider
                    .max_by_key(|(_, other)| other.prefix_len())
                    .and_then(|(_, wide)| Some((holder(*wide)?, *wide))),
            };
            if let Some((other, wide)) = around.filter(|(other, _)| other != at) {
                expected.push((at.to_string(), *range, wide, other.to_string()));
            }
        }
        expected.sort();
        expected.dedup();
        expected
    }
}
