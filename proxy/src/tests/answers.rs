//! Answers of upstreams that end in other places than they say, or before they should.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::basics::{all, heard, request, soon};
use super::upstream::Upstream;
use super::world::{World, open};

/// An upstream that says what it is told to: to each request `/N` the Nth text, whatever that is.
struct Script {
    url: String,
    connections: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Script {
    async fn start(texts: &'static [&'static str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let accepting = tokio::spawn(async move {
            let mut tasks = tokio::task::JoinSet::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                tasks.spawn(async move {
                    while let Some(number) = asked(&mut stream).await {
                        stream.write_all(texts[number].as_bytes()).await.unwrap();
                    }
                });
            }
        });
        Self { url, connections, accepting }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// The number that the next request asks for.
async fn asked(stream: &mut TcpStream) -> Option<usize> {
    let head = head(stream).await?;
    let target = head.split(' ').nth(1).unwrap();
    Some(target.trim_start_matches('/').parse().unwrap())
}

async fn head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).unwrap())
}

#[tokio::test]
async fn an_answer_that_ends_in_two_places_is_a_bad_gateway() {
    let upstream = Script::start(&[
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: y\r\n folded\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nX: y\nContent-Length: 2\r\n\r\nok",
    ])
    .await;
    let world = World::start(&[open("app", &upstream.url)]).await;
    for (path, status, connections) in
        [("/0", 200, 1), ("/1", 502, 1), ("/2", 200, 2), ("/3", 502, 2), ("/4", 502, 3), ("/5", 502, 4), ("/0", 200, 5)]
    {
        assert_eq!(world.get("app.test", path, &[]).await.status, status, "{path}");
        assert_eq!(upstream.connections(), connections, "{path}");
    }
    assert_eq!(world.management.line("/1").await.reason, "upstream_broken");
}

/// What comes after an answer would be taken for the next one.
#[tokio::test]
async fn a_connection_that_said_more_than_its_answer_is_not_used_again() {
    let upstream = Script::start(&[
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
        "HTTP/1.1 204 No Content\r\nContent-Length: 6\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n2\r\n",
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ])
    .await;
    let world = World::start(&[open("app", &upstream.url)]).await;
    for (path, body, connections) in [
        ("/0", "ok", 1),
        ("/4", "ok", 1),
        ("/1", "ok", 1),
        ("/0", "ok", 2),
        ("/2", "", 2),
        ("/0", "ok", 3),
        ("/3", "ok", 3),
        ("/0", "ok", 4),
    ] {
        assert_eq!(world.get("app.test", path, &[]).await.body, body, "{path}");
        assert_eq!(upstream.connections(), connections, "{path}");
    }
}

#[tokio::test]
async fn what_an_idle_connection_says_answers_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let world = World::start(&[open("app", &format!("http://{}/", listener.local_addr().unwrap()))]).await;
    let (asking, serving) = (world.get("app.test", "/", &[]), async {
        let (mut stream, _) = listener.accept().await.unwrap();
        head(&mut stream).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        stream
    });
    let (first, mut idle) = tokio::join!(asking, serving);
    assert_eq!(first.body, "ok");
    idle.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison").await.unwrap();
    // Another exchange with the same worker, so that it has been told of those bytes: they came before its request.
    let other = Script::start(&["HTTP/1.1 204 No Content\r\n\r\n"]).await;
    world.change(vec![super::world::upsert(&open("other", &other.url))]).await;
    assert_eq!(world.get("other.test", "/0", &[]).await.status, StatusCode::NO_CONTENT);

    let (asking, serving) = (world.get("app.test", "/", &[]), async {
        let (mut stream, _) = listener.accept().await.unwrap();
        head(&mut stream).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nown").await.unwrap();
    });
    assert_eq!(soon(async { tokio::join!(asking, serving) }).await.0.body, "own");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_cut() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let world = World::start(&[open("app", &format!("http://{}/", listener.local_addr().unwrap()))]).await;
    for (text, whole) in [
        ("Content-Length: 10\r\n\r\nhalf", false),
        ("Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", false),
        ("Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nnonsense\r\n", false),
        ("\r\nhalf", true),
    ] {
        let mut tls = world.tls("app.test").await.unwrap();
        tls.write_all(b"GET /cut HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n").await.unwrap();
        let (mut stream, _) = soon(listener.accept()).await.unwrap();
        head(&mut stream).await.unwrap();
        stream.write_all(format!("HTTP/1.1 200 OK\r\n{text}").as_bytes()).await.unwrap();
        drop(stream);
        let answer = all(tls).await;
        let complete = answer.ends_with("\r\n0\r\n\r\n");
        assert_eq!(complete, whole, "{text:?}: {answer:?}");
    }
}

