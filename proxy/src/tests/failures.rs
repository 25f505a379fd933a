//! Upstreams and clients that fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Method, Request, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::Config;

use super::basics::{all, heard, request, soon};
use super::upstream::{Upstream, page, with_status};
use super::world::{World, open};

#[tokio::test]
async fn a_dead_upstream_is_named() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let world = World::start(&[open("app", &format!("http://{gone}/"))]).await;
    let page = world.get("app.test", "/page", &[("accept", "text/html")]).await;
    assert_eq!(page.status, StatusCode::BAD_GATEWAY);
    assert!(page.body.contains("Service Unavailable") && page.header("content-security-policy").contains("'none'"));
    let line = world.management.line("/page").await;
    assert_eq!((line.status, line.reason), (502, "upstream_refused"));
    assert!(page.body.contains(&line.id.to_string()), "the page names the request");

    let mut client = world.http1("app.test").await;
    let head = client.send_request(request(Method::HEAD, "app.test", "/head", &[], "")).await.unwrap();
    let head = heard(head).await;
    assert_eq!((head.status, head.body.as_str()), (StatusCode::BAD_GATEWAY, ""));
}

#[tokio::test]
async fn a_slow_upstream_is_given_up() {
    let upstream = Upstream::start(|_| std::future::pending()).await;
    let mut app = open("app", &upstream.url());
    app.paths[0].options.request_timeout = Some(Duration::from_millis(100));
    let world = World::start(&[app]).await;
    assert_eq!(world.get("app.test", "/slow", &[]).await.status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(world.management.line("/slow").await.reason, "upstream_timeout");
}

/// A kept connection that its upstream closes in the moment it is used (RFC 9112 §9.3.1): what may be made twice is, over a
/// new connection; what may not gets a 502.
#[tokio::test]
async fn a_request_that_met_a_closing_connection_is_made_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let closing = tokio::spawn(async move {
        // Each connection answers its first request and hangs up on its second.
        for _ in 0..4 {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let _first = stream.read(&mut request).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
            let _second = stream.read(&mut request).await.unwrap();
        }
    });
    let rested = |config: &mut Config| config.upstream.rested = Duration::ZERO;
    let world = World::start_with(&[open("app", &format!("http://{address}/"))], rested).await;
    for path in ["/first", "/second", "/third"] {
        assert_eq!(world.get("app.test", path, &[]).await.status, StatusCode::OK, "{path}");
    }
    let mut client = world.http1("app.test").await;
    let post = client.send_request(request(Method::POST, "app.test", "/post", &[], "x")).await.unwrap();
    assert_eq!(heard(post).await.status, StatusCode::BAD_GATEWAY);
    assert_eq!(world.get("app.test", "/last", &[]).await.status, StatusCode::OK);
    drop(world);
    soon(closing).await.unwrap();
}

#[tokio::test]
async fn nonsense_from_an_upstream_is_a_bad_gateway() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let nonsense = tokio::spawn(async move {
        for answer in ["SSH-2.0-dropbear\r\n", "HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n"]
        {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let _read = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let world = World::start(&[open("app", &format!("http://{address}/"))]).await;
    for _ in 0..2 {
        assert_eq!(world.get("app.test", "/", &[]).await.status, StatusCode::BAD_GATEWAY);
    }
    soon(nonsense).await.unwrap();
}

#[tokio::test]
async fn a_connection_that_was_closed_meanwhile_is_replaced() {
    // Answers one request per connection and closes it without saying so.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let _read = stream.read(&mut request).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        }
    });
    let world = World::start(&[open("app", &format!("http://{address}/"))]).await;
    for _ in 0..5 {
        assert_eq!(world.get("app.test", "/", &[]).await.body, "ok");
    }
    serving.abort();
}

#[tokio::test]
async fn a_client_that_leaves_leaves_a_line() {
    let (arrived, mut arrivals) = tokio::sync::mpsc::unbounded_channel();
    let upstream = Upstream::start(move |_: Request<_>| {
        arrived.send(()).unwrap();
        std::future::pending()
    })
    .await;
    let world = World::start(&[open("app", &upstream.url())]).await;
    let mut tls = world.tls("app.test").await.unwrap();
    tls.write_all(b"GET /left HTTP/1.1\r\nHost: app.test\r\n\r\n").await.unwrap();
    soon(arrivals.recv()).await.unwrap();
    drop(tls);
    let line = world.management.line("/left").await;
    assert_eq!((line.status, line.reason, line.auth_success), (499, "client_gone", true));
}

