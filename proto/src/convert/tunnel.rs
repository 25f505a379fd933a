use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use postern_model::{
    AccountId, CreateProxyPeer, Generation, Group, HostName, MappedPeer, OneTimeToken, PeerMap, PublicKey, Secret,
    ServiceId, TunnelVerdict, ValidateTunnelPeer,
};

use super::invalid::{Invalid, quote};
use super::network::{address, key, port};
use crate::management::{CreateProxyPeerRequest, ValidateTunnelPeerRequest, ValidateTunnelPeerResponse};
use crate::postern::v1;

/// A tunnel peer that asks to enter, as management hears of it (NetBird: `ValidateTunnelPeerRequest`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerQuestion {
    /// Its address inside the tunnel.
    pub address: IpAddr,
    /// The service's host.
    pub host: HostName,
    /// What the proxy knows of the peer besides; stock proxies do not say it.
    pub claim: Option<Claim>,
}

/// What a proxy of ours knows of a tunnel peer (`postern.v1`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The account whose tunnel it came through.
    pub account: AccountId,
    /// The key it proved to have.
    pub key: PublicKey,
    /// Which identity of the key.
    pub generation: Generation,
}

/// Whose peers a proxy wants to know (`postern.v1`: `WatchPeersRequest`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// The account.
    pub account: AccountId,
    /// The proxy's own key in the account's tunnel.
    pub key: PublicKey,
}

/// The wish to be a peer, on its way to management.
#[must_use]
pub fn create_proxy_peer_to_wire(request: &CreateProxyPeer) -> CreateProxyPeerRequest {
    CreateProxyPeerRequest {
        service_id: request.service.to_string(),
        account_id: request.account.to_string(),
        token: request.token.0.expose().to_owned(),
        wireguard_public_key: request.key.to_string(),
        cluster: request.cluster.clone(),
        listen_port: request.port.into(),
    }
}

/// The wish to be a peer, as management receives it. The port is 0 where the proxy does not say it, as a stock one.
///
/// # Errors
/// [`Invalid`] for unusable ids, a key that is none, a missing token or a port above 65535.
pub fn create_proxy_peer_from_wire(wire: CreateProxyPeerRequest) -> Result<CreateProxyPeer, Invalid> {
    if wire.token.is_empty() {
        return Err(Invalid::new("token", "it is missing"));
    }
    Ok(CreateProxyPeer {
        service: ServiceId::parse(&wire.service_id).map_err(|e| Invalid::new("service_id", e))?,
        account: account(&wire.account_id)?,
        token: OneTimeToken(Secret::new(wire.token)),
        key: key("wireguard_public_key", &wire.wireguard_public_key)?,
        cluster: wire.cluster,
        port: port("listen_port", wire.listen_port)?,
    })
}

/// A tunnel peer that asks to enter, on its way to management.
#[must_use]
pub fn validate_tunnel_peer_to_wire(request: &ValidateTunnelPeer) -> ValidateTunnelPeerRequest {
    ValidateTunnelPeerRequest {
        tunnel_ip: request.address.to_string(),
        domain: request.host.to_string(),
        account_id: request.account.to_string(),
        peer_public_key: request.key.to_string(),
        generation: request.generation.0,
    }
}

/// A tunnel peer that asks to enter, as management receives it.
///
/// # Errors
/// [`Invalid`] for an address, a host, an account or a key that is none, and for a claim of which a part is missing.
pub fn peer_question_from_wire(wire: &ValidateTunnelPeerRequest) -> Result<PeerQuestion, Invalid> {
    let claim = match (&*wire.account_id, &*wire.peer_public_key, wire.generation) {
        ("", "", 0) => None,
        (account_id, text, generation) => Some(Claim {
            account: account(account_id)?,
            key: key("peer_public_key", text)?,
            generation: Generation(generation),
        }),
    };
    Ok(PeerQuestion {
        address: address("tunnel_ip", &wire.tunnel_ip)?,
        host: HostName::parse(&wire.domain).map_err(|e| Invalid::new("domain", e))?,
        claim,
    })
}

