//! Peers as people add and change them.

use postern_model::PublicKey;
use postern_proto::management::{CreateProxyPeerRequest, ProxyCapabilities, ProxyStatus, SendStatusUpdateRequest};
use postern_proto::postern::v1::WatchPeersRequest;

use super::*;
use crate::admin::{AddPeer, AdminError, PeerChanges, PeerState, Update};

const FILE: &str = "[user.alice]\ngroups = ['ops']\n\
    [service.inside]\nhost = 'inside.localhost'\nupstream = 'http://x:1'\naccess = { private = ['eng'] }\n\
    [service.ops]\nhost = 'ops.localhost'\nupstream = 'http://x:1'\naccess = { private = ['ops'] }\n\
    [service.nobodys]\nhost = 'nobodys.localhost'\nupstream = 'http://x:1'\naccess = { private = [] }\n\
    [service.public]\nhost = 'public.localhost'\nupstream = 'http://x:1'\naccess = 'open'\n";

fn peer(name: &str) -> AddPeer {
    AddPeer { name: name.to_owned(), groups: ["eng".to_owned()].into(), ..AddPeer::default() }
}

/// A proxy that is in the tunnel as long as the streams live.
async fn tunnel(
    world: &World,
    id: &str,
    key: u8,
    private: bool,
) -> (Sync, Streaming<postern_proto::postern::v1::PeerMap>) {
    tunnel_over(world.connect().await, id, key, private).await
}

async fn tunnel_over(
    calls: Calls,
    id: &str,
    key: u8,
    private: bool,
) -> (Sync, Streaming<postern_proto::postern::v1::PeerMap>) {
    let mut sync = calls.sync_as(able(id, private)).await.expect("opens");
    let mapping = sync.snapshot().await.into_iter().find(|mapping| mapping.id == "public").expect("told");
    let key = PublicKey([key; 32]).to_string();
    let ask = CreateProxyPeerRequest {
        service_id: mapping.id,
        account_id: "default".into(),
        token: mapping.auth_token,
        wireguard_public_key: key.clone(),
        cluster: format!("{id}.example"),
        listen_port: 51_820,
    };
    assert!(calls.proxy.clone().create_proxy_peer(ask).await.expect("answers").into_inner().success);
    let maps = watch(&calls, PublicKey::parse(&key).expect("a key")).await;
    (sync, maps)
}

fn able(id: &str, private: bool) -> SyncMappingsInit {
    let capabilities = ProxyCapabilities { supports_private_service: Some(private), ..ProxyCapabilities::default() };
    SyncMappingsInit { capabilities: Some(capabilities), ..init(id) }
}

async fn watch(calls: &Calls, key: PublicKey) -> Streaming<postern_proto::postern::v1::PeerMap> {
    let ask = WatchPeersRequest { account_id: "default".into(), public_key: key.to_string() };
    let mut maps = calls.logs.clone().watch_peers(ask).await.expect("opens").into_inner();
    maps.message().await.expect("no error").expect("a map");
    maps
}

async fn no_tunnel(calls: &Calls, service: &str, why: &str) {
    let report = SendStatusUpdateRequest {
        service_id: service.into(),
        account_id: "default".into(),
        status: ProxyStatus::TunnelNotCreated.into(),
        error_message: Some(why.to_owned()),
        ..SendStatusUpdateRequest::default()
    };
    calls.proxy.clone().send_status_update(report).await.expect("taken");
}

fn line<'t>(conf: &'t str, key: &str) -> Vec<&'t str> {
    conf.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix(" = ")).collect()
}

