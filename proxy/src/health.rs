//! Health and metrics over plain HTTP: what an orchestrator asks. Nothing here administers anything.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::metrics::{MEDIA_TYPE, Metrics};

/// How long a request's head may take to come, and an answer to go (NetBird: 5 s each).
const PATIENCE: Duration = Duration::from_secs(5);

/// How many ask at a time; the next waits in the backlog.
const CONNECTIONS: usize = 64;

/// How long to wait when the system has no more descriptors to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the parts of the proxy know about their state.
pub(crate) struct Health(watch::Sender<State>);

#[derive(Clone, Copy, Debug, Default)]
struct State {
    bound: bool,
    connected: bool,
    synced: bool,
    draining: bool,
}

impl State {
    fn started(self) -> bool {
        self.bound && self.synced
    }

    /// Losing management does not end it: what is published goes on being served.
    fn ready(self) -> bool {
        self.started() && !self.draining
    }
}

impl Health {
    /// Nothing is up yet.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(watch::Sender::new(State::default())))
    }

    /// The listeners accept.
    pub(crate) fn set_bound(&self) {
        self.0.send_modify(|state| state.bound = true);
    }

    /// The stream from management is open, or it is not.
    pub(crate) fn set_connected(&self, connected: bool) {
        self.0.send_modify(|state| state.connected = connected);
    }

    /// A snapshot is whole; never taken back.
    pub(crate) fn set_synced(&self) {
        self.0.send_modify(|state| state.synced = true);
    }

    /// The proxy is on its way out.
    pub(crate) fn set_draining(&self) {
        self.0.send_modify(|state| state.draining = true);
    }

    /// Returns once requests are served.
    pub(crate) async fn ready(&self) {
        let mut states = self.0.subscribe();
        states.wait_for(|state| state.ready()).await.expect("the sender is borrowed from self");
    }

    fn state(&self) -> State {
        *self.0.borrow()
    }
}

