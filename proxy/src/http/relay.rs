//! Two byte streams spliced together, each at the other's pace, until both have ended.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::connection::Alarm;

/// How a relay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Both sides said all they had to say.
    Finished,
    /// One side broke off.
    Broken,
    /// Nothing moved for too long.
    Idle,
}

/// Copies between a client and an upstream. The end of one direction is passed on as such; the other direction goes on, but once
/// one side has ended, the other has only [`HALF_OPEN`] of silence left: the application behind it may be long gone.
pub(crate) struct Relay<C, U> {
    client: C,
    upstream: U,
    up: Pump,
    down: Pump,
    patience: Duration,
    moved: Instant,
    alarm: Pin<Box<Alarm>>,
}

/// The silence granted to the rest of a connection that has ended in one direction.
const HALF_OPEN: Duration = Duration::from_secs(60);

impl<C: AsyncRead + AsyncWrite + Unpin, U: AsyncRead + AsyncWrite + Unpin> Relay<C, U> {
    pub(crate) fn new(client: C, upstream: U, patience: Duration) -> Self {
        let moved = Instant::now();
        let alarm = Box::pin(Alarm::new(moved + patience));
        Self { client, upstream, up: Pump::default(), down: Pump::default(), patience, moved, alarm }
    }

    /// Moves what can be moved. `count` hears of the bytes that went up and down.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, count: &impl Fn(usize, usize)) -> Poll<Ended> {
        let up = self.up.poll(cx, &mut self.client, &mut self.upstream);
        let down = self.down.poll(cx, &mut self.upstream, &mut self.client);
        let moved = (self.up.take_moved(), self.down.take_moved());
        if moved != (0, 0) {
            count(moved.0, moved.1);
            self.moved = Instant::now();
        }
        match (up, down) {
            (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => return Poll::Ready(Ended::Broken),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(Ended::Finished),
            (Poll::Pending, _) | (_, Poll::Pending) => {}
        }
        let half_open = self.up.ended || self.down.ended;
        let patience = if half_open { self.patience.min(HALF_OPEN) } else { self.patience };
        self.alarm.as_mut().poll_at(self.moved + patience, cx).map(|()| Ended::Idle)
    }
}

/// One direction.
#[derive(Default)]
struct Pump {
    /// There while bytes are under way: an idle connection holds no buffer.
    buffer: Option<Box<[u8]>>,
    start: usize,
    end: usize,
    moved: usize,
    dirty: bool,
    ended: bool,
    done: bool,
}

const BUFFER: usize = 16 * 1024;

impl Pump {
    fn take_moved(&mut self) -> usize {
        std::mem::take(&mut self.moved)
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        loop {
            if self.done {
                return Poll::Ready(Ok(()));
            }
            if self.start < self.end {
                ready!(self.poll_write(cx, to))?;
            } else if self.ended {
                ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                self.done = true;
            } else if self.poll_fill(cx, from)?.is_pending() {
                if self.dirty {
                    ready!(Pin::new(&mut *to).poll_flush(cx))?;
                    self.dirty = false;
                }
                return Poll::Pending;
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, to: &mut (impl AsyncWrite + Unpin)) -> Poll<io::Result<()>> {
        let buffer = self.buffer.as_deref().expect("what is to be written lies in a buffer");
        let written = ready!(Pin::new(to).poll_write(cx, &buffer[self.start..self.end]))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.start += written;
        self.moved += written;
        self.dirty = true;
        Poll::Ready(Ok(()))
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>, from: &mut (impl AsyncRead + Unpin)) -> Poll<io::Result<()>> {
        let mut buffer = self.buffer.take().unwrap_or_else(|| vec![0; BUFFER].into_boxed_slice());
        let mut space = ReadBuf::new(&mut buffer);
        ready!(Pin::new(from).poll_read(cx, &mut space))?;
        self.start = 0;
        self.end = space.filled().len();
        self.ended = self.end == 0;
        self.buffer = Some(buffer);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    async fn run(
        client: impl AsyncRead + AsyncWrite + Unpin,
        upstream: impl AsyncRead + AsyncWrite + Unpin,
    ) -> (Ended, usize, usize) {
        let (up, down) = (Cell::new(0), Cell::new(0));
        let mut relay = Relay::new(client, upstream, Duration::from_secs(600));
        let count = |u, d| {
            up.set(up.get() + u);
            down.set(down.get() + d);
        };
        let ended = poll_fn(|cx| relay.poll(cx, &count)).await;
        (ended, up.get(), down.get())
    }

    #[tokio::test]
    async fn one_end_may_fall_silent_before_the_other() {
        let (mut client, client_end) = duplex(64);
        let (mut upstream, upstream_end) = duplex(64);
        let talk = async {
            client.write_all(b"question").await.unwrap();
            client.shutdown().await.unwrap();
            let mut heard = String::new();
            upstream.read_to_string(&mut heard).await.unwrap();
            assert_eq!(heard, "question");
            let mut answer = Vec::new();
            let speak = async {
                upstream.write_all(&[7; 1000]).await.unwrap();
                upstream.shutdown().await.unwrap();
            };
            tokio::join!(speak, async { client.read_to_end(&mut answer).await.unwrap() });
            assert_eq!(answer.len(), 1000);
        };
        let (ended, ()) = tokio::join!(run(client_end, upstream_end), talk);
        assert_eq!(ended, (Ended::Finished, 8, 1000));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_it_and_sooner_when_half_is_closed() {
        let (_client, client_end) = duplex(64);
        let (_upstream, upstream_end) = duplex(64);
        let begun = Instant::now();
        assert_eq!(run(client_end, upstream_end).await.0, Ended::Idle);
        assert_eq!(begun.elapsed().as_secs(), 600);

        let (mut client, client_end) = duplex(64);
        let (_upstream, upstream_end) = duplex(64);
        client.shutdown().await.unwrap();
        let begun = Instant::now();
        assert_eq!(run(client_end, upstream_end).await.0, Ended::Idle);
        assert_eq!(begun.elapsed().as_secs(), HALF_OPEN.as_secs());
    }
}
