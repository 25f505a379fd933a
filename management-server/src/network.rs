use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// In the range for carrier NAT (RFC 6598), which neither homes nor offices use, and which stock proxies take for a
/// tunnel's; in a part of it that neither NetBird nor Tailscale gives out first.
pub(crate) const DEFAULT_RANGE: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(100, 72, 0, 0), 16);

/// A unique local network (RFC 4193).
const V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd7a, 0x706f, 0x7374, 0, 0, 0, 0, 0), 64);

/// Ranges that a tunnel's own network may be in: whatever is private. A proxy takes no other address for a tunnel's.
const PRIVATE: [Ipv4Net; 4] = [
    Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10),
    Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16),
];

/// What comes from these says nothing of where it comes from, or is for one link only.
const NOBODYS: [IpNet; 7] = [
    IpNet::new_assert(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8),
    IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8),
    IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(169, 254, 0, 0)), 16),
    IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(224, 0, 0, 0)), 3),
    // Unspecified, loopback, and IPv4 in its disguises.
    IpNet::new_assert(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 8),
    IpNet::new_assert(IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), 10),
    IpNet::new_assert(IpAddr::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0)), 8),
];

/// The addresses of an account's tunnel: a number from 1 on stands for one of each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Network(Ipv4Net);

impl Network {
    /// `None` for a range that is not private, or too small or too large to number.
    pub(crate) fn new(range: Ipv4Net) -> Option<Self> {
        let sized = (8..=29).contains(&range.prefix_len()) && range.trunc() == range;
        let private = PRIVATE.iter().any(|private| private.contains(&range));
        (sized && private).then_some(Self(range))
    }

    pub(crate) fn range(self) -> Ipv4Net {
        self.0
    }

    /// The highest number; the address after it is the broadcast's.
    pub(crate) fn last(self) -> u32 {
        (u32::MAX >> self.0.prefix_len()) - 1
    }

    /// The address before the first: nobody ever has it, and no site's range has it either.
    pub(crate) fn nobodys(self) -> Ipv4Addr {
        self.v4(0)
    }

    pub(crate) fn v4(self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.0.network()) | number)
    }

    pub(crate) fn v6(self, number: u32) -> Ipv6Addr {
        Ipv6Addr::from(u128::from(V6.network()) | u128::from(number))
    }

    /// The number that an address of either family stands for.
    pub(crate) fn number(self, address: IpAddr) -> Option<u32> {
        let number = match address.to_canonical() {
            IpAddr::V4(v4) => self.0.contains(&v4).then(|| u32::from(v4) & self.0.hostmask().to_bits())?,
            IpAddr::V6(v6) => u32::try_from(u128::from(v6) ^ u128::from(V6.network())).ok()?,
        };
        (1..=self.last()).contains(&number).then_some(number)
    }

    /// Both ranges, for people.
    pub(crate) fn ranges(self) -> [IpNet; 2] {
        [IpNet::V4(self.0), IpNet::V6(V6)]
    }
}

/// Whether one range has addresses of the other.
pub(crate) fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// Whether a range has addresses that no site can have.
pub(crate) fn is_nobodys(range: &IpNet) -> bool {
    NOBODYS.iter().any(|nobodys| overlap(nobodys, range))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_number_is_an_address_of_each_family() {
        let network = Network::new(DEFAULT_RANGE).expect("good");
        assert_eq!((network.v4(1), network.v4(258)), (Ipv4Addr::new(100, 72, 0, 1), Ipv4Addr::new(100, 72, 1, 2)));
        assert_eq!(network.v6(1), "fd7a:706f:7374::1".parse::<Ipv6Addr>().expect("address"));
        assert_eq!((network.last(), network.v4(network.last())), (65_534, Ipv4Addr::new(100, 72, 255, 254)));
        for none in ["100.72.0.0", "100.72.255.255", "100.73.0.1", "fd7a:706f:7374::", "fd7a:706f:7374:1::1", "::1"] {
            assert_eq!(network.number(none.parse().expect("address")), None, "{none}");
        }
        assert_eq!(network.number("::ffff:100.72.0.9".parse().expect("address")), Some(9));
    }

    #[test]
    fn a_tunnels_network_is_private_and_of_a_size() {
        for good in ["10.0.0.0/8", "10.9.0.0/29", "100.64.0.0/10", "172.31.0.0/16", "192.168.7.0/24"] {
            assert!(Network::new(good.parse().expect("range")).is_some(), "{good}");
        }
        for bad in ["0.0.0.0/8", "192.0.2.0/24", "10.0.0.0/30", "10.0.0.1/24", "172.32.0.0/16", "127.0.0.0/8"] {
            assert!(Network::new(bad.parse().expect("range")).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_site_has_no_addresses_that_mean_something_else() {
        for bad in
            ["0.0.0.0/0", "127.0.0.0/24", "169.254.1.0/24", "239.0.0.0/8", "::/0", "::ffff:10.0.0.0/104", "::1/128"]
        {
            assert!(is_nobodys(&bad.parse().expect("range")), "{bad}");
        }
        for good in ["10.9.0.0/16", "192.0.2.7/32", "2001:db8::/32", "fd00::/8"] {
            assert!(!is_nobodys(&good.parse().expect("range")), "{good}");
        }
    }

    proptest! {
        #[test]
        fn numbers_and_addresses_lead_to_each_other(prefix in 8u8..=29, number in any::<u32>()) {
            let range = Ipv4Net::new(Ipv4Addr::new(10, 0, 0, 0), prefix).expect("range");
            let network = Network::new(range).expect("good");
            let number = 1 + number % network.last();
            prop_assert_eq!(network.number(network.v4(number).into()), Some(number));
            prop_assert_eq!(network.number(network.v6(number).into()), Some(number));
            prop_assert_eq!(network.number(network.nobodys().into()), None);
            prop_assert!(network.range().contains(&network.nobodys()));
        }
    }
}
