use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use postern_management_client::Client;
use postern_model::{
    AccountId, CreateProxyPeer, Generation, HostName, InboundListener, Management, ManagementError, OneTimeToken,
    PeerMaps, PublicKey, Secret, ServiceId, ServiceState, TunnelVerdict, ValidateTunnelPeer,
};
use postern_proto::postern::v1;
use tonic::Status;

use crate::world::{Watched, World, connect, connect_with, soon, status, until};

const KEY: PublicKey = PublicKey([7; 32]);

fn account() -> AccountId {
    AccountId::parse("acc-1").expect("id")
}

async fn create(client: &Client, token: &str) -> Result<(), ManagementError> {
    let request = CreateProxyPeer {
        service: ServiceId::parse("one").expect("id"),
        account: account(),
        token: OneTimeToken(Secret::from(token)),
        key: KEY,
        cluster: "proxy.example.com".into(),
        port: 51820,
    };
    soon(client.create_proxy_peer(request)).await
}

fn refused<T>(answer: Result<T, ManagementError>) -> String {
    match answer {
        Err(ManagementError::Refused(reason)) => reason,
        Err(other) => panic!("not refused: {other}"),
        Ok(_) => panic!("not refused"),
    }
}

fn unavailable<T>(answer: Result<T, ManagementError>) -> String {
    match answer {
        Err(ManagementError::Unavailable(reason)) => reason,
        Err(other) => panic!("not unavailable: {other}"),
        Ok(_) => panic!("not unavailable"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_proxy_becomes_a_peer_or_is_told_why_not() {
    let (world, _streams) = World::new();
    let (client, _events) = connect(world.in_memory());
    create(&client, "once").await.expect("a peer");
    let request = world.peers().remove(0);
    assert_eq!((&*request.service_id, &*request.account_id, &*request.token), ("one", "acc-1", "once"));
    assert_eq!((request.wireguard_public_key, request.listen_port), (KEY.to_string(), 51820));
    assert_eq!(request.cluster, "proxy.example.com");

    assert_eq!(refused(create(&client, "full").await), "the network is full");
    assert!(!refused(create(&client, "mute").await).is_empty());
    world.next_fails("CreateProxyPeer", Status::unauthenticated("invalid authentication token"));
    let reason = refused(create(&client, "once").await);
    assert!(reason.contains("one-time token") && !reason.contains("NB_PROXY_TOKEN"), "{reason}");
    world.next_fails("CreateProxyPeer", Status::unimplemented(""));
    unavailable(create(&client, "once").await);
    let began = tokio::time::Instant::now();
    unavailable(create(&client, "never").await);
    assert_eq!(began.elapsed().as_secs(), 30);
    create(&client, "once").await.expect("a peer");
}

async fn validate(client: &Client, host: &str) -> Result<TunnelVerdict, ManagementError> {
    let request = ValidateTunnelPeer {
        address: IpAddr::V4(Ipv4Addr::new(100, 72, 0, 3)),
        host: HostName::parse(host).expect("host"),
        account: account(),
        key: KEY,
        generation: Generation(2),
    };
    soon(client.validate_tunnel_peer(request)).await
}

#[tokio::test(start_paused = true)]
async fn only_a_yes_with_a_token_lets_a_peer_in() {
    let (world, _streams) = World::new();
    let (client, _events) = connect(world.in_memory());
    let yes = validate(&client, "open.example.com").await;
    assert!(matches!(yes, Ok(TunnelVerdict::Valid { session_token, user_id, email: None, .. })
            if session_token.expose() == "jwt" && user_id == "user:alice"));
    let question = world.visits().remove(0);
    assert_eq!((&*question.tunnel_ip, &*question.domain), ("100.72.0.3", "open.example.com"));
    assert_eq!((&*question.account_id, question.peer_public_key, question.generation), ("acc-1", KEY.to_string(), 2));

    let no = validate(&client, "closed.example.com").await;
    assert!(matches!(no, Ok(TunnelVerdict::Denied(reason)) if reason == "not_in_group"));
    refused(validate(&client, "hollow.example.com").await);
    world.next_fails("ValidateTunnelPeer", Status::unimplemented(""));
    unavailable(validate(&client, "open.example.com").await);
    world.next_fails("ValidateTunnelPeer", Status::permission_denied("account"));
    refused(validate(&client, "open.example.com").await);
    let began = tokio::time::Instant::now();
    unavailable(validate(&client, "never.example.com").await);
    assert_eq!(began.elapsed().as_secs(), 5);
    assert!(matches!(validate(&client, "open.example.com").await, Ok(TunnelVerdict::Valid { .. })));
}

fn map(names: &[&str]) -> v1::PeerMap {
    let peer = |(number, name): (usize, &&str)| v1::MappedPeer {
        name: (*name).to_owned(),
        public_key: PublicKey([u8::try_from(number).expect("few") + 10; 32]).to_string(),
        generation: 1,
        allowed_ips: vec![format!("100.72.0.{}/32", number + 3)],
        ..Default::default()
    };
    let peers = names.iter().enumerate().map(peer).collect();
    v1::PeerMap { addresses: vec!["100.72.0.1".into()], mtu: 1420, peers }
}

type Opened = Result<Box<dyn PeerMaps>, ManagementError>;

async fn open(client: &Client) -> Opened {
    soon(client.peer_maps(&account(), KEY)).await
}

/// Opens the stream; the server sends this first.
async fn begin(world: &World, client: &Client, first: v1::PeerMap) -> (Opened, Watched) {
    let serve = async {
        let watched = world.watched().await;
        watched.send(first);
        watched
    };
    tokio::join!(open(client), serve)
}

/// The names of the peers of the next map.
async fn next(maps: &mut Box<dyn PeerMaps>) -> Option<Vec<String>> {
    let map = soon(maps.next()).await?;
    Some(map.peers.into_iter().map(|peer| peer.name).collect())
}

#[tokio::test(start_paused = true)]
async fn peer_maps_follow_each_other_until_the_stream_ends() {
    let (world, _streams) = World::new();
    let (client, _events) = connect(world.in_memory());
    let (opened, watched) = begin(&world, &client, map(&["laptop"])).await;
    let mut maps = opened.expect("a stream");
    assert_eq!((&*watched.request.account_id, &watched.request.public_key), ("acc-1", &KEY.to_string()));
    assert_eq!(next(&mut maps).await, Some(vec!["laptop".to_owned()]));
    watched.send(map(&["laptop", "phone"]));
    watched.send(map(&[]));
    assert_eq!(next(&mut maps).await, Some(vec!["laptop".to_owned(), "phone".to_owned()]));
    assert_eq!(next(&mut maps).await, Some(Vec::new()));
    drop(watched);
    assert_eq!(next(&mut maps).await, None);

    let (opened, watched) = begin(&world, &client, map(&["laptop"])).await;
    let mut maps = opened.expect("a stream");
    watched.fail(Status::internal("store"));
    assert_eq!(next(&mut maps).await, Some(vec!["laptop".to_owned()]));
    assert_eq!(next(&mut maps).await, None);
}

/// Far beyond the 4 MiB that gRPC takes of itself.
#[tokio::test(start_paused = true)]
async fn a_map_of_a_whole_network_is_read() {
    const PEERS: u32 = 65_536;
    let (world, _streams) = World::new();
    let (client, _events) = connect(world.in_memory());
    let peer = |number: u32| {
        let mut key = [9; 32];
        key[..4].copy_from_slice(&number.to_be_bytes());
        let [_, _, high, low] = number.to_be_bytes();
        v1::MappedPeer {
            name: format!("{number:064}"),
            public_key: PublicKey(key).to_string(),
            generation: u64::MAX,
            allowed_ips: vec![format!("100.255.{high}.{low}/32"), format!("fd7a:706f:7374::ff:{number:x}/128")],
            ..Default::default()
        }
    };
    let whole = || v1::PeerMap { peers: (0..PEERS).map(peer).collect(), ..map(&[]) };
    let (opened, watched) = begin(&world, &client, whole()).await;
    let mut maps = opened.expect("a stream");
    watched.send(whole());
    for _ in 0..2 {
        let names = next(&mut maps).await.expect("a map");
        assert_eq!((names.len(), names.last()), (PEERS as usize, Some(&format!("{:064}", PEERS - 1))));
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_understood_of_a_map_is_left_out_or_ends_it() {
    let (world, _streams) = World::new();
    let (client, _events) = connect(world.in_memory());
    let mut spoilt = map(&["laptop", "phone"]);
    spoilt.peers[0].allowed_ips.clear();
    let (opened, watched) = begin(&world, &client, spoilt).await;
    let mut maps = opened.expect("a stream");
    assert_eq!(next(&mut maps).await, Some(vec!["phone".to_owned()]));
    watched.send(v1::PeerMap { addresses: Vec::new(), ..map(&[]) });
    assert_eq!(next(&mut maps).await, None);

    let (opened, _watched) = begin(&world, &client, v1::PeerMap { mtu: 0, ..map(&[]) }).await;
    assert!(refused(opened).contains("mtu"));
}

#[tokio::test(start_paused = true)]
async fn a_server_without_peer_maps_says_so() {
    let (world, _streams) = World::new();
    let (client, _events) = connect(world.in_memory());
    world.next_fails("WatchPeers", Status::unimplemented(""));
    assert_eq!(refused(open(&client).await), "this management server sends no peer maps; Postern's own does");
    world.next_fails("WatchPeers", Status::not_found("no such peer"));
    match open(&client).await {
        Err(ManagementError::Unknown(reason)) => assert!(reason.contains("no such peer"), "{reason}"),
        Err(other) => panic!("not unknown: {other}"),
        Ok(_) => panic!("not unknown"),
    }
    world.next_fails("WatchPeers", Status::permission_denied("no such account"));
    assert!(refused(open(&client).await).contains("no such account"));
    world.next_fails("WatchPeers", Status::unavailable("starting"));
    unavailable(open(&client).await);
    let (opened, ()) = tokio::join!(open(&client), async { drop(world.watched().await) });
    unavailable(opened);
    let began = tokio::time::Instant::now();
    unavailable(open(&client).await);
    assert_eq!(began.elapsed().as_secs(), 10, "no map came");
    let _silent = world.watched().await;
    assert!(begin(&world, &client, map(&[])).await.0.is_ok());
}

#[tokio::test(start_paused = true)]
async fn another_token_opens_no_stream() {
    let (world, _streams) = World::new();
    let (client, _events) = connect_with(world.in_memory(), "nbx_other");
    assert!(unavailable(open(&client).await).contains("NB_PROXY_TOKEN"));
}

#[tokio::test]
async fn a_stream_ends_when_the_server_dies_or_the_client_shuts_down() {
    let (world, _streams) = World::new();
    let server = world.on_loopback(0);
    let (client, _events) = connect(server.transport());
    let (opened, _watched) = begin(&world, &client, map(&["laptop"])).await;
    let mut maps = opened.expect("a stream");
    assert!(next(&mut maps).await.is_some());
    drop(server);
    assert_eq!(next(&mut maps).await, None);

    let server = world.on_loopback(0);
    let (client, _events) = connect(server.transport());
    let (opened, _watched) = begin(&world, &client, map(&["laptop"])).await;
    let mut maps = opened.expect("a stream");
    assert!(next(&mut maps).await.is_some());
    let (ended, ()) = tokio::join!(next(&mut maps), client.shutdown(Duration::from_secs(5)));
    assert_eq!(ended, None);
}

#[tokio::test(start_paused = true)]
async fn a_status_tells_where_the_tunnel_listens() {
    let (world, _streams) = World::new();
    let (client, _events) = connect(world.in_memory());
    let address = IpAddr::V4(Ipv4Addr::new(100, 72, 0, 1));
    let inbound = Some(InboundListener { address, https: 443, http: 80 });
    client.report(postern_model::StatusUpdate { inbound, ..status("one", ServiceState::Active) });
    until(|| world.statuses().len() == 1).await;
    let told = world.statuses().remove(0).inbound_listener.expect("a listener");
    assert_eq!((&*told.tunnel_ip, told.https_port, told.http_port), ("100.72.0.1", 443, 80));
}
