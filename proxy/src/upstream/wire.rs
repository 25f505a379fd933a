//! The bytes of one connection to an upstream.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

use crate::http1::Outgoing;
use crate::upstream::connect::Stream;

/// A connection, what it has brought, and memory for what goes out.
pub(crate) struct Wire {
    stream: Stream,
    /// What has come in and nobody has taken yet.
    pub(crate) input: BytesMut,
    /// How much is read at a time.
    room: usize,
    unflushed: bool,
    /// For the lines of the next request.
    pub(crate) lines: Vec<u8>,
}

/// Heads and small answers in one read.
const SMALL: usize = 8 * 1024;
/// More saves no noticeable time.
const LARGE: usize = 256 * 1024;

impl Wire {
    pub(crate) fn new(stream: Stream) -> Self {
        Self { stream, input: BytesMut::new(), room: SMALL, unflushed: false, lines: Vec::new() }
    }

    /// Adds what comes to `input`. Ready with 0 once the upstream has said all.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.input.capacity() - self.input.len() < self.room / 4 {
            self.input.reserve(self.room);
        }
        let count = ready!(poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.input))?;
        if self.input.len() == self.input.capacity() {
            self.room = (self.room * 2).min(LARGE);
        }
        Poll::Ready(Ok(count))
    }

    /// So much is to come: it is read in as few pieces as it can be.
    pub(crate) fn expect(&mut self, bytes: u64) {
        let bytes = usize::try_from(bytes).unwrap_or(LARGE);
        self.room = self.room.max(bytes.min(LARGE));
    }

    /// Ready once all of `request`'s bytes so far are on their way.
    pub(crate) fn poll_send(&mut self, cx: &mut Context<'_>, request: &mut Outgoing) -> Poll<io::Result<()>> {
        loop {
            let mut slices = [IoSlice::new(&[]); 3];
            let full = slices.iter_mut().zip(request.parts()).map(|(slice, part)| *slice = IoSlice::new(part)).count();
            let stream = Pin::new(&mut self.stream);
            let written = match &slices[..full] {
                [] => break,
                [one] => ready!(stream.poll_write(cx, one))?,
                several => ready!(stream.poll_write_vectored(cx, several))?,
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            request.advance(written);
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Whether the upstream has neither closed an idle connection nor said anything on it. It has nothing to say there: what it
    /// says would be taken for the answer to the next request.
    pub(crate) fn is_quiet(&mut self) -> bool {
        self.input.is_empty() && self.poll_fill(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    /// Whether nothing has come beyond the answer; then it holds no more memory than an idle connection needs.
    pub(crate) fn rest(&mut self) -> bool {
        if self.room > SMALL {
            self.room = SMALL;
            self.input = BytesMut::from(&self.input[..]);
        }
        self.input.is_empty()
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("input", &self.input.len()).finish_non_exhaustive()
    }
}

/// Once the protocol has changed: what came with the answer first.
impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.input.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let count = self.input.len().min(buf.remaining());
        buf.put_slice(&self.input[..count]);
        self.input.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
