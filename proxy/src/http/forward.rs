//! Sending a request to its upstream, up to the head of the answer.

use std::error::Error as _;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::connection::Alarm;
use crate::error::{Error, Kind, Result};
use crate::http::exchange::Exchange;
use crate::http::upload::{Flow, Hold, State, Upload};
use crate::table::Upstream;
use crate::upstream::{Lease, Pool, Used};

/// The head of an answer, its body still to come over the leased connection.
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    pub(crate) lease: Lease,
}

/// Sends `head` with the client's `body` and waits for the head of the answer. Both bodies flow at the same time, each at the
/// pace of whoever takes it.
///
/// # Errors
/// The upstream cannot be reached, breaks off, is too slow; or the client's body does not come.
pub(crate) async fn forward(
    exchange: &Exchange,
    head: Request<()>,
    body: Incoming,
    upstream: &Arc<Upstream>,
    expects_continue: bool,
) -> Result<Answer> {
    let worker = &exchange.conn().worker;
    let limits = worker.pool.limits();
    let upload = Upload::new(body, Arc::clone(upstream), worker.shared.config.limits.body);
    let flow = Rc::clone(upload.flow());
    exchange.uploads(&flow);
    let mut request = head.map(|()| upload);
    if flow.state() == State::Running && !request.headers().contains_key(header::CONTENT_LENGTH) {
        // Without a length, hyper takes a GET for one without content and drops what comes.
        request.headers_mut().insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    let hold = expects_continue.then(|| hold_back(&mut request, limits.expect_continue_timeout));

    let patience = upstream.request_timeout.or(limits.response_header_timeout);
    let dial = patience.map_or(limits.dial_timeout, |patience| patience.min(limits.dial_timeout));
    let started = flow.moved();
    let outcome = within(patience, &flow, send(&worker.pool, upstream, request, dial, &flow)).await;
    worker.metrics.backend(started.elapsed());

    let answer = outcome?;
    flow.answered();
    if let Some(hold) = hold {
        hold.answered(answer.response.status());
    }
    Ok(answer)
}

/// Sends the request over an idle connection or a new one. A second try, over a new one, is made if the idle one turns out
/// to be closed: always if hyper has not sent a byte of the request, else for a request that can be made twice.
async fn send(
    pool: &Rc<Pool>,
    upstream: &Arc<Upstream>,
    mut request: Request<Upload>,
    patience: Duration,
    flow: &Flow,
) -> Result<Answer> {
    let mut lease = match pool.take(upstream, flow.moved()) {
        Some(lease) => lease,
        None => dial(pool, upstream, patience).await?,
    };
    loop {
        let copy = if lease.used == Used::Rested { repeatable(&request) } else { None };
        let mut failure = match lease.sender().try_send_request(request).await {
            Ok(response) => return Ok(Answer { response, lease }),
            Err(failure) => failure,
        };
        let again = match failure.take_message() {
            Some(unsent) => Some(unsent).filter(|_| lease.used != Used::Never),
            None => copy.filter(|_| is_hang_up(failure.error())),
        };
        let Some(again) = again else { return Err(explain(failure.into_error(), flow)) };
        request = again;
        lease = dial(pool, upstream, patience).await?;
    }
}

/// A copy of a request that may be made twice (RFC 9110 §9.2.2) and has no content; none of another.
fn repeatable(request: &Request<Upload>) -> Option<Request<Upload>> {
    let safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE);
    let body = request.body().nothing().filter(|_| safe)?;
    let mut copy = Request::new(body);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}

/// The upstream closed the connection without a word.
fn is_hang_up(error: &hyper::Error) -> bool {
    let io = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    let gone = |error: &io::Error| matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset);
    error.is_incomplete_message() || error.is_closed() || io.is_some_and(gone)
}

/// Apart, because it is rare and large: every request would make room for it.
fn dial<'a>(pool: &'a Rc<Pool>, upstream: &'a Arc<Upstream>, patience: Duration) -> LocalBoxFuture<'a, Result<Lease>> {
    pool.dial(upstream, patience).boxed_local()
}

/// Whose fault it is that no answer came.
fn explain(error: hyper::Error, flow: &Flow) -> Error {
    let kind = match flow.state() {
        State::Stalled => Kind::ClientStalled,
        State::Broken => Kind::ClientGone,
        State::Running | State::Complete | State::Abandoned => Kind::UpstreamBroken,
    };
    Error::with(kind, error)
}

pin_project_lite::pin_project! {
    /// Bounds `work`. The time in which the client's body is still moving does not count: it is not the upstream's.
    struct Within<'a, F> {
        patience: Duration,
        flow: &'a Flow,
        #[pin]
        work: F,
        #[pin]
        alarm: Option<Alarm>,
    }
}

fn within<F>(patience: Option<Duration>, flow: &Flow, work: F) -> Within<'_, F> {
    let alarm = patience.map(|patience| Alarm::new(flow.moved() + patience));
    Within { patience: patience.unwrap_or_default(), flow, work, alarm }
}

impl<T, F: Future<Output = Result<T>>> Future for Within<'_, F> {
    type Output = Result<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T>> {
        let this = self.project();
        if let Poll::Ready(outcome) = this.work.poll(cx) {
            return Poll::Ready(outcome);
        }
        let Some(alarm) = this.alarm.as_pin_mut() else { return Poll::Pending };
        alarm.poll_at(this.flow.moved() + *this.patience, cx).map(|()| Err(Kind::UpstreamTimeout.into()))
    }
}

fn hold_back(request: &mut Request<Upload>, patience: Duration) -> Arc<Hold> {
    let hold = Arc::new(Hold::default());
    let told = Arc::clone(&hold);
    hyper::ext::on_informational(request, move |response| {
        if response.status() == StatusCode::CONTINUE {
            told.release();
        }
    });
    request.body_mut().hold(Arc::clone(&hold), Instant::now() + patience);
    hold
}
