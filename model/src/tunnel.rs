//! WireGuard peers, as the proxy and management speak of them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;

use crate::{AccountId, Group, HostName, OneTimeToken, Secret, ServiceId};

/// A WireGuard public key: 32 bytes of Curve25519, written as 44 characters of base64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

/// A text that is not a WireGuard key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a WireGuard key: it takes the 44 characters that `wg pubkey` prints")]
pub struct InvalidKey;

impl PublicKey {
    /// Reads standard base64 with padding.
    ///
    /// # Errors
    /// [`InvalidKey`] for anything but 32 bytes.
    pub fn parse(text: &str) -> Result<Self, InvalidKey> {
        let bytes = STANDARD.decode(text).map_err(|_| InvalidKey)?;
        bytes.try_into().map(Self).map_err(|_| InvalidKey)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Which of the identities that a key has had. Management gives a peer another one whenever what the peer stands for (its
/// user, its groups, its address) changes, so that nothing learned about the one before is taken for the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

/// What a tunnel peer stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerKind {
    /// One machine with one address of each family.
    Device,
    /// A network behind one key: whoever is in it comes with the same key, so none of them is ever taken for a user.
    Site,
}

/// Whoever is at the other end of a connection that came through an account's tunnel. Minted by the tunnel's accept path
/// alone, from the key that decrypted the packets: no address and no header makes one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TunnelPeer {
    account: AccountId,
    key: PublicKey,
    generation: Generation,
    address: IpAddr,
    kind: PeerKind,
}

impl TunnelPeer {
    /// For the tunnel's accept path alone; a lint bans it everywhere else.
    #[must_use]
    pub fn minted(account: AccountId, key: PublicKey, generation: Generation, address: IpAddr, kind: PeerKind) -> Self {
        Self { account, key, generation, address, kind }
    }

    /// The account whose tunnel it came through.
    #[must_use]
    pub fn account(&self) -> &AccountId {
        &self.account
    }

    /// The key that it proved to have.
    #[must_use]
    pub fn key(&self) -> PublicKey {
        self.key
    }

    /// Which identity of that key.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The address that it came from, inside the tunnel.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// What it stands for.
    #[must_use]
    pub fn kind(&self) -> PeerKind {
        self.kind
    }
}

/// The peers of one account's tunnel, seen from one proxy (`postern.v1`): the whole of it, each time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerMap {
    /// The proxy's own addresses in the tunnel, one of each family at most, at least one.
    pub addresses: Vec<IpAddr>,
    /// Largest IP packet inside the tunnel, in bytes.
    pub mtu: u16,
    /// Everybody who may speak with it.
    pub peers: Vec<MappedPeer>,
}

/// One peer of a [`PeerMap`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedPeer {
    /// For people.
    pub name: String,
    /// Its key.
    pub key: PublicKey,
    /// Which identity of the key.
    pub generation: Generation,
    /// The addresses it may send from and is sent to. No two peers share any.
    pub allowed_ips: Vec<IpNet>,
    /// Where it listens; `None` for a peer that calls by itself.
    pub endpoint: Option<SocketAddr>,
    /// How often something is sent to it at least, so that a NAT on the way keeps its mapping.
    pub keep_alive: Option<Duration>,
}

impl MappedPeer {
    /// A site as soon as there is more than one address of a family: a wider range, or another address beside its own.
    #[must_use]
    pub fn kind(&self) -> PeerKind {
        let wide = |net: &IpNet| net.prefix_len() != net.max_prefix_len();
        let several = |v4| self.allowed_ips.iter().filter(|net| net.addr().is_ipv4() == v4).count() > 1;
        let site = several(true) || several(false) || self.allowed_ips.iter().any(wide);
        if site { PeerKind::Site } else { PeerKind::Device }
    }
}

/// Asks management to make this proxy a peer of an account's tunnel (NetBird: `CreateProxyPeer`).
#[derive(Clone, Debug)]
pub struct CreateProxyPeer {
    /// A service of the account: the one that the token came with.
    pub service: ServiceId,
    /// The account.
    pub account: AccountId,
    /// Proves that the mapping was sent to us; good for one call.
    pub token: OneTimeToken,
    /// Our key in this account's tunnel.
    pub key: PublicKey,
    /// The proxy's own name at management.
    pub cluster: String,
    /// The UDP port that we listen on (`postern.v1`).
    pub port: u16,
}

