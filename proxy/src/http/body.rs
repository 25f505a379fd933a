//! The body of an answer. It carries its exchange to the last byte.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use http_body::{Frame, SizeHint};

use crate::http::download::Download;
use crate::http::exchange::Exchange;
use crate::http::fields;

/// Where the bytes come from.
pub(crate) enum Source {
    /// There are none.
    Empty,
    /// A page of ours.
    Page(Bytes),
    /// The upstream, over a connection that is kept once all is read.
    Upstream(Download),
}

/// An answer's body, as hyper takes it.
pub(crate) struct Body {
    source: Source,
    exchange: Option<Box<Exchange>>,
}

/// An answer that cannot be finished; hyper closes the connection or resets the stream.
#[derive(Debug)]
pub(crate) struct Cut(&'static str);

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the answer was cut off: {}", self.0)
    }
}

impl std::error::Error for Cut {}

impl Body {
    /// No body, and nobody to tell.
    pub(crate) fn empty() -> Self {
        Self { source: Source::Empty, exchange: None }
    }

    /// Hands the exchange over to the answer.
    pub(crate) fn carry(response: Response<Source>, exchange: Box<Exchange>) -> Response<Self> {
        exchange.answers(response.status());
        response.map(|source| {
            let mut body = Self { source, exchange: Some(exchange) };
            if body.source_ended() {
                body.finish();
            }
            body
        })
    }

    fn source_ended(&self) -> bool {
        match &self.source {
            Source::Empty => true,
            Source::Page(bytes) => bytes.is_empty(),
            Source::Upstream(download) => download.is_complete(),
        }
    }

    /// All is read: the upstream's connection is free, if the request is complete too.
    fn finish(&mut self) {
        let source = std::mem::replace(&mut self.source, Source::Empty);
        let read = self.exchange.as_ref().is_none_or(|exchange| exchange.complete());
        if let (Source::Upstream(download), true) = (source, read) {
            download.finish();
        }
    }

    fn cut<T>(&self, reason: &'static str) -> Poll<Option<Result<T, Cut>>> {
        if let Some(exchange) = &self.exchange {
            exchange.because(reason);
        }
        Poll::Ready(Some(Err(Cut(reason))))
    }

    /// Bytes go out.
    fn hand_over(&self, bytes: usize) {
        if let Some(exchange) = &self.exchange {
            exchange.count_down(bytes);
            if exchange.conn().http2 {
                exchange.watch().offered();
            }
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let this = self.get_mut();
        if let Some(exchange) = &this.exchange {
            exchange.watch().taken();
            // A page of ours is nothing that was revoked: it says that something was.
            let revocable = matches!(this.source, Source::Upstream(_));
            if revocable && exchange.watch().poll_revoked(cx).is_ready() {
                return this.cut("revoked");
            }
        }
        match &mut this.source {
            Source::Empty => Poll::Ready(None),
            Source::Page(bytes) => {
                let bytes = std::mem::take(bytes);
                this.hand_over(bytes.len());
                this.finish();
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Source::Upstream(download) => match ready!(download.poll_frame(cx)) {
                Some(Ok(mut frame)) => {
                    let last = download.is_complete();
                    if let Some(trailers) = frame.trailers_mut() {
                        fields::clean_response_trailers(trailers);
                    }
                    this.hand_over(frame.data_ref().map_or(0, Bytes::len));
                    if last {
                        this.finish();
                    }
                    Poll::Ready(Some(Ok(frame)))
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, "an upstream's answer broke off");
                    this.cut("upstream_broken")
                }
                None => {
                    this.finish();
                    Poll::Ready(None)
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.source_ended()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Empty => SizeHint::with_exact(0),
            Source::Page(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Upstream(download) => download.size_hint(),
        }
    }
}
