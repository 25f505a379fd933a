//! What streams, what becomes a WebSocket, and what a revocation does to either.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Request, Response, StatusCode, Version};
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Channel, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use postern_model::{Change, ServiceId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::{self, Message, protocol::Role};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::basics::{all, soon};
use super::upstream::{Reply, Upstream, page, with_status};
use super::world::{World, basic, open, path, upsert};

/// Streams what it is sent back as it comes, whatever the type that `?type=` asks for.
async fn echo(request: Request<Incoming>) -> Reply {
    let media_type = request.uri().query().unwrap_or("text/plain").to_owned();
    let (mut sender, body) = Channel::<Bytes, Infallible>::new(1);
    tokio::spawn(async move {
        let mut incoming = request.into_body();
        while let Some(Ok(frame)) = incoming.frame().await {
            if sender.send(frame).await.is_err() {
                return;
            }
        }
    });
    let mut reply = Response::new(BoxBody::new(body));
    reply.headers_mut().insert("content-type", media_type.parse().unwrap());
    reply
}

/// Echoes WebSocket messages.
pub(super) async fn websocket(mut request: Request<Incoming>) -> Reply {
    let Some(key) = request.headers().get("sec-websocket-key") else { return with_status(426, "a WebSocket, please") };
    let accept = derive_accept_key(key.as_bytes());
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let stream = TokioIo::new(upgrade.await.unwrap());
        let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            if message.is_close() || socket.send(message).await.is_err() {
                return;
            }
        }
    });
    let mut reply = with_status(101, "").map(|_| BoxBody::new(Empty::new()));
    for (name, value) in [("upgrade", "websocket"), ("connection", "upgrade"), ("sec-websocket-accept", &accept)] {
        reply.headers_mut().insert(name, value.parse().unwrap());
    }
    reply
}

struct Duplex {
    up: http_body_util::channel::Sender<Bytes, Infallible>,
    down: Incoming,
}

impl Duplex {
    async fn open(world: &World, host: &str, path: &str) -> Self {
        let (up, body) = Channel::new(1);
        let request = Request::builder().method("POST").uri(format!("https://{host}{path}")).body(body).unwrap();
        let mut client = world.http2(host).await;
        let answer = soon(client.send_request(request)).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        Self { up, down: answer.into_body() }
    }

    async fn say(&mut self, text: &'static str) {
        soon(self.up.send(Frame::data(Bytes::from(text)))).await.unwrap();
        assert_eq!(self.hear().await.unwrap(), text);
    }

    async fn hear(&mut self) -> Option<Bytes> {
        soon(self.down.frame()).await?.ok()?.into_data().ok()
    }
}

#[tokio::test]
async fn bodies_stream_both_ways_at_once() {
    let upstream = Upstream::start(echo).await;
    let world = World::start(&[open("app", &upstream.url())]).await;
    let mut duplex = Duplex::open(&world, "app.test", "/stream").await;
    duplex.say("one").await;
    duplex.say("two").await;
    drop(duplex.up);
    assert!(soon(duplex.down.collect()).await.unwrap().to_bytes().is_empty());
    let line = world.management.line("/stream").await;
    assert_eq!((line.status, line.bytes_upload, line.bytes_download, line.reason), (200, 6, 6, ""));
}

#[tokio::test]
async fn a_reader_that_does_not_read_stops_the_writer() {
    // The upstream counts what it could write of an endless body.
    let (wrote, mut progress) = tokio::sync::watch::channel(0_usize);
    let upstream = Upstream::start(move |_: Request<Incoming>| {
        let wrote = wrote.clone();
        async move {
            let (mut sender, body) = Channel::<Bytes, Infallible>::new(1);
            tokio::spawn(async move {
                let chunk = Bytes::from(vec![0; 64 * 1024]);
                while sender.send(Frame::data(chunk.clone())).await.is_ok() {
                    wrote.send_modify(|wrote| *wrote += chunk.len());
                }
            });
            Response::new(BoxBody::new(body))
        }
    })
    .await;
    let world = World::start(&[open("app", &upstream.url())]).await;
    let mut tls = world.tls("app.test").await.unwrap();
    tls.write_all(b"GET /endless HTTP/1.1\r\nHost: app.test\r\n\r\n").await.unwrap();
    let mut first = [0; 1024];
    soon(tls.read_exact(&mut first)).await.unwrap();
    // It comes to rest: kernel buffers and ours are bounded.
    soon(async {
        while tokio::time::timeout(std::time::Duration::from_millis(500), progress.changed()).await.is_ok() {}
    })
    .await;
    let rested = *progress.borrow();
    assert!(rested < 32 << 20, "{rested} bytes are in flight");
    // And goes on as soon as somebody reads.
    let mut much = vec![0; 1 << 20];
    soon(async {
        while *progress.borrow() == rested {
            assert_ne!(tls.read(&mut much).await.unwrap(), 0);
        }
    })
    .await;
    drop(tls);
    assert_eq!(world.management.line("/endless").await.reason, "client_gone");
}

