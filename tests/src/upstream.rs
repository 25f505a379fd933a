//! An HTTP/1.1 upstream on loopback that remembers every request and can be told how to answer.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

/// What an upstream received: the request as it stood on the wire, and its whole body.
#[derive(Clone, Debug)]
pub struct Received {
    /// The method.
    pub method: Method,
    /// Path and query, byte for byte.
    pub target: String,
    /// The headers, as hyper parsed them.
    pub headers: HeaderMap,
    /// The body's bytes.
    pub body: Bytes,
    /// The trailers, if any came.
    pub trailers: Option<HeaderMap>,
}

impl Received {
    /// The values of a header as texts, in the order received.
    #[must_use]
    pub fn all(&self, name: &str) -> Vec<String> {
        self.headers.get_all(name).iter().map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned()).collect()
    }
}

/// The body of an answer.
pub type Body = BoxBody<Bytes, Infallible>;

/// A body that is there at once.
pub fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).boxed()
}

/// A body that ends when the sender is dropped.
#[must_use]
pub fn streamed() -> (mpsc::Sender<Result<Frame<Bytes>, Infallible>>, Body) {
    let (sender, receiver) = mpsc::channel(16);
    (sender, BodyExt::boxed(StreamBody::new(ReceiverStream::new(receiver))))
}

type Answer = dyn Fn(&Received) -> Response<Body> + Send + Sync;

/// A running upstream. Dropping it closes its port and its connections.
pub struct Upstream {
    /// Where it listens.
    pub addr: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    connections: Arc<Mutex<u64>>,
    task: JoinHandle<()>,
}

impl Upstream {
    /// Answers 200 with `name` to everything.
    pub async fn named(name: &'static str) -> Self {
        Self::answering(move |_| Response::new(full(name))).await
    }

    /// Answers as told. WebSocket upgrades are accepted and echo; everything else asks `answer`.
    pub async fn answering(answer: impl Fn(&Received) -> Response<Body> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
        let addr = listener.local_addr().expect("bound");
        let received = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(Mutex::new(0));
        let task = tokio::spawn(accept(listener, Arc::new(answer), Arc::clone(&received), Arc::clone(&connections)));
        Self { addr, received, connections, task }
    }

    /// `http://127.0.0.1:port`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Everything received so far.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        self.received.lock().clone()
    }

    /// The newest request, which must exist.
    #[must_use]
    pub fn last(&self) -> Received {
        self.received().pop().expect("the upstream received a request")
    }

    /// How many connections were accepted.
    #[must_use]
    pub fn connections(&self) -> u64 {
        *self.connections.lock()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    answer: Arc<Answer>,
    received: Arc<Mutex<Vec<Received>>>,
    count: Arc<Mutex<u64>>,
) {
    // Connections die with this task: a stopped upstream is gone, as a killed process is.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        *count.lock() += 1;
        let (answer, received) = (Arc::clone(&answer), Arc::clone(&received));
        connections.spawn(async move {
            let service = service_fn(move |request| serve(request, Arc::clone(&answer), Arc::clone(&received)));
            let http = hyper::server::conn::http1::Builder::new();
            let _ = http.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
        });
    }
}

async fn serve(
    mut request: Request<Incoming>,
    answer: Arc<Answer>,
    received: Arc<Mutex<Vec<Received>>>,
) -> Result<Response<Body>, hyper::Error> {
    let upgrade = request.headers().get("upgrade").is_some_and(|v| v == "websocket");
    let upgraded = upgrade.then(|| hyper::upgrade::on(&mut request));
    let (parts, body) = request.into_parts();
    let collected = body.collect().await?;
    let trailers = collected.trailers().cloned();
    let target = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let one = Received { method: parts.method, target, headers: parts.headers, body: collected.to_bytes(), trailers };
    received.lock().push(one.clone());
    let Some(upgraded) = upgraded else { return Ok(answer(&one)) };
    let key = one.headers.get("sec-websocket-key").map(|v| v.as_bytes().to_vec()).unwrap_or_default();
    tokio::spawn(async move {
        if let Ok(io) = upgraded.await {
            let socket = WebSocketStream::from_raw_socket(TokioIo::new(io), Role::Server, None).await;
            let (write, read) = socket.split();
            let _ = read.try_filter(|message| std::future::ready(message.is_text())).forward(write).await;
        }
    });
    let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(&key);
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert("connection", "Upgrade".parse().expect("a value"));
    response.headers_mut().insert("upgrade", "websocket".parse().expect("a value"));
    response.headers_mut().insert("sec-websocket-accept", accept.parse().expect("a value"));
    Ok(response)
}
