//! One client connection as our limits see it: how long its head, its silence and its refusal to read may last.
//!
//! hyper arms a timer for every request; here a connection has one timer, which is armed anew only when it rings or when an
//! earlier deadline turns up, so that a request costs none.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::task::coop::unconstrained;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::config::Limits;

/// What a connection is about. Shared by the connection's IO, which hyper may hand to another owner, and its driver; all run on
/// one thread, so the atomics are plain loads and stores.
#[derive(Debug)]
pub(crate) struct Pulse {
    born: Instant,
    /// Exchanges under way.
    open: AtomicU32,
    /// Since when there is no exchange, in milliseconds of `born`.
    idle_since: AtomicU64,
    /// Since when a head has been due: from its first byte on, and the first head from the beginning; `NEVER` without.
    head_since: AtomicU64,
    /// Since when the client has not taken what we have for it; `NEVER` if it takes it.
    blocked_since: AtomicU64,
    /// An answer was complete before the request: what is left of it is still coming in.
    unread: AtomicBool,
}

const NEVER: u64 = u64::MAX;

impl Pulse {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            born: Instant::now(),
            open: AtomicU32::new(0),
            idle_since: AtomicU64::new(0),
            // Whoever connects has something to ask: silence is granted to those who have asked.
            head_since: AtomicU64::new(0),
            blocked_since: AtomicU64::new(NEVER),
            unread: AtomicBool::new(false),
        })
    }

    /// A request's head is complete.
    pub(crate) fn exchange_opened(&self) {
        self.open.store(self.open.load(Relaxed) + 1, Relaxed);
        self.head_since.store(NEVER, Relaxed);
    }

    /// The last byte of an answer is handed over.
    pub(crate) fn exchange_closed(&self, now: Instant) {
        let left = self.open.load(Relaxed).saturating_sub(1);
        self.open.store(left, Relaxed);
        if left == 0 {
            self.idle_since.store(self.at(now), Relaxed);
        }
    }

    /// A request was answered before it was read to its end.
    pub(crate) fn leave_unread(&self) {
        self.unread.store(true, Relaxed);
    }

    /// When the connection has to end unless something happens.
    fn deadline(&self, limits: &Limits) -> Option<Instant> {
        let at = |since: &AtomicU64, limit: Duration| match since.load(Relaxed) {
            NEVER => None,
            since => Some(self.born + Duration::from_millis(since) + limit),
        };
        let quiet = self.open.load(Relaxed) == 0;
        let head = at(&self.head_since, limits.head).filter(|_| quiet);
        let idle = at(&self.idle_since, limits.idle).filter(|_| quiet);
        let blocked = at(&self.blocked_since, limits.write);
        [head, idle, blocked].into_iter().flatten().min()
    }

    fn received(&self) {
        if self.open.load(Relaxed) == 0 && self.head_since.load(Relaxed) == NEVER {
            self.head_since.store(self.now(), Relaxed);
        }
    }

    fn wrote<T>(&self, outcome: Poll<T>) -> Poll<T> {
        let blocked = self.blocked_since.load(Relaxed) != NEVER;
        match (&outcome, blocked) {
            (Poll::Pending, false) => self.blocked_since.store(self.now(), Relaxed),
            (Poll::Ready(_), true) => self.blocked_since.store(NEVER, Relaxed),
            (Poll::Pending, true) | (Poll::Ready(_), false) => {}
        }
        outcome
    }

    fn now(&self) -> u64 {
        self.at(Instant::now())
    }

    fn at(&self, now: Instant) -> u64 {
        u64::try_from((now - self.born).as_millis()).unwrap_or(NEVER - 1)
    }
}

/// A client's byte stream that keeps its pulse.
#[derive(Debug)]
pub(crate) struct Watched<T> {
    io: T,
    pulse: Arc<Pulse>,
    /// HTTP/2 mixes frames of its own between requests; only HTTP/1 has heads that stand alone.
    heads: bool,
}

