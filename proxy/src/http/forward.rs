//! Sending a request to its upstream, up to the head of the answer.

use std::cell::RefCell;
use std::io;
use std::mem::take;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::connection::Alarm;
use crate::error::{Error, Kind, Result};
use crate::http::download::{Download, Rest};
use crate::http::exchange::Exchange;
use crate::http::push::{Push, Unsent};
use crate::http::upload::{Flow, State, Upload};
use crate::http1::{self, Head, Heads, Malformed};
use crate::table::Upstream;
use crate::upstream::{Lease, Pool, Used, Wire};

/// The head of an answer, and its content still to come.
pub(crate) struct Answer {
    pub(crate) response: Response<()>,
    pub(crate) download: Download,
}

/// Sends `head` with the client's `body` and waits for the head of the answer. Both bodies flow at the same time, each at the
/// pace of whoever takes it.
///
/// # Errors
/// The upstream cannot be reached, breaks off, is too slow; or the client's body does not come.
pub(crate) async fn forward(
    exchange: &Exchange,
    mut head: Request<()>,
    body: Incoming,
    upstream: &Arc<Upstream>,
    expects_continue: bool,
) -> Result<Answer> {
    let worker = &exchange.conn().worker;
    let limits = worker.pool.limits();
    let mut upload = Upload::new(body, Arc::clone(upstream), worker.shared.config.limits.body);
    if expects_continue {
        upload.hold(Instant::now() + limits.expect_continue_timeout);
    }
    let flow = Rc::clone(upload.flow());
    exchange.uploads(&flow);

    let patience = upstream.request_timeout.or(limits.response_header_timeout);
    let dial = patience.map_or(limits.dial_timeout, |patience| patience.min(limits.dial_timeout));
    let started = flow.moved();
    let outcome = within(patience, &flow, send(&worker.pool, upstream, &mut head, upload, dial)).await;
    worker.metrics.backend(started.elapsed());
    outcome
}

/// Sends the request over an idle connection or a new one. If an idle one turns out to be closed before a word of an answer has
/// come, a request that can be made twice is made again, over a new one.
async fn send(
    pool: &Rc<Pool>,
    upstream: &Arc<Upstream>,
    head: &mut Request<()>,
    mut upload: Upload,
    patience: Duration,
) -> Result<Answer> {
    let flow = Rc::clone(upload.flow());
    let mut lease = match pool.take(upstream, flow.moved()) {
        Some(lease) => lease,
        None => dial(pool, upstream, patience).await?,
    };
    loop {
        let again = lease.used == Used::Rested && is_repeatable(head, &upload);
        let lines = take(&mut lease.wire.borrow_mut().lines);
        let push = Push::new(head, upload, lines).map_err(|error| Error::with(Kind::ClientGone, error))?;
        // What is sent need not be kept, and leaves its memory to the answer.
        let mut fields = if again { HeaderMap::new() } else { take(head.headers_mut()) };
        fields.clear();
        let mut asking = Asking {
            wire: &lease.wire,
            method: head.method(),
            fields,
            heads: Heads::default(),
            push,
            sent: Sent::Partly,
        };
        match std::future::poll_fn(|cx| asking.poll(cx)).await {
            Ok(answer) => {
                let (push, sent) = (asking.push, asking.sent);
                return Ok(begin(lease, answer, push, sent));
            }
            Err(Unanswered::HungUp(_)) if again => upload = asking.push.into_parts().1,
            Err(unanswered) => return Err(explain(unanswered, &flow)),
        }
        lease = dial(pool, upstream, patience).await?;
    }
}

/// Whether the request may be made twice (RFC 9110 §9.2.2) and has no content.
fn is_repeatable(head: &Request<()>, upload: &Upload) -> bool {
    upload.is_end_stream() && matches!(*head.method(), Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE)
}

/// Apart, because it is rare and large: every request would make room for it.
fn dial<'a>(pool: &'a Rc<Pool>, upstream: &'a Arc<Upstream>, patience: Duration) -> LocalBoxFuture<'a, Result<Lease>> {
    pool.dial(upstream, patience).boxed_local()
}

/// A request that waits for its answer.
struct Asking<'a> {
    wire: &'a RefCell<Wire>,
    method: &'a Method,
    fields: HeaderMap,
    heads: Heads,
    push: Push,
    sent: Sent,
}

/// How much of a request is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    Partly,
    Wholly,
    /// The upstream takes nothing more. It may have answered before: whoever refuses an upload often does not wait for its end.
    Stuck,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    #[error("it closed the connection without a word: {0}")]
    HungUp(io::Error),
    #[error("its connection broke: {0}")]
    Io(io::Error),
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error(transparent)]
    Client(Unsent),
}

impl Asking<'_> {
    /// Sends and listens at the same time.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<http1::Answer, Unanswered>> {
        let wire = &mut *self.wire.borrow_mut();
        loop {
            if self.sent == Sent::Partly {
                self.sent = match self.push.poll(cx, wire) {
                    Poll::Pending => Sent::Partly,
                    Poll::Ready(Ok(())) => Sent::Wholly,
                    Poll::Ready(Err(Unsent::Upstream(error))) if is_hang_up(&error) => Sent::Stuck,
                    Poll::Ready(Err(Unsent::Upstream(error))) => return Poll::Ready(Err(Unanswered::Io(error))),
                    Poll::Ready(Err(client)) => return Poll::Ready(Err(Unanswered::Client(client))),
                };
            }
            match self.heads.read(&mut wire.input, self.method, &mut self.fields)? {
                Some(Head::Final(answer)) => return Poll::Ready(Ok(answer)),
                Some(Head::Interim(status)) => {
                    if status == StatusCode::CONTINUE {
                        self.push.upload.release();
                    }
                }
                None => {
                    let failed = match ready!(wire.poll_fill(cx)) {
                        Ok(0) => io::ErrorKind::UnexpectedEof.into(),
                        Ok(_) => continue,
                        Err(error) => error,
                    };
                    let silent = wire.input.is_empty() && is_hang_up(&failed);
                    return Poll::Ready(Err(if silent { Unanswered::HungUp(failed) } else { Unanswered::Io(failed) }));
                }
            }
        }
    }
}

fn is_hang_up(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

/// The answer has begun. What is left of the request goes on beside it.
fn begin(lease: Lease, answer: http1::Answer, mut push: Push, sent: Sent) -> Answer {
    push.upload.answered(answer.response.status());
    let rest = match sent {
        Sent::Wholly => {
            lease.wire.borrow_mut().lines = push.into_parts().0;
            Rest::Nothing
        }
        Sent::Partly => Rest::goes(Box::new(push), &lease),
        Sent::Stuck => Rest::Stuck { _unread: Some(Box::new(push)) },
    };
    Answer { response: answer.response, download: Download::new(lease, answer.content, answer.stays_open, rest) }
}

/// Whose fault it is that no answer came.
fn explain(unanswered: Unanswered, flow: &Flow) -> Error {
    let kind = match (&unanswered, flow.state()) {
        (_, State::Stalled) => Kind::ClientStalled,
        (_, State::Broken) | (Unanswered::Client(_), _) => Kind::ClientGone,
        (_, State::Running | State::Complete | State::Abandoned) => Kind::UpstreamBroken,
    };
    Error::with(kind, unanswered)
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
