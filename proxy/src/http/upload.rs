//! A client's body on its way to the upstream: counted, bounded in its silences, and given up once nobody needs it.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::connection::Alarm;
use crate::table::Upstream;

/// How an upload stands, seen from the side of the answer.
#[derive(Debug)]
pub(crate) struct Flow {
    received: Cell<u64>,
    moved: Cell<Instant>,
    state: Cell<State>,
    /// The upstream has begun to answer: from now on a silent client may be one that listens.
    answered: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// How far an upload has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// More is to come.
    Running,
    /// All of it went to the upstream.
    Complete,
    /// The client sent nothing for too long.
    Stalled,
    /// The client went away or sent something that is no body.
    Broken,
    /// The answer was complete before the upload.
    Abandoned,
}

impl Flow {
    fn new(state: State) -> Rc<Self> {
        Rc::new(Self {
            received: Cell::new(0),
            moved: Cell::new(Instant::now()),
            state: Cell::new(state),
            answered: Cell::new(false),
            waker: RefCell::new(None),
        })
    }

    /// Body bytes so far.
    pub(crate) fn received(&self) -> u64 {
        self.received.get()
    }

    pub(crate) fn state(&self) -> State {
        self.state.get()
    }

    /// When something last came in; at first, when it all began.
    pub(crate) fn moved(&self) -> Instant {
        self.moved.get()
    }

    /// The answer is complete. What has not come by now is not waited for. Whether the upload was complete.
    pub(crate) fn finish(&self) -> bool {
        if self.state.get() == State::Running {
            self.state.set(State::Abandoned);
            if let Some(waker) = self.waker.borrow_mut().take() {
                waker.wake();
            }
        }
        self.state.get() == State::Complete
    }
}

/// Why a body is kept back (RFC 9110 §10.1.1).
enum Hold {
    /// The upstream has not said yet whether it wants it; some never do.
    Until(Pin<Box<Alarm>>),
    /// The upstream does not want it.
    Refused,
}

/// What stops an upload. Why stands in its [`Flow`].
#[derive(Debug)]
pub(crate) struct Stopped;

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the upload ended before its time")
    }
}

impl std::error::Error for Stopped {}

/// The body of a request to an upstream.
pub(crate) struct Upload {
    /// `None` where there is nothing to send.
    incoming: Option<Incoming>,
    flow: Rc<Flow>,
    /// Cleans the trailers.
    upstream: Arc<Upstream>,
    patience: Duration,
    waiting_since: Option<Instant>,
    alarm: Option<Pin<Box<Alarm>>>,
    hold: Option<Hold>,
}

impl Upload {
    /// Sends `incoming` on, and gives up if nothing comes for `patience`.
    pub(crate) fn new(incoming: Incoming, upstream: Arc<Upstream>, patience: Duration) -> Self {
        let state = if incoming.is_end_stream() { State::Complete } else { State::Running };
        let flow = Flow::new(state);
        let incoming = Some(incoming).filter(|incoming| !incoming.is_end_stream());
        Self { incoming, flow, upstream, patience, waiting_since: None, alarm: None, hold: None }
    }

    pub(crate) fn flow(&self) -> &Rc<Flow> {
        &self.flow
    }

    /// Takes nothing from the client until it is released or `deadline` has passed.
    pub(crate) fn hold(&mut self, deadline: Instant) {
        self.hold = Some(Hold::Until(Box::pin(Alarm::new(deadline))));
    }

    /// The upstream wants the body.
    pub(crate) fn release(&mut self) {
        self.hold = None;
    }

    /// The upstream answers. If it did not ask for the body before, it may still take it, unless it refused.
    pub(crate) fn answered(&mut self, status: StatusCode) {
        self.flow.answered.set(true);
        self.hold = self.hold.take().filter(|_| !status.is_success()).map(|_| Hold::Refused);
    }

    fn stop(&self, state: State) -> Poll<Option<Result<Frame<Bytes>, Stopped>>> {
        if self.flow.state.get() == State::Running {
            self.flow.state.set(state);
        }
        Poll::Ready(Some(Err(Stopped)))
    }

    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.hold {
            None => return Poll::Ready(()),
            Some(Hold::Refused) => return Poll::Pending,
            Some(Hold::Until(alarm)) => {
                let deadline = alarm.deadline();
                ready!(alarm.as_mut().poll_at(deadline, cx));
            }
        }
        self.hold = None;
        Poll::Ready(())
    }

    /// Nothing is there: since when, and is that too long?
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Stopped>>> {
        remember(&self.flow.waker, cx);
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        if self.flow.answered.get() {
            return Poll::Pending;
        }
        let deadline = since + self.patience;
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(Alarm::new(deadline)));
        match alarm.as_mut().poll_at(deadline, cx) {
            Poll::Ready(()) if !self.flow.answered.get() => self.stop(State::Stalled),
            Poll::Ready(()) | Poll::Pending => Poll::Pending,
        }
    }

    fn forward(&mut self, mut frame: Frame<Bytes>) -> Frame<Bytes> {
        self.waiting_since = None;
        self.flow.moved.set(Instant::now());
        if let Some(data) = frame.data_ref() {
            self.flow.received.set(self.flow.received.get() + data.len() as u64);
        }
        if let Some(trailers) = frame.trailers_mut() {
            self.upstream.outbound.clean_trailers(trailers);
            self.flow.state.set(State::Complete);
        }
        if self.is_end_stream() {
            self.flow.state.set(State::Complete);
        }
        frame
    }
}

fn remember(place: &RefCell<Option<Waker>>, cx: &Context<'_>) {
    match &mut *place.borrow_mut() {
        Some(waker) => waker.clone_from(cx.waker()),
        none => *none = Some(cx.waker().clone()),
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Stopped;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Stopped>>> {
        let this = self.get_mut();
        if this.flow.state.get() == State::Abandoned {
            return Poll::Ready(Some(Err(Stopped)));
        }
        if this.poll_held(cx).is_pending() {
            remember(&this.flow.waker, cx);
            return Poll::Pending;
        }
        let Some(incoming) = &mut this.incoming else { return Poll::Ready(None) };
        match Pin::new(incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(this.forward(frame)))),
            Poll::Ready(Some(Err(error))) => {
                tracing::debug!(%error, "a client's body broke off");
                this.stop(State::Broken)
            }
            Poll::Ready(None) => {
                this.flow.state.set(State::Complete);
                Poll::Ready(None)
            }
            Poll::Pending => this.wait(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
