//! Limits towards clients, made short. None of these tests asserts how long anything took.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::basics::{all, soon};
use super::upstream::Upstream;
use super::world::{World, open};

const SHORT: Duration = Duration::from_millis(150);

async fn world(upstream: &Upstream, adjust: impl FnOnce(&mut crate::Limits)) -> World {
    World::start_with(&[open("app", &upstream.url())], |config| adjust(&mut config.limits)).await
}

/// What a client hears to the end that says `text` and then nothing.
async fn after(world: &World, text: &str) -> String {
    let mut tls = world.tls("app.test").await.unwrap();
    tls.write_all(text.as_bytes()).await.unwrap();
    all(tls).await
}

#[tokio::test]
async fn silence_before_the_handshake_ends() {
    let upstream = Upstream::mirror().await;
    let world = world(&upstream, |limits| limits.handshake = SHORT).await;
    assert_eq!(all(TcpStream::connect(world.address()).await.unwrap()).await, "");
}

#[tokio::test]
async fn silence_after_the_handshake_ends_before_idleness_does() {
    let upstream = Upstream::mirror().await;
    let world = world(&upstream, |limits| limits.head = SHORT).await;
    assert_eq!(after(&world, "").await, "");
    let http2 = world.http2::<http_body_util::Empty<bytes::Bytes>>("app.test").await;
    soon(async {
        while !http2.is_closed() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_websocket_keeps_its_connections_place() {
    let upstream = Upstream::start(super::flows::websocket).await;
    let world = world(&upstream, |limits| limits.connections = 1).await;
    let socket = super::flows::dial(&world, "app.test").await;
    let second = tokio::time::timeout(SHORT, world.tls("app.test")).await;
    assert!(second.is_err(), "there is no place for a second connection");
    drop(socket);
    soon(world.tls("app.test")).await.unwrap();
}

#[tokio::test]
async fn half_a_head_ends() {
    let upstream = Upstream::mirror().await;
    let world = world(&upstream, |limits| limits.head = SHORT).await;
    assert_eq!(after(&world, "GET / HTTP/1.1\r\nHost: app.test\r\n").await, "");
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn idleness_ends_after_an_answer_too() {
    let upstream = Upstream::mirror().await;
    let world = world(&upstream, |limits| limits.idle = SHORT).await;
    assert_eq!(after(&world, "").await, "");
    assert!(after(&world, "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n").await.starts_with("HTTP/1.1 200 OK"));
}

#[tokio::test]
async fn half_a_body_ends_with_a_word() {
    let upstream = Upstream::mirror().await;
    let world = world(&upstream, |limits| limits.body = SHORT).await;
    let heard = after(&world, "POST /stalled HTTP/1.1\r\nHost: app.test\r\nContent-Length: 10\r\n\r\nhalf").await;
    assert!(heard.starts_with("HTTP/1.1 408 "), "{heard}");
    let line = world.management.line("/stalled").await;
    assert_eq!((line.status, line.reason, line.bytes_upload), (408, "client_stalled", 4));
}

#[tokio::test]
async fn too_large_a_head_is_refused_by_the_parser() {
    let upstream = Upstream::mirror().await;
    let world = world(&upstream, |_| {}).await;
    let large = format!("GET / HTTP/1.1\r\nHost: app.test\r\nX-Large: {}\r\n\r\n", "x".repeat(100_000));
    assert!(after(&world, &large).await.starts_with("HTTP/1.1 431 "));
    let many = format!("GET / HTTP/1.1\r\nHost: app.test\r\n{}\r\n", "X-Many: 1\r\n".repeat(101));
    assert!(after(&world, &many).await.starts_with("HTTP/1.1 431 "));
    let large =
        format!("GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\nX-Large: {}\r\n\r\n", "x".repeat(30_000));
    assert!(after(&world, &large).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut() {
    let upstream = Upstream::start(|_: http::Request<_>| async { super::upstream::page(vec![0; 64 << 20]) }).await;
    let world = world(&upstream, |limits| limits.write = SHORT).await;
    let mut http1 = world.tls("app.test").await.unwrap();
    http1.write_all(b"GET /one HTTP/1.1\r\nHost: app.test\r\n\r\n").await.unwrap();
    let mut http2 = world.http2::<http_body_util::Empty<bytes::Bytes>>("app.test").await;
    let request = http::Request::builder().uri("https://app.test/two").body(Default::default()).unwrap();
    let unread = soon(http2.send_request(request)).await.unwrap();
    for path in ["/one", "/two"] {
        assert_eq!(world.management.line(path).await.reason, "client_gone");
    }
    drop((http1, unread));
}