/// Management's verdict on a tunnel peer as it goes to a proxy.
#[must_use]
pub fn tunnel_verdict_to_wire(verdict: TunnelVerdict) -> ValidateTunnelPeerResponse {
    match verdict {
        TunnelVerdict::Valid { session_token, user_id, email, groups } => {
            let (peer_group_ids, peer_group_names) = groups.into_iter().map(|group| (group.id, group.name)).unzip();
            ValidateTunnelPeerResponse {
                valid: true,
                user_id,
                user_email: email.unwrap_or_default(),
                denied_reason: String::new(),
                session_token: session_token.expose().to_owned(),
                peer_group_ids,
                peer_group_names,
            }
        }
        TunnelVerdict::Denied(denied_reason) => {
            ValidateTunnelPeerResponse { denied_reason, ..ValidateTunnelPeerResponse::default() }
        }
    }
}

/// Management's verdict on a tunnel peer as it reaches the proxy. Names belong to the group ids at the same place; an empty
/// id is skipped with its name.
///
/// # Errors
/// [`Invalid`] for a yes without a session token, which is about no service.
pub fn tunnel_verdict_from_wire(wire: ValidateTunnelPeerResponse) -> Result<TunnelVerdict, Invalid> {
    if !wire.valid {
        return Ok(TunnelVerdict::Denied(wire.denied_reason));
    }
    if wire.session_token.is_empty() {
        return Err(Invalid::new("session_token", "it is missing; the service has no session key"));
    }
    let names = wire.peer_group_names.into_iter().chain(std::iter::repeat(String::new()));
    let groups = wire.peer_group_ids.into_iter().zip(names).map(|(id, name)| Group { id, name });
    Ok(TunnelVerdict::Valid {
        session_token: Secret::new(wire.session_token),
        user_id: wire.user_id,
        email: Some(wire.user_email).filter(|email| !email.is_empty()),
        groups: groups.filter(|group| !group.id.is_empty()).collect(),
    })
}

/// The wish to know an account's peers, on its way to management.
#[must_use]
pub fn watch_peers_to_wire(watch: &Watch) -> v1::WatchPeersRequest {
    v1::WatchPeersRequest { account_id: watch.account.to_string(), public_key: watch.key.to_string() }
}

/// The wish to know an account's peers, as management receives it.
///
/// # Errors
/// [`Invalid`] for an unusable account or a key that is none.
pub fn watch_peers_from_wire(wire: &v1::WatchPeersRequest) -> Result<Watch, Invalid> {
    Ok(Watch { account: account(&wire.account_id)?, key: key("public_key", &wire.public_key)? })
}

/// A peer map as it goes to a proxy.
#[must_use]
pub fn peer_map_to_wire(map: &PeerMap) -> v1::PeerMap {
    v1::PeerMap {
        addresses: map.addresses.iter().map(ToString::to_string).collect(),
        mtu: map.mtu.into(),
        peers: map.peers.iter().map(peer_to_wire).collect(),
    }
}

fn peer_to_wire(peer: &MappedPeer) -> v1::MappedPeer {
    v1::MappedPeer {
        name: peer.name.clone(),
        public_key: peer.key.to_string(),
        generation: peer.generation.0,
        allowed_ips: peer.allowed_ips.iter().map(ToString::to_string).collect(),
        endpoint: peer.endpoint.map(|endpoint| endpoint.to_string()).unwrap_or_default(),
        keep_alive_seconds: peer.keep_alive.map_or(0, |every| every.as_secs().try_into().unwrap_or(u32::MAX)),
    }
}