impl<T> Watched<T> {
    pub(crate) fn new(io: T, pulse: Arc<Pulse>, heads: bool) -> Self {
        Self { io, pulse, heads }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        if self.heads && buf.filled().len() > before {
            self.pulse.received();
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.io).poll_write(cx, buf);
        self.pulse.wrote(outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.pulse.wrote(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.io).poll_flush(cx);
        self.pulse.wrote(outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.io).poll_shutdown(cx);
        self.pulse.wrote(outcome)
    }
}

/// A connection of hyper's that can be asked to end after what it is doing.
pub(crate) trait Graceful: Future<Output = hyper::Result<()>> {
    fn finish(self: Pin<&mut Self>);
}

impl<I, S, B> Graceful for hyper::server::conn::http1::UpgradeableConnection<I, S>
where
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = B>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    B: http_body::Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<I, S, B, E> Graceful for hyper::server::conn::http2::Connection<I, S, E>
where
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = B>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    B: http_body::Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    E: hyper::rt::bounds::Http2ServerConnExec<S::Future, B>,
{
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// Why a connection ended.
#[derive(Debug)]
pub(crate) enum End {
    /// hyper is done with it.
    Done(hyper::Result<()>),
    /// A limit was reached.
    Overdue,
}

/// Runs a connection to its end, its deadlines included. Once `draining` fires or a deadline passes, it ends after what it is at;
/// after a deadline, and once `revoked` says so, it has [`FAREWELL`] for that.
pub(crate) async fn drive(
    mut connection: Pin<&mut impl Graceful>,
    pulse: &Pulse,
    limits: &Limits,
    draining: &CancellationToken,
    revoked: impl Fn() -> bool,
) -> End {
    let mut alarm = pin!(Alarm::new(Instant::now() + limits.idle));
    let mut draining = pin!(draining.cancelled());
    let mut finishing = false;
    let mut cut = None;
    poll_fn(|cx| {
        if !finishing && draining.as_mut().poll(cx).is_ready() {
            finishing = true;
            connection.as_mut().finish();
        }
        loop {
            if let Poll::Ready(outcome) = connection.as_mut().poll(cx) {
                return Poll::Ready(End::Done(outcome));
            }
            if cut.is_none() && revoked() {
                cut = Some(Instant::now() + FAREWELL);
            }
            let Some(deadline) = cut.or_else(|| pulse.deadline(limits)) else { return Poll::Pending };
            ready!(alarm.as_mut().poll_at(deadline, cx));
            if cut.is_some() {
                return Poll::Ready(End::Overdue);
            }
            cut = Some(Instant::now() + FAREWELL);
            finishing = true;
            connection.as_mut().finish();
        }
    })
    .await
}

/// For what closing a connection properly takes: the GOAWAY, the close_notify.
pub(crate) const FAREWELL: Duration = Duration::from_millis(250);

/// Takes in what a client is still sending when its connection ends with an answer, so that the kernel does not reset the
/// connection and with it the answer. Bounded: whoever sends on regardless is cut off.
pub(crate) async fn linger(mut io: impl AsyncRead + Unpin, pulse: &Pulse) {
    if !pulse.unread.load(Relaxed) {
        return;
    }
    let mut buffer = vec![0; 16 * 1024];
    let discard = async {
        for _ in 0..LINGER_READS {
            if matches!(io.read(&mut buffer).await, Ok(0) | Err(_)) {
                return;
            }
        }
    };
    let _too_long = timeout(LINGER, discard).await;
}

const LINGER: Duration = Duration::from_secs(2);
const LINGER_READS: usize = 64;

pin_project_lite::pin_project! {
    /// A timer for a deadline that moves: touched only if the deadline comes nearer, or when it rings too early.
    pub(crate) struct Alarm {
        #[pin]
        sleep: Sleep,
        // Whether the timer knows whom to wake.
        armed: bool,
    }
}

impl Alarm {
    pub(crate) fn new(first: Instant) -> Self {
        Self { sleep: sleep_until(first), armed: false }
    }

    /// What it is set to.
    pub(crate) fn deadline(&self) -> Instant {
        self.sleep.deadline()
    }

    /// Ready once `deadline` has passed. A task that has had its turn sets its timer all the same: pending would else mean that no
    /// timer is set, and nobody is woken.
    pub(crate) fn poll_at(self: Pin<&mut Self>, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        if deadline < this.sleep.deadline() {
            this.sleep.as_mut().reset(deadline);
            *this.armed = false;
        }
        while !*this.armed || this.sleep.is_elapsed() {
            if pin!(unconstrained(this.sleep.as_mut())).poll(cx).is_pending() {
                *this.armed = true;
                return Poll::Pending;
            }
            if deadline <= Instant::now() {
                return Poll::Ready(());
            }
            this.sleep.as_mut().reset(deadline);
            *this.armed = false;
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::end_turn;

    #[test]
    fn the_first_head_is_due_from_the_beginning_and_later_ones_from_their_first_byte() {
        let (limits, pulse) = (Limits::default(), Pulse::new());
        assert_eq!(pulse.deadline(&limits), Some(pulse.born + limits.head));
        pulse.exchange_opened();
        assert_eq!(pulse.deadline(&limits), None);
        pulse.exchange_closed(pulse.born);
        assert_eq!(pulse.deadline(&limits), Some(pulse.born + limits.idle));
        pulse.received();
        assert!(pulse.deadline(&limits) < Some(pulse.born + limits.idle));
    }

    #[tokio::test(start_paused = true)]
    async fn an_alarm_that_is_set_at_the_end_of_a_turn_rings() {
        let deadline = Instant::now() + Duration::from_secs(1);
        let mut alarm = pin!(Alarm::new(deadline));
        let rung = poll_fn(|cx| {
            ready!(end_turn(cx));
            alarm.as_mut().poll_at(deadline, cx)
        });
        timeout(Duration::from_secs(60), rung).await.expect("it rings");
    }
}
