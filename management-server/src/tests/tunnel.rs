//! Proxies and the tunnel: registration, peer maps, verdicts, and services that are private or lead to peers.

use std::net::IpAddr;
use std::time::SystemTime;

use postern_auth::session;
use postern_model::{Change, Mapping, PublicKey, TunnelVerdict};
use postern_proto::convert::{batch, tunnel_verdict_from_wire};
use postern_proto::management::{
    CreateProxyPeerRequest, CreateProxyPeerResponse, ProxyCapabilities, ProxyMappingUpdateType as Kind, ProxyStatus,
    SendStatusUpdateRequest, ValidateTunnelPeerRequest,
};
use postern_proto::postern::v1::{MappedPeer, PeerMap, WatchPeersRequest};
use tonic::Code;

use super::*;
use crate::admin::{AddPeer, PeerChanges, Update};
use crate::clock::unix_now;

const INSIDE: &str = "[service.inside]\nhost = 'inside.example'\nupstream = 'http://x:1'\n";
const PROXY: PublicKey = PublicKey([7; 32]);

fn inside(groups: &str) -> String {
    format!("{INSIDE}access = {{ private = [{groups}] }}\n")
}

fn peer(name: &str, user: Option<&str>, groups: &[&str]) -> AddPeer {
    AddPeer {
        name: name.to_owned(),
        user: user.map(str::to_owned),
        groups: groups.iter().map(|&group| group.to_owned()).collect(),
        ..AddPeer::default()
    }
}

fn able(proxy_id: &str) -> SyncMappingsInit {
    let capabilities = ProxyCapabilities { supports_private_service: Some(true), ..ProxyCapabilities::default() };
    SyncMappingsInit { capabilities: Some(capabilities), ..init(proxy_id) }
}

fn understood(mapping: ProxyMapping) -> Mapping {
    match batch(vec![mapping], true).batch.changes.remove(0) {
        Change::Upsert(mapping, _) => *mapping,
        change => panic!("{change:?}"),
    }
}

impl Calls {
    async fn create(&self, token: &str, key: PublicKey) -> Result<CreateProxyPeerResponse, Status> {
        self.create_for("inside", "default", token, key).await
    }

    async fn create_for(
        &self,
        service: &str,
        account: &str,
        token: &str,
        key: PublicKey,
    ) -> Result<CreateProxyPeerResponse, Status> {
        let ask = CreateProxyPeerRequest {
            service_id: service.into(),
            account_id: account.into(),
            token: token.into(),
            wireguard_public_key: key.to_string(),
            cluster: "proxy.example".into(),
            listen_port: 51_820,
        };
        self.proxy.clone().create_proxy_peer(ask).await.map(tonic::Response::into_inner)
    }

    async fn watch(&self, account: &str, key: PublicKey) -> Result<Maps, Status> {
        let ask = WatchPeersRequest { account_id: account.into(), public_key: key.to_string() };
        self.logs.clone().watch_peers(ask).await.map(|maps| Maps(maps.into_inner()))
    }

    async fn validate(&self, ask: ValidateTunnelPeerRequest) -> Result<TunnelVerdict, Status> {
        let answer = self.proxy.clone().validate_tunnel_peer(ask).await?.into_inner();
        Ok(tunnel_verdict_from_wire(answer).expect("a verdict"))
    }

    /// The reason of a no.
    async fn denied(&self, ask: ValidateTunnelPeerRequest) -> String {
        match self.validate(ask).await.expect("a verdict") {
            TunnelVerdict::Denied(reason) => reason,
            TunnelVerdict::Valid { .. } => "let in".to_owned(),
        }
    }
}

struct Maps(Streaming<PeerMap>);

impl Maps {
    async fn next(&mut self) -> PeerMap {
        timeout(LONG, self.0.message()).await.expect("in time").expect("no error").expect("no end")
    }

    /// Names and generations of the next map.
    async fn peers(&mut self) -> Vec<(String, u64)> {
        self.next().await.peers.into_iter().map(|peer| (peer.name, peer.generation)).collect()
    }
}

