//! Upstreams for tests.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub(super) type Reply = Response<BoxBody<Bytes, Infallible>>;

/// An HTTP/1.1 server that answers as the test says.
pub(super) struct Upstream {
    pub(super) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Upstream {
    pub(super) async fn start<F, R>(answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Reply> + Send,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let accepting = tokio::spawn(async move {
            let mut tasks = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let answer = answer.clone();
                let service = service_fn(move |request| {
                    let answer = answer.clone();
                    async move { Ok::<_, Infallible>(answer(request).await) }
                });
                tasks.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades());
            }
        });
        Self { address, connections, accepting }
    }

    /// Answers each request with a description of it.
    pub(super) async fn mirror() -> Self {
        Self::start(|request: Request<Incoming>| async move {
            let (parts, body) = request.into_parts();
            let mut text = format!("{} {}\n", parts.method, parts.uri);
            for (name, value) in &parts.headers {
                text += &format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes()));
            }
            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            text += &format!("\n{}", String::from_utf8_lossy(&body));
            page(text)
        })
        .await
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// How many connections it has seen.
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

pub(super) fn page(text: impl Into<Bytes>) -> Reply {
    Response::new(Full::new(text.into()).boxed())
}

pub(super) fn with_status(status: u16, text: &'static str) -> Reply {
    let mut reply = page(text);
    *reply.status_mut() = status.try_into().unwrap();
    reply
}
