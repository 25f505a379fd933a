//! A request on its way to the upstream: the head, then the client's body at the pace of whoever is slower.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::Request;
use http_body::Body;

use crate::http::upload::Upload;
use crate::http1::{Outgoing, Unsendable};
use crate::upstream::Wire;

/// The part of a request that is not sent yet.
pub(crate) struct Push {
    bytes: Outgoing,
    pub(crate) upload: Upload,
}

/// Why a request cannot be sent to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unsent {
    /// The client's body did not come, or not as announced.
    #[error("the client's body did not come as announced")]
    Client,
    /// The upstream takes nothing more.
    #[error("it takes nothing more: {0}")]
    Upstream(#[from] io::Error),
}

impl From<Unsendable> for Unsent {
    fn from(_: Unsendable) -> Self {
        Self::Client
    }
}

impl Push {
    /// `lines` is memory to use.
    ///
    /// # Errors
    /// [`Unsendable`] if the head contradicts itself or the upload.
    pub(crate) fn new(head: &Request<()>, upload: Upload, lines: Vec<u8>) -> Result<Self, Unsendable> {
        Ok(Self { bytes: Outgoing::new(head, !upload.is_end_stream(), lines)?, upload })
    }

    /// Sends what there is. Ready once all is sent.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, wire: &mut Wire) -> Poll<Result<(), Unsent>> {
        loop {
            while self.bytes.takes_frames() && self.poll_frame(cx)?.is_ready() {}
            ready!(wire.poll_send(cx, &mut self.bytes))?;
            if self.bytes.is_finished() {
                return Poll::Ready(Ok(()));
            }
            if self.bytes.takes_frames() && self.poll_frame(cx)?.is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// What is left when all is sent: memory, and an upload that has ended.
    pub(crate) fn into_parts(self) -> (Vec<u8>, Upload) {
        (self.bytes.into_lines(), self.upload)
    }

    /// Takes one frame from the client.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Unsent>> {
        match ready!(Pin::new(&mut self.upload).poll_frame(cx)) {
            Some(Ok(frame)) => self.bytes.push(frame)?,
            Some(Err(_stopped)) => return Poll::Ready(Err(Unsent::Client)),
            None => self.bytes.finish()?,
        }
        if self.upload.is_end_stream() && !self.bytes.is_finished() {
            self.bytes.finish()?;
        }
        Poll::Ready(Ok(()))
    }
}
