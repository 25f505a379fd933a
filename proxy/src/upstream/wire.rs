//! The bytes of one connection to an upstream.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop::unconstrained;
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
    /// The most that `input` has had room for.
    held: usize,
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
        Self { stream, input: BytesMut::new(), room: SMALL, held: 0, unflushed: false, lines: Vec::new() }
    }

    /// Adds what comes to `input`. Ready with 0 once the upstream has said all.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.input.capacity() - self.input.len() < self.room / 4 {
            self.input.reserve(self.room);
            self.held = self.held.max(self.input.capacity());
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
    /// says would be taken for the answer to the next request. A task that has had its turn must look all the same: nothing
    /// seen is not nothing there.
    pub(crate) fn is_quiet(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        self.input.is_empty() && pin!(unconstrained(poll_fn(|cx| self.poll_fill(cx)))).poll(&mut cx).is_pending()
    }

    /// Whether nothing has come beyond the answer; then it holds no more memory than an idle connection needs.
    pub(crate) fn rest(&mut self) -> bool {
        self.room = SMALL;
        if self.held > SMALL {
            self.held = 0;
            self.input = BytesMut::from(&self.input[..]);
        }
        if self.lines.capacity() > SMALL {
            self.lines = Vec::new();
        }
        self.input.is_empty()
    }

    /// The same connection for another protocol, which has memory of its own.
    pub(crate) fn changed(mut self) -> Self {
        self.lines = Vec::new();
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        self
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

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::tests::end_turn;

    /// A connection, and its upstream's end.
    async fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (ours, theirs) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (ours.unwrap(), theirs.unwrap().0)
    }

    /// Uses up the turn of the task, and asks.
    async fn is_quiet_at_the_end_of_a_turn(wire: &mut Wire) -> bool {
        poll_fn(|cx| {
            ready!(end_turn(cx));
            Poll::Ready(wire.is_quiet())
        })
        .await
    }

    #[tokio::test]
    async fn an_idle_connection_is_looked_at_whoever_asks() {
        let (ours, theirs) = connection().await;
        assert!(is_quiet_at_the_end_of_a_turn(&mut Wire::new(Stream::Plain(ours))).await);
        drop(theirs);

        let (ours, mut theirs) = connection().await;
        theirs.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        ours.readable().await.unwrap();
        assert!(!is_quiet_at_the_end_of_a_turn(&mut Wire::new(Stream::Plain(ours))).await, "it speaks unasked");

        let (ours, theirs) = connection().await;
        drop(theirs);
        ours.readable().await.unwrap();
        assert!(!is_quiet_at_the_end_of_a_turn(&mut Wire::new(Stream::Plain(ours))).await, "it is closed");
    }

    #[tokio::test]
    async fn at_rest_a_connection_holds_little() {
        let (ours, mut theirs) = connection().await;
        let mut wire = Wire::new(Stream::Plain(ours));
        theirs.write_all(&[7; 100_000]).await.unwrap();
        while wire.input.len() < 100_000 {
            poll_fn(|cx| wire.poll_fill(cx)).await.unwrap();
        }
        wire.lines.reserve(100_000);
        assert!(!wire.rest(), "what came is still there");
        wire.input.clear();
        wire.held = usize::MAX;
        assert!(wire.rest());
        assert_eq!((wire.input.capacity(), wire.lines.capacity()), (0, 0));
    }
}