/// A peer map as it reaches the proxy, and what was wrong with the peers that are left out of it: one that cannot be
/// understood may not speak, and disturbs no other.
///
/// # Errors
/// [`Invalid`] for addresses or an MTU that no tunnel can have.
pub fn peer_map_from_wire(wire: v1::PeerMap) -> Result<(PeerMap, Vec<Invalid>), Invalid> {
    let addresses = addresses(&wire.addresses)?;
    let mtu = mtu(wire.mtu, &addresses)?;
    let (mut peers, mut left_out, mut keys) = (Vec::with_capacity(wire.peers.len()), Vec::new(), HashSet::new());
    for (at, peer) in wire.peers.into_iter().enumerate() {
        match peer_from_wire(peer) {
            Ok(peer) if keys.insert(peer.key) => peers.push(peer),
            Ok(peer) => left_out.push(Invalid::new(
                format!("peers[{at}].public_key"),
                format!("{} is another peer's already", peer.key),
            )),
            Err(error) => left_out.push(error.within(format!("peers[{at}]"))),
        }
    }
    Ok((PeerMap { addresses, mtu, peers }, left_out))
}

fn addresses(texts: &[String]) -> Result<Vec<IpAddr>, Invalid> {
    let addresses: Vec<IpAddr> = texts
        .iter()
        .enumerate()
        .map(|(at, text)| address(&format!("addresses[{at}]"), text))
        .collect::<Result<_, _>>()?;
    match &*addresses {
        [_] => Ok(addresses),
        [a, b] if a.is_ipv4() != b.is_ipv4() => Ok(addresses),
        [] => Err(Invalid::new("addresses", "there is none")),
        [..] => Err(Invalid::new("addresses", "there are several of one family")),
    }
}

/// RFC 791 demands that every host takes 576 bytes, RFC 8200 that every link of IPv6 carries 1280.
fn mtu(mtu: u32, addresses: &[IpAddr]) -> Result<u16, Invalid> {
    let least = if addresses.iter().any(IpAddr::is_ipv6) { 1280 } else { 576 };
    let fits = u16::try_from(mtu).ok().filter(|mtu| *mtu >= least);
    fits.ok_or_else(|| Invalid::new("mtu", format!("{mtu} is not between {least} and {}", u16::MAX)))
}

fn peer_from_wire(wire: v1::MappedPeer) -> Result<MappedPeer, Invalid> {
    let ranges = wire.allowed_ips.iter().enumerate();
    let allowed_ips: Vec<IpNet> = ranges.map(|(at, text)| range(at, text)).collect::<Result<_, _>>()?;
    if allowed_ips.is_empty() {
        return Err(Invalid::new("allowed_ips", "there is none"));
    }
    Ok(MappedPeer {
        key: key("public_key", &wire.public_key)?,
        generation: Generation(wire.generation),
        allowed_ips,
        endpoint: endpoint(&wire.endpoint)?,
        keep_alive: keep_alive(wire.keep_alive_seconds)?,
        name: wire.name,
    })
}

fn range(at: usize, text: &str) -> Result<IpNet, Invalid> {
    let range: Result<IpNet, _> = text.parse();
    let range =
        range.map_err(|_| Invalid::new(format!("allowed_ips[{at}]"), format!("{} is no range", quote(text))))?;
    Ok(range.trunc())
}

fn endpoint(text: &str) -> Result<Option<SocketAddr>, Invalid> {
    if text.is_empty() {
        return Ok(None);
    }
    let endpoint = text.parse().ok().filter(|endpoint: &SocketAddr| endpoint.port() != 0);
    let none = || Invalid::new("endpoint", format!("{} is not address:port", quote(text)));
    endpoint.map(Some).ok_or_else(none)
}

/// WireGuard counts it in 16 bits.
fn keep_alive(seconds: u32) -> Result<Option<Duration>, Invalid> {
    let seconds = u16::try_from(seconds);
    let seconds = seconds.map_err(|_| Invalid::new("keep_alive_seconds", "it is more than 65535"))?;
    Ok((seconds != 0).then(|| Duration::from_secs(seconds.into())))
}

fn account(text: &str) -> Result<AccountId, Invalid> {
    AccountId::parse(text).map_err(|e| Invalid::new("account_id", e))
}
