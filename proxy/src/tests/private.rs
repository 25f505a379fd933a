//! Private services: what a tunnel peer reaches, and what everybody else sees of it.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Method, StatusCode};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use postern_model::{AuthMechanism, InboundListener, Mapping, ServiceState};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;

use super::basics::{all, heard, key, request, soon};
use super::device::Device;
use super::flows::websocket;
use super::peers::PROXY;
use super::upstream::Upstream;
use super::world::{Fake, World, basic, open, upsert};
use crate::Config;

/// A private service `<name>.test`.
pub(super) fn private(name: &str, upstream: &str) -> Mapping {
    let mut mapping = open(name, upstream);
    mapping.private = true;
    mapping.authentication.session_key = Some(key().public());
    mapping.authentication.deliberately_open = Some(false);
    mapping
}

/// A world with the services `inside` (private), `app` (open) and `foreign` (private, another account's), whose upstream says
/// what it was asked, and a peer of the first account.
async fn world(adjust: impl FnOnce(&mut Config)) -> (World, Device, Upstream) {
    let upstream = Upstream::mirror().await;
    let device = Device::new("laptop", "100.72.0.2");
    let management = Arc::new(Fake::default());
    management.peers.set("acc", vec![device.mapped(1)]);
    management.peers.set("other", Vec::new());
    let mut foreign = private("foreign", &upstream.url());
    foreign.account = postern_model::AccountId::parse("other").unwrap();
    let mappings = [private("inside", &upstream.url()), open("app", &upstream.url()), foreign];
    let world = World::start_under(management, &mappings, adjust).await;
    device.knows(&world.management.peers.registered("acc").await);
    world.management.status("inside", ServiceState::Active).await;
    (world, device, upstream)
}

#[tokio::test]
async fn a_peer_is_let_in_and_named_to_the_upstream() {
    let (world, device, _upstream) = world(|_| {}).await;
    let forged = [("x-netbird-user", "root"), ("x-forwarded-for", "1.2.3.4"), ("x-netbird-groups", "admins")];
    let heard = device.get(&world, "inside.test", "/hello", &forged).await;
    assert_eq!(heard.status, StatusCode::OK);
    for line in [
        "GET /hello\n",
        "x-netbird-user: laptop\n",
        "x-netbird-groups: eng\n",
        "x-forwarded-for: 100.72.0.2\n",
        "x-real-ip: 100.72.0.2\n",
        "x-forwarded-proto: https\n",
        "x-forwarded-port: 443\n",
    ] {
        assert!(heard.body.contains(line), "{line} is not in {}", heard.body);
    }
    assert!(!heard.body.contains("root") && !heard.body.contains("1.2.3.4") && !heard.body.contains("admins"));
    assert_eq!(heard.header("set-cookie"), "");

    let line = world.management.line("/hello").await;
    assert_eq!((line.source.to_string().as_str(), line.mechanism), ("100.72.0.2", AuthMechanism::TunnelPeer));
    assert_eq!((&*line.user_id, line.status, line.auth_success), ("laptop", 200, true));
    let asked = &world.management.peers.questions()[0];
    assert_eq!((asked.address.to_string().as_str(), asked.host.as_str()), ("100.72.0.2", "inside.test"));

    let status = world.management.status("app", ServiceState::Active).await;
    let inbound = InboundListener { address: PROXY.parse().unwrap(), https: 443, http: 80 };
    assert_eq!(status.inbound, Some(inbound), "the account's public services are reached there as well");
    assert_eq!(device.get(&world, "app.test", "/", &[]).await.status, StatusCode::OK);
}

