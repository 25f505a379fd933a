//! Upstreams behind a tunnel, and tunnels that come and go.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode};
use postern_auth::{Gate, SystemClock};
use postern_model::{AccountId, Batch, Change, Mapping, OneTimeToken, Secret, ServiceId, ServiceState, SyncEvent};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::basics::{heard, request, soon};
use super::device::Device;
use super::upstream::Upstream;
use super::world::{Fake, World, basic, open, upsert};
use crate::TunnelConfig;
use crate::directory::{Directory, TunnelState};
use crate::metrics::Metrics;
use crate::orders::{Order, Workers};
use crate::tunnels::{Parts, Ticket, Tunnels};

/// An open service `<name>.test` whose upstream is reached through the tunnel.
fn behind(name: &str, upstream: &str) -> Mapping {
    let mut mapping = open(name, upstream);
    mapping.paths[0].options.direct_upstream = false;
    mapping
}

fn management(peers: &[(&str, &Device)]) -> Arc<Fake> {
    let management = Arc::new(Fake::default());
    for (account, device) in peers {
        management.peers.set(account, vec![device.mapped(1)]);
    }
    management
}

#[tokio::test]
async fn a_public_request_reaches_an_upstream_behind_the_tunnel() {
    let device = Device::new("origin", "100.72.0.2");
    let _serving = device.serve(8080, "from the origin");
    let world = World::start_under(
        management(&[("acc", &device)]),
        &[behind("app", "http://100.72.0.2:8080"), behind("shut", "http://100.72.0.2:81"), {
            behind("lost", "http://100.72.0.77:8080")
        }],
        |config| config.workers = NonZeroUsize::new(2).unwrap(),
    )
    .await;
    device.knows(&world.management.peers.registered("acc").await);
    for _ in 0..8 {
        let heard = world.get("app.test", "/page", &[]).await;
        assert_eq!((heard.status, heard.body.as_str()), (StatusCode::OK, "from the origin /page"));
    }
    world.management.status("app", ServiceState::Active).await;
    assert_eq!(world.get("shut.test", "/shut", &[]).await.status, StatusCode::BAD_GATEWAY);
    assert_eq!(world.management.line("/shut").await.reason, "upstream_refused");
    assert_eq!(world.get("lost.test", "/lost", &[]).await.status, StatusCode::BAD_GATEWAY);
    assert_eq!(world.management.line("/lost").await.reason, "upstream_unreachable");
}