/// Writes without end; says when it can do so no more.
fn endless(stopped: tokio::sync::mpsc::UnboundedSender<()>) -> Reply {
    let (mut sender, body) = Channel::<Bytes, Infallible>::new(1);
    tokio::spawn(async move {
        let chunk = Bytes::from(vec![0; 64 * 1024]);
        while sender.send(Frame::data(chunk.clone())).await.is_ok() {}
        let _test_is_over = stopped.send(());
    });
    Response::new(BoxBody::new(body))
}

#[tokio::test]
async fn a_revocation_does_not_wait_for_a_client_that_does_not_read() {
    let (stopped, mut stops) = tokio::sync::mpsc::unbounded_channel();
    let upstream = Upstream::start(move |_: Request<Incoming>| std::future::ready(endless(stopped.clone()))).await;
    let world = World::start(&[open("app", &upstream.url())]).await;
    let mut http1 = world.tls("app.test").await.unwrap();
    http1.write_all(b"GET /one HTTP/1.1\r\nHost: app.test\r\n\r\n").await.unwrap();
    let mut http2 = world.http2::<Empty<Bytes>>("app.test").await;
    let request = Request::builder().uri("https://app.test/two").body(Empty::new()).unwrap();
    let unread = soon(http2.send_request(request)).await.unwrap();
    soon(http1.read_exact(&mut [0; 1024])).await.unwrap();

    world.change(vec![Change::Remove(ServiceId::parse("app").unwrap())]).await;
    for path in ["/one", "/two"] {
        assert_eq!(world.management.line(path).await.status, 200);
        soon(stops.recv()).await.unwrap();
    }
    drop(unread);
}

pub(super) async fn dial(world: &World, host: &str) -> WebSocketStream<TlsStream<TcpStream>> {
    let tls = world.tls(host).await.unwrap();
    soon(client_async(format!("ws://{host}/socket"), tls)).await.unwrap().0
}

async fn echoes<S: AsyncReadExt + AsyncWriteExt + Unpin>(socket: &mut WebSocketStream<S>) -> bool {
    if soon(socket.send(Message::text("ping"))).await.is_err() {
        return false;
    }
    matches!(soon(socket.next()).await, Some(Ok(message)) if message == Message::text("ping"))
}

#[tokio::test]
async fn a_websocket_echoes_and_is_counted() {
    let upstream = Upstream::start(websocket).await;
    let world = World::start(&[open("app", &upstream.url())]).await;
    let mut socket = dial(&world, "app.test").await;
    assert!(echoes(&mut socket).await && echoes(&mut socket).await);
    soon(socket.close(None)).await.unwrap();
    drop(socket);
    let line = world.management.line("/socket").await;
    assert_eq!((line.status, line.method.as_str(), line.reason), (101, "GET", ""));
    assert!(line.bytes_upload >= 20 && line.bytes_download >= 12, "{line:?}");
}

#[tokio::test]
async fn a_websocket_over_http2_is_one_over_http1_to_the_upstream() {
    let upstream = Upstream::start(websocket).await;
    let world = World::start(&[open("app", &upstream.url())]).await;
    let mut client = world.http2::<Empty<Bytes>>("app.test").await;
    // The server's settings have to be there first.
    let ping = Request::builder().uri("https://app.test/").body(Empty::new()).unwrap();
    assert_eq!(soon(client.send_request(ping)).await.unwrap().status(), 426);
    let request = Request::builder()
        .method("CONNECT")
        .version(Version::HTTP_2)
        .uri("https://app.test/socket")
        .extension(hyper::ext::Protocol::from_static("websocket"))
        .header("sec-websocket-version", "13")
        .body(Empty::new())
        .unwrap();
    let mut answer = soon(client.send_request(request)).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(!answer.headers().contains_key("sec-websocket-accept"));
    let stream = TokioIo::new(soon(hyper::upgrade::on(&mut answer)).await.unwrap());
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Client, None).await;
    assert!(echoes(&mut socket).await);
    world.change(vec![Change::Remove(ServiceId::parse("app").unwrap())]).await;
    assert!(!echoes(&mut socket).await);
}

