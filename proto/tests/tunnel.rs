//! What tunnels need, from wire to model and back.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use postern_model::{
    AccountId, CreateProxyPeer, Generation, Group, HostName, MappedPeer, OneTimeToken, PeerMap, PublicKey, Secret,
    ServiceId, TunnelVerdict, ValidateTunnelPeer,
};
use postern_proto::convert::{self, Claim, Invalid, PeerQuestion, Watch};
use postern_proto::fuzz;
use postern_proto::management as wire;
use postern_proto::postern::v1;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use prost::Message;

/// 44 characters.
const KEY: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";

/// Through bytes, as over a connection.
fn sent<M: Message + Default>(message: &M) -> M {
    M::decode(&*message.encode_to_vec()).expect("decodes")
}

fn field<T: std::fmt::Debug>(converted: Result<T, Invalid>) -> String {
    converted.expect_err("refused").field().to_owned()
}

fn create() -> wire::CreateProxyPeerRequest {
    wire::CreateProxyPeerRequest {
        service_id: "svc-1".into(),
        account_id: "acc-1".into(),
        token: "once".into(),
        wireguard_public_key: KEY.into(),
        cluster: "proxy.example.com".into(),
        listen_port: 51820,
    }
}

#[test]
fn the_wish_to_be_a_peer_is_checked() {
    let created = convert::create_proxy_peer_from_wire(create()).expect("converts");
    assert_eq!((created.key, created.port, created.token.0.expose()), (PublicKey([7; 32]), 51820, "once"));
    let stock = wire::CreateProxyPeerRequest { listen_port: 0, ..create() };
    assert_eq!(convert::create_proxy_peer_from_wire(stock).expect("converts").port, 0);
    for (name, bad) in [
        ("service_id", wire::CreateProxyPeerRequest { service_id: String::new(), ..create() }),
        ("account_id", wire::CreateProxyPeerRequest { account_id: String::new(), ..create() }),
        ("token", wire::CreateProxyPeerRequest { token: String::new(), ..create() }),
        ("wireguard_public_key", wire::CreateProxyPeerRequest { wireguard_public_key: "AAAA".into(), ..create() }),
        ("listen_port", wire::CreateProxyPeerRequest { listen_port: 65_536, ..create() }),
    ] {
        assert_eq!(field(convert::create_proxy_peer_from_wire(bad)), name);
    }
    let shown = format!("{:?}", create());
    assert!(shown.contains(KEY) && !shown.contains("once"), "{shown}");
}

fn question() -> wire::ValidateTunnelPeerRequest {
    wire::ValidateTunnelPeerRequest {
        tunnel_ip: "100.72.0.3".into(),
        domain: "Inside.Example.com".into(),
        account_id: "acc-1".into(),
        peer_public_key: KEY.into(),
        generation: 3,
    }
}

#[test]
fn a_stock_proxy_claims_nothing_and_ours_everything() {
    let asked = convert::peer_question_from_wire(&question()).expect("converts");
    let account = AccountId::parse("acc-1").expect("an id");
    assert_eq!(asked.claim, Some(Claim { account, key: PublicKey([7; 32]), generation: Generation(3) }));
    assert_eq!(asked.host.as_str(), "inside.example.com");
    let stock = wire::ValidateTunnelPeerRequest {
        tunnel_ip: "100.72.0.3".into(),
        domain: "inside.example.com".into(),
        ..Default::default()
    };
    assert_eq!(convert::peer_question_from_wire(&stock).expect("converts").claim, None);
    for (name, bad) in [
        ("tunnel_ip", wire::ValidateTunnelPeerRequest { tunnel_ip: "100.72.0.3/32".into(), ..question() }),
        ("domain", wire::ValidateTunnelPeerRequest { domain: "a b".into(), ..question() }),
        ("account_id", wire::ValidateTunnelPeerRequest { account_id: String::new(), ..question() }),
        ("peer_public_key", wire::ValidateTunnelPeerRequest { peer_public_key: String::new(), ..question() }),
        ("account_id", wire::ValidateTunnelPeerRequest { generation: 1, ..stock }),
    ] {
        assert_eq!(field(convert::peer_question_from_wire(&bad)), name);
    }
}

#[test]
fn a_yes_without_a_token_is_none() {
    let yes = || wire::ValidateTunnelPeerResponse {
        valid: true,
        session_token: "a.b.c".into(),
        user_id: "u1".into(),
        peer_group_ids: vec!["g1".into(), String::new(), "g3".into(), "g4".into()],
        peer_group_names: vec!["Eng".into(), "Nobody".into(), "Ops".into()],
        ..Default::default()
    };
    let Ok(TunnelVerdict::Valid { session_token, user_id, email, groups }) = convert::tunnel_verdict_from_wire(yes())
    else {
        panic!("valid");
    };
    assert_eq!((session_token.expose(), &*user_id, email), ("a.b.c", "u1", None));
    let groups: Vec<_> = groups.iter().map(|group| (&*group.id, &*group.name)).collect();
    assert_eq!(groups, [("g1", "Eng"), ("g3", "Ops"), ("g4", "")]);
    let hollow = wire::ValidateTunnelPeerResponse { session_token: String::new(), ..yes() };
    assert_eq!(field(convert::tunnel_verdict_from_wire(hollow)), "session_token");
    let denied = wire::ValidateTunnelPeerResponse { valid: false, denied_reason: "not_in_group".into(), ..yes() };
    let denied = convert::tunnel_verdict_from_wire(denied);
    assert!(matches!(denied, Ok(TunnelVerdict::Denied(reason)) if reason == "not_in_group"));
}

