//! What a peer has begun ends with it, however little of its end can be seen on its connection.

use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use postern_model::ServiceState;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::basics::soon;
use super::device::Device;
use super::private::private;
use super::upstream::{Upstream, page};
use super::world::{Fake, World, basic, open, upsert};

/// The private service `inside` at `upstream`, and a peer that may use it.
async fn world(upstream: &str) -> (World, Device) {
    let device = Device::new("laptop", "100.72.0.2");
    let management = Arc::new(Fake::default());
    management.peers.set("acc", vec![device.mapped(1)]);
    let world = World::start_under(management, &[private("inside", upstream)], |_| {}).await;
    device.knows(&world.management.peers.registered("acc").await);
    world.management.status("inside", ServiceState::Active).await;
    (world, device)
}

/// What happens to a peer.
#[derive(Clone, Copy, Debug)]
enum Change {
    Removed,
    Renewed,
}

impl Change {
    fn apply(self, world: &World, device: &Device) {
        world.management.peers.set(
            "acc",
            match self {
                Self::Removed => Vec::new(),
                Self::Renewed => vec![device.mapped(2)],
            },
        );
    }
}

/// An upstream that takes a request's head and nothing more.
struct Deaf {
    listener: TcpListener,
    port: u16,
}

impl Deaf {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        Self { listener, port }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }

    async fn head(&self) -> TcpStream {
        let (mut stream, _) = soon(self.listener.accept()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(soon(stream.read_u8()).await.unwrap());
        }
        stream
    }

    /// Waits until nobody has a connection to it any more. An end that waits behind unread bytes is one.
    async fn left(&self) {
        let port = format!(":{:04X}", self.port);
        let connected = |line: &&str| {
            let mut fields = line.split_whitespace().skip(2);
            fields.next().is_some_and(|remote| remote.ends_with(&port)) && fields.next() == Some("01")
        };
        soon(async {
            while std::fs::read_to_string("/proc/net/tcp").unwrap().lines().find(connected).is_some() {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

/// Writes until nobody takes anything more.
async fn fill(stream: &mut (impl AsyncWrite + Unpin)) {
    let chunk = vec![0; 64 * 1024];
    while let Ok(written) = timeout(Duration::from_millis(500), stream.write_all(&chunk)).await {
        written.unwrap();
    }
}

async fn upload(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), deaf: &Deaf, host: &str) -> TcpStream {
    let head = format!("POST /upload HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000000000\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let upstream = deaf.head().await;
    fill(stream).await;
    upstream
}

#[tokio::test]
async fn a_request_with_another_behind_it() {
    for change in [Change::Removed, Change::Renewed] {
        let (arrived, mut arrivals) = mpsc::unbounded_channel();
        let upstream = Upstream::start(move |request: Request<Incoming>| {
            // Says by its end that nobody waits for the answer any more.
            arrived.send(request.uri().path().to_owned()).unwrap();
            let arrived = arrived.clone();
            async move {
                let _told = Told(arrived);
                std::future::pending::<()>().await;
                page("never")
            }
        })
        .await;
        let (world, device) = world(&upstream.url()).await;
        let mut tls = device.tls(&world, "inside.test").await.unwrap();
        let get = |path| format!("GET {path} HTTP/1.1\r\nHost: inside.test\r\n\r\n");
        tls.write_all((get("/slow") + &get("/second")).as_bytes()).await.unwrap();
        assert_eq!(soon(arrivals.recv()).await.unwrap(), "/slow");
        change.apply(&world, &device);
        assert_eq!(soon(arrivals.recv()).await.unwrap(), "ended", "{change:?}");
        assert_eq!(world.management.line("/slow").await.reason, "revoked");
        assert!(arrivals.try_recv().is_err(), "nothing else was asked");
    }
}

struct Told(mpsc::UnboundedSender<String>);

impl Drop for Told {
    fn drop(&mut self) {
        let _test_is_over = self.0.send("ended".into());
    }
}

#[tokio::test]
async fn a_websocket_whose_upstream_does_not_read() {
    for change in [Change::Removed, Change::Renewed] {
        let deaf = Deaf::start().await;
        let (world, device) = world(&deaf.url()).await;
        let mut tls = device.tls(&world, "inside.test").await.unwrap();
        let ask = "GET /live HTTP/1.1\r\nHost: inside.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
        tls.write_all(ask.as_bytes()).await.unwrap();
        let mut upstream = deaf.head().await;
        let agree = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        upstream.write_all(agree.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        soon(tls.read_exact(&mut answer)).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 101");
        fill(&mut tls).await;
        change.apply(&world, &device);
        deaf.left().await;
        let line = world.management.line("/live").await;
        assert_eq!((line.status, line.reason), (101, "revoked"), "{change:?}");
    }
}

#[tokio::test]
async fn an_upload_that_the_upstream_does_not_read() {
    for change in [Change::Removed, Change::Renewed] {
        let deaf = Deaf::start().await;
        let (world, device) = world(&deaf.url()).await;
        let mut tls = device.tls(&world, "inside.test").await.unwrap();
        let _upstream = upload(&mut tls, &deaf, "inside.test").await;
        change.apply(&world, &device);
        deaf.left().await;
        assert_eq!(world.management.line("/upload").await.reason, "revoked", "{change:?}");
    }
}

#[tokio::test]
async fn an_upload_that_the_upstream_does_not_read_when_access_changes() {
    let deaf = Deaf::start().await;
    let world = World::start(&[open("app", &deaf.url())]).await;
    let mut tls = world.tls("app.test").await.unwrap();
    let _upstream = upload(&mut tls, &deaf, "app.test").await;
    world.change(vec![upsert(&basic("app", &deaf.url()))]).await;
    deaf.left().await;
    assert_eq!(world.management.line("/upload").await.reason, "revoked");
}

#[tokio::test]
async fn a_request_about_which_management_is_being_asked() {
    for change in [Change::Removed, Change::Renewed] {
        let upstream = Upstream::mirror().await;
        let (world, device) = world(&upstream.url()).await;
        let mut tls = device.tls(&world, "inside.test").await.unwrap();
        world.management.peers.answer(false);
        tls.write_all(b"GET /asked HTTP/1.1\r\nHost: inside.test\r\n\r\nGET /second HTTP/1.1\r\n").await.unwrap();
        world.management.peers.asked(1).await;
        change.apply(&world, &device);
        let status = world.management.line("/asked").await.status;
        assert!(matches!(status, 403 | 503), "{status} {change:?}");
        world.management.peers.answer(true);
        // The twin: whoever is still known is let in by such an answer.
        let phone = Device::new("phone", "100.72.0.3");
        world.management.peers.set("acc", vec![phone.mapped(1)]);
        phone.knows(&world.management.peers.registered("acc").await);
        assert_eq!(phone.get(&world, "inside.test", "/later", &[]).await.status, 200);
        assert_eq!(upstream.connections(), 1, "of the twin");
    }
}
