//! Starting and stopping.

use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::basics::soon;
use super::upstream::{Upstream, page};
use super::world::{World, open};
use crate::{Config, StartError};

#[tokio::test]
async fn a_port_in_use_is_said_in_one_sentence() {
    let world = World::start(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    let ca = Arc::new(postern_certs::LocalCa::load_or_create(folder.path()).unwrap());
    struct Nothing;
    impl postern_model::MappingEvents for Nothing {
        fn next(&mut self) -> postern_model::BoxFuture<'_, Option<postern_model::Delivery>> {
            Box::pin(std::future::pending())
        }
    }
    let second = crate::start(
        Config::new(world.address()),
        world.management.clone(),
        Box::new(Nothing),
        Arc::new(postern_certs::Certificates::local(ca)),
    );
    let error = soon(second).await.unwrap_err();
    assert!(matches!(error, StartError::InUse { .. }), "{error}");
    assert!(error.to_string().contains("already in use"));
}

#[tokio::test]
async fn draining_finishes_what_is_under_way_and_takes_nothing_new() {
    let (arrived, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let signals = (Arc::clone(&arrived), Arc::clone(&go));
    let upstream = Upstream::start(move |request: Request<_>| {
        let (arrived, go) = signals.clone();
        async move {
            if request.uri().path() == "/slow" {
                arrived.notify_one();
                go.notified().await;
            }
            page("done")
        }
    })
    .await;
    let world = World::start_with(&[open("app", &upstream.url())], |config| {
        config.health = Some("127.0.0.1:0".parse().unwrap());
    })
    .await;
    let address = world.address();
    assert_eq!(health(world.proxy.health_addr().unwrap(), "/healthz/ready").await, 200);
    let mut idle = world.tls("app.test").await.unwrap();
    let mut busy = world.tls("app.test").await.unwrap();
    busy.write_all(b"GET /slow HTTP/1.1\r\nHost: app.test\r\n\r\n").await.unwrap();
    soon(arrived.notified()).await;

    let management = world.management.clone();
    let shutdown = tokio::spawn(world.proxy.shutdown(Duration::from_secs(15)));
    let mut end = Vec::new();
    soon(idle.read_to_end(&mut end)).await.unwrap();
    assert!(end.is_empty(), "an idle connection is closed");
    soon(async { while TcpStream::connect(address).await.is_ok() {} }).await;
    assert!(!shutdown.is_finished());
    go.notify_one();
    let mut answer = String::new();
    soon(busy.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("done"), "{answer}");
    soon(shutdown).await.unwrap();
    assert_eq!(management.line("/slow").await.status, 200);
}

#[tokio::test]
async fn what_does_not_finish_in_time_is_cut_and_logged() {
    let arrived = Arc::new(Notify::new());
    let signal = Arc::clone(&arrived);
    let upstream = Upstream::start(move |_: Request<_>| {
        signal.notify_one();
        std::future::pending()
    })
    .await;
    let world = World::start(&[open("app", &upstream.url())]).await;
    let mut busy = world.tls("app.test").await.unwrap();
    busy.write_all(b"GET /forever HTTP/1.1\r\nHost: app.test\r\n\r\n").await.unwrap();
    soon(arrived.notified()).await;
    let management = world.management.clone();
    soon(world.proxy.shutdown(Duration::from_millis(50))).await;
    let line = management.line("/forever").await;
    assert!(line.status == 503 || line.status == 499, "{line:?}");
}

#[tokio::test]
async fn several_workers_share_the_port() {
    let upstream = Upstream::mirror().await;
    let world = World::start_with(&[open("app", &upstream.url())], |config| {
        config.workers = std::num::NonZeroUsize::new(4).unwrap();
    })
    .await;
    for _ in 0..20 {
        assert_eq!(world.get("app.test", "/", &[]).await.status, StatusCode::OK);
    }
    assert!(upstream.connections() > 1, "the kernel spreads connections over the workers");
}

async fn health(address: std::net::SocketAddr, path: &str) -> u16 {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}