#[tokio::test]
async fn plain_http_is_spoken_on_port_80() {
    let (world, device, _upstream) = world(|config| {
        config.trusted_proxies = vec!["0.0.0.0/0".parse().unwrap()];
        config.forwarded_proto = crate::ForwardedProto::Https;
    })
    .await;
    let forged = [("x-forwarded-for", "1.2.3.4"), ("x-forwarded-proto", "gopher")];
    let plain = device.get_plain("inside.test", "/", &forged).await;
    assert_eq!(plain.status, StatusCode::OK);
    for line in ["x-forwarded-proto: http\n", "x-forwarded-port: 80\n", "x-forwarded-for: 100.72.0.2\n"] {
        assert!(plain.body.contains(line), "{line} is not in {}", plain.body);
    }
    assert_eq!(device.get_plain("app.test", "/", &[]).await.status, StatusCode::OK);

    // The twin: the public listener does trust whoever it is told to.
    let public = world.get("app.test", "/", &forged).await;
    assert!(public.body.contains("x-forwarded-for: 1.2.3.4, 127.0.0.1\n"), "{}", public.body);

    let unknown = device.get_plain("nothing.test", "/", &[]).await;
    for host in ["foreign.test", PROXY] {
        let other = device.get_plain(host, "/", &[]).await;
        assert_eq!((other.status, other.headers.len()), (unknown.status, unknown.headers.len()), "{host}");
    }
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_public_listener_knows_nothing_of_private_services() {
    let (world, device, _upstream) = world(|_| {}).await;
    let unknown = world.tls("nothing.test").await.unwrap_err().to_string();
    for private in ["inside.test", "foreign.test"] {
        assert_eq!(world.tls(private).await.unwrap_err().to_string(), unknown, "by SNI: {private}");
    }
    assert!(unknown.contains("UnrecognisedName") || unknown.contains("UnrecognizedName"), "{unknown}");
    let mut answers = Vec::new();
    for host in ["nothing.test", "inside.test", "foreign.test", "127.0.0.1"] {
        let request = request(Method::GET, host, "/", &[("accept", "application/json")], "");
        let answer = heard(soon(world.http1("app.test").await.send_request(request)).await.unwrap()).await;
        answers.push((answer.status, answer.headers.len(), answer.body.len()));
    }
    assert_eq!(answers[0].0, StatusCode::MISDIRECTED_REQUEST);
    assert!(answers.iter().all(|answer| *answer == answers[0]), "by Host: {answers:?}");
    assert!(world.management.peers.questions().is_empty());

    // In the tunnel it is another account's service that nobody can tell from none.
    let unknown = device.tls(&world, "nothing.test").await.unwrap_err().to_string();
    assert_eq!(device.tls(&world, "foreign.test").await.unwrap_err().to_string(), unknown);
    assert!(device.tls(&world, "inside.test").await.is_ok());
}

#[tokio::test]
async fn whoever_management_refuses_is_not_asked_for_anything_else() {
    let upstream = Upstream::mirror().await;
    let (stranger, laptop) = (Device::new("stranger", "100.72.0.9"), Device::new("laptop", "100.72.0.2"));
    let management = Arc::new(Fake::default());
    management.peers.set("acc", vec![stranger.mapped(1), laptop.mapped(1)]);
    let mut inside = private("inside", &upstream.url());
    inside.authentication.headers = basic("inside", &upstream.url()).authentication.headers;
    let world = World::start_under(management, &[inside], |_| {}).await;
    let proxy = world.management.peers.registered("acc").await;
    for device in [&stranger, &laptop] {
        device.knows(&proxy);
    }
    let credentials = [("authorization", "Basic YWxpY2U6c2VjcmV0")];
    for count in 1..3 {
        let heard = stranger.get(&world, "inside.test", "/", &credentials).await;
        assert_eq!((heard.status, heard.header("www-authenticate")), (StatusCode::FORBIDDEN, ""));
        assert_eq!(world.management.peers.questions().len(), count, "a refusal is not kept");
    }
    assert_eq!(world.management.questions(), 0, "the credential was not even looked at");
    assert_eq!(upstream.connections(), 0);
    assert_eq!(laptop.get(&world, "inside.test", "/", &[]).await.status, StatusCode::OK);
}

#[tokio::test]
async fn peers_that_take_all_connections_they_get_keep_nobody_out() {
    const ALL: usize = 20;
    let upstream = Upstream::mirror().await;
    let names = ["100.72.0.2", "100.72.0.3", "100.72.0.4", "100.72.0.5"];
    let devices = names.map(|address| Device::new("laptop", address));
    let management = Arc::new(Fake::default());
    management.peers.set("acc", devices.iter().map(|device| device.mapped(1)).collect());
    let inside = private("inside", &upstream.url());
    let world = World::start_under(management, &[inside], |config| {
        config.limits.connections = ALL;
        // Those that are only held are held to the end.
        config.limits.head = config.limits.idle;
    })
    .await;
    let proxy = world.management.peers.registered("acc").await;
    devices.iter().for_each(|device| device.knows(&proxy));
    let [greedy @ .., late] = &devices;
    let mut held: Vec<Vec<_>> = Vec::new();
    for device in greedy {
        let mut own = Vec::new();
        while let Ok(tls) = device.tls(&world, "inside.test").await {
            own.push(tls);
            assert!(own.len() <= ALL / 8 + 1, "more than its share");
        }
        // Both ports are one matter, and nothing but a reset comes of what is too much.
        let mut plain = device.connect(80).await.unwrap();
        assert!(soon(plain.read_u8()).await.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
        held.push(own);
    }
    assert_eq!(late.get(&world, "inside.test", "/", &[]).await.status, StatusCode::OK);
    assert_eq!(late.get_plain("inside.test", "/", &[]).await.status, StatusCode::OK);

    // Whoever has its share goes on with it, and gets more once some is given back.
    let first = &mut held[0][0];
    first.write_all(b"GET / HTTP/1.1\r\nHost: inside.test\r\nConnection: close\r\n\r\n").await.unwrap();
    assert!(all(first).await.starts_with("HTTP/1.1 200 OK"));
    held.truncate(1);
    held[0].remove(0);
    soon(async { while greedy[0].tls(&world, "inside.test").await.is_err() {} }).await;
}

#[tokio::test]
async fn a_peer_that_connects_and_asks_nothing_is_not_waited_for() {
    let short = |config: &mut Config| config.limits.head = Duration::from_millis(150);
    let (world, device, _upstream) = world(short).await;
    assert_eq!(all(device.connect(80).await.unwrap()).await, "");
    assert_eq!(all(device.tls(&world, "inside.test").await.unwrap()).await, "");
}

#[tokio::test]
async fn fifty_first_requests_at_once_ask_management_once() {
    const REQUESTS: usize = 50;
    let (world, device, _upstream) = world(|config| {
        config.health = Some("127.0.0.1:0".parse().unwrap());
    })
    .await;
    world.management.peers.answer(false);
    let mut connections = Vec::new();
    for _ in 0..REQUESTS {
        let mut tls = device.tls(&world, "inside.test").await.unwrap();
        tls.write_all(b"GET /first HTTP/1.1\r\nHost: inside.test\r\nConnection: close\r\n\r\n").await.unwrap();
        connections.push(tls);
    }
    let under_way = format!("proxy_http_active_requests {REQUESTS}\n");
    soon(async { while !metrics(&world).await.contains(&under_way) {} }).await;
    world.management.peers.asked(1).await;
    world.management.peers.answer(true);
    for mut tls in connections {
        let mut answer = String::new();
        soon(tls.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("x-netbird-user: laptop"), "{answer}");
    }
    assert_eq!(world.management.peers.questions().len(), 1);
    let text = metrics(&world).await;
    assert!(text.contains("postern_tunnels 2\n"), "{text}");
    assert!(text.contains("postern_tunnel_connected_peers{account=\"acc\"} 1\n"), "{text}");
    assert!(text.contains("postern_tunnel_events_total{account=\"acc\",event="), "{text}");
}

async fn metrics(world: &World) -> String {
    let mut stream = TcpStream::connect(world.proxy.health_addr().unwrap()).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.unwrap();
    answer
}

#[tokio::test]
async fn a_peer_that_is_taken_out_is_cut_off_and_forgotten() {
    let (world, device, _upstream) = world(|_| {}).await;
    let peers = &world.management.peers;
    assert_eq!(device.get(&world, "inside.test", "/", &[]).await.status, StatusCode::OK);
    assert_eq!(device.get(&world, "inside.test", "/", &[]).await.status, StatusCode::OK);
    assert_eq!(peers.questions().len(), 1, "the verdict is kept");

    let mut live = device.tls(&world, "inside.test").await.unwrap();
    peers.set("acc", Vec::new());
    let mut rest = Vec::new();
    // A peer without a session hears nothing: what counts is that nothing of it is served any more.
    peers.set("acc", vec![device.mapped(2)]);
    let _in_vain = live.write_all(b"GET /late HTTP/1.1\r\nHost: inside.test\r\n\r\n").await;
    let cut = soon(live.read_to_end(&mut rest)).await;
    assert!(cut.is_err() || rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
    assert_eq!(device.get(&world, "inside.test", "/", &[]).await.status, StatusCode::OK);
    let generations: Vec<u64> = peers.questions().iter().map(|question| question.generation.0).collect();
    assert_eq!(generations, [1, 2]);
}

#[tokio::test]
async fn a_websocket_lives_as_long_as_its_peer_is_who_it_was() {
    let upstream = Upstream::start(websocket).await;
    let device = Device::new("laptop", "100.72.0.2");
    let management = Arc::new(Fake::default());
    management.peers.set("acc", vec![device.mapped(1)]);
    let world = World::start_under(management, &[private("inside", &upstream.url())], |_| {}).await;
    device.knows(&world.management.peers.registered("acc").await);
    world.management.status("inside", ServiceState::Active).await;
    let tls = device.tls(&world, "inside.test").await.unwrap();
    let (mut socket, _) = soon(client_async("wss://inside.test/live", tls)).await.unwrap();
    soon(socket.send(Message::text("hello"))).await.unwrap();
    assert_eq!(soon(socket.next()).await.unwrap().unwrap(), Message::text("hello"));
    // Nothing has changed for this peer.
    let other = Device::new("phone", "100.72.0.3");
    world.management.peers.set("acc", vec![device.mapped(1), other.mapped(1)]);
    soon(socket.send(Message::text("still"))).await.unwrap();
    assert_eq!(soon(socket.next()).await.unwrap().unwrap(), Message::text("still"));
    world.management.peers.set("acc", vec![device.mapped(2), other.mapped(1)]);
    assert!(soon(socket.next()).await.is_none_or(|end| end.is_err()));
    assert_eq!(world.management.line("/live").await.status, 101);
}

#[tokio::test]
async fn whoever_is_behind_a_site_is_nobody_in_particular() {
    let (world, device, _upstream) = world(|_| {}).await;
    for (generation, range) in [(2, "10.9.0.0/24"), (3, "10.9.0.5/32")] {
        let mut site = device.mapped(generation);
        site.allowed_ips.push(range.parse().unwrap());
        let mut before = device.connect(80).await.unwrap();
        world.management.peers.set("acc", vec![site]);
        // The map is in force when those who came under the one before are cut off.
        assert!(!matches!(soon(before.read(&mut [0])).await, Ok(1..)), "{range}");
        let heard = device.get(&world, "inside.test", "/", &[]).await;
        assert_eq!(heard.status, StatusCode::OK, "{range}");
        assert!(!heard.body.contains("x-netbird-user") && !heard.body.contains("laptop"), "{range}: {}", heard.body);
    }
}

#[tokio::test]
async fn a_large_body_goes_both_ways() {
    let (world, device, _upstream) = world(|_| {}).await;
    let body: String = (0..200_000).map(|line| format!("{line:06}\n")).collect();
    let tls = device.tls(&world, "inside.test").await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = request(Method::POST, "inside.test", "/", &[], "").map(|_| Full::new(Bytes::from(body.clone())));
    let heard = heard(soon(sender.send_request(request)).await.unwrap()).await;
    assert!(heard.body.ends_with(&body));
    drop(sender);
    soon(connection).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_service_that_becomes_private_is_gone_from_the_public_listener_at_once() {
    let (world, device, upstream) = world(|_| {}).await;
    let mut before = world.tls("app.test").await.unwrap();
    world.change(vec![upsert(&private("app", &upstream.url()))]).await;
    assert!(world.tls("app.test").await.is_err());
    before.write_all(b"GET /late HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    soon(before.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    assert_eq!(device.get(&world, "app.test", "/", &[]).await.status, StatusCode::OK);
    world.change(vec![upsert(&open("app", &upstream.url()))]).await;
    assert_eq!(world.get("app.test", "/", &[]).await.status, StatusCode::OK);
}

#[tokio::test]
async fn without_private_listeners_nobody_gets_in_and_the_reason_is_reported() {
    let upstream = Upstream::mirror().await;
    let device = Device::new("laptop", "100.72.0.2");
    let management = Arc::new(Fake::default());
    management.peers.set("acc", vec![device.mapped(1)]);
    let world = World::start_under(management, &[private("inside", &upstream.url())], |config| {
        config.tunnel.as_mut().unwrap().inbound = false;
    })
    .await;
    device.knows(&world.management.peers.registered("acc").await);
    let status = world.management.status("inside", ServiceState::TunnelNotCreated).await;
    assert!(status.error.as_deref().is_some_and(|error| error.contains("--private")), "{status:?}");
    assert_eq!(status.inbound, None);
    let refused = device.connect(443).await.unwrap_err();
    assert!(matches!(refused, postern_tunnel::ConnectError::Refused(_)), "{refused}");
}