#[tokio::test]
async fn an_answer_before_the_request_is_complete_ends_both_connections() {
    let requests = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&requests);
    let upstream = Upstream::start(move |_: Request<_>| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        async move { if number == 0 { with_status(413, "too much") } else { page("fine") } }
    })
    .await;
    let world = World::start(&[open("app", &upstream.url())]).await;
    let mut tls = world.tls("app.test").await.unwrap();
    // What follows the head would be a request of its own if it were taken for one.
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: app.test\r\n\r\n";
    let head = format!("POST /early HTTP/1.1\r\nHost: app.test\r\nContent-Length: 100000\r\n\r\n{smuggled}");
    tls.write_all(head.as_bytes()).await.unwrap();
    let answer = all(tls).await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.ends_with("too much"), "{answer}");
    assert_eq!(world.get("app.test", "/next", &[]).await.body, "fine");
    assert_eq!((requests.load(Ordering::SeqCst), upstream.connections()), (2, 2));
    assert!(world.management.lines().iter().all(|line| &*line.path != "/smuggled"));
}

#[tokio::test]
async fn a_refused_expectation_saves_the_upload() {
    let upstream = Upstream::start(|request: Request<hyper::body::Incoming>| async move {
        match request.uri().path() {
            "/refuse" => with_status(403, "no"),
            _ => {
                let body = http_body_util::BodyExt::collect(request.into_body()).await.unwrap().to_bytes();
                page(body)
            }
        }
    })
    .await;
    let world = World::start(&[open("app", &upstream.url())]).await;
    let ask = async |path: &str| {
        let mut tls = world.tls("app.test").await.unwrap();
        let head =
            format!("POST {path} HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
        tls.write_all(head.as_bytes()).await.unwrap();
        let mut first = vec![0; 12];
        soon(tls.read_exact(&mut first)).await.unwrap();
        (String::from_utf8(first).unwrap(), tls)
    };
    assert_eq!(ask("/refuse").await.0, "HTTP/1.1 403");
    let (first, mut tls) = ask("/take").await;
    assert_eq!(first, "HTTP/1.1 100");
    tls.write_all(b"hello").await.unwrap();
    let mut rest = vec![0; 1024];
    let mut heard = String::new();
    while !heard.ends_with("hello") {
        let read = soon(tls.read(&mut rest)).await.unwrap();
        assert_ne!(read, 0, "{heard}");
        heard += std::str::from_utf8(&rest[..read]).unwrap();
    }
    assert!(heard.contains("HTTP/1.1 200 OK"), "{heard}");
}

#[tokio::test]
async fn an_upstream_has_to_prove_who_it_is_unless_it_need_not() {
    let folder = tempfile::tempdir().unwrap();
    let ca = postern_certs::LocalCa::load_or_create(folder.path()).unwrap();
    let key = ca.issue(&["127.0.0.1"]).unwrap();
    let tls = tokio_rustls::TlsAcceptor::from(postern_certs::server_config(key, &[postern_certs::ALPN_HTTP1]).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    let serving = tokio::spawn(async move {
        loop {
            let Ok(mut stream) = tls.accept(listener.accept().await.unwrap().0).await else { continue };
            let _read = stream.read(&mut [0; 4096]).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecure").await.unwrap();
        }
    });
    let (strict, mut lenient) = (open("strict", &url), open("lenient", &url));
    lenient.paths[0].options.skip_tls_verify = true;
    let world = World::start(&[strict, lenient]).await;
    assert_eq!(world.get("strict.test", "/strict", &[]).await.status, StatusCode::BAD_GATEWAY);
    assert_eq!(world.management.line("/strict").await.reason, "upstream_tls");
    assert_eq!(world.get("lenient.test", "/", &[]).await.body, "secure");
    serving.abort();
}
