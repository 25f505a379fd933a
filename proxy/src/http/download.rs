//! The content of an upstream's answer, and what is left of the request it answers.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;

use crate::http::push::{Push, Unsent};
use crate::http1::{Content, Malformed, Piece};
use crate::upstream::{Lease, Wire};

/// An answer's content, over the leased connection.
pub(crate) struct Download {
    lease: Lease,
    content: Content,
    stays_open: bool,
    request: Rest,
}

/// What is left of a request once its answer has begun.
pub(crate) enum Rest {
    Nothing,
    /// It goes on by itself: a client that does not read its answer yet may still be sending, and nobody asks for more of the
    /// answer meanwhile.
    Goes(AbortOnDropHandle<Result<(), Unsent>>),
    /// The upstream takes nothing more. The client is not read from as long as the answer lasts.
    Stuck {
        _unread: Option<Box<Push>>,
    },
}

/// An answer that broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("its connection broke: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error(transparent)]
    Request(Unsent),
    #[error("sending the request panicked: {0}")]
    Panic(#[from] JoinError),
}

impl Rest {
    /// Lets the rest of a request go on as long as this is held.
    pub(crate) fn goes(mut push: Box<Push>, lease: &Lease) -> Self {
        let wire = Rc::clone(&lease.wire);
        let going = std::future::poll_fn(move |cx| push.poll(cx, &mut wire.borrow_mut()));
        Self::Goes(AbortOnDropHandle::new(tokio::task::spawn_local(going)))
    }
}

impl Download {
    /// `stays_open`: whether the connection may be used again after it.
    pub(crate) fn new(lease: Lease, content: Content, stays_open: bool, request: Rest) -> Self {
        if let Some(left) = content.left() {
            lease.wire.borrow_mut().expect(left);
        }
        Self { lease, content, stays_open, request }
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.poll_next(cx).map(|piece| match piece {
            Ok(Some(Piece::Data(data))) => Some(Ok(Frame::data(data))),
            Ok(Some(Piece::Trailers(trailers))) => Some(Ok(Frame::trailers(trailers))),
            Ok(None) => None,
            Err(broken) => Some(Err(broken)),
        })
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.content.is_complete()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.content.left().map_or_else(SizeHint::default, SizeHint::with_exact)
    }

    /// All is read: the connection is free if nothing is left of the request either.
    pub(crate) fn finish(self) {
        if self.stays_open && self.content.is_complete() && matches!(self.request, Rest::Nothing) {
            self.lease.give_back();
        }
    }

    /// The connection, for the protocol it has changed to; `None` if the request was not complete.
    pub(crate) fn take_over(self) -> Option<Wire> {
        self.lease.take_over()
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Piece>, Broken>> {
        self.look_after_request(cx)?;
        let wire = &mut *self.lease.wire.borrow_mut();
        loop {
            let piece = self.content.read(&mut wire.input)?;
            if piece.is_some() || self.content.is_complete() {
                return Poll::Ready(Ok(piece));
            }
            if ready!(wire.poll_fill(cx))? == 0 {
                self.content.close()?;
            }
        }
    }

    fn look_after_request(&mut self, cx: &mut Context<'_>) -> Result<(), Broken> {
        let Rest::Goes(going) = &mut self.request else { return Ok(()) };
        match Pin::new(going).poll(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(sent) => {
                self.request = match sent? {
                    Ok(()) => Rest::Nothing,
                    Err(Unsent::Upstream(_)) => Rest::Stuck { _unread: None },
                    Err(client) => return Err(Broken::Request(client)),
                };
                Ok(())
            }
        }
    }
}
