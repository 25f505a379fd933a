//! What every world needs: bounded waits, a key, requests and what comes back.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use postern_auth::session::SigningKey;
use tokio::task::coop::{has_budget_remaining, poll_proceed};
use tokio::time::timeout;

/// No wait in a test is longer.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Uses up the turn of the task that asks, after which what it polls is pending whatever has come.
pub(crate) fn end_turn(cx: &mut Context<'_>) -> Poll<()> {
    while has_budget_remaining() {
        ready!(poll_proceed(cx)).made_progress();
    }
    Poll::Ready(())
}

pub(super) async fn soon<T>(work: impl Future<Output = T>) -> T {
    timeout(PATIENCE, work).await.expect("this takes too long")
}

/// Signs the sessions of every service.
pub(super) fn key() -> SigningKey {
    SigningKey::from_seed(&[7; 32])
}

pub(super) fn request(
    method: Method,
    host: &str,
    path: &str,
    headers: &[(&'static str, &str)],
    body: &'static str,
) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(path).header("host", host);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::from(body)).unwrap()
}

/// An answer, read to its end.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
}

impl Heard {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

pub(super) async fn heard(response: Response<Incoming>) -> Heard {
    let (parts, body) = response.into_parts();
    let body = soon(body.collect()).await.unwrap().to_bytes();
    Heard { status: parts.status, headers: parts.headers, body: String::from_utf8_lossy(&body).into_owned() }
}

/// All that comes until the connection ends, whether it is closed or cut.
pub(super) async fn all(mut stream: impl tokio::io::AsyncRead + Unpin) -> String {
    let mut heard = Vec::new();
    if let Err(error) = soon(tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut heard)).await {
        eprintln!("the connection was cut: {error}");
    }
    String::from_utf8_lossy(&heard).into_owned()
}
