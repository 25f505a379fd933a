//! From where a service may be reached.

use std::net::IpAddr;

use ipnet::IpNet;
use postern_model::Restrictions;

use crate::error::{Kind, Result};

/// Lets `client` pass or refuses it: it must be in an allowed network where there are any, and in no blocked one. An
/// IPv4 address or network in IPv6 clothes (`::ffff:10.1.2.3`) is the IPv4 one.
///
/// # Errors
/// [`Kind::Restricted`].
pub(crate) fn restrict(restrictions: &Restrictions, client: IpAddr) -> Result<()> {
    let client = client.to_canonical();
    let within = |networks: &[IpNet]| networks.iter().any(|network| contains(network, client));
    let allowed = restrictions.allowed_cidrs.is_empty() || within(&restrictions.allowed_cidrs);
    if allowed && !within(&restrictions.blocked_cidrs) { Ok(()) } else { Err(Kind::Restricted.into()) }
}

/// Whether `client`, in its canonical form, is in `network`; one of mapped addresses holds the IPv4 addresses it maps.
pub(crate) fn contains(network: &IpNet, client: IpAddr) -> bool {
    match (network, client) {
        (IpNet::V6(mapped), IpAddr::V4(client)) if mapped.prefix_len() >= 96 => {
            mapped.contains(&client.to_ipv6_mapped())
        }
        (IpNet::V4(_) | IpNet::V6(_), _) => network.contains(&client),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(allowed: &[&str], blocked: &[&str], client: &str) -> bool {
        let networks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let restrictions = Restrictions {
            allowed_cidrs: networks(allowed),
            blocked_cidrs: networks(blocked),
            ..Restrictions::default()
        };
        match restrict(&restrictions, client.parse().unwrap()) {
            Ok(()) => true,
            Err(error) => {
                assert!(matches!(error.kind, Kind::Restricted));
                false
            }
        }
    }

    #[test]
    fn without_rules_everybody_passes() {
        assert!(passes(&[], &[], "203.0.113.1"));
        assert!(passes(&[], &[], "2001:db8::1"));
    }

    #[test]
    fn blocked_wins_within_allowed() {
        let (allowed, blocked) = (["10.0.0.0/8"], ["10.1.0.0/16"]);
        assert!(passes(&allowed, &blocked, "10.2.0.1"));
        assert!(!passes(&allowed, &blocked, "10.1.0.1"));
        assert!(!passes(&allowed, &blocked, "192.168.0.1"));
        assert!(!passes(&allowed, &blocked, "2001:db8::1"));
    }

    #[test]
    fn a_blocked_network_alone_lets_the_rest_in() {
        assert!(passes(&[], &["2001:db8::/32"], "2001:db9::1"));
        assert!(!passes(&[], &["2001:db8::/32"], "2001:db8::1"));
    }

    #[test]
    fn a_mapped_address_is_the_address_it_maps() {
        let (allowed, blocked) = (["10.0.0.0/8"], ["10.1.0.0/16"]);
        assert!(!passes(&allowed, &blocked, "::ffff:10.1.2.3"));
        assert!(passes(&allowed, &blocked, "::ffff:10.2.2.3"));
        let blocked = ["::ffff:10.1.0.0/112"];
        assert!(!passes(&[], &blocked, "10.1.2.3"));
        assert!(passes(&[], &blocked, "10.2.2.3"));
        assert!(passes(&[], &["::/0"], "10.2.2.3"));
    }

    #[test]
    fn host_bits_of_a_network_do_not_matter() {
        assert!(passes(&["10.1.2.3/8"], &[], "10.200.0.1"));
        assert!(!passes(&["10.1.2.3/8"], &[], "11.0.0.1"));
    }
}
