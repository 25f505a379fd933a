//! Who is let in, and what those hear who are not.

use http::{Method, Request, StatusCode};
use http_body_util::Full;
use postern_model::AuthMechanism;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::basics::{all, heard, request, soon};
use super::upstream::Upstream;
use super::world::{World, basic, open, upsert};

const ALICE: (&str, &str) = ("authorization", "Basic YWxpY2U6c2VjcmV0");

#[tokio::test]
async fn basic_asks_then_opens_then_remembers() {
    let upstream = Upstream::mirror().await;
    let world = World::start(&[basic("vault", &upstream.url())]).await;

    let refused = world.get("vault.test", "/none", &[("accept", "text/html")]).await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    assert!(refused.header("www-authenticate").starts_with("Basic realm=\"test\""));
    assert!(refused.body.contains("Login Required") && refused.header("content-type").starts_with("text/html"));
    let wrong = world.get("vault.test", "/wrong", &[("authorization", "Basic YWxpY2U6d3Jvbmc=")]).await;
    assert_eq!(wrong.status, StatusCode::UNAUTHORIZED);
    assert_eq!(upstream.connections(), 0, "nothing reaches the upstream");
    let line = world.management.line("/none").await;
    assert_eq!((line.status, line.auth_success, line.reason), (401, false, "credential_missing"));

    let right = world.get("vault.test", "/right", &[ALICE]).await;
    assert_eq!(right.status, StatusCode::OK);
    assert!(right.body.contains("x-netbird-user: alice\n") && right.body.contains("x-netbird-groups: staff\n"));
    assert!(!right.body.to_lowercase().contains("authorization"), "{}", right.body);
    let line = world.management.line("/right").await;
    assert_eq!((line.user_id.as_str(), line.mechanism, line.auth_success), ("user:alice", AuthMechanism::Header, true));

    let cookie = right.header("set-cookie").split(';').next().unwrap().to_owned();
    let asked = world.management.questions();
    let session = world.get("vault.test", "/session", &[("cookie", &format!("a=1; {cookie}"))]).await;
    assert!(session.body.contains("x-netbird-user: alice\n") && session.body.contains("cookie: a=1\n"));
    assert_eq!(world.management.questions(), asked, "a session needs no question");
}

#[tokio::test]
async fn a_refusal_reaches_a_client_that_is_still_sending() {
    let upstream = Upstream::mirror().await;
    let world = World::start(&[basic("vault", &upstream.url())]).await;
    let mut tls = world.tls("vault.test").await.unwrap();
    let head = "POST / HTTP/1.1\r\nHost: vault.test\r\nContent-Length: 900000\r\n\r\n";
    soon(tls.write_all(head.as_bytes())).await.unwrap();
    soon(tls.write_all(&vec![b'x'; 900_000])).await.unwrap();
    let answer = all(&mut tls).await;
    assert!(answer.starts_with("HTTP/1.1 401 ") && answer.contains("connection: close"), "{answer}");
    // It is still listened to: there was no reset, which could have overtaken the answer.
    soon(tls.get_mut().0.write_all(b"more")).await.unwrap();
}

#[tokio::test]
async fn sources_are_restricted() {
    let upstream = Upstream::mirror().await;
    let (mut inside, mut outside) = (open("inside", &upstream.url()), open("outside", &upstream.url()));
    inside.restrictions.allowed_cidrs = vec!["127.0.0.0/8".parse().unwrap()];
    outside.restrictions.allowed_cidrs = vec!["10.0.0.0/8".parse().unwrap()];
    let world = World::start(&[inside, outside]).await;
    assert_eq!(world.get("inside.test", "/", &[]).await.status, StatusCode::OK);
    assert_eq!(world.get("outside.test", "/no", &[]).await.status, StatusCode::FORBIDDEN);
    let line = world.management.line("/no").await;
    assert_eq!((line.mechanism, line.auth_success), (AuthMechanism::IpRestricted, false));
}