/// Answers on `listener` until `shutdown`, then ends what is being answered.
pub(crate) async fn serve(
    listener: TcpListener,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
) {
    let answering = TaskTracker::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let accepting = async {
        loop {
            let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
            match listener.accept().await {
                Ok((stream, _)) => {
                    let connection = connection(stream, Arc::clone(&health), Arc::clone(&metrics));
                    let shutdown = shutdown.clone();
                    answering.spawn(async move {
                        // Who only holds a connection open must not hold up the end of the process.
                        let _cut = shutdown.run_until_cancelled(connection).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the health listener cannot accept");
                    sleep_until(Instant::now() + ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = accepting => {}
        () = shutdown.cancelled() => {}
    }
    answering.close();
    answering.wait().await;
}

/// One request and its answer: a connection is not worth keeping.
async fn connection(stream: TcpStream, health: Arc<Health>, metrics: Arc<Metrics>) {
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let answer = answer(request.method(), request.uri().path(), &health, &metrics);
        async move { Ok::<_, Infallible>(answer) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(PATIENCE * 2, serving).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a health request failed"),
        Err(_) => tracing::debug!("a health request took too long"),
    }
}

fn answer(method: &Method, path: &str, health: &Health, metrics: &Metrics) -> Response<Full<Bytes>> {
    if method != Method::GET && method != Method::HEAD {
        let mut refusal = json(StatusCode::METHOD_NOT_ALLOWED, &json!({ "status": "fail" }));
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    let state = health.state();
    match path {
        "/healthz/live" => json(StatusCode::OK, &json!({ "status": "ok" })),
        "/healthz/ready" | "/healthz" => report(state, state.ready()),
        "/healthz/startup" => report(state, state.started()),
        "/metrics" => respond(StatusCode::OK, MEDIA_TYPE, metrics.text()),
        _ => json(StatusCode::NOT_FOUND, &json!({ "status": "fail" })),
    }
}

/// NetBird's shape: the verdict and the facts it rests on.
fn report(state: State, good: bool) -> Response<Full<Bytes>> {
    let (status, word) = if good { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "fail") };
    let body = json!({
        "status": word,
        "checks": {
            "listening": state.bound,
            "initial_sync_complete": state.synced,
            "management_connected": state.connected,
            "draining": state.draining,
        },
    });
    json(status, &body)
}

fn json(status: StatusCode, body: &serde_json::Value) -> Response<Full<Bytes>> {
    respond(status, "application/json", body.to_string())
}

fn respond(status: StatusCode, media_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::metrics::tests::Lossy;

    struct Served {
        addr: SocketAddr,
        health: Arc<Health>,
        shutdown: CancellationToken,
        task: tokio::task::JoinHandle<()>,
    }

    async fn served() -> Served {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let addr = listener.local_addr().expect("has an address");
        let (health, shutdown) = (Health::new(), CancellationToken::new());
        let metrics = Metrics::new(Arc::new(Lossy), crate::directory::Directory::default());
        let task = tokio::spawn(serve(listener, Arc::clone(&health), metrics, shutdown.clone()));
        Served { addr, health, shutdown, task }
    }

    /// Sends a request and gives its status and body.
    async fn ask(addr: SocketAddr, request: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(addr).await.expect("connects");
        let head = format!("{request} HTTP/1.1\r\nHost: health\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("writes");
        let mut answer = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("answers").expect("reads");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        (head[9..12].parse().expect("a status"), body.to_owned())
    }

    async fn status(served: &Served, path: &str) -> u16 {
        ask(served.addr, &format!("GET {path}")).await.0
    }

    #[tokio::test]
    async fn readiness_needs_listeners_and_one_snapshot_and_outlives_management() {
        let served = served().await;
        assert_eq!(status(&served, "/healthz/live").await, 200);
        assert_eq!(status(&served, "/healthz/ready").await, 503);
        served.health.set_bound();
        served.health.set_connected(true);
        assert_eq!(status(&served, "/healthz/ready").await, 503);
        served.health.set_synced();
        timeout(PATIENCE, served.health.ready()).await.expect("ready");
        assert_eq!(status(&served, "/healthz/ready").await, 200);
        assert_eq!(status(&served, "/healthz/startup").await, 200);

        served.health.set_connected(false);
        let (code, body) = ask(served.addr, "GET /healthz").await;
        let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!((code, &body["status"]), (200, &json!("ok")));
        assert_eq!(body["checks"]["management_connected"], json!(false));

        served.health.set_draining();
        assert_eq!(status(&served, "/healthz/ready").await, 503);
        assert_eq!(status(&served, "/healthz/startup").await, 200);
        assert_eq!(status(&served, "/healthz/live").await, 200);
    }

    #[tokio::test]
    async fn nothing_but_reading_and_nothing_but_these_paths() {
        let served = served().await;
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            assert_eq!(ask(served.addr, &format!("{method} /healthz/live")).await.0, 405, "{method}");
        }
        for path in ["/", "/healthz/", "/debug", "/metrics/x"] {
            assert_eq!(status(&served, path).await, 404, "{path}");
        }
        let (code, body) = ask(served.addr, "GET /metrics").await;
        assert_eq!(code, 200);
        assert!(body.contains("proxy_http_request_counter_total 0\n"), "{body}");
        assert_eq!(ask(served.addr, "HEAD /metrics").await, (200, String::new()));
    }

    #[tokio::test]
    async fn it_ends_with_its_owner() {
        let served = served().await;
        let _silent = TcpStream::connect(served.addr).await.expect("connects");
        assert_eq!(status(&served, "/healthz/live").await, 200);
        served.shutdown.cancel();
        // Less than what a silent client is granted.
        timeout(PATIENCE - Duration::from_secs(1), served.task).await.expect("ends").expect("does not panic");
        assert!(TcpStream::connect(served.addr).await.is_err());
    }
}