fn map() -> v1::PeerMap {
    v1::PeerMap { addresses: vec!["100.72.0.1".into(), "fd7a:706f:7374::1".into()], mtu: 1420, peers: vec![peer()] }
}

fn peer() -> v1::MappedPeer {
    v1::MappedPeer {
        name: "laptop".into(),
        public_key: KEY.into(),
        generation: 1,
        allowed_ips: vec!["100.72.0.3/32".into(), "10.1.2.3/8".into()],
        endpoint: "[2001:db8::1]:51820".into(),
        keep_alive_seconds: 25,
    }
}

#[test]
fn a_map_that_no_tunnel_can_have_is_refused_as_a_whole() {
    assert!(convert::peer_map_from_wire(map()).is_ok());
    let ipv4 = || vec!["100.72.0.1".to_owned()];
    assert!(convert::peer_map_from_wire(v1::PeerMap { addresses: ipv4(), mtu: 576, ..map() }).is_ok());
    for (name, bad) in [
        ("addresses", v1::PeerMap { addresses: Vec::new(), ..map() }),
        ("addresses", v1::PeerMap { addresses: [ipv4(), ipv4()].concat(), ..map() }),
        ("addresses[0]", v1::PeerMap { addresses: vec!["100.72.0.1/32".into()], ..map() }),
        ("mtu", v1::PeerMap { mtu: 1279, ..map() }),
        ("mtu", v1::PeerMap { mtu: 65_536, ..map() }),
        ("mtu", v1::PeerMap { addresses: ipv4(), mtu: 575, ..map() }),
    ] {
        assert_eq!(field(convert::peer_map_from_wire(bad)), name);
    }
}

#[test]
fn a_peer_that_is_none_is_left_out_and_disturbs_no_other() {
    let (good, left_out) = convert::peer_map_from_wire(map()).expect("converts");
    assert_eq!((good.peers.len(), left_out), (1, Vec::new()));
    assert_eq!(good.peers[0].allowed_ips[1].to_string(), "10.0.0.0/8", "a range begins where it begins");
    let other = |spoil: fn(&mut v1::MappedPeer)| {
        let mut peer = v1::MappedPeer { public_key: PublicKey([8; 32]).to_string(), ..peer() };
        spoil(&mut peer);
        peer
    };
    let spoilt: [(&str, v1::MappedPeer); 8] = [
        ("public_key", other(|peer| peer.public_key = KEY.into())),
        ("public_key", other(|peer| peer.public_key = KEY.trim_end_matches('=').into())),
        ("allowed_ips", other(|peer| peer.allowed_ips.clear())),
        ("allowed_ips[1]", other(|peer| peer.allowed_ips[1] = "100.72.0.4".into())),
        ("allowed_ips[0]", other(|peer| peer.allowed_ips[0] = "100.72.0.4/33".into())),
        ("endpoint", other(|peer| peer.endpoint = "vpn.example.com:51820".into())),
        ("endpoint", other(|peer| peer.endpoint = "192.0.2.1:0".into())),
        ("keep_alive_seconds", other(|peer| peer.keep_alive_seconds = 65_536)),
    ];
    for (name, bad) in spoilt {
        let message = v1::PeerMap { peers: vec![peer(), bad], ..map() };
        let (map, left_out) = convert::peer_map_from_wire(message).expect("converts");
        assert_eq!(map, good, "{name}");
        let fields: Vec<_> = left_out.iter().map(Invalid::field).collect();
        assert_eq!(fields, [format!("peers[1].{name}")]);
    }
    let message = v1::PeerMap { peers: vec![peer(), other(|_| {})], ..map() };
    assert_eq!(convert::peer_map_from_wire(message).expect("converts").0.peers.len(), 2);
}

fn any_key() -> impl Strategy<Value = PublicKey> {
    any::<[u8; 32]>().prop_map(PublicKey)
}

fn any_account() -> impl Strategy<Value = AccountId> {
    "[a-z0-9]{1,20}".prop_map(|id| AccountId::parse(&id).expect("an id"))
}

fn any_host() -> impl Strategy<Value = HostName> {
    "[a-z]{1,10}(\\.[a-z]{1,10}){0,2}".prop_map(|host| HostName::parse(&host).expect("a host"))
}