#[tokio::test]
async fn a_revocation_ends_what_it_is_about_and_nothing_else() {
    let (sockets, streams) = (Upstream::start(websocket).await, Upstream::start(echo).await);
    let mirror = Upstream::mirror().await;
    let mut app = open("app", &sockets.url());
    app.paths.push(path("/stream", &streams.url()));
    app.paths.push(path("/else", &mirror.url()));
    let other = open("other", &sockets.url());
    let world = World::start(&[app.clone(), other.clone()]).await;
    let (mut socket, mut foreign) = (dial(&world, "app.test").await, dial(&world, "other.test").await);
    let mut plain = Duplex::open(&world, "app.test", "/stream").await;
    let mut events = Duplex::open(&world, "app.test", "/stream?text/event-stream").await;

    // The same again, another path, another service: nobody notices.
    app.paths[2].target = postern_model::Target::parse(&streams.url()).unwrap();
    world.change(vec![upsert(&app), upsert(&other), upsert(&open("third", &mirror.url()))]).await;
    assert!(echoes(&mut socket).await && echoes(&mut foreign).await);
    plain.say("still there").await;
    events.say("still there").await;

    // Another upstream: the long flow ends, the plain one may finish.
    app.paths[1].target = postern_model::Target::parse(&mirror.url()).unwrap();
    world.change(vec![upsert(&app)]).await;
    assert_eq!(events.hear().await, None);
    plain.say("still there").await;
    assert!(echoes(&mut socket).await);

    // Another access: all of it ends, at once.
    let mut closed = basic("app", &sockets.url());
    closed.paths = app.paths.clone();
    world.change(vec![upsert(&closed)]).await;
    assert_eq!(plain.hear().await, None);
    assert!(!echoes(&mut socket).await);
    assert!(echoes(&mut foreign).await);
    let line = world.management.line("/socket").await;
    assert_eq!((line.status, line.reason), (101, "revoked"));

    world.change(vec![Change::Remove(ServiceId::parse("other").unwrap())]).await;
    assert!(!echoes(&mut foreign).await);
    assert!(world.tls("other.test").await.is_err());
}

#[tokio::test]
async fn nothing_passes_before_the_upstream_agrees() {
    let upstream = Upstream::start(|request: Request<Incoming>| async move {
        if request.uri().path() == "/socket" { with_status(403, "no WebSockets here") } else { page("smuggled") }
    })
    .await;
    let world = World::start(&[open("app", &upstream.url())]).await;
    let mut tls = world.tls("app.test").await.unwrap();
    let upgrade = "GET /socket HTTP/1.1\r\nHost: app.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    let optimist = format!("{upgrade}GET /smuggled HTTP/1.1\r\nHost: app.test\r\n\r\n");
    tls.write_all(optimist.as_bytes()).await.unwrap();
    let answer = all(tls).await;
    assert!(answer.starts_with("HTTP/1.1 403 ") && !answer.contains("smuggled"), "{answer}");
}

#[tokio::test]
async fn a_page_of_another_site_opens_no_websocket_behind_a_login() {
    let upstream = Upstream::start(websocket).await;
    let world = World::start(&[basic("vault", &upstream.url())]).await;
    let ask = async |origin: &str| {
        let tls = world.tls("vault.test").await.unwrap();
        let mut request = tungstenite::client::IntoClientRequest::into_client_request("ws://vault.test/").unwrap();
        request.headers_mut().insert("authorization", "Basic YWxpY2U6c2VjcmV0".parse().unwrap());
        request.headers_mut().insert("origin", origin.parse().unwrap());
        match soon(client_async(request, tls)).await {
            Ok((_, answer)) => answer.status().as_u16(),
            Err(tungstenite::Error::Http(answer)) => answer.status().as_u16(),
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(ask("https://vault.test").await, 101);
    assert_eq!(ask("https://evil.test").await, 403);
}

#[tokio::test]
async fn an_upload_nobody_has_answered_yet_is_cut_on_both_sides() {
    let (arrived, mut arrivals) = tokio::sync::mpsc::unbounded_channel();
    let (ended, mut ends) = tokio::sync::mpsc::unbounded_channel();
    let upstream = Upstream::start(move |mut request: Request<Incoming>| {
        let (arrived, ended) = (arrived.clone(), ended.clone());
        async move {
            while let Some(Ok(_)) = request.body_mut().frame().await {
                arrived.send(()).unwrap();
            }
            let _test_is_over = ended.send(());
            page("too late")
        }
    })
    .await;
    let world = World::start(&[open("app", &upstream.url()), open("other", &upstream.url())]).await;
    let head = |host| format!("POST /{host} HTTP/1.1\r\nHost: {host}.test\r\nContent-Length: 100\r\n\r\nhalf");
    let mut cut = world.tls("app.test").await.unwrap();
    cut.write_all(head("app").as_bytes()).await.unwrap();
    let mut kept = world.tls("other.test").await.unwrap();
    kept.write_all(head("other").as_bytes()).await.unwrap();
    for _ in 0..2 {
        soon(arrivals.recv()).await.unwrap();
    }
    world.change(vec![Change::Remove(ServiceId::parse("app").unwrap())]).await;
    let answer = all(&mut cut).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer:?}");
    soon(ends.recv()).await.unwrap();
    let line = world.management.line("/app").await;
    assert_eq!((line.status, line.reason, line.bytes_upload), (503, "revoked", 4));

    kept.write_all(&[b'x'; 96]).await.unwrap();
    let mut answer = [0; 15];
    soon(kept.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
}
