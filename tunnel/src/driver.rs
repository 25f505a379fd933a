//! One datagram's way: in from the socket, through the netstack, and what comes of it out again.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::UdpSocket;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use postern_netstack::{Batch, Path};
use tokio::time::Sleep;

use crate::shared::{Next, Shared};
use crate::socket::{Sent, Socket};

/// Most batches sent before the driver looks at what has arrived: 16 of up to 64 KiB are the work of about 700 us.
const BATCHES: usize = 16;

/// Turns of so many batches for the last words: enough for 65,536 resets, and as many handshakes.
const LAST_TURNS: usize = 256;

/// The task of one tunnel. Its owner spawns [`run`](Self::run) on the runtime that the tunnel lives on.
pub struct Driver {
    socket: UdpSocket,
    end: End,
}

/// Dropped with the driver, whatever ends it: nobody is left waiting for a tunnel that no longer moves.
struct End(Arc<Shared>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Driver {
    pub(crate) fn new(socket: UdpSocket, shared: Arc<Shared>) -> Self {
        Self { socket, end: End(shared) }
    }

    /// Moves the tunnel until it is closed, or until nobody has a handle of it any more. Once it has ended, or was dropped, or
    /// has panicked, every stream of the tunnel is an error, and every listener at its end.
    ///
    /// # Errors
    /// The UDP socket does not work any more. The tunnel can be bound again.
    pub async fn run(self) -> io::Result<()> {
        let Self { socket, end } = self;
        let shared = &*end.0;
        let mut socket = Socket::new(socket)?;
        let mut outbox = Outbox::default();
        let mut timer = Timer::default();
        let mut wake = Vec::new();
        let mut rested = true;
        loop {
            let received = socket.receive()?;
            shared.take_in(socket.datagrams(&received), received.full, &mut wake);
            // Those who were woken write into what is sent next. A turn without a rest before it yields too: else a flood
            // would keep the worker from everybody.
            if wake_all(&mut wake) || !rested {
                tokio::task::yield_now().await;
            }
            if shared.farewell() {
                part(&mut outbox, &mut socket, shared, &mut wake).await;
                return Ok(());
            }
            let flushed = outbox.flush(&mut socket, shared, &mut wake);
            wake_all(&mut wake);
            rested = match flushed {
                Flushed::All if received.full => false,
                Flushed::All => rest(shared, &socket, &mut timer, false).await?,
                Flushed::Blocked => rest(shared, &socket, &mut timer, true).await?,
                Flushed::More => false,
            };
        }
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("socket", &self.socket).finish_non_exhaustive()
    }
}

/// Says the last words, as far as the system takes them. Nothing is taken in any more, so that nobody keeps the tunnel open.
async fn part(outbox: &mut Outbox, socket: &mut Socket, shared: &Shared, wake: &mut Vec<Waker>) {
    for _ in 0..LAST_TURNS {
        let flushed = outbox.flush(socket, shared, wake);
        wake_all(wake);
        match flushed {
            Flushed::All | Flushed::Blocked => return,
            Flushed::More => tokio::task::yield_now().await,
        }
    }
}

/// Waits until there is something to do. Whether it had to.
async fn rest(shared: &Shared, socket: &Socket, timer: &mut Timer, blocked: bool) -> io::Result<bool> {
    let mut rested = false;
    poll_fn(|cx| {
        let Next::Rest(deadline) = shared.next(cx, blocked) else { return Poll::Ready(Ok(())) };
        if let Some(deadline) = deadline {
            tracing::trace!(reason = ?deadline.reason, "the tunnel rests");
        }
        timer.set(deadline.map(|deadline| deadline.at));
        if let Poll::Ready(result) = socket.poll_readable(cx) {
            return Poll::Ready(result);
        }
        if blocked && let Poll::Ready(result) = socket.poll_writable(cx) {
            return Poll::Ready(result);
        }
        if timer.poll_due(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        rested = true;
        Poll::Pending
    })
    .await?;
    Ok(rested)
}

fn wake_all(wake: &mut Vec<Waker>) -> bool {
    let any = !wake.is_empty();
    wake.drain(..).for_each(Waker::wake);
    any
}

enum Flushed {
    /// Nothing is left.
    All,
    /// The system takes no more.
    Blocked,
    /// There is more, and it is somebody else's turn.
    More,
}

/// The batch on its way out. One that the system has no room for waits here.
#[derive(Default)]
struct Outbox {
    batch: Batch,
    held: bool,
    refused: u64,
}

impl Outbox {
    fn flush(&mut self, socket: &mut Socket, shared: &Shared, wake: &mut Vec<Waker>) -> Flushed {
        for _ in 0..BATCHES {
            if !self.held && !shared.fill(&mut self.batch, std::mem::take(&mut self.refused), wake) {
                return Flushed::All;
            }
            self.held = true;
            match self.batch.path() {
                Some(Path::Udp(to)) => match socket.send(to, self.batch.bytes(), self.batch.segment_size()) {
                    Sent::WouldBlock => return Flushed::Blocked,
                    Sent::Done { refused } => self.refused += refused,
                },
                // No stream carries datagrams of this tunnel, so nothing is ever on its way there.
                Some(Path::Stream(_)) | None => self.refused += self.batch.len() as u64,
            }
            self.held = false;
        }
        Flushed::More
    }
}

/// A deadline of tokio's, touched only when it changes.
#[derive(Default)]
struct Timer {
    at: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    fn set(&mut self, at: Option<Instant>) {
        if self.at == at {
            return;
        }
        self.at = at;
        let Some(at) = at else { return };
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().reset(at.into()),
            None => self.sleep = Some(Box::pin(tokio::time::sleep_until(at.into()))),
        }
    }

    fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match (&self.at, &mut self.sleep) {
            (Some(_), Some(sleep)) => sleep.as_mut().poll(cx),
            _ => Poll::Pending,
        }
    }
}