prop_compose! {
    fn any_range()(address in any::<IpAddr>(), bits in any::<prop::sample::Index>()) -> IpNet {
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = u8::try_from(bits.index(most + 1)).expect("at most 128");
        IpNet::new(address, bits).expect("fits").trunc()
    }
}

prop_compose! {
    fn any_map()(
        addresses in prop_oneof![
            any::<std::net::Ipv4Addr>().prop_map(|four| vec![IpAddr::V4(four)]),
            any::<(std::net::Ipv4Addr, std::net::Ipv6Addr)>().prop_map(|(four, six)| vec![four.into(), six.into()]),
        ],
        mtu in 1280..=u16::MAX,
        peers in btree_map(any_key(), any_peer(), 0..5),
    ) -> PeerMap {
        let peers = peers.into_iter().map(|(key, peer)| MappedPeer { key, ..peer }).collect();
        PeerMap { addresses, mtu, peers }
    }
}

prop_compose! {
    fn any_peer()(
        name in "\\PC{0,20}",
        generation in any::<u64>(),
        allowed_ips in vec(any_range(), 1..4),
        endpoint in option::of((any::<IpAddr>(), 1..=u16::MAX).prop_map(SocketAddr::from)),
        keep_alive in option::of((1..=u16::MAX).prop_map(|seconds| Duration::from_secs(seconds.into()))),
    ) -> MappedPeer {
        let key = PublicKey([0; 32]);
        MappedPeer { name, key, generation: Generation(generation), allowed_ips, endpoint, keep_alive }
    }
}

fn any_text() -> impl Strategy<Value = String> {
    "\\PC{0,20}"
}

proptest! {
    #[test]
    fn the_wish_to_be_a_peer_comes_back_as_it_went(
        account in any_account(),
        key in any_key(),
        token in "\\PC{1,20}",
        cluster in any_text(),
        port in any::<u16>(),
    ) {
        let service = ServiceId::parse("svc-1").expect("an id");
        let token = OneTimeToken(Secret::new(token));
        let request = CreateProxyPeer { service, account, token, key, cluster, port };
        let back = convert::create_proxy_peer_from_wire(sent(&convert::create_proxy_peer_to_wire(&request)));
        let back = back.expect("converts");
        prop_assert_eq!(
            (back.service, back.account, back.token.0, back.key, back.cluster, back.port),
            (request.service, request.account, request.token.0, request.key, request.cluster, request.port)
        );
    }

    #[test]
    fn a_question_comes_back_as_it_went(
        address in any::<IpAddr>(),
        host in any_host(),
        account in any_account(),
        key in any_key(),
        generation in any::<u64>().prop_map(Generation),
    ) {
        let question = ValidateTunnelPeer { address, host: host.clone(), account: account.clone(), key, generation };
        let back = convert::peer_question_from_wire(&sent(&convert::validate_tunnel_peer_to_wire(&question)));
        prop_assert_eq!(back, Ok(PeerQuestion { address, host, claim: Some(Claim { account, key, generation }) }));
    }

    #[test]
    fn a_verdict_comes_back_as_it_went(
        token in option::of("\\PC{1,20}"),
        words in (any_text(), "\\PC{1,20}"),
        groups in vec(("\\PC{1,8}", any_text()), 0..4),
    ) {
        let (user_id, reason) = words;
        let groups: Vec<_> = groups.into_iter().map(|(id, name)| Group { id, name }).collect();
        let email = Some(reason.clone());
        let verdict = match &token {
            Some(token) => TunnelVerdict::Valid {
                session_token: Secret::from(&**token),
                user_id: user_id.clone(),
                email: email.clone(),
                groups: groups.clone(),
            },
            None => TunnelVerdict::Denied(reason.clone()),
        };
        let back = convert::tunnel_verdict_from_wire(sent(&convert::tunnel_verdict_to_wire(verdict))).expect("converts");
        match (back, token) {
            (TunnelVerdict::Valid { session_token, user_id: id, email: mail, groups: of }, Some(token)) => {
                prop_assert_eq!(session_token.expose(), token);
                prop_assert_eq!((id, mail, of), (user_id, email, groups));
            }
            (TunnelVerdict::Denied(word), None) => prop_assert_eq!(word, reason),
            (other, _) => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn a_watch_comes_back_as_it_went(account in any_account(), key in any_key()) {
        let watch = Watch { account, key };
        prop_assert_eq!(convert::watch_peers_from_wire(&sent(&convert::watch_peers_to_wire(&watch))), Ok(watch));
    }

    #[test]
    fn a_map_comes_back_as_it_went(map in any_map()) {
        let back = convert::peer_map_from_wire(sent(&convert::peer_map_to_wire(&map)));
        prop_assert_eq!(back, Ok((map, Vec::new())));
    }

    /// Bytes that are nearly a map reach deeper than arbitrary ones.
    #[test]
    fn a_damaged_map_never_panics(map in any_map(), damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = convert::peer_map_to_wire(&map).encode_to_vec();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        fuzz::conversions(&bytes);
    }
}