/// Whoever refuses an upload often closes its ear before the upload ends.
#[tokio::test]
async fn an_answer_to_an_upload_that_its_upstream_does_not_take_arrives() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let world = World::start(&[open("app", &format!("http://{}/", listener.local_addr().unwrap()))]).await;
    let refusing = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        head(&mut stream).await.unwrap();
        stream.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno").await.unwrap();
    };
    let mut client = world.http1("app.test").await;
    let body: &'static str = "x".repeat(8 << 20).leak();
    let asking = client.send_request(request(Method::POST, "app.test", "/large", &[], body));
    let (answer, ()) = soon(async { tokio::join!(asking, refusing) }).await;
    let answer = heard(answer.unwrap()).await;
    assert_eq!((answer.status.as_u16(), answer.body.as_str()), (413, "no"));
}

/// The client sends all before it reads anything; the upstream answers long before all is sent.
#[tokio::test]
async fn an_upload_goes_on_while_its_answer_is_not_read() {
    const SIZE: usize = 32 << 20;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let world = World::start(&[open("app", &format!("http://{}/", listener.local_addr().unwrap()))]).await;
    let (answered, mut answer) = oneshot::channel();
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        head(&mut stream).await.unwrap();
        let (mut from, mut to) = stream.into_split();
        let answering = tokio::spawn(async move {
            to.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n").as_bytes()).await.unwrap();
            to.write_all(&vec![b'a'; SIZE]).await.unwrap();
            answered.send(to).unwrap();
        });
        let mut taken = vec![0; SIZE];
        from.read_exact(&mut taken).await.unwrap();
        answering.await.unwrap();
        from
    });
    let (mut from, mut to) = tokio::io::split(world.tls("app.test").await.unwrap());
    let head = format!("POST /both HTTP/1.1\r\nHost: app.test\r\nContent-Length: {SIZE}\r\n\r\n");
    to.write_all(head.as_bytes()).await.unwrap();
    soon(to.write_all(&vec![b'q'; SIZE])).await.unwrap();
    to.flush().await.unwrap();
    assert!(answer.try_recv().is_err(), "nobody has read the answer");
    let mut read = 0;
    let mut buffer = vec![0; 1 << 20];
    while read < SIZE {
        let count = soon(from.read(&mut buffer)).await.unwrap();
        assert_ne!(count, 0);
        read += count;
    }
    soon(serving).await.unwrap();
}

#[tokio::test]
async fn what_comes_with_a_change_of_protocol_belongs_to_the_new_one() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let world = World::start(&[open("app", &format!("http://{}/", listener.local_addr().unwrap()))]).await;
    let fields = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    let serving = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        head(&mut stream).await.unwrap();
        let answer = format!("HTTP/1.1 101 Switching Protocols\r\n{fields}\r\nearly");
        stream.write_all(answer.as_bytes()).await.unwrap();
        let mut heard = [0; 5];
        stream.read_exact(&mut heard).await.unwrap();
        stream.write_all(&heard).await.unwrap();
    };
    let asking = async {
        let mut tls = world.tls("app.test").await.unwrap();
        let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";
        let request = format!("GET /socket HTTP/1.1\r\nHost: app.test\r\n{fields}{key}\r\n");
        tls.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(tls.read_u8().await.unwrap());
        }
        assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
        tls.write_all(b"later").await.unwrap();
        all(tls).await
    };
    assert_eq!(soon(async { tokio::join!(serving, asking) }).await.1, "earlylater");
}

#[tokio::test]
async fn requests_with_trailers_are_complete_and_their_connections_kept() {
    let upstream = Upstream::mirror().await;
    let world = World::start(&[open("app", &upstream.url())]).await;
    let mut client = world.tls("app.test").await.unwrap();
    for last in ["", "Connection: close\r\n"] {
        let head = format!("POST / HTTP/1.1\r\nHost: app.test\r\n{last}Transfer-Encoding: chunked\r\n\r\n");
        client.write_all(format!("{head}2\r\nhi\r\n0\r\nx-sum: 1\r\n\r\n").as_bytes()).await.unwrap();
    }
    let mut answers = String::new();
    soon(client.read_to_string(&mut answers)).await.unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 2, "{answers}");
    assert_eq!(upstream.connections(), 1);
}
