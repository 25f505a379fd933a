//! S5, S24: what forwarders say of a client is believed from those that `--trusted-proxies` names, and from nobody else.

use postern_proto::management::AccessRestrictions;
use postern_tests::edge::Edge;
use postern_tests::stock::{ACTIVE, State, Stock, mapping};
use postern_tests::upstream::Upstream;
use postern_tests::{client::status_of, eventually};

/// `app.test` is for 203.0.113.0/24 alone, `more.test` for everybody.
async fn server(upstream: &Upstream) -> Stock {
    let only = AccessRestrictions { allowed_cidrs: vec!["203.0.113.0/24".to_owned()], ..Default::default() };
    let mut app = mapping("1", "app.test", &upstream.url());
    app.access_restrictions = Some(only);
    let snapshot = vec![app, mapping("2", "more.test", &upstream.url())];
    Stock::start(State { snapshot, ..State::default() }).await
}

async fn ask(edge: &Edge, host: &str, lines: &str) -> u16 {
    let request = format!("GET /{host} HTTP/1.1\r\nHost: {host}\r\n{lines}Connection: close\r\n\r\n");
    status_of(&edge.client.raw(host, request.as_bytes()).await)
}

async fn active(server: &Stock) {
    for service in ["1", "2"] {
        let active = || async { server.status(service).filter(|(status, _)| *status == ACTIVE).map(|_| ()) };
        eventually("the services to be active", active).await;
    }
}

const CLAIM: &str = "X-Forwarded-For: 198.51.100.1\r\nX-Forwarded-For: 203.0.113.9, 10.1.1.1\r\n\
                     X-Forwarded-Proto: http\r\nX-Forwarded-Host: public.test\r\nForwarded: for=203.0.113.9\r\n";

#[tokio::test]
async fn a_trusted_forwarder_is_believed() {
    let upstream = Upstream::named("app").await;
    let server = server(&upstream).await;
    let edge = Edge::with(&server, &["--trusted-proxies", "127.0.0.1, 10.0.0.0/8"]);
    active(&server).await;
    assert_eq!(ask(&edge, "app.test", CLAIM).await, 200);
    let seen = upstream.last();
    assert_eq!(seen.all("x-forwarded-for"), ["198.51.100.1, 203.0.113.9, 10.1.1.1, 127.0.0.1"]);
    assert_eq!(seen.all("x-real-ip"), ["203.0.113.9"]);
    assert_eq!(seen.all("x-forwarded-proto"), ["http"]);
    assert_eq!(seen.all("x-forwarded-host"), ["public.test"]);
    assert!(seen.all("forwarded").is_empty(), "we do not vouch for it: {:?}", seen.headers);
    eventually("the line", || async {
        let state = server.state.lock();
        state.lines.iter().any(|line| line.path == "/app.test" && line.source_ip == "203.0.113.9").then_some(())
    })
    .await;

    // The nearest address that nobody trusts is the client, whatever stands before it; without any, the forwarder is.
    for lines in ["X-Forwarded-For: 203.0.113.9, 198.51.100.1\r\n", "Forwarded: for=203.0.113.9\r\n", ""] {
        assert_eq!(ask(&edge, "app.test", lines).await, 403, "{lines:?}");
    }
}

#[tokio::test]
async fn nobody_else_is() {
    let upstream = Upstream::named("app").await;
    let server = server(&upstream).await;
    for flags in [&[][..], &["--trusted-proxies", "10.0.0.0/8"]] {
        let edge = Edge::with(&server, flags);
        eventually("more.test to be served", || async { edge.client.tls("more.test").await.ok().map(drop) }).await;
        let before = upstream.received().len();
        for lines in
            [CLAIM, "X-Real-IP: 203.0.113.9\r\nX_Forwarded_For: 203.0.113.9\r\nTrue-Client-IP: 203.0.113.9\r\n"]
        {
            assert_eq!(ask(&edge, "app.test", lines).await, 403, "{flags:?} {lines:?}");
        }
        assert_eq!(upstream.received().len(), before, "{flags:?}: nothing was let through");
        assert_eq!(ask(&edge, "more.test", CLAIM).await, 200);
        let seen = upstream.last();
        assert_eq!(seen.all("x-forwarded-for"), ["127.0.0.1"], "{flags:?}");
        assert_eq!(seen.all("x-forwarded-proto"), ["https"], "{flags:?}");
        assert!(!format!("{:?}", seen.headers).contains("203.0.113.9"), "{:?}", seen.headers);
    }
}
