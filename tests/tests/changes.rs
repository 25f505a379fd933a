//! Changes under load: a request in flight ends on the route that admitted it, and nobody else notices anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use postern_tests::client::Client;
use postern_tests::process::Up;
use postern_tests::upstream::{Upstream, streamed};
use postern_tests::{eventually, within};
use tokio_tungstenite::tungstenite::Message;

struct Loaded {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

/// Four connections that ask for `/` again and again; each failure is kept as a sentence.
fn load(client: &Client, host: &'static str) -> Loaded {
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let one = |client: Client, stop: Arc<AtomicBool>, done: Arc<AtomicU64>| async move {
        let mut failures = Vec::new();
        let tls = client.tls(host).await.expect("the handshake succeeds");
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.expect("http");
        tokio::spawn(connection);
        while !stop.load(Ordering::Relaxed) {
            let request = Request::get("/").header("host", host).body(Full::<Bytes>::default()).expect("a request");
            match within("an answer", sender.send_request(request)).await {
                Ok(response) if response.status() == 200 => {
                    if let Err(error) = response.into_body().collect().await {
                        failures.push(error.to_string());
                    }
                }
                Ok(response) => failures.push(response.status().to_string()),
                Err(error) => {
                    failures.push(error.to_string());
                    break;
                }
            }
            done.fetch_add(1, Ordering::Relaxed);
        }
        failures
    };
    let tasks = (0..4).map(|_| tokio::spawn(one(client.clone(), Arc::clone(&stop), Arc::clone(&done)))).collect();
    Loaded { stop, done, tasks }
}

impl Loaded {
    /// Waits until `more` further requests have been answered.
    async fn answered(&self, more: u64) {
        let target = self.done.load(Ordering::Relaxed) + more;
        eventually("the load to go on", || async { (self.done.load(Ordering::Relaxed) >= target).then_some(()) }).await;
    }

    async fn failures(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for task in self.tasks {
            all.extend(within("the load to end", task).await.expect("it does not panic"));
        }
        all
    }
}

fn service(name: &str, upstream: &str, more: &str) -> String {
    format!("[service.{name}]\nhost = \"{name}.test\"\nupstream = \"{upstream}\"\naccess = \"open\"\n{more}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn forty_changes_under_load_fail_no_request() {
    let (a, b) = (Upstream::named("a").await, Upstream::named("b").await);
    let up = Up::with(&service("app", &a.url(), "")).await;
    let load = load(&up.client(), "app.test");
    let mut probe = up.client().tls("app.test").await.map(TokioIo::new).expect("the handshake succeeds");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(&mut probe).await.expect("http");
    let drive = async { connection.await.expect("the probe's connection outlives every change") };
    let changes = async {
        for n in 0..40 {
            let upstream = if n % 4 < 2 { &a } else { &b };
            let other = if n % 3 == 0 { service("other", &b.url(), "") } else { String::new() };
            let app = service("app", &upstream.url(), &format!("headers = {{ X-Change = \"{n}\" }}"));
            let path = format!("[[service.app.path]]\npath = \"/extra{}\"\nupstream = \"{}\"\n", n % 5, b.url());
            up.configure(&format!("{app}{path}{other}"));
            // The change is in force once the header that it sets arrives.
            let seen = || upstream.received().iter().rev().take(64).any(|r| r.all("x-change") == [n.to_string()]);
            eventually(&format!("change {n} to be in force"), || async { seen().then_some(()) }).await;
        }
        load.answered(200).await;
        let request = Request::get("/").header("host", "app.test").body(Full::<Bytes>::default()).expect("a request");
        assert_eq!(sender.send_request(request).await.expect("an answer").status(), 200);
        drop(sender);
    };
    tokio::join!(drive, changes);
    assert_eq!(load.failures().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_file_written_again_disturbs_nobody() {
    let a = Upstream::named("a").await;
    let text = service("app", &a.url(), "");
    let up = Up::with(&text).await;
    let mut socket = socket(&up).await;
    let before = compiled(&up).await;
    assert_eq!(before, 1);
    for _ in 0..3 {
        up.configure(&text);
        up.configure(&format!("# Another comment.\n{text}"));
    }
    // The service that comes with the next change is the only one that costs anything.
    up.configure(&format!("{text}{}", service("other", &a.url(), "")));
    eventually("the change to be in force", || async { up.client().tls("other.test").await.ok().map(drop) }).await;
    assert_eq!(compiled(&up).await, before + 1);
    socket.send(Message::text("kept")).await.expect("it is open");
    assert_eq!(within("an echo", socket.next()).await.expect("an echo").expect("an echo"), Message::text("kept"));
}

/// How many services were compiled since the start.
async fn compiled(up: &Up) -> u64 {
    let metrics = postern_tests::client::plain_get(up.ready["health"].as_str().expect("an address"), "/metrics").await;
    let line = metrics.lines().find_map(|line| line.strip_prefix("postern_services_compiled_total "));
    line.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no count in {metrics}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_upstream_cuts_long_flows_only_and_another_change_none() {
    let (feed, body) = streamed();
    let body = parking_lot::Mutex::new(Some(body));
    let a = Upstream::answering(move |_| {
        let body = body.lock().take();
        Response::new(body.unwrap_or_else(|| postern_tests::upstream::full("a")))
    })
    .await;
    let b = Upstream::named("b").await;
    let up = Up::with(&service("app", &a.url(), "")).await;

    // A download that is under way, and a WebSocket.
    let tls = up.client().tls("app.test").await.expect("the handshake succeeds");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.expect("http");
    tokio::spawn(connection);
    let request =
        Request::get("/download").header("host", "app.test").body(Full::<Bytes>::default()).expect("a request");
    let mut download = within("the head", sender.send_request(request)).await.expect("an answer").into_body();
    feed.send(Ok(Frame::data("first ".into()))).await.expect("the upstream streams");
    assert_eq!(frame(&mut download).await, "first ");
    let mut socket = socket(&up).await;

    up.configure(&service("app", &a.url(), "headers = { X-Change = \"1\" }"));
    eventually("the header to be in force", || async {
        up.client().get("app.test", "/").await;
        (a.last().all("x-change") == ["1"]).then_some(())
    })
    .await;
    socket.send(Message::text("kept")).await.expect("it is open");
    assert_eq!(within("an echo", socket.next()).await.expect("an echo").expect("an echo"), Message::text("kept"));

    up.configure(&service("app", &b.url(), ""));
    within("the WebSocket to be cut", async { while let Some(Ok(_)) = socket.next().await {} }).await;
    assert_eq!(up.client().get("app.test", "/").await.text(), "b");
    feed.send(Ok(Frame::data("last".into()))).await.expect("the upstream still streams");
    drop(feed);
    assert_eq!(frame(&mut download).await, "last", "a request in flight ends on the route that admitted it");
}

async fn frame(body: &mut hyper::body::Incoming) -> String {
    let frame = within("a frame", body.frame()).await.expect("a frame").expect("a whole frame");
    String::from_utf8_lossy(frame.data_ref().expect("data")).into_owned()
}

async fn socket(up: &Up) -> tokio_tungstenite::WebSocketStream<tokio_rustls::client::TlsStream<tokio::net::TcpStream>> {
    let tls = up.client().tls("app.test").await.expect("the handshake succeeds");
    let url = format!("wss://app.test:{}/socket", up.https().port());
    within("the upgrade", tokio_tungstenite::client_async(url, tls)).await.expect("an upgrade").0
}
