//! What can be seen of an exchange from outside, while nobody polls its body.
//!
//! A client that does not read keeps hyper from asking for more of the answer, and so from noticing a revocation. Whoever runs the
//! exchange, the connection's driver or the HTTP/2 stream's task, therefore looks at its [`Watch`] and ends it from outside.

use std::cell::{Cell, OnceCell};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use postern_auth::Origin;
use tokio::time::Instant;

use crate::connection::{Alarm, FAREWELL};
use crate::live::{Entry, Live};
use crate::table::Route;

/// The part of an exchange that its runner looks at.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    entry: OnceCell<Entry>,
    offered: Cell<Option<Instant>>,
}

impl Watch {
    /// The exchange has a route: from here on a revocation of that, or of whoever it came from, reaches it.
    pub(crate) fn enter(&self, live: &Rc<Live>, route: &Arc<Route>, origin: &Origin) {
        self.entry.set(live.enter(route, origin)).expect("a request has one route");
    }

    /// The route, once there is one.
    pub(crate) fn route(&self) -> Option<&Arc<Route>> {
        self.entry.get().map(Entry::route)
    }

    /// It turned out to be a flow without a foreseeable end.
    pub(crate) fn set_long(&self) {
        if let Some(entry) = self.entry.get() {
            entry.set_long();
        }
    }

    /// Ready once it is revoked.
    pub(crate) fn poll_revoked(&self, cx: &Context<'_>) -> Poll<()> {
        self.entry.get().map_or(Poll::Pending, |entry| entry.poll_cancelled(cx))
    }

    pub(crate) fn is_revoked(&self) -> bool {
        self.entry.get().is_some_and(Entry::is_cancelled)
    }

    /// Bytes were handed over to an HTTP/2 stream; until the next call the client is the one to move.
    pub(crate) fn offered(&self) {
        self.offered.set(Some(Instant::now()));
    }

    /// More bytes are asked for: the client has taken what there was.
    pub(crate) fn taken(&self) {
        self.offered.set(None);
    }
}

pin_project_lite::pin_project! {
    /// Work that ends when its exchange is revoked. A type of its own, as an `async fn` would hold the work twice.
    pub(crate) struct Revocable<'a, F> {
        watch: &'a Watch,
        #[pin]
        work: F,
    }
}

/// Runs `work` to its end, or to `None` if the exchange is revoked before.
pub(crate) fn unless_revoked<F: Future>(watch: &Watch, work: F) -> Revocable<'_, F> {
    Revocable { watch, work }
}

impl<F: Future> Future for Revocable<'_, F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if this.watch.poll_revoked(cx).is_ready() {
            return Poll::Ready(None);
        }
        this.work.poll(cx).map(Some)
    }
}

pin_project_lite::pin_project! {
    /// An HTTP/2 stream's task: ends early when its exchange is revoked or its client does not read, whoever polls what.
    pub(crate) struct Run<F> {
        #[pin]
        work: F,
        watch: Weak<Watch>,
        patience: Duration,
        cut: Option<Instant>,
        alarm: Option<Pin<Box<Alarm>>>,
    }
}

impl<F> Run<F> {
    /// Runs `work`, which has `patience` with its client.
    pub(crate) fn new(work: F, watch: &Rc<Watch>, patience: Duration) -> Self {
        Self { work, watch: Rc::downgrade(watch), patience, cut: None, alarm: None }
    }
}

impl<F: Future> Future for Run<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if this.work.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let Some(watch) = this.watch.upgrade() else { return Poll::Pending };
        if watch.is_revoked() {
            this.cut.get_or_insert_with(|| Instant::now() + FAREWELL);
        }
        let stalled = watch.offered.get().map(|since| since + *this.patience);
        let Some(deadline) = (*this.cut).into_iter().chain(stalled).min() else { return Poll::Pending };
        this.alarm.get_or_insert_with(|| Box::pin(Alarm::new(deadline))).as_mut().poll_at(deadline, cx)
    }
}