/// A world with a private service, and a proxy that has a tunnel.
async fn with_tunnel(text: &str) -> (World, Calls, Sync, Maps) {
    let world = World::new(text).await;
    let calls = world.connect().await;
    let mut sync = calls.sync_as(able("p")).await.expect("opens");
    let token = token_of(&sync.snapshot().await, "inside");
    assert!(calls.create(&token, PROXY).await.expect("answers").success);
    let maps = calls.watch("default", PROXY).await.expect("opens");
    (world, calls, sync, maps)
}

fn token_of(mappings: &[ProxyMapping], service: &str) -> String {
    mappings.iter().find(|mapping| mapping.id == service).expect("published").auth_token.clone()
}

fn ask(address: &str) -> ValidateTunnelPeerRequest {
    ValidateTunnelPeerRequest {
        tunnel_ip: address.into(),
        domain: "inside.example".into(),
        ..ValidateTunnelPeerRequest::default()
    }
}

/// As a proxy of ours asks, which knows the peer by its map.
fn ask_of(peer: &MappedPeer) -> ValidateTunnelPeerRequest {
    let address = peer.allowed_ips[0].trim_end_matches("/32");
    ValidateTunnelPeerRequest {
        account_id: "default".into(),
        peer_public_key: peer.public_key.clone(),
        generation: peer.generation,
        ..ask(address)
    }
}

