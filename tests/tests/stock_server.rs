//! `postern proxy` against a management server that knows nothing of ours.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::Request;
use http_body_util::Full;
use postern_auth::session::SigningKey;
use postern_model::{HostName, Principal};
use postern_proto::management::{Authentication, HeaderAuth, ProxyMapping};
use postern_tests::edge::{Edge as Proxy, TOKEN};
use postern_tests::stock::{ACTIVE, ERROR, MODIFIED, REMOVED, State, Stock, TUNNEL_NOT_CREATED, mapping};
use postern_tests::upstream::Upstream;
use postern_tests::{eventually, within};
use tokio_tungstenite::tungstenite::Message;

async fn status(server: &Stock, service: &str, wanted: i32) -> String {
    let what = format!("status {wanted} of {service}");
    eventually(&what, || async { server.status(service).filter(|(s, _)| *s == wanted).map(|(_, error)| error) }).await
}

fn with(snapshot: Vec<ProxyMapping>) -> State {
    State { snapshot, ..State::default() }
}

#[tokio::test]
async fn mappings_come_and_go_and_every_call_carries_the_token() {
    let upstream = Upstream::named("app").await;
    let server = Stock::start(with(vec![mapping("1", "app.test", &upstream.url())])).await;
    let proxy = Proxy::start(&server);
    proxy.serves("app.test", "app").await;
    assert_eq!(status(&server, "1", ACTIVE).await, "");
    eventually("the snapshot to be acknowledged", || async { (server.state.lock().acks == 1).then_some(()) }).await;

    let other = Upstream::named("other").await;
    server.update(ProxyMapping { r#type: MODIFIED, ..mapping("1", "app.test", &other.url()) });
    proxy.serves("app.test", "other").await;
    server.update(mapping("2", "more.test", &upstream.url()));
    proxy.serves("more.test", "app").await;
    server.update(ProxyMapping { r#type: REMOVED, ..mapping("2", "more.test", &upstream.url()) });
    proxy.refuses("more.test").await;
    proxy.serves("app.test", "other").await;
    eventually("every message to be acknowledged", || async { (server.state.lock().acks == 4).then_some(()) }).await;

    let tokens = server.state.lock().tokens.clone();
    assert!(!tokens.is_empty() && tokens.iter().all(|token| token == &format!("Bearer {TOKEN}")), "{tokens:?}");
    let (code, output) = proxy.process.stop().await;
    assert_eq!(code, Some(0), "{output}");
    assert!(!output.contains(TOKEN), "{output}");
    let served = upstream.received().len() + other.received().len();
    assert!(
        server.state.lock().lines.len() >= served,
        "every request is in the log, the last ones by the flush at the end"
    );
}

#[tokio::test]
async fn an_older_server_is_asked_the_older_way() {
    let upstream = Upstream::named("app").await;
    let server = Stock::start(State { legacy: true, ..with(vec![mapping("1", "app.test", &upstream.url())]) }).await;
    let proxy = Proxy::start(&server);
    proxy.serves("app.test", "app").await;
    assert_eq!(server.state.lock().acks, 0);
}

/// S36: what needs the tunnel is refused, and never dialled over the host's network.
#[tokio::test]
async fn a_target_behind_the_tunnel_is_never_dialled_over_the_hosts_network() {
    let upstream = Upstream::named("app").await;
    let mut tunnelled = mapping("1", "app.test", &upstream.url());
    tunnelled.path[0].options = None;
    let server = Stock::start(with(vec![tunnelled, mapping("2", "more.test", &upstream.url())])).await;
    let proxy = Proxy::start(&server);
    let reason = status(&server, "1", TUNNEL_NOT_CREATED).await;
    assert!(reason.contains("peer maps"), "{reason}");
    proxy.serves("more.test", "app").await;
    let (connections, requests) = (upstream.connections(), upstream.received().len());
    assert_eq!(proxy.client.get("app.test", "/").await.status, 502);
    assert_eq!((upstream.connections(), upstream.received().len()), (connections, requests), "nothing was sent");
}

#[tokio::test]
async fn what_this_version_lacks_is_reported_and_never_served_open() {
    let upstream = Upstream::named("app").await;
    let key =
        Some(Authentication { session_key: base64_of([7; 32]), max_session_age_seconds: 60, ..Default::default() });
    let auth = |change: fn(&mut Authentication)| {
        let mut auth = key.clone().expect("set above");
        change(&mut auth);
        ProxyMapping { auth: Some(auth), ..mapping("", "app.test", &upstream.url()) }
    };
    let plain = || mapping("", "app.test", &upstream.url());
    let bad = [
        ("password", auth(|a| a.password = true)),
        ("PIN", auth(|a| a.pin = true)),
        ("OIDC", auth(|a| a.oidc = true)),
        ("tcp", ProxyMapping { mode: "tcp".to_owned(), listen_port: 5432, ..plain() }),
        ("port", ProxyMapping { listen_port: 5432, ..plain() }),
        ("mode", ProxyMapping { mode: "quic".to_owned(), ..plain() }),
        ("target", ProxyMapping { ..mapping("", "app.test", "not a url") }),
        ("host", ProxyMapping { ..mapping("", "no host", &upstream.url()) }),
    ];
    let mut all = vec![mapping("good", "more.test", &upstream.url())];
    for (n, (_, mapping)) in bad.iter().enumerate() {
        let domain = mapping.domain.replace("app.test", &format!("bad-{n}.test"));
        all.push(ProxyMapping { id: format!("bad-{n}"), domain, ..mapping.clone() });
    }
    let server = Stock::start(with(all)).await;
    let proxy = Proxy::start(&server);
    for (n, (word, _)) in bad.iter().enumerate() {
        let reason = status(&server, &format!("bad-{n}"), ERROR).await;
        assert!(reason.to_lowercase().contains(&word.to_lowercase()), "{word}: {reason}");
    }
    proxy.serves("more.test", "app").await;
    for n in 0..bad.len() {
        assert!(proxy.client.tls(&format!("bad-{n}.test")).await.is_err(), "bad-{n} is not served");
    }
}

#[tokio::test]
async fn a_reconnect_disturbs_nobody_and_keeps_what_was_there() {
    let upstream = Upstream::named("app").await;
    let server = Stock::start(with(vec![mapping("1", "app.test", &upstream.url())])).await;
    let proxy = Proxy::start(&server);
    proxy.serves("app.test", "app").await;
    let tls = proxy.client.tls("app.test").await.expect("the handshake succeeds");
    let (mut socket, _) =
        within("the upgrade", tokio_tungstenite::client_async("wss://app.test/socket", tls)).await.expect("an upgrade");

    let mut server = server;
    for round in 0..3 {
        let streams = server.state.lock().streams;
        server = server.restart().await;
        // While nobody answers, what was there goes on.
        proxy.serves("app.test", "app").await;
        eventually("a new stream", || async { (server.state.lock().streams > streams).then_some(()) }).await;
        let text = Message::text(format!("round {round}"));
        socket.send(text.clone()).await.expect("it is open");
        assert_eq!(within("an echo", socket.next()).await.expect("an echo").expect("an echo"), text);
    }
    // What a snapshot does not mention is gone, and its flows with it.
    server.state.lock().snapshot.clear();
    let server = server.restart().await;
    within("the WebSocket to be cut", async { while let Some(Ok(_)) = socket.next().await {} }).await;
    proxy.refuses("app.test").await;
    drop(server);
}

#[tokio::test]
async fn log_lines_are_counted_exactly_over_a_restart() {
    let upstream = Upstream::named("app").await;
    let server = Stock::start(with(vec![mapping("1", "app.test", &upstream.url())])).await;
    let proxy = Proxy::start(&server);
    proxy.serves("app.test", "app").await;
    for n in 0..50 {
        assert_eq!(proxy.client.get("app.test", &format!("/before/{n}")).await.status, 200);
    }
    let (addr, state) = (server.addr, std::sync::Arc::clone(&server.state));
    drop(server);
    for n in 0..50 {
        assert_eq!(proxy.client.get("app.test", &format!("/while/{n}")).await.status, 200);
    }
    let server = Stock::again(addr, state).await;
    for n in 0..50 {
        assert_eq!(proxy.client.get("app.test", &format!("/after/{n}")).await.status, 200);
    }
    let (code, output) = proxy.process.stop().await;
    assert_eq!(code, Some(0), "{output}");
    let lines = server.state.lock().lines.clone();
    for part in ["before", "while", "after"] {
        for n in 0..50 {
            let path = format!("/{part}/{n}");
            let mut ids: Vec<_> = lines.iter().filter(|l| l.path == path).map(|l| l.log_id.clone()).collect();
            // A call whose answer the crash took away is made again: the same line, by its id.
            ids.dedup();
            assert_eq!(ids.len(), 1, "{path}");
        }
    }
}

#[tokio::test]
async fn a_header_login_names_nobody_and_its_token_is_asked_for_once() {
    let upstream = Upstream::named("vault").await;
    let signer = SigningKey::from_seed(&[7; 32]);
    let nobody =
        Principal { subject: "header-user".to_owned(), email: None, groups: Vec::new(), method: "header".to_owned() };
    let host = HostName::parse("vault.test").expect("a host");
    let token = signer.sign(&nobody, &host, SystemTime::now(), Duration::from_secs(600));
    let headers =
        vec![HeaderAuth { header: "X-Api-Key".to_owned(), hashed_value: "argon2".to_owned(), ..Default::default() }];
    let auth =
        Authentication { session_key: base64_of(signer.public().0), header_auths: headers, ..Default::default() };
    let vault = ProxyMapping { auth: Some(auth), ..mapping("1", "vault.test", &upstream.url()) };
    let state = State { header: Some(("right".to_owned(), token.expose().to_owned())), ..with(vec![vault]) };
    let server = Stock::start(state).await;
    let proxy = Proxy::start(&server);
    status(&server, "1", ACTIVE).await;
    let request = |key: &str| {
        let request = Request::get("/").header("host", "vault.test").header("x-api-key", key);
        request.body(Full::<Bytes>::default()).expect("a request")
    };
    assert_eq!(proxy.client.get("vault.test", "/").await.status, 401);
    assert_eq!(proxy.client.send("vault.test", request("wrong")).await.status, 401);
    let asked = server.state.lock().authenticated;
    for _ in 0..5 {
        assert_eq!(proxy.client.send("vault.test", request("right")).await.status, 200);
    }
    assert_eq!(server.state.lock().authenticated, asked + 1, "a request costs no call");
    let seen = upstream.last();
    for absent in ["x-api-key", "x-netbird-user", "x-netbird-groups"] {
        assert!(seen.all(absent).is_empty(), "{absent}: {:?}", seen.headers);
    }
    // S23: no verdict is no permit.
    drop(server);
    assert_eq!(proxy.client.send("vault.test", request("other")).await.status, 502);
    assert_eq!(proxy.client.get("vault.test", "/").await.status, 401);
}

fn base64_of(key: [u8; 32]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(key)
}