#[tokio::test]
async fn an_ipv4_client_is_one_on_a_listener_for_both_families() {
    let upstream = Upstream::mirror().await;
    let mut inside = open("inside", &upstream.url());
    inside.restrictions.allowed_cidrs = vec!["127.0.0.0/8".parse().unwrap()];
    let world = World::start_with(&[inside], |config| config.https = "[::]:0".parse().unwrap()).await;
    let port = world.address().port();
    for (host, path, status) in [("inside.test", "/good", 200), ("other.test", "", 421)] {
        let mut tls = world.tls_at(([127, 0, 0, 1], port).into(), "inside.test").await.unwrap();
        let head =
            format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").replace("GET  ", "GET / ");
        tls.write_all(head.as_bytes()).await.unwrap();
        let answer = all(tls).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        let line = world.management.line(path).await;
        assert_eq!((line.status, line.source.to_string().as_str()), (status, "127.0.0.1"));
    }
}

#[tokio::test]
async fn unknown_foreign_and_missing_names_are_refused_in_the_handshake() {
    let upstream = Upstream::mirror().await;
    let world = World::start(&[open("app", &upstream.url())]).await;
    assert!(world.tls("app.test").await.is_ok());
    for name in ["other.test", "app.test.evil.test", "127.0.0.1"] {
        let error = world.tls(name).await.unwrap_err().to_string();
        assert!(error.contains("UnrecognisedName"), "{name}: {error}");
    }
}

#[tokio::test]
async fn the_name_of_the_connection_binds_its_requests() {
    let upstream = Upstream::mirror().await;
    let world = World::start(&[open("app", &upstream.url()), open("other", &upstream.url())]).await;
    let mut client = world.http1("app.test").await;
    let mut ask = async |host: &'static str| {
        client.ready().await.unwrap();
        heard(client.send_request(request(Method::GET, host, "/", &[], "")).await.unwrap()).await.status
    };
    assert_eq!(ask("APP.test.:8443").await, StatusCode::OK);
    // Published and unknown ones answer alike.
    assert_eq!(ask("other.test").await, StatusCode::MISDIRECTED_REQUEST);
    assert_eq!(ask("unknown.test").await, StatusCode::MISDIRECTED_REQUEST);

    let mut client = world.http2::<Full<bytes::Bytes>>("app.test").await;
    let request = Request::builder().uri("https://other.test/").body(Full::default()).unwrap();
    assert_eq!(client.send_request(request).await.unwrap().status(), StatusCode::MISDIRECTED_REQUEST);
}

#[tokio::test]
async fn plain_http_is_told_where_it_is() {
    let world = World::start(&[]).await;
    let mut plain = TcpStream::connect(world.address()).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n").await.unwrap();
    let answer = all(plain).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 400 ") && body.contains("https://"), "{answer}");
    assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{answer}");
}

#[tokio::test]
async fn changed_access_holds_for_the_next_request() {
    let upstream = Upstream::mirror().await;
    let world = World::start(&[open("vault", &upstream.url())]).await;
    assert_eq!(world.get("vault.test", "/", &[]).await.status, StatusCode::OK);
    world.change(vec![upsert(&basic("vault", &upstream.url()))]).await;
    assert_eq!(world.get("vault.test", "/", &[]).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(world.get("vault.test", "/", &[ALICE]).await.status, StatusCode::OK);
}

#[tokio::test]
async fn what_has_no_route_is_not_found() {
    let upstream = Upstream::mirror().await;
    let mut app = open("app", &upstream.url());
    app.paths[0].path = "/api".into();
    let world = World::start(&[app]).await;
    assert_eq!(world.get("app.test", "/api/x", &[]).await.status, StatusCode::OK);
    let missing = world.get("app.test", "/apix", &[("accept", "application/json")]).await;
    assert_eq!((missing.status, missing.header("content-type")), (StatusCode::NOT_FOUND, "application/json"));
    assert_eq!(world.get("app.test", "/api/../x", &[]).await.status, StatusCode::BAD_REQUEST);
    let line = world.management.line("/apix").await;
    assert_eq!((line.status, line.reason, line.service), (404, "no_route", None));
}