#[tokio::test]
async fn a_private_service_goes_to_proxies_that_know_what_that_is() {
    let world = World::new(&format!("{}{}", inside("'eng'"), open("hello", "http://x:1"))).await;
    let calls = world.connect().await;
    let mut plain = calls.sync("plain").await.expect("opens");
    let told: Vec<_> = plain.snapshot().await.into_iter().map(|mapping| mapping.id).collect();
    assert_eq!(told, ["hello"]);
    let mut able = calls.sync_as(able("able")).await.expect("opens");
    let told = able.snapshot().await;
    assert_eq!(told.len(), 2);
    let before = understood(told.into_iter().find(|mapping| mapping.id == "inside").expect("published"));
    assert!(before.private && before.authentication.headers.is_empty());
    assert_eq!(before.authentication.deliberately_open, Some(false));
    let key = before.authentication.session_key.expect("a session key");

    // Other groups: what was signed for those of before is good for nothing.
    world.apply(&format!("{}{}", inside("'eng', 'ops'"), open("hello", "http://x:1"))).await;
    let after = able.batch().await.mapping.remove(0);
    assert_eq!(after.r#type(), Kind::UpdateTypeModified);
    assert_ne!(understood(after).authentication.session_key, Some(key));

    let status = world.admin().status().await.expect("a status");
    let inside = status.services.iter().find(|service| service.name == "inside").expect("listed");
    assert_eq!(inside.access, crate::admin::AccessKind::Private);
    assert!(inside.sentence.as_deref().is_some_and(|s| s.contains("proxy able has not reported")), "{inside:?}");
    drop(able);
    until("the plain one alone is here", || async {
        let status = world.admin().status().await.expect("a status");
        let inside = status.services.into_iter().find(|service| service.name == "inside").expect("listed");
        inside.state == "tunnel_not_created" && inside.sentence.is_some_and(|s| s.contains("--private"))
    })
    .await;
}

#[tokio::test]
async fn a_one_time_token_makes_one_peer_for_its_service() {
    let world = World::new(&format!("{}{}", inside("'eng'"), open("hello", "http://x:1"))).await;
    let calls = world.connect().await;
    let mut sync = calls.sync_as(able("p")).await.expect("opens");
    let mappings = sync.snapshot().await;
    let (of_inside, of_hello) = (token_of(&mappings, "inside"), token_of(&mappings, "hello"));
    let invalid = |answer: Result<CreateProxyPeerResponse, Status>| {
        let refused = answer.expect_err("refused");
        (refused.code(), refused.message().to_owned())
    };
    let expected = (Code::Unauthenticated, "token validation: invalid token".to_owned());
    assert_eq!(invalid(calls.create(&of_hello, PROXY).await), expected, "of another service");
    assert_eq!(invalid(calls.create("nonsense", PROXY).await), expected);
    let refused = calls.create_for("inside", "other", &of_inside, PROXY).await.expect_err("another account");
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(!calls.create("", PROXY).await.expect("answers").success, "NetBird says so to what is missing");
    assert!(calls.create(&of_inside, PROXY).await.expect("answers").success);
    assert_eq!(invalid(calls.create(&of_inside, PROXY).await), expected, "once");

    // A key that a device has cannot be a proxy's too; what made no peer does not use up the token.
    let added = world.admin().add_peer(&peer("laptop", None, &["eng"])).await.expect("adds");
    let key = PublicKey::parse(&added.peer.public_key).expect("a key");
    let of_hello_for = |key| calls.create_for("hello", "default", &of_hello, key);
    for _ in 0..2 {
        let answer = of_hello_for(key).await.expect("answers");
        assert!(!answer.success && answer.error_message().contains("the peer laptop"), "{answer:?}");
    }
    let (one, other) = tokio::join!(of_hello_for(PublicKey([8; 32])), of_hello_for(PublicKey([9; 32])));
    let made = [&one, &other].iter().filter(|answer| answer.as_ref().is_ok_and(|answer| answer.success)).count();
    assert_eq!(made, 1, "{one:?} and {other:?}");
    assert_eq!(world.admin().status().await.expect("a status").tunnel.proxies.len(), 2);
    assert_eq!(invalid(of_hello_for(PublicKey([8; 32])).await), expected, "once");
}

#[tokio::test]
async fn a_proxy_finds_its_address_again() {
    let (world, calls, sync, mut maps) = with_tunnel(&inside("'eng'")).await;
    let first = maps.next().await;
    assert_eq!(
        (first.addresses.as_slice(), first.mtu),
        (["100.72.0.1", "fd7a:706f:7374::1"].map(str::to_owned).as_slice(), 1420)
    );
    let other = calls.sync_as(able("q")).await.expect("opens").snapshot().await;
    assert!(calls.create(&token_of(&other, "inside"), PublicKey([8; 32])).await.expect("answers").success);
    drop((sync, maps, calls));

    let world = world.restart(&inside("'eng'")).await;
    let calls = world.connect().await;
    let mut again = calls.watch("default", PROXY).await.expect("it is known still");
    assert_eq!(again.next().await, first);
    let mut sync = calls.sync_as(able("p")).await.expect("opens");
    let snapshot = sync.snapshot().await;
    assert!(calls.create(&token_of(&snapshot, "inside"), PROXY).await.expect("the same key again").success);
    let mut again = calls.watch("default", PROXY).await.expect("opens");
    assert_eq!(again.next().await, first);
    let status = world.admin().status().await.expect("a status").tunnel;
    let here: Vec<_> = status.proxies.iter().map(|proxy| (proxy.name.as_str(), proxy.connected)).collect();
    assert_eq!(here, [("p", true), ("p", false)], "by name of their streams: {status:?}");
}

#[tokio::test]
async fn peer_maps_are_for_the_proxies_that_registered() {
    let (folder, token) = with_foreign_token().await;
    let world = World::on(folder, &inside("'eng'")).await;
    let token_name = world.admin().add_token("edge").await.expect("adds").token;
    let calls = world.connect_with(&token_name).await;
    let refused = calls.watch("default", PROXY).await.err().expect("not registered");
    assert_eq!(refused.code(), Code::NotFound);
    assert!(refused.message().contains("wait a moment, or else restart it"), "{refused}");
    let snapshot = calls.sync_as(able("p")).await.expect("opens").snapshot().await;
    assert!(calls.create(&token_of(&snapshot, "inside"), PROXY).await.expect("answers").success);
    let mut maps = calls.watch("default", PROXY).await.expect("registered");
    assert_eq!(maps.peers().await, []);

    let foreign = world.connect_with(token.into_secret().expose()).await;
    for (account, code) in [("default", Code::PermissionDenied), ("other", Code::NotFound), ("", Code::InvalidArgument)]
    {
        let refused = foreign.watch(account, PROXY).await.err().expect("not theirs");
        assert_eq!(refused.code(), code, "{account}");
    }
    let device = world.admin().add_peer(&peer("laptop", None, &["eng"])).await.expect("adds").peer;
    let key = PublicKey::parse(&device.public_key).expect("a key");
    assert_eq!(calls.watch("default", key).await.err().expect("no proxy").code(), Code::NotFound);
    assert_eq!(maps.peers().await.len(), 1);
    assert_eq!(foreign.validate(ask("100.72.0.2")).await.expect_err("not theirs").code(), Code::PermissionDenied);

    world.admin().remove_token("edge").await.expect("removes");
    let ended = timeout(LONG, maps.0.message()).await.expect("in time").expect_err("revoked");
    assert_eq!(ended.code(), Code::Unauthenticated);
}

/// S16: a proxy that knows a peer by key and generation takes nobody for who it was before.
#[tokio::test]
async fn a_map_follows_every_change_of_who_a_peer_is() {
    let file = |users: &str| format!("{users}{}", inside("'eng'"));
    let (world, _calls, _sync, mut maps) = with_tunnel(&file("[user.alice]\ngroups = ['eng']\n")).await;
    let admin = world.admin();
    assert_eq!(maps.peers().await, []);
    admin.add_peer(&peer("laptop", Some("alice"), &[])).await.expect("adds");
    let map = maps.next().await;
    let [laptop] = map.peers.as_slice() else { panic!("one peer: {map:?}") };
    assert_eq!(laptop.allowed_ips, ["100.72.0.2/32", "fd7a:706f:7374::2/128"]);
    assert_eq!((laptop.endpoint.as_str(), laptop.keep_alive_seconds), ("", 0));
    let mut last = laptop.generation;
    let mut renewed = |peers: Vec<(String, u64)>| {
        let [(_, generation)] = peers.as_slice() else { panic!("one peer: {peers:?}") };
        assert!(*generation > last, "{generation} after {last}");
        last = *generation;
    };

    let groups = PeerChanges { groups: Some(["ops".to_owned()].into()), ..PeerChanges::default() };
    admin.set_peer("laptop", &groups).await.expect("sets");
    renewed(maps.peers().await);
    world.apply(&file("[user.alice]\ngroups = ['eng', 'ops']\n")).await;
    renewed(maps.peers().await);
    world.apply(&file("")).await;
    assert_eq!(maps.peers().await, [], "her user is no more");
    let status = admin.peer("laptop", None).await.expect("there").peer;
    assert!(status.sentence.as_deref().is_some_and(|s| s.contains("alice") && s.contains("--user")), "{status:?}");
    world.apply(&file("[user.alice]\ngroups = ['eng']\n")).await;
    renewed(maps.peers().await);
    admin.set_peer("laptop", &PeerChanges { enabled: Some(false), ..PeerChanges::default() }).await.expect("sets");
    assert_eq!(maps.peers().await, []);
    admin.set_peer("laptop", &PeerChanges { enabled: Some(true), ..PeerChanges::default() }).await.expect("sets");
    renewed(maps.peers().await);
    let soon = PeerChanges { expires: Update::To(unix_now() + 2), ..PeerChanges::default() };
    admin.set_peer("laptop", &soon).await.expect("sets");
    assert_eq!(maps.peers().await, [], "its time is over by itself");
    admin.set_peer("laptop", &PeerChanges { expires: Update::Clear, ..PeerChanges::default() }).await.expect("sets");
    renewed(maps.peers().await);
    admin.remove_peer("laptop").await.expect("removes");
    assert_eq!(maps.peers().await, []);
}

/// The change and the end came between two runs.
#[tokio::test]
async fn what_changes_while_nothing_runs_makes_another_of_a_peer_too() {
    let file = |groups: &str| format!("[user.alice]\ngroups = [{groups}]\n{}", inside("'eng'"));
    let (world, calls, sync, mut maps) = with_tunnel(&file("'eng'")).await;
    world.admin().add_peer(&peer("laptop", Some("alice"), &[])).await.expect("adds");
    assert_eq!(maps.peers().await, []);
    let before = maps.peers().await;
    drop((calls, sync, maps));
    let world = world.restart(&file("'eng'")).await;
    let after = world.connect().await.watch("default", PROXY).await.expect("opens").peers().await;
    assert_eq!(after, before, "the same");
    let world = world.restart(&file("'ops'")).await;
    let changed = world.connect().await.watch("default", PROXY).await.expect("opens").peers().await;
    assert!(changed[0].1 > before[0].1, "{changed:?} after {before:?}");
    world.admin().remove_peer("laptop").await.expect("removes");
    let world = world.restart(&file("'ops'")).await;
    world.admin().add_peer(&peer("laptop", Some("alice"), &[])).await.expect("adds");
    let again = world.connect().await.watch("default", PROXY).await.expect("opens").next().await;
    assert_eq!(again.peers[0].allowed_ips[0], "100.72.0.3/32", "the address before rests");
    assert!(again.peers[0].generation > changed[0].1);
}

#[tokio::test]
async fn a_peer_of_the_right_groups_is_let_in_by_name() {
    let file = format!("[user.alice]\ngroups = ['ops']\n{}", inside("'eng'"));
    let (world, calls, sync, mut maps) = with_tunnel(&file).await;
    let admin = world.admin();
    maps.next().await;
    admin.add_peer(&peer("laptop", Some("alice"), &["eng"])).await.expect("adds");
    let map = maps.next().await;
    let mapping = understood(calls.sync_as(able("q")).await.expect("opens").snapshot().await.remove(0));
    let key = mapping.authentication.session_key.expect("a session key");
    let v6 = ValidateTunnelPeerRequest { tunnel_ip: "fd7a:706f:7374::2".into(), ..ask_of(&map.peers[0]) };
    for ask in [ask("100.72.0.2"), ask_of(&map.peers[0]), v6] {
        let TunnelVerdict::Valid { session_token, user_id, email, groups } =
            calls.validate(ask).await.expect("a verdict")
        else {
            panic!("let in")
        };
        assert_eq!((user_id.as_str(), email.as_deref()), ("user:alice", Some("alice")));
        let names: Vec<_> = groups.iter().map(|group| group.name.as_str()).collect();
        assert_eq!(names, ["eng", "ops"]);
        let session = session::verify_fresh(session_token.expose(), &key, &mapping.host, SystemTime::now());
        let principal = session.expect("of this service").principal;
        assert_eq!((principal.subject, principal.email, principal.groups), (user_id, email, groups));
        assert_eq!(principal.method, "oidc");
    }

    admin.add_peer(&peer("robot", None, &["eng"])).await.expect("adds");
    let robot = maps.next().await.peers.remove(1);
    let TunnelVerdict::Valid { session_token, user_id, email, .. } =
        calls.validate(ask_of(&robot)).await.expect("a verdict")
    else {
        panic!("let in")
    };
    assert_eq!((user_id.as_str(), email), ("", None), "a peer that is nobody's");
    let session = session::verify_fresh(session_token.expose(), &key, &mapping.host, SystemTime::now());
    assert_eq!(session.expect("of this service").principal.subject, format!("peer:{}", robot.public_key));

    drop(sync);
}

/// S15: whoever is behind a peer comes with its key: behind a range, and behind a single address just as well.
#[tokio::test]
async fn what_lies_behind_a_peer_is_let_in_and_never_named() {
    let file = format!("[user.alice]\ngroups = ['ops']\n{}", inside("'eng'"));
    let (world, calls, _sync, mut maps) = with_tunnel(&file).await;
    let admin = world.admin();
    maps.next().await;
    for (name, site, address) in [
        ("office", "10.9.0.0/16", "10.9.7.7"),
        ("printer", "10.20.0.5/32", "10.20.0.5"),
        ("six", "2001:db8::5/128", "2001:db8::5"),
    ] {
        let site = vec![site.parse().expect("range")];
        let of_alice = AddPeer { site: site.clone(), ..peer(name, Some("alice"), &["eng"]) };
        let refused = admin.add_peer(&of_alice).await.expect_err(name).to_string();
        assert!(refused.contains("never for a user"), "{refused}");
        admin.add_peer(&AddPeer { site, ..peer(name, None, &["eng"]) }).await.expect("adds");
        let to_alice = PeerChanges { user: Update::To("alice".into()), ..PeerChanges::default() };
        let refused = admin.set_peer(name, &to_alice).await.expect_err(name).to_string();
        assert!(refused.contains("never for a user"), "{refused}");
        let mapped = maps.next().await.peers.pop().expect("the newest");
        let own = ask_of(&mapped);
        for ask in [ValidateTunnelPeerRequest { tunnel_ip: address.into(), ..own.clone() }, own] {
            let TunnelVerdict::Valid { user_id, email, groups, .. } = calls.validate(ask).await.expect("a verdict")
            else {
                panic!("let in")
            };
            assert_eq!((user_id.as_str(), email, groups), ("", None, vec![]), "nobody says who it was at {name}");
        }
        let ops = PeerChanges { groups: Some(["ops".to_owned()].into()), ..PeerChanges::default() };
        admin.set_peer(name, &ops).await.expect("sets");
        let mapped = maps.next().await.peers.pop().expect("the newest");
        assert_eq!(calls.denied(ask_of(&mapped)).await, "not_in_group", "its groups count all the same");
    }
}

#[tokio::test]
async fn everybody_else_is_kept_out_with_netbirds_words() {
    let basic = "[user.bob]\npassword = 'x'\n[service.vault]\nhost = 'vault.example'\nupstream = 'http://x:1'\naccess = { basic = ['bob'] }\n";
    let nobodys = "[service.nobodys]\nhost = 'nobodys.example'\nupstream = 'http://x:1'\naccess = { private = [] }\n";
    let file = format!("[user.alice]\n{basic}{nobodys}{}", inside("'eng'"));
    let (world, calls, _sync, mut maps) = with_tunnel(&file).await;
    let admin = world.admin();
    maps.next().await;
    admin.add_peer(&peer("laptop", Some("alice"), &["eng"])).await.expect("adds");
    let laptop = maps.next().await.peers.remove(0);
    let good = ask_of(&laptop);
    let other = |change: fn(&mut ValidateTunnelPeerRequest)| {
        let mut ask = good.clone();
        change(&mut ask);
        ask
    };
    for (ask, reason) in [
        (good.clone(), "let in"),
        (other(|ask| ask.tunnel_ip = "100.72.0".into()), "invalid_tunnel_ip"),
        (other(|ask| ask.domain = "nowhere.example".into()), "service_not_found"),
        (other(|ask| ask.account_id = "other".into()), "account_mismatch"),
        (other(|ask| ask.tunnel_ip = "100.72.0.77".into()), "peer_not_found"),
        (other(|ask| ask.tunnel_ip = "127.0.0.1".into()), "peer_not_found"),
        (other(|ask| ask.peer_public_key = PROXY.to_string()), "peer_not_found"),
        (other(|ask| ask.generation += 1), "peer_not_found"),
        (other(|ask| ask.domain = "nobodys.example".into()), "not_in_group"),
        (other(|ask| ask.domain = "vault.example".into()), "not_in_group"),
        (ask("100.72.0.1"), "not_in_group"),
    ] {
        let shown = format!("{ask:?}");
        assert_eq!(calls.denied(ask).await, reason, "{shown}");
    }

    // S16: an identity of before is nobody, whatever its address; so is a name that goes.
    let groups = |groups: &[&str]| PeerChanges {
        groups: Some(groups.iter().map(|&group| group.to_owned()).collect()),
        ..PeerChanges::default()
    };
    admin.set_peer("laptop", &groups(&["ops"])).await.expect("sets");
    assert_eq!(calls.denied(good.clone()).await, "peer_not_found");
    assert_eq!(calls.denied(ask_of(&maps.next().await.peers[0])).await, "not_in_group");
    admin.set_peer("laptop", &groups(&["eng"])).await.expect("sets");
    assert_eq!(calls.denied(ask_of(&maps.next().await.peers[0])).await, "let in");
    admin.set_peer("laptop", &PeerChanges { enabled: Some(false), ..PeerChanges::default() }).await.expect("sets");
    assert_eq!(calls.denied(ask("100.72.0.2")).await, "peer_not_found");
    admin.set_peer("laptop", &PeerChanges { enabled: Some(true), ..PeerChanges::default() }).await.expect("sets");
    world.apply(&file.replace("[user.alice]\n", "")).await;
    assert_eq!(calls.denied(ask("100.72.0.2")).await, "user_not_found");
    world.apply(&file).await;
    assert_eq!(calls.denied(ask("100.72.0.2")).await, "let in");
    assert_eq!(admin.remove_peers_of("alice").await.expect("removes"), ["laptop"]);
    assert_eq!(calls.denied(ask("100.72.0.2")).await, "peer_not_found");
}

/// The only path of a mapping, which goes through the tunnel whatever happens.
fn tunnelled(mapping: &ProxyMapping) -> (Kind, &str) {
    let [path] = mapping.path.as_slice() else { panic!("one path: {mapping:?}") };
    assert!(!path.options.as_ref().is_some_and(|options| options.direct_upstream), "{mapping:?}");
    (mapping.r#type(), &path.target)
}

#[tokio::test]
async fn an_upstream_behind_a_peer_follows_the_peer_and_never_leads_elsewhere() {
    const NOWHERE: &str = "http://100.72.0.0:5000/files";
    let nas = "[service.nas]\nhost = 'nas.example'\nupstream = 'tunnel://nas:5000/files'\naccess = 'open'\n";
    let world = World::new(nas).await;
    let admin = world.admin();
    let calls = world.connect().await;
    let mut sync = calls.sync("p").await.expect("opens");
    let told = sync.snapshot().await;
    assert_eq!(tunnelled(&told[0]), (Kind::UpdateTypeCreated, NOWHERE), "or no proxy would open a tunnel");
    let report = SendStatusUpdateRequest {
        service_id: "nas".into(),
        account_id: "default".into(),
        status: ProxyStatus::Active.into(),
        ..SendStatusUpdateRequest::default()
    };
    calls.proxy.clone().send_status_update(report).await.expect("taken");
    let stands = || async {
        let service = admin.status().await.expect("a status").services.remove(0);
        (service.state, service.sentence.unwrap_or_default())
    };
    let (state, sentence) = stands().await;
    assert!(state == "error" && sentence.contains("no peer nas"), "{sentence}");
    assert!(sentence.contains("postern peer add nas"), "{sentence}");

    // The service is what makes a proxy open the tunnel, which the peer that is missing has to be told of.
    assert!(calls.create_for("nas", "default", &told[0].auth_token, PROXY).await.expect("answers").success);
    let added = admin.add_peer(&peer("nas", None, &[])).await.expect("adds");
    assert!(added.conf.contains(&PROXY.to_string()), "{}", added.conf);
    let came = sync.batch().await.mapping.remove(0);
    assert_eq!(tunnelled(&came), (Kind::UpdateTypeModified, "http://100.72.0.2:5000/files"));
    assert_eq!(stands().await, ("active".to_owned(), String::new()));

    admin.set_peer("nas", &PeerChanges { enabled: Some(false), ..PeerChanges::default() }).await.expect("sets");
    assert_eq!(tunnelled(&sync.batch().await.mapping.remove(0)), (Kind::UpdateTypeModified, NOWHERE));
    assert!(stands().await.1.contains("--enable"));
    // The mapping is as it was, the sentence is not.
    admin.remove_peer("nas").await.expect("removes");
    until("what it lacks is the peer", || async { stands().await.1.contains("no peer nas") }).await;
    admin.add_peer(&peer("nas", None, &[])).await.expect("adds");
    let again = sync.batch().await.mapping.remove(0);
    let expected = (Kind::UpdateTypeModified, "http://100.72.0.3:5000/files");
    assert_eq!(tunnelled(&again), expected, "another machine of that name");
    let soon = PeerChanges { expires: Update::To(unix_now() + 2), ..PeerChanges::default() };
    admin.set_peer("nas", &soon).await.expect("sets");
    assert_eq!(tunnelled(&sync.batch().await.mapping.remove(0)), (Kind::UpdateTypeModified, NOWHERE));
    assert_eq!(stands().await.0, "error");
}

#[tokio::test]
async fn the_network_is_as_the_file_says() {
    let in_network = |range: &str| format!("[tunnel]\nnetwork = '{range}'\nmtu = 1280\n{}", inside("'eng'"));
    let (world, calls, sync, mut maps) = with_tunnel(&in_network("10.7.0.0/24")).await;
    let map = maps.next().await;
    assert_eq!((map.addresses[0].as_str(), map.mtu), ("10.7.0.1", 1280));
    let added = world.admin().add_peer(&peer("laptop", None, &["eng"])).await.expect("adds");
    assert_eq!(added.peer.addresses[0], IpAddr::from([10, 7, 0, 2]));
    let before = maps.next().await.peers[0].generation;
    drop((calls, sync, maps));
    let world = world.restart(&in_network("10.8.0.0/24")).await;
    let map = world.connect().await.watch("default", PROXY).await.expect("opens").next().await;
    assert_eq!((map.addresses[0].as_str(), map.peers[0].allowed_ips[0].as_str()), ("10.8.0.1", "10.8.0.2/32"));
    assert!(map.peers[0].generation > before);

    // Whose file says the addresses of before is told of, and nobody who came after.
    let admin = world.admin();
    admin.add_peer(&peer("phone", None, &["eng"])).await.expect("adds");
    let lost = "the peer laptop has other addresses since the tunnel's network is another";
    let told =
        admin.peers().await.expect("lists").into_iter().map(|peer| (peer.name, peer.sentence)).collect::<Vec<_>>();
    let [(laptop, Some(sentence)), (phone, None)] = told.as_slice() else { panic!("{told:?}") };
    assert!((laptop.as_str(), phone.as_str()) == ("laptop", "phone") && sentence.contains(lost), "{told:?}");
    assert!(sentence.contains("postern peer show laptop"), "{told:?}");
    let problems = admin.status().await.expect("a status").problems;
    let [problem] = problems.as_slice() else { panic!("one: {problems:?}") };
    assert!(problem.contains("10.8.0.0/24 since this start, so that 1 of its peers"), "{problem}");
    let world = world.restart(&in_network("10.8.0.0/24")).await;
    assert_eq!(world.admin().status().await.expect("a status").problems, [""; 0], "the same network");
    world.running.shutdown().await;
    let source = Source::Given(Box::new({
        let mut desired = desired(&inside("'eng'"));
        desired.settings.tunnel.network = Some("8.8.8.0/24".parse().expect("range"));
        desired
    }));
    let config = Config { data_dir: world.folder.path().to_owned(), listener: None, source };
    let refused = start(config).await.expect_err("public").to_string();
    assert!(refused.contains("cannot be 8.8.8.0/24") && refused.contains("[tunnel]"), "{refused}");
}