#[tokio::test]
async fn a_tunnel_that_is_down_is_never_replaced_by_the_hosts_network() {
    let upstream = Upstream::mirror().await;
    // A server that sends no peer maps, as a stock one.
    let world = World::start(&[behind("app", &upstream.url()), open("direct", &upstream.url())]).await;
    let status = world.management.status("app", ServiceState::TunnelNotCreated).await;
    assert!(status.error.as_deref().is_some_and(|error| error.contains("no peer maps")), "{status:?}");
    let heard = world.get("app.test", "/down", &[("accept", "application/json")]).await;
    assert_eq!(heard.status, StatusCode::BAD_GATEWAY);
    assert!(heard.body.contains("Tunnel Down"), "{}", heard.body);
    assert_eq!(world.management.line("/down").await.reason, "tunnel_down");

    // The same where there is a tunnel, and nobody in it has the address.
    world.management.peers.set("acc", Vec::new());
    world.change(vec![upsert(&behind("app", &upstream.url()))]).await;
    world.management.status("app", ServiceState::Active).await;
    assert_eq!(world.get("app.test", "/nobody", &[]).await.status, StatusCode::BAD_GATEWAY);
    assert_eq!(world.management.line("/nobody").await.reason, "upstream_unreachable");
    assert_eq!(upstream.connections(), 0, "nothing reached the host's network");

    assert_eq!(world.get("direct.test", "/", &[]).await.status, StatusCode::OK);
    assert_eq!(upstream.connections(), 1);
    // Not even a connection that is already there.
    let mut moved = open("direct", &upstream.url());
    moved.paths[0].options.direct_upstream = false;
    world.change(vec![upsert(&moved)]).await;
    assert_eq!(world.get("direct.test", "/", &[]).await.status, StatusCode::BAD_GATEWAY);
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn a_proxy_without_tunnels_says_so() {
    let upstream = Upstream::mirror().await;
    let world = World::start_with(&[behind("app", &upstream.url())], |config| config.tunnel = None).await;
    let status = world.management.status("app", ServiceState::TunnelNotCreated).await;
    assert!(status.error.as_deref().is_some_and(|error| error.contains("without tunnels")), "{status:?}");
    assert_eq!(world.get("app.test", "/", &[]).await.status, StatusCode::BAD_GATEWAY);
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn dials_wait_for_a_tunnel_that_comes_up_and_access_does_not() {
    let device = Device::new("origin", "100.72.0.2");
    let _serving = device.serve(8080, "at last");
    let management = management(&[("acc", &device)]);
    management.peers.answer(false);
    let app = behind("app", "http://100.72.0.2:8080");
    let mut guarded = basic("guarded", "http://100.72.0.2:8080");
    guarded.paths = app.paths.clone();
    let world = World::start_under(management, &[app, guarded], |_| {}).await;
    assert_eq!(world.management.status("app", ServiceState::Pending).await.error, None);
    let refused = world.get("guarded.test", "/", &[]).await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);

    let mut waiting = world.http1("app.test").await;
    let answer = tokio::spawn(waiting.send_request(request(http::Method::GET, "app.test", "/", &[], "")));
    world.management.peers.answer(true);
    device.knows(&world.management.peers.registered("acc").await);
    let heard = heard(soon(answer).await.unwrap().unwrap()).await;
    assert_eq!((heard.status, heard.body.as_str()), (StatusCode::OK, "at last /"));
}

#[tokio::test]
async fn a_dial_waits_no_longer_than_its_deadline() {
    let device = Device::new("origin", "100.72.0.2");
    let management = management(&[("acc", &device)]);
    management.peers.answer(false);
    let app = behind("app", "http://100.72.0.2:8080");
    let world = World::start_under(management, &[app], |config| {
        config.upstream.dial_timeout = Duration::from_millis(50);
    })
    .await;
    assert_eq!(world.get("app.test", "/", &[]).await.status, StatusCode::BAD_GATEWAY);
    assert_eq!(world.management.line("/").await.reason, "tunnel_down");
}

#[tokio::test]
async fn a_used_token_is_followed_by_the_next_that_comes() {
    let device = Device::new("origin", "100.72.0.2");
    let _serving = device.serve(8080, "known");
    let management = management(&[("acc", &device)]);
    management.peers.burnt.lock().push("token".into());
    let app = behind("app", "http://100.72.0.2:8080");
    let world = World::start_under(management, std::slice::from_ref(&app), |_| {}).await;
    world.management.status("app", ServiceState::TunnelNotCreated).await;
    // The mapping is the same, its token is not.
    world.management.peers.burnt.lock().clear();
    world.change(vec![upsert(&app)]).await;
    world.management.status("app", ServiceState::Active).await;
    device.knows(&world.management.peers.registered("acc").await);
    assert_eq!(world.get("app.test", "/", &[]).await.body, "known /");
    assert_eq!(world.management.peers.registrations("acc").len(), 1);
}

#[tokio::test]
async fn a_token_that_management_did_not_answer_to_is_still_good() {
    let management = management(&[]);
    management.peers.set("acc", Vec::new());
    *management.peers.failing.lock() = 2;
    let app = behind("app", "http://100.72.0.2:8080");
    let world = World::start_under(management, &[app], |_| {}).await;
    let status = world.management.status("app", ServiceState::TunnelNotCreated).await;
    assert!(status.error.as_deref().is_some_and(|error| error.contains("it is starting")), "{status:?}");
    world.management.status("app", ServiceState::Active).await;
    assert_eq!(world.management.peers.registrations("acc").len(), 1);
}

#[tokio::test]
async fn a_proxy_that_nobody_knows_and_without_tokens_asks_for_others() {
    let management = management(&[]);
    management.peers.set("acc", Vec::new());
    management.peers.burnt.lock().push("token".into());
    let app = behind("app", "http://100.72.0.2:8080");
    let world = World::start_under(management, std::slice::from_ref(&app), |_| {}).await;
    assert_eq!(world.management.peers.resynced().await, 1);
    world.management.status("app", ServiceState::TunnelNotCreated).await;
    // What a management client makes of it.
    world.management.peers.burnt.lock().clear();
    world.deliver(SyncEvent::Lost).await;
    world.deliver(SyncEvent::Opened).await;
    world.deliver(SyncEvent::Batch(Batch { changes: vec![upsert(&app)], initial_sync_complete: true })).await;
    world.management.status("app", ServiceState::Active).await;
    assert_eq!(world.management.peers.registrations("acc").len(), 1);
}

#[tokio::test]
async fn two_proxies_with_the_same_keys_are_never_up_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let app = behind("app", "http://100.72.0.2:8080");
    let start = async || {
        let management = management(&[]);
        management.peers.set("acc", Vec::new());
        World::start_under(management, std::slice::from_ref(&app), |config| {
            config.tunnel.as_mut().unwrap().data_dir = folder.path().join("tunnel");
        })
        .await
    };
    let first = start().await;
    first.management.status("app", ServiceState::Active).await;
    let second = start().await;
    let status = second.management.status("app", ServiceState::TunnelNotCreated).await;
    assert!(status.error.as_deref().is_some_and(|error| error.contains("another process uses")), "{status:?}");
    assert!(second.management.peers.registrations("acc").is_empty());
    // The second takes over by itself.
    let key = first.management.peers.registered("acc").await.key;
    soon(first.proxy.shutdown(Duration::ZERO)).await;
    second.management.status("app", ServiceState::Active).await;
    assert_eq!(second.management.peers.registered("acc").await.key, key);
}