#[tokio::test]
async fn a_peer_gets_a_configuration_that_works_as_it_is() {
    let world = World::new(FILE).await;
    let admin = world.admin();
    let early = admin.add_peer(&peer("early")).await.expect("adds");
    assert!(early.warnings.len() == 1 && early.warnings[0].contains("no proxy is connected"), "{early:?}");
    assert!(line(&early.conf, "PublicKey").is_empty(), "{}", early.conf);

    let ready = world.running.proxy_peer_ready();
    let (streams, ()) = tokio::join!(tunnel(&world, "up", 7, true), async {
        timeout(LONG, ready).await.expect("in time").expect("ready");
    });
    let ask = AddPeer { user: Some("alice".into()), ..peer("laptop") };
    let added = admin.add_peer(&ask).await.expect("adds");
    assert!(!format!("{added:?}").contains("PrivateKey"), "{added:?}");
    let status = &added.peer;
    assert_eq!((status.state, status.sentence.as_deref()), (PeerState::Active, None));
    assert_eq!(status.groups, ["eng".to_owned(), "ops".to_owned()].into());
    assert_eq!(status.opens, ["inside.localhost", "ops.localhost"]);
    let private = line(&added.conf, "PrivateKey");
    assert_eq!((private.len(), private[0].len()), (1, 44));
    assert_eq!(line(&added.conf, "Address"), ["100.72.0.3/32, fd7a:706f:7374::3/128"]);
    assert_eq!(line(&added.conf, "PublicKey"), [PublicKey([7; 32]).to_string()]);
    assert_eq!(line(&added.conf, "AllowedIPs"), ["100.72.0.2/32, fd7a:706f:7374::2/128"]);
    assert_eq!(line(&added.conf, "Endpoint"), ["127.0.0.1:51820"]);
    assert!(added.warnings.len() == 1 && added.warnings[0].contains("only be reached from this machine"), "{added:?}");
    for host in ["inside", "ops"] {
        assert!(added.conf.contains(&format!("\n# 100.72.0.2 {host}.localhost\n")), "{}", added.conf);
    }
    assert!(!added.conf.contains("nobodys"), "{}", added.conf);

    assert!(!added.warnings[0].contains("--endpoint"), "which would not help: {added:?}");
    let shown = admin.peer("laptop", Some("localhost:443")).await.expect("shows");
    assert!(shown.warnings.is_empty() && line(&shown.conf, "PrivateKey").is_empty(), "{shown:?}");
    assert_eq!(line(&shown.conf, "Endpoint"), ["localhost:443"]);
    // The same but for the key, line by line.
    let shown = admin.peer("laptop", None).await.expect("shows").conf;
    let differ: Vec<_> = added.conf.lines().zip(shown.lines()).filter(|(a, b)| a != b).collect();
    assert!(
        matches!(differ.as_slice(), [(a, b)] if a.starts_with("PrivateKey = ") && b.starts_with("# ")),
        "{differ:?}"
    );
    assert_eq!(added.conf.lines().count(), shown.lines().count());

    let key = PublicKey([9; 32]).to_string();
    let own = admin.add_peer(&AddPeer { public_key: Some(key.clone()), ..peer("own") }).await.expect("adds");
    assert!(own.peer.public_key == key && line(&own.conf, "PrivateKey").is_empty(), "{}", own.conf);

    // One that serves private services comes first, wherever it is; what is away is not named.
    let elsewhere = tunnel(&world, "edge", 8, false).await;
    let conf = admin.peer("laptop", None).await.expect("shows").conf;
    assert_eq!(line(&conf, "Endpoint"), ["127.0.0.1:51820", "edge.example:51820"]);
    drop(streams);
    until("one of the two is away", || async {
        let conf = admin.peer("laptop", None).await.expect("shows").conf;
        line(&conf, "PublicKey") == [PublicKey([8; 32]).to_string()]
    })
    .await;
    drop(elsewhere);
}

#[tokio::test]
async fn the_file_says_where_the_proxy_is_reached() {
    let world = World::new(&format!("[tunnel]\nendpoint = 'vpn.example.com:51820'\n{FILE}")).await;
    let _streams = tunnel(&world, "up", 7, true).await;
    let added = world.admin().add_peer(&peer("laptop")).await.expect("adds");
    assert_eq!(
        (line(&added.conf, "Endpoint"), added.warnings.as_slice()),
        (vec!["vpn.example.com:51820"], [].as_slice())
    );
}