/// Asks whether a tunnel peer may enter a private service (NetBird: `ValidateTunnelPeer`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ValidateTunnelPeer {
    /// The address inside the tunnel.
    pub address: IpAddr,
    /// The service's host.
    pub host: HostName,
    /// The account whose tunnel it came through (`postern.v1`): two accounts may use the same addresses.
    pub account: AccountId,
    /// The key it proved to have (`postern.v1`).
    pub key: PublicKey,
    /// Which identity of the key (`postern.v1`).
    pub generation: Generation,
}

/// Management's verdict on a tunnel peer.
#[derive(Clone, Debug)]
pub enum TunnelVerdict {
    /// It may enter.
    Valid {
        /// A JWT signed with the service's session key: proves that the verdict is about this service.
        session_token: Secret,
        /// The user's id; empty for a peer that belongs to nobody.
        user_id: String,
        /// The user's e-mail address or name; `None` names nobody.
        email: Option<String>,
        /// The peer's groups.
        groups: Vec<Group>,
    },
    /// It may not; NetBird's word for the reason (`not_in_group`, `peer_not_found`, …).
    Denied(String),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_key_is_read_as_it_is_written(bytes in any::<[u8; 32]>()) {
            let key = PublicKey(bytes);
            prop_assert_eq!(key.to_string().len(), 44);
            prop_assert_eq!(PublicKey::parse(&key.to_string()), Ok(key));
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let key = PublicKey([7; 32]).to_string();
        assert!(PublicKey::parse(&key).is_ok());
        // A last character whose spare bits are set would be a second spelling of the same key.
        let loose = format!("{}d=", &key[..42]);
        for bad in ["", &key[..43], &format!("{key} "), &format!("{key}{key}"), &loose, &"!".repeat(44)] {
            assert_eq!(PublicKey::parse(bad), Err(InvalidKey), "{bad:?}");
        }
    }

    #[test]
    fn more_than_one_address_of_a_family_makes_a_site() {
        let kind = |ranges: &[&str]| {
            let allowed_ips = ranges.iter().map(|range| range.parse().expect("a range")).collect();
            let (key, generation) = (PublicKey([7; 32]), Generation(1));
            MappedPeer { name: String::new(), key, generation, allowed_ips, endpoint: None, keep_alive: None }.kind()
        };
        assert_eq!(kind(&["100.72.0.3/32", "fd7a:706f:7374::3/128"]), PeerKind::Device);
        assert_eq!(kind(&["100.72.0.3/32"]), PeerKind::Device);
        assert_eq!(kind(&["100.72.0.3/32", "10.20.0.5/32"]), PeerKind::Site);
        assert_eq!(kind(&["fd7a:706f:7374::3/128", "100.72.0.3/32", "fd00::5/128"]), PeerKind::Site);
        assert_eq!(kind(&["100.72.0.3/32", "10.0.0.0/31"]), PeerKind::Site);
        assert_eq!(kind(&["100.72.0.3/32", "fd00::/127"]), PeerKind::Site);
    }

    #[test]
    fn nothing_that_is_printed_shows_a_token() {
        let create = CreateProxyPeer {
            service: ServiceId::parse("svc").expect("an id"),
            account: AccountId::parse("acc").expect("an id"),
            token: OneTimeToken(Secret::from("hush")),
            key: PublicKey([7; 32]),
            cluster: "proxy.example.com".to_owned(),
            port: 51820,
        };
        let verdict = TunnelVerdict::Valid {
            session_token: Secret::from("hush"),
            user_id: "u1".to_owned(),
            email: None,
            groups: Vec::new(),
        };
        let shown = format!("{create:?} {verdict:?}");
        assert!(shown.contains("svc") && shown.contains("u1") && !shown.contains("hush"), "{shown}");
    }
}
