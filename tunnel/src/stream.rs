//! One TCP connection inside a tunnel.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use postern_netstack::{Netstack, Read, StreamError, StreamId};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop;

use crate::owner::Owner;
use crate::shared::{Closed, Core, Orphan};

/// A byte stream to somebody in the tunnel. Shutting it down ends what we send and leaves what we receive (half-close).
/// Dropping it gives the connection up as the kernel does with a socket: what was written still goes out in the background,
/// and the peer is told with a reset if bytes of its own were left unread.
pub struct Stream {
    owner: Arc<Owner>,
    id: StreamId,
    local: SocketAddr,
    peer: SocketAddr,
}

impl Stream {
    /// Takes over a stream that the core has [adopted](Core::adopt).
    pub(crate) fn new(owner: Arc<Owner>, id: StreamId, local: SocketAddr, peer: SocketAddr) -> Self {
        Self { owner, id, local, peer }
    }

    /// Our end, inside the tunnel.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The other end, inside the tunnel.
    #[must_use]
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer
    }

    /// Breaks the connection off: the other end sees a reset instead of an end, so that it does not take what came so far for
    /// all of it.
    pub fn abort(self) {
        // Without a tunnel there is nothing left to break.
        let _ = self.owner.shared.act(|core| core.netstack.abort(self.id, Instant::now()));
    }

    /// Waits until the other end has accepted.
    pub(crate) fn poll_connected(&self, cx: &Context<'_>) -> Poll<Result<(), Failed>> {
        let polled = self.owner.shared.poll(|core| {
            if core.is_connected(self.id) {
                return Poll::Ready(Ok(()));
            }
            match core.netstack.write(self.id, &[], Instant::now()) {
                Ok(_) => core.await_writable(self.id, cx),
                Err(error) => Poll::Ready(Err(Failed::Stream(error))),
            }
        });
        polled.unwrap_or(Poll::Ready(Err(Failed::Closed)))
    }

    fn poll_act<T>(
        &self,
        cx: &mut Context<'_>,
        act: impl FnOnce(&mut Core, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        // What is always ready must not keep the worker from everybody else.
        let turn = ready!(coop::poll_proceed(cx));
        let result = self.owner.shared.poll(|core| act(core, cx)).unwrap_or_else(|Closed| Poll::Ready(Err(closed())));
        if result.is_ready() {
            turn.made_progress();
        }
        result
    }

    fn poll_put(
        &self,
        cx: &mut Context<'_>,
        put: impl FnOnce(&mut Netstack, Instant) -> Result<usize, StreamError>,
    ) -> Poll<io::Result<usize>> {
        self.poll_act(cx, |core, cx| match put(&mut core.netstack, Instant::now()) {
            Ok(0) => core.await_writable(self.id, cx),
            Ok(count) => Poll::Ready(Ok(count)),
            Err(error) => Poll::Ready(Err(io_error(error))),
        })
    }
}

/// Why a connection did not come about.
pub(crate) enum Failed {
    Stream(StreamError),
    Closed,
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        self.poll_act(cx, |core, cx| {
            let now = Instant::now();
            // A reader's buffer is large, and mostly there is little to read or nothing: no more of it is cleared than that.
            let room = core.netstack.unread(self.id, now).min(buf.remaining());
            match core.netstack.read(self.id, buf.initialize_unfilled_to(room), now) {
                Ok(Read::Bytes(count)) => {
                    buf.advance(count);
                    Poll::Ready(Ok(()))
                }
                Ok(Read::End) => Poll::Ready(Ok(())),
                Ok(Read::Pending) => core.await_readable(self.id, cx),
                Err(error) => Poll::Ready(Err(io_error(error))),
            }
        })
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.poll_put(cx, |netstack, now| netstack.write(self.id, bytes, now))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if slices.iter().all(|slice| slice.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        self.poll_put(cx, |netstack, now| netstack.write_vectored(self.id, slices, now))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What is written goes out by itself.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_act(cx, |core, _| {
            core.netstack.shutdown(self.id, Instant::now());
            Poll::Ready(Ok(()))
        })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Without a tunnel there is nothing left to close.
        let _ = self.owner.shared.act(|core| core.abandon(Orphan::Stream(self.id)));
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("local", &self.local).field("peer", &self.peer).finish_non_exhaustive()
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the tunnel is closed")
}

fn io_error(error: StreamError) -> io::Error {
    let kind = match error {
        StreamError::Refused => io::ErrorKind::ConnectionRefused,
        StreamError::Reset => io::ErrorKind::ConnectionReset,
        StreamError::TimedOut => io::ErrorKind::TimedOut,
        StreamError::Ended => io::ErrorKind::ConnectionAborted,
        StreamError::Closed => io::ErrorKind::BrokenPipe,
    };
    io::Error::new(kind, error)
}