/// Where nobody wrote a port, the proxy in this process listens on loopback, whatever a configuration says.
#[tokio::test]
async fn an_endpoint_where_nobody_listens_is_warned_of() {
    let world = World::new(FILE).await;
    let streams = tunnel(&world, "up", 7, true).await;
    let vpn = |name| AddPeer { endpoint: Some("vpn.example.com:443".into()), ..peer(name) };
    let added = world.admin().add_peer(&vpn("laptop")).await.expect("adds");
    let [warning] = added.warnings.as_slice() else { panic!("one warning: {added:?}") };
    for part in
        ["the proxy up hears peers of this machine alone", "`endpoint = \"vpn.example.com:443\"` under [tunnel]"]
    {
        assert!(warning.contains(part), "{warning}");
    }
    let shown = world.admin().peer("laptop", Some("vpn.example.com:443")).await.expect("shows");
    assert_eq!(shown.warnings, added.warnings);

    drop(streams);
    let world = world.restart(&format!("[tunnel]\nport = 51820\n{FILE}")).await;
    let streams = tunnel(&world, "up", 7, true).await;
    let added = world.admin().add_peer(&vpn("phone")).await.expect("adds");
    assert_eq!((line(&added.conf, "Endpoint"), added.warnings), (vec!["vpn.example.com:443"], vec![]));
    let without = world.admin().peer("phone", None).await.expect("shows").warnings;
    assert!(without.len() == 1 && without[0].contains("or give --endpoint"), "which helps: {without:?}");

    // Of a proxy elsewhere nobody here knows where it listens.
    drop(streams);
    let token = world.admin().add_token("edge").await.expect("adds").token;
    let world = world.restart(FILE).await;
    let _elsewhere = tunnel_over(world.connect_with(&token).await, "edge", 8, true).await;
    assert_eq!(world.admin().add_peer(&vpn("tablet")).await.expect("adds").warnings, [""; 0]);
}

#[tokio::test]
async fn groups_and_users_that_open_nothing_are_warned_of() {
    let world = World::new(&format!("[tunnel]\nendpoint = 'vpn.example.com:51820'\n{FILE}")).await;
    let admin = world.admin();
    let _streams = tunnel(&world, "up", 7, true).await;
    let ask = |name: &str, user: Option<&str>, groups: &[&str]| AddPeer {
        name: name.to_owned(),
        user: user.map(str::to_owned),
        groups: groups.iter().map(|&group| group.to_owned()).collect(),
        ..AddPeer::default()
    };
    for (ask, near) in [
        (ask("a", None, &["engg"]), "did you mean eng? `postern peer set a --groups eng`"),
        (ask("b", Some("alcie"), &[]), "did you mean alice? `postern peer set b --user alice`"),
        (ask("c", None, &["nosuchgroup"]), "none is for the group nosuchgroup; they are for eng, ops"),
    ] {
        let added = admin.add_peer(&ask).await.expect("adds");
        assert!(added.warnings.len() == 1 && added.warnings[0].contains(near), "{added:?}");
        assert_eq!(added.peer.warnings, added.warnings);
    }
    for ask in [ask("d", None, &["eng", "engg"]), ask("e", Some("alice"), &[]), ask("nas", None, &[])] {
        assert_eq!(admin.add_peer(&ask).await.expect("adds").warnings, [""; 0], "{ask:?}");
    }
    let right = PeerChanges { groups: Some(["eng".to_owned()].into()), ..PeerChanges::default() };
    assert_eq!(admin.set_peer("a", &right).await.expect("sets").warnings, [""; 0]);
    let wrong = PeerChanges { groups: Some(["emg".to_owned()].into()), ..PeerChanges::default() };
    let warnings = admin.set_peer("a", &wrong).await.expect("sets").warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("did you mean eng?"), "{warnings:?}");
}