#[tokio::test]
async fn the_last_service_closes_the_tunnel_and_the_next_gets_the_same_key_and_port() {
    let (device, later) = (Device::new("laptop", "100.72.0.2"), Device::new("phone", "100.72.0.3"));
    let upstream = Upstream::mirror().await;
    let [one, two] = ["one", "two"].map(|name| {
        let mut mapping = open(name, &upstream.url());
        mapping.private = true;
        mapping
    });
    let management = management(&[("acc", &device)]);
    management.peers.set("acc", vec![device.mapped(1), later.mapped(1)]);
    let world = World::start_under(management, &[one.clone(), two.clone()], |_| {}).await;
    let first = world.management.peers.registered("acc").await;
    device.knows(&first);
    assert_eq!(device.get(&world, "one.test", "/", &[]).await.status, StatusCode::OK);
    world.change(vec![Change::Remove(one.id.clone())]).await;
    let mut kept = device.tls(&world, "two.test").await.unwrap();
    world.change(vec![Change::Remove(ServiceId::parse("two").unwrap())]).await;
    let mut rest = Vec::new();
    let _cut = soon(kept.read_to_end(&mut rest)).await;
    assert!(rest.is_empty());
    let port = ("127.0.0.1", first.port);
    soon(async {
        while std::net::UdpSocket::bind(port).is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;

    world.change(vec![upsert(&two)]).await;
    world.management.status("two", ServiceState::Active).await;
    let again = world.management.peers.registrations("acc");
    assert_eq!(again.len(), 2, "one registration each");
    assert_eq!((again[1].key, again[1].port), (first.key, first.port));
    // One that has no session with the tunnel that was: WireGuard takes a quarter of a minute to notice.
    later.knows(&again[1]);
    assert_eq!(later.get(&world, "two.test", "/", &[]).await.status, StatusCode::OK);
}

#[tokio::test]
async fn the_same_address_in_two_accounts_is_two_places() {
    let (here, there) = (Device::new("here", "100.72.0.2"), Device::new("there", "100.72.0.2"));
    let _serving = (here.serve(8080, "here"), there.serve(8080, "there"));
    let mut foreign = behind("there", "http://100.72.0.2:8080");
    foreign.account = AccountId::parse("other").unwrap();
    let mappings = [behind("here", "http://100.72.0.2:8080"), foreign];
    let world = World::start_under(management(&[("acc", &here), ("other", &there)]), &mappings, |_| {}).await;
    let (acc, other) =
        (world.management.peers.registered("acc").await, world.management.peers.registered("other").await);
    assert!(acc.key != other.key && acc.port != other.port);
    here.knows(&acc);
    there.knows(&other);
    // The second round finds the connections of the first in the pool.
    for _ in 0..2 {
        assert_eq!(world.get("here.test", "/", &[]).await.body, "here /");
        assert_eq!(world.get("there.test", "/", &[]).await.body, "there /");
    }
    // Who is at home in one account is nobody in the other, whatever its address.
    here.knows(&other);
    let stranger = tokio::time::timeout(
        Duration::from_millis(300),
        here.tunnel.connect("100.72.0.1:443".parse().unwrap(), Duration::from_millis(200)),
    );
    assert!(!matches!(stranger.await, Ok(Ok(_))));
}

/// What happens to the tunnels next.
async fn next(tunnels: &mut Tunnels) -> TunnelState {
    soon(tunnels.next()).await.state
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_that_dies_is_opened_anew_with_what_was_in_force() {
    let management = Arc::new(Fake::default());
    management.peers.set("acc", Vec::new());
    let folder = tempfile::tempdir().unwrap();
    let (orders, mut orders_given) = mpsc::unbounded_channel();
    let directory = Directory::default();
    let parts = Parts {
        folder: tokio::sync::OnceCell::new(),
        config: TunnelConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            data_dir: folder.path().join("keys"),
            cluster: "proxy.test".into(),
            cache_ttl: Duration::from_secs(300),
            inbound: true,
        },
        management: Arc::clone(&management) as _,
        gate: Arc::new(Gate::new(Arc::clone(&management) as _, Arc::new(SystemClock))),
        workers: Workers::new(vec![orders]),
        metrics: Metrics::new(Arc::clone(&management) as _, directory.clone()),
    };
    let mut tunnels = Tunnels::new(Some(parts), directory.clone());
    let app = behind("app", "http://100.72.0.2:8080");
    tunnels.open(&app.account);
    tunnels.offer(Ticket { account: app.account.clone(), service: app.id, token: OneTimeToken(Secret::from("token")) });
    let mut ports = Vec::new();
    for _ in 0..3 {
        let Some(Order::Carry(load)) = soon(orders_given.recv()).await else { panic!("nothing to carry") };
        assert!(matches!(next(&mut tunnels).await, TunnelState::Up { inbound: Some(_) }));
        ports.push(soon(directory.up(&app.account)).await.unwrap().port());
        drop(load);
        match next(&mut tunnels).await {
            TunnelState::Down { reason } => assert!(reason.contains("stopped"), "{reason}"),
            other => panic!("{other:?}"),
        }
        assert!(directory.up(&app.account).await.is_err());
    }
    assert!(ports.iter().all(|port| *port == ports[0]), "{ports:?}");
    assert_eq!(management.peers.registrations("acc").len(), 1, "management knows us, its stream goes on");
    tunnels.close(&app.account);
    assert_eq!(&*directory.up(&app.account).await.unwrap_err(), "the account has no tunnel");
    soon(tunnels.shutdown()).await;
}

#[tokio::test]
async fn a_key_that_cannot_be_read_is_said_in_one_sentence_and_never_replaced() {
    let upstream = Upstream::mirror().await;
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().to_owned();
    let device = Device::new("laptop", "100.72.0.2");
    let app = behind("app", &upstream.url());
    let start = async || {
        World::start_under(management(&[("acc", &device)]), std::slice::from_ref(&app), |config| {
            config.tunnel.as_mut().unwrap().data_dir.clone_from(&keys);
        })
        .await
    };
    let world = start().await;
    let first = world.management.peers.registered("acc").await.key;
    world.management.status("app", ServiceState::Active).await;
    soon(world.proxy.shutdown(Duration::ZERO)).await;
    let file = keys.join("acc.key");
    let good = std::fs::read(&file).unwrap();
    std::fs::write(&file, "nonsense").unwrap();

    let world = start().await;
    let status = world.management.status("app", ServiceState::TunnelNotCreated).await;
    assert!(status.error.as_deref().is_some_and(|error| error.contains("damaged")), "{status:?}");
    assert_eq!(std::fs::read(&file).unwrap(), b"nonsense");
    // It is looked at again by itself.
    std::fs::write(&file, good).unwrap();
    assert_eq!(world.management.peers.registered("acc").await.key, first);
    world.management.status("app", ServiceState::Active).await;
}

#[tokio::test]
async fn draining_lets_what_is_under_way_through_a_tunnel_finish() {
    let device = Device::new("both", "100.72.0.2");
    let gate = Arc::new(tokio::sync::Notify::new());
    let arrived = Arc::new(tokio::sync::Notify::new());
    let signals = (Arc::clone(&gate), Arc::clone(&arrived));
    let slow = Upstream::start(move |_: Request<_>| {
        let (gate, arrived) = signals.clone();
        async move {
            arrived.notify_one();
            gate.notified().await;
            super::upstream::page("finished")
        }
    })
    .await;
    let mut inside = open("inside", &slow.url());
    inside.private = true;
    let world = World::start_under(management(&[("acc", &device)]), &[inside], |config| {
        config.workers = NonZeroUsize::new(2).unwrap();
    })
    .await;
    device.knows(&world.management.peers.registered("acc").await);
    let mut busy = device.tls(&world, "inside.test").await.unwrap();
    busy.write_all(b"GET / HTTP/1.1\r\nHost: inside.test\r\n\r\n").await.unwrap();
    soon(arrived.notified()).await;
    let shutdown = tokio::spawn(world.proxy.shutdown(Duration::from_secs(15)));
    // Nothing begins any more.
    soon(async { while device.connect(443).await.is_ok() {} }).await;
    assert!(!shutdown.is_finished());
    gate.notify_one();
    let mut answer = String::new();
    soon(busy.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("finished"), "{answer}");
    soon(shutdown).await.unwrap();
}

#[tokio::test]
async fn a_tunnel_outlives_its_home_worker_for_what_other_workers_finish() {
    let device = Device::new("origin", "100.72.0.2");
    let mut listener = device.tunnel.listen(8080).unwrap();
    // With many workers the request is hardly ever at the tunnel's home.
    let world =
        World::start_under(management(&[("acc", &device)]), &[behind("app", "http://100.72.0.2:8080")], |config| {
            config.workers = NonZeroUsize::new(8).unwrap();
        })
        .await;
    device.knows(&world.management.peers.registered("acc").await);
    let mut busy = world.tls("app.test").await.unwrap();
    busy.write_all(b"GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n").await.unwrap();
    let (mut stream, _) = soon(listener.accept()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon(stream.read_u8()).await.unwrap());
    }
    let address = world.address();
    let shutdown = tokio::spawn(world.proxy.shutdown(Duration::from_secs(15)));
    // Every worker has heard of it once none of them listens.
    soon(async { while tokio::net::TcpStream::connect(address).await.is_ok() {} }).await;
    soon(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n")).await.unwrap();
    soon(stream.write_all(b"finished")).await.unwrap();
    let mut answer = String::new();
    soon(busy.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("finished"), "{answer}");
    soon(shutdown).await.unwrap();
    // The tunnel has said good-bye too.
    let mut rest = Vec::new();
    let _cut = soon(stream.read_to_end(&mut rest)).await;
    assert!(rest.is_empty());
}