#[tokio::test]
async fn peers_are_added_listed_changed_and_removed() {
    let world = World::new(FILE).await;
    let admin = world.admin();
    for name in ["nas", "laptop"] {
        admin.add_peer(&peer(name)).await.expect("adds");
    }
    let names = || async {
        let listed = admin.peers().await.expect("lists");
        listed.into_iter().map(|peer| peer.name).collect::<Vec<_>>()
    };
    assert_eq!(names().await, ["laptop", "nas"]);
    let changes = PeerChanges {
        user: Update::To("alice".into()),
        groups: Some([].into()),
        expires: Update::To(i64::from(u32::MAX)),
        ..PeerChanges::default()
    };
    let changed = admin.set_peer("laptop", &changes).await.expect("sets");
    assert_eq!((changed.user.as_deref(), changed.expires), (Some("alice"), Some(i64::from(u32::MAX))));
    assert_eq!(changed.opens, ["ops.localhost"]);
    let disabled = PeerChanges { enabled: Some(false), ..PeerChanges::default() };
    let changed = admin.set_peer("laptop", &disabled).await.expect("sets");
    assert_eq!(changed.state, PeerState::Disabled);
    assert!(changed.sentence.is_some_and(|sentence| sentence.contains("postern peer set laptop --enable")));
    let tunnel = admin.status().await.expect("a status").tunnel;
    assert_eq!((tunnel.peers, tunnel.active_peers, tunnel.proxies.len()), (2, 1, 0));

    let listed = admin.peers().await.expect("lists");
    let world = world.restart(FILE).await;
    let admin = world.admin();
    assert_eq!(admin.peers().await.expect("lists"), listed, "kept over a restart");
    assert_eq!(admin.remove_peers_of("alice").await.expect("removes"), ["laptop"]);
    admin.remove_peer("nas").await.expect("removes");
    assert_eq!(admin.peers().await.expect("lists"), []);
    for refused in [
        admin.remove_peer("nas").await.expect_err("gone"),
        admin.remove_peers_of("alice").await.map(drop).expect_err("gone"),
        admin.peer("nas", None).await.map(drop).expect_err("gone"),
        admin.set_peer("nas", &disabled).await.map(drop).expect_err("gone"),
    ] {
        assert!(matches!(&refused, AdminError::Refused(why) if why.contains("postern peer list")), "{refused}");
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_peer_is_told_in_one_sentence() {
    let world = World::new(FILE).await;
    let admin = world.admin();
    let site = vec!["10.9.0.0/16".parse().expect("range")];
    admin.add_peer(&AddPeer { site: site.clone(), ..peer("office") }).await.expect("adds");
    let with = |change: fn(&mut AddPeer)| {
        let mut ask = peer("new");
        change(&mut ask);
        ask
    };
    for (ask, why) in [
        (peer("office"), "already"),
        (peer("a b"), "1 to 64"),
        (peer("."), "a letter or a digit first"),
        (peer(".."), "a letter or a digit first"),
        (peer("-x"), "a letter or a digit first"),
        (with(|ask| ask.public_key = Some("short".into())), "wg pubkey"),
        (with(|ask| ask.endpoint = Some("vpn".into())), "`vpn` is not an endpoint"),
        (with(|ask| ask.endpoint = Some("a:1\nPostUp = rm".into())), "not an endpoint"),
        (with(|ask| ask.user = Some("a\nPostUp = rm".into())), "user's name"),
        (with(|ask| ask.groups = ["a,b".to_owned()].into()), "group's name"),
        (with(|ask| ask.expires = Some(1)), "expired already"),
        (AddPeer { site, ..peer("new") }, "10.9.0.0/16 of the peer office"),
    ] {
        let refused = admin.add_peer(&ask).await.map(drop).expect_err(why);
        assert!(matches!(&refused, AdminError::Refused(message) if message.contains(why)), "{refused}");
    }
    assert_eq!(admin.peers().await.expect("lists").len(), 1);
    for name in ["", ".", ".."] {
        for refused in [
            admin.peer(name, None).await.map(drop).expect_err(name),
            admin.set_peer(name, &PeerChanges::default()).await.map(drop).expect_err(name),
            admin.remove_peer(name).await.expect_err(name),
        ] {
            assert!(
                matches!(&refused, AdminError::Refused(message) if message.contains("is no name")),
                "never a path elsewhere: {refused}"
            );
        }
    }
    assert_eq!(admin.peers().await.expect("lists").len(), 1);
}

#[tokio::test]
async fn whoever_asks_learns_whether_asking_otherwise_would_help() {
    let world = World::new(FILE).await;
    let admin = world.admin();
    let refused = admin.add_peer(&peer("a b")).await.map(drop).expect_err("no name");
    assert!(matches!(refused, AdminError::Refused(_)), "{refused}");
    world.running.store.close().await;
    let failed = admin.add_peer(&peer("laptop")).await.map(drop).expect_err("no store");
    assert!(matches!(failed, AdminError::Failed(_)), "{failed:?}");
}

#[tokio::test]
async fn only_the_proxy_in_this_process_makes_it_ready() {
    let world = World::new(FILE).await;
    let token = world.admin().add_token("edge").await.expect("adds").token;
    let elsewhere = tunnel_over(world.connect_with(&token).await, "edge", 8, true).await;
    let mut ready = Box::pin(world.running.proxy_peer_ready());
    assert!(futures_util::poll!(&mut ready).is_pending(), "another's tunnel is not ours");
    let own = tunnel(&world, "up", 7, true).await;
    timeout(LONG, ready).await.expect("in time").expect("ours is there");
    drop((elsewhere, own));

    // What is only known from before is not there either; it says by itself why.
    let world = world.restart(FILE).await;
    let calls = world.connect().await;
    let edge = watch(&world.connect_with(&token).await, PublicKey([8; 32])).await;
    let mut ready = Box::pin(world.running.proxy_peer_ready());
    assert!(futures_util::poll!(&mut ready).is_pending(), "known, and away");
    let mut sync = calls.sync_as(able("up", true)).await.expect("opens");
    sync.snapshot().await;
    assert!(futures_util::poll!(&mut ready).is_pending(), "it has not said anything yet");
    no_tunnel(&calls, "inside", "UDP port 51820 is taken").await;
    assert_eq!(timeout(LONG, ready).await.expect("in time"), Err("UDP port 51820 is taken".to_owned()));
    let _maps = watch(&calls, PublicKey([7; 32])).await;
    timeout(LONG, world.running.proxy_peer_ready()).await.expect("in time").expect("there after all");
    drop((sync, edge));
}

#[tokio::test]
async fn a_configuration_without_a_proxy_says_what_really_is_the_matter() {
    let public = "[service.public]\nhost = 'public.localhost'\nupstream = 'http://x:1'\naccess = 'open'\n";
    let world = World::new(public).await;
    let admin = world.admin();
    let added = admin.add_peer(&AddPeer { groups: [].into(), ..peer("laptop") }).await.expect("adds");
    let again = "then print the configuration again with `postern peer show laptop`";
    assert!(added.warnings[0].contains("no proxy is connected") && added.warnings[0].ends_with(again), "{added:?}");
    let warning = || async {
        let mut warnings = admin.peer("laptop", Some("127.0.0.1:1")).await.expect("shows").warnings;
        if warnings.len() == 1 { warnings.remove(0) } else { format!("not one: {warnings:?}") }
    };
    let calls = world.connect().await;
    let mut sync = calls.sync_as(able("edge", false)).await.expect("opens");
    sync.snapshot().await;
    assert!(warning().await.contains("because no service needs one"), "{}", warning().await);
    world.apply(FILE).await;
    assert!(warning().await.contains("start one with `postern proxy --private`"), "{}", warning().await);
    let nas = "[service.nas]\nhost = 'nas.localhost'\nupstream = 'tunnel://nas:1'\naccess = 'open'\n";
    world.apply(&format!("{public}{nas}")).await;
    assert!(warning().await.contains("no proxy is in the tunnel yet"), "{}", warning().await);
    no_tunnel(&calls, "nas", "UDP port 51820 is taken; free it").await;
    let expected = format!("the proxy edge has no tunnel: UDP port 51820 is taken; free it; {again}");
    assert_eq!(warning().await, expected);

    // One that is known and away is named, with the reason all the same.
    let up = tunnel(&world, "up", 7, true).await;
    let shown = admin.peer("laptop", Some("127.0.0.1:1")).await.expect("shows");
    assert_eq!((shown.warnings.len(), line(&shown.conf, "Endpoint").len()), (0, 1), "{shown:?}");
    drop(up);
    until("it is away", || async { warning().await == expected.trim_end_matches(again).trim_end_matches("; ") }).await;
    drop(sync);
}

#[tokio::test]
async fn a_name_that_upstreams_cannot_be_told_is_warned_of() {
    let world = World::new(&format!("[tunnel]\nport = 1\n{FILE}")).await;
    let admin = world.admin();
    let _streams = tunnel(&world, "up", 7, true).await;
    let ask = AddPeer { user: Some("Zoë".into()), endpoint: Some("vpn.example.com:1".into()), ..peer("laptop") };
    let added = admin.add_peer(&ask).await.expect("adds");
    assert!(added.warnings.len() == 1 && added.warnings[0].contains("the user Zoë: X-NetBird-User"), "{added:?}");
    assert_eq!(added.peer.warnings, added.warnings);
    let changes = PeerChanges {
        user: Update::To("zoe@example.com".into()),
        groups: Some(["büro".to_owned(), "eng".to_owned()].into()),
        ..PeerChanges::default()
    };
    let warnings = admin.set_peer("laptop", &changes).await.expect("sets").warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("the group büro: X-NetBird-Groups"), "{warnings:?}");
    let ascii = AddPeer { user: Some("alice".into()), ..ask };
    let added = admin.add_peer(&AddPeer { name: "other".into(), ..ascii }).await.expect("adds");
    assert!(added.warnings.is_empty(), "{added:?}");
}
